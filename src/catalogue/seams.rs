//! Where the archive holds a segment that does not continue the one that lies before it: another life of the cluster wrote it.
//!
//! A segment says what its server wrote before it (crates/repo/FORMAT.md, "Facts"); that is compared with what is stored under that name. Where
//! the server did not know, or one of the two is not there, nothing is told.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use serde::Serialize;

use super::error::CatalogueError;
use super::inventory::Inventory;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, SegmentName, SegmentSize, WalFileName};
use walward_repo::facts::Link;
use walward_repo::{Repository, layout};

/// How many are read at once, each by one small request.
const READS_AT_ONCE: usize = 32;

/// So many of the newest segments are compared with the one before by who only passes by.
pub const SEAMS_LOOKED_FOR: usize = 64;

/// Two segments of different lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seam {
    /// The one that does not continue what lies before it.
    pub segment: SegmentName,
    /// What lies before it.
    pub before: SegmentName,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seams {
    /// How many segments were compared with the one before.
    pub compared: usize,
    /// Those that do not continue it, in order.
    pub found: Vec<Seam>,
    /// Those that cannot be read, damaged ones included.
    pub unread: BTreeMap<SegmentName, ErrorClass>,
    /// Why, of one of them.
    pub failure: Option<String>,
}

impl Seams {
    fn with(self, (unread, failure): (BTreeMap<SegmentName, ErrorClass>, Option<String>)) -> Self {
        Self { unread, failure, ..self }
    }

    /// What is not known, in words; none when everything was compared that could be.
    pub fn warning(&self) -> Option<String> {
        let why = self.failure.as_ref()?;
        Some(format!("whether {} segment(s) continue what lies before them is not known: {why}", self.unread.len()))
    }
}

/// Compares each of `segments` with the one before it, where that is among them. Each is read from the first of `repositories` that can give it.
pub async fn seams(
    repositories: &[Repository],
    lineage: Lineage,
    segments: impl IntoIterator<Item = SegmentName>,
) -> Seams {
    let (links, unread) = links(repositories, lineage, segments).await;
    judge(&links).with(unread)
}

/// As [`seams`], of the segments of one line in its order. There a segment also tells of another life when it names one of the right number on
/// another timeline than the line has before it.
pub async fn seams_of_line(repositories: &[Repository], lineage: Lineage, line: &[SegmentName]) -> Seams {
    let (links, unread) = links(repositories, lineage, line.iter().copied()).await;
    let mut seams = judge(&links).with(unread);
    seams.found.extend(other_timelines(&links, line));
    seams.found.sort_by_key(|seam| line.iter().position(|segment| *segment == seam.segment));
    seams
}

async fn links(
    repositories: &[Repository],
    lineage: Lineage,
    segments: impl IntoIterator<Item = SegmentName>,
) -> (BTreeMap<SegmentName, Link>, (BTreeMap<SegmentName, ErrorClass>, Option<String>)) {
    let read = |segment| async move { (segment, link(repositories, lineage, segment).await) };
    let mut reads = stream::iter(segments.into_iter().map(read)).buffer_unordered(READS_AT_ONCE);
    let (mut links, mut unread, mut failure) = (BTreeMap::new(), BTreeMap::new(), None);
    while let Some((segment, read)) = reads.next().await {
        match read {
            Ok(link) => links.extend(link.map(|link| (segment, link))),
            Err(error) => {
                unread.insert(segment, error.class());
                failure.get_or_insert_with(|| describe(&error));
            }
        }
    }
    (links, (unread, failure))
}

/// The newest `most` of the segments that are there, of the highest timelines first.
pub fn newest(inventory: &Inventory, size: SegmentSize, most: usize) -> Vec<SegmentName> {
    let timelines = inventory.timelines.iter().rev();
    let all = timelines.flat_map(|(timeline, wal)| wal.segments.iter().rev().map(|number| (*timeline, *number)));
    all.filter_map(|(timeline, number)| SegmentName::from_number(timeline, number, size)).take(most).collect()
}

async fn link(
    repositories: &[Repository],
    lineage: Lineage,
    segment: SegmentName,
) -> Result<Option<Link>, CatalogueError> {
    let key = layout::wal_file(lineage, WalFileName::Segment(segment));
    let mut failure = None;
    for repository in repositories {
        match repository.read_summary(&key).await {
            Ok(found) => {
                let predecessor = found.facts.and_then(|facts| facts.predecessor);
                return Ok(Some(Link { digest: found.summary.content_digest, predecessor }));
            }
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(source) => {
                failure.get_or_insert_with(|| {
                    CatalogueError::of(repository, format!("read what segment {segment} continues"), source)
                });
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

fn judge(links: &BTreeMap<SegmentName, Link>) -> Seams {
    let mut seams = Seams::default();
    for (segment, link) in links {
        let Some(before) = link.predecessor.map(|predecessor| predecessor.name) else { continue };
        let Some(continues) = links.get(&before).and_then(|there| link.continues(before, &there.digest)) else {
            continue;
        };
        seams.compared += 1;
        if !continues {
            seams.found.push(Seam { segment: *segment, before });
        }
    }
    seams
}

/// Where a segment of `line` names one of the number before it, and of another timeline than the line: its server was promoted elsewhere.
fn other_timelines(links: &BTreeMap<SegmentName, Link>, line: &[SegmentName]) -> Vec<Seam> {
    let pairs = line.iter().zip(line.iter().skip(1));
    let seam = |(before, segment): (&SegmentName, &SegmentName)| {
        let named = links.get(segment)?.predecessor?.name;
        named.is_on_another_timeline_than(*before).then_some(Seam { segment: *segment, before: *before })
    };
    pairs.filter_map(seam).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_repo::facts::Predecessor;

    fn name(text: &str) -> SegmentName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_seam_is_where_a_segment_names_another_content_than_lies_before_it() {
        let [one, two, three, four] = [1, 2, 3, 4].map(|n| name(&format!("00000001000000000000000{n}")));
        let branch = name("000000020000000000000004");
        let link = |digest, before: Option<(SegmentName, u8)>| Link {
            digest: [digest; 32],
            predecessor: before.map(|(name, digest)| Predecessor { name, digest: [digest; 32] }),
        };
        let links = BTreeMap::from([
            (one, link(1, None)),
            (two, link(2, Some((one, 1)))),
            // Another life wrote 3 after a 2 of its own.
            (three, link(3, Some((two, 9)))),
            // What was not known is no seam.
            (four, link(4, None)),
            (branch, link(5, Some((three, 3)))),
        ]);
        let seams = judge(&links);
        assert_eq!((seams.compared, seams.found), (3, vec![Seam { segment: three, before: two }]));
        // What is not there is a gap, and told as one.
        let without: BTreeMap<_, _> = links.into_iter().filter(|(name, _)| *name != two).collect();
        assert_eq!(judge(&without).found, []);
    }

    #[test]
    fn a_segment_that_names_another_timeline_than_its_line_has_before_it_is_of_another_life() {
        let [nine, other] = ["000000010000000000000009", "000000020000000000000009"].map(name);
        let [ten, eleven] = ["00000002000000000000000A", "00000002000000000000000B"].map(name);
        let link = |before: SegmentName| Link {
            digest: [0; 32],
            predecessor: Some(Predecessor { name: before, digest: [0; 32] }),
        };
        let way = [nine, ten, eleven];
        let links = BTreeMap::from([(ten, link(other)), (eleven, link(ten))]);
        assert_eq!(other_timelines(&links, &way), [Seam { segment: ten, before: nine }]);
        let links = BTreeMap::from([(ten, link(nine)), (eleven, link(ten))]);
        assert_eq!(other_timelines(&links, &way), []);
    }

    #[test]
    fn the_newest_are_those_of_the_highest_timelines() {
        let mut inventory = Inventory::default();
        let names = ["000000010000000000000008", "000000020000000000000003", "000000020000000000000002"].map(name);
        inventory.add(names.map(WalFileName::Segment), SegmentSize::DEFAULT);
        assert_eq!(newest(&inventory, SegmentSize::DEFAULT, 2), [names[1], names[2]]);
        assert_eq!(newest(&inventory, SegmentSize::DEFAULT, 9), [names[1], names[2], names[0]]);
    }
}
