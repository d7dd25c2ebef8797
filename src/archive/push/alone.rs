//! Before a file goes only where nothing was compared: is what lies there what this server wrote?
//!
//! A repository that missed files may have been another server's meanwhile. While the others are away, what this server still has
//! of its line in pg_wal is held against it: two lives of a cluster differ from one moment on, so that the last file that lies there
//! tells. Where it lacks some, another may have gone on before the gap while this one went on after it: the last one before a gap is asked,
//! too. Where the server has that one no more nothing can be proven: the file goes there, the next one is looked at again, and all are
//! compared with the others when they are back (`comparison.rs`).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::archiver::Archiver;
use super::error::PushError;
use super::in_order::{PG_WAL_TIME_MAX, Way, no_answer};
use crate::archive::agree::Seams;
use crate::archive::contents::{self, Contents, SEGMENTS_READ};
use crate::catalogue::{SEAMS_LOOKED_FOR, seams};
use walward_base::sys::ground::Ground;
use walward_base::{ErrorClass, describe};
use walward_pg::archive_status::done_segments;
use walward_pg::{SegmentName, SegmentSize, WalFileName};
use walward_repo::{RepoError, Repository, stored};

/// How long a repository may take to be compared. One that needs longer does not get the file.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

impl Archiver {
    /// Compares those of `chosen` that missed files, or were the only ones that answered, until the last of what lies there is known to be
    /// this server's. Those that cannot be compared now are answered: they get no file unseen.
    ///
    /// # Errors
    /// One of them holds other content than this server wrote, on the line that leads to `name`; or what the server has is not known in time.
    pub(super) async fn hold_against_own(
        &self,
        name: WalFileName,
        chosen: &[usize],
    ) -> Result<Vec<(usize, PushError)>, PushError> {
        let unproven: Vec<usize> = {
            let state = self.state();
            chosen.iter().filter(|at| state.unproven.contains(*at)).copied().collect()
        };
        let mut silent = Vec::new();
        if unproven.is_empty() {
            return Ok(silent);
        }
        let way = Way::read(self.pg_wal(), name).await?;
        let (ground, folder) = (Ground::of(self.data_directory()), self.pg_wal().to_path_buf());
        let list = async move { ground.look(move || done_segments(&folder)).await?.ok() };
        // What cannot be listed is not known either.
        let Some(Some(done)) = self.0.done.get(PG_WAL_TIME_MAX, list).await else {
            return Err(no_answer(self.pg_wal(), name));
        };
        let done: BTreeSet<SegmentName> = done.iter().copied().filter(|done| way.is_on_the_line(*done)).collect();
        let Some(first) = done.iter().filter_map(|segment| segment.number(way.size())).min() else { return Ok(silent) };
        for at in unproven {
            let Some(lazy) = self.repositories().get(at) else { continue };
            let look = async {
                let repository = lazy.with_lineage(way.lineage()).await?;
                let there = line(&repository, &way, first).await?;
                let mut wanted = wanted(&there, &done);
                // A gap that another has filled is none by name: there a segment does not continue the one before it.
                let linked: Vec<SegmentName> = common(&there, &done).take(SEAMS_LOOKED_FOR).copied().collect();
                let opened = [repository.clone()];
                let seams = Box::pin(seams(&opened, way.lineage(), linked)).await;
                wanted.extend(seams.found.iter().rev().take(SEGMENTS_READ).map(|seam| seam.before));
                let compare = async |repository: Repository| {
                    contents::compare_each(self.pg_wal(), way.lineage(), wanted.iter(), &[Some(repository)]).await
                };
                let mut found = compare(repository).await;
                if !found.unanswered.is_empty() {
                    // It may be sealed under a master key that came after the repository was opened, which is opened anew for that.
                    found = compare(lazy.get().await?).await;
                }
                Ok::<_, RepoError>((there, found))
            };
            let failed = |why| PushError::NotCompared { name, repository: lazy.name().to_owned(), why };
            let looked = tokio::time::timeout(LOOK_TIME_MAX, look).await;
            let late = |_| (ErrorClass::Transient, format!("no answer within {} s", LOOK_TIME_MAX.as_secs()));
            let looked =
                looked.map_err(late).and_then(|looked| looked.map_err(|error| (error.class(), describe(&error))));
            let (there, found) = match looked {
                Ok(looked) => looked,
                Err((class, why)) => {
                    lazy.standing().failed(class, Instant::now());
                    silent.push((at, failed(why)));
                    continue;
                }
            };
            if let Some((segment, repository)) = found.different.first() {
                let why = format!(
                    "repository {repository:?}, which can be compared with no other now, holds other content under the name \
                     {segment} than this server has in pg_wal"
                );
                return Err(PushError::Follows { name, earlier: WalFileName::Segment(*segment), why });
            }
            // What is damaged there proves nothing. What cannot be had now is asked for when PostgreSQL asks again.
            if let Some(why) = found.failure {
                silent.push((at, failed(why)));
                continue;
            }
            if is_proven(name, &there, &found, way.size()) {
                self.state().unproven.remove(&at);
            }
        }
        Ok(silent)
    }
}

/// The segments from number `first` on that a repository holds on the line that leads to a file. All that the server still has is among
/// them: where the last is an earlier one, nothing can be proven.
pub(super) async fn line(repository: &Repository, way: &Way, first: u64) -> Result<BTreeSet<SegmentName>, RepoError> {
    let mut there = BTreeSet::new();
    for timeline in way.timelines(first) {
        let files = stored::wal(repository, way.lineage(), timeline, first, way.size()).await?;
        there.extend(files.into_iter().filter_map(|file| match file {
            WalFileName::Segment(segment) => Some(segment).filter(|segment| way.is_on_the_line(*segment)),
            _ => None,
        }));
    }
    Ok(there)
}

/// The segments that the server has `done` and that are `there`, the newest first. Pure.
fn common<'a>(
    there: &'a BTreeSet<SegmentName>,
    done: &'a BTreeSet<SegmentName>,
) -> impl Iterator<Item = &'a SegmentName> {
    done.iter().rev().filter(|segment| there.contains(*segment))
}

/// Which of the segments that the server has `done` are compared with those that are `there`: the newest, and what lies beside a gap. Pure.
fn wanted(there: &BTreeSet<SegmentName>, done: &BTreeSet<SegmentName>) -> BTreeSet<SegmentName> {
    let mut seams = Seams::default();
    for segment in done {
        seams.next(WalFileName::Segment(*segment), there.contains(segment));
    }
    let beside_gaps = seams.end();
    let is_beside = |segment: &&SegmentName| beside_gaps.contains(&WalFileName::Segment(**segment));
    let newest = common(there, done).take(SEGMENTS_READ);
    newest.chain(common(there, done).filter(is_beside).take(SEGMENTS_READ)).copied().collect()
}

/// Whether a repository is this server's up to the segment `name`: the last that it holds `there` before that was compared, and nothing
/// differs. An earlier one proves nothing of the later ones; and what is no segment comes after segments that are not told by its name. Pure.
fn is_proven(name: WalFileName, there: &BTreeSet<SegmentName>, found: &Contents, size: SegmentSize) -> bool {
    let WalFileName::Segment(segment) = name else { return false };
    let last =
        there.iter().filter(|held| held.number(size) < segment.number(size)).max_by_key(|held| held.number(size));
    let was_compared = |last: &SegmentName| found.compared.iter().any(|(compared, _)| compared == last);
    found.different.is_empty() && last.is_some_and(was_compared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_pg::Timeline;

    #[test]
    fn what_lies_before_a_gap_is_compared_however_much_came_after_it() {
        let segments = |numbers: &[u64]| -> BTreeSet<SegmentName> {
            let named = |number| SegmentName::from_number(Timeline(1), number, SegmentSize::DEFAULT);
            numbers.iter().map(|number| named(*number).expect("a segment")).collect()
        };
        let done = segments(&(1..=20).collect::<Vec<_>>());
        assert_eq!(wanted(&done, &done), segments(&[17, 18, 19, 20]));
        let there = segments(&[1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
        assert_eq!(wanted(&there, &done), segments(&[3, 9, 17, 18, 19, 20]));
        assert_eq!(wanted(&segments(&[]), &done), segments(&[]));
    }

    #[test]
    fn only_the_last_of_what_lies_there_proves_that_a_repository_is_this_servers() {
        let size = SegmentSize::DEFAULT;
        let segment = |number| SegmentName::from_number(Timeline(1), number, size).expect("a segment");
        let there = |numbers: &[u64]| numbers.iter().map(|number| segment(*number)).collect::<BTreeSet<_>>();
        let compared = |numbers: &[u64]| Contents {
            compared: numbers.iter().map(|number| (segment(*number), "two".to_owned())).collect(),
            ..Contents::default()
        };
        let six = WalFileName::Segment(segment(6));
        assert!(is_proven(six, &there(&[1, 2, 5]), &compared(&[5]), size));
        assert!(!is_proven(six, &there(&[1, 2, 5]), &compared(&[1, 2]), size), "5 may be another server's");
        assert!(!is_proven(six, &there(&[]), &compared(&[]), size), "nothing proves nothing");
        assert!(is_proven(six, &there(&[5, 7]), &compared(&[5]), size), "what comes later is compared by its own name");
        let differs = Contents { different: [(segment(4), "two".to_owned())].into(), ..compared(&[4, 5]) };
        assert!(!is_proven(six, &there(&[4, 5]), &differs, size));
        for other in ["000000010000000000000006.00000028.backup", "00000002.history"] {
            assert!(!is_proven(other.parse().expect("a name"), &there(&[5]), &compared(&[5]), size), "{other}");
        }
    }
}
