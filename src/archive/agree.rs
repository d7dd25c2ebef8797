//! Do two repositories that have the same names have the same content? Which names are compared is pure.
//!
//! Two lives of a server write the same up to one moment and never again. So it is enough to compare at the seams: beside every run
//! of files that one of the repositories lacks, and the last that both have. Where a seam does not fit, what comes after it
//! in one repository continues another life than in the other, and must not be brought there.

use walward_base::ErrorClass;
use walward_pg::{Lineage, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::transfer::{Compared, TransferError, compare};
use walward_repo::{RepoError, Repository, layout, stored};

/// Files that are known to be the same everywhere; those before them are compared again when they have to be.
pub const AGREED_MAX: usize = 4096;

/// Goes through the names of a timeline in their order and says which of them to compare.
#[derive(Debug, Default)]
pub struct Seams {
    /// The last name that all have, unless it was said already.
    last: Option<WalFileName>,
    /// A name that not all have came after the last that all have.
    torn: bool,
    wanted: Vec<WalFileName>,
}

impl Seams {
    /// The next name, and whether all have it.
    pub fn next(&mut self, name: WalFileName, all_have_it: bool) {
        if !all_have_it {
            self.wanted.extend(self.last.take());
            self.torn = true;
        } else if std::mem::take(&mut self.torn) {
            self.wanted.push(name);
            self.last = None;
        } else {
            self.last = Some(name);
        }
    }

    /// The names to compare, once all have gone by.
    pub fn end(mut self) -> Vec<WalFileName> {
        self.wanted.extend(self.last);
        self.wanted
    }
}

/// Where two repositories part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parting {
    /// The first file that differs.
    pub first: WalFileName,
    /// What was found, in words.
    pub why: String,
}

/// Compares `wanted`, and where one differs looks for the first of `common` (all names of the timeline that both have, in order) that does.
pub async fn parting(
    (a, b): (&Repository, &Repository),
    lineage: Lineage,
    wanted: &[WalFileName],
    common: &[WalFileName],
) -> Result<Option<Parting>, TransferError> {
    let mut found = None;
    for name in wanted {
        if let Some(parting) = differs((a, b), lineage, *name).await? {
            found = Some(parting);
            break;
        }
    }
    let Some(mut found) = found else { return Ok(None) };
    // The ones before `low` are the same, and the one at `high` differs.
    let (mut low, mut high) = (0, common.partition_point(|name| *name < found.first));
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(name) = common.get(middle) else { break };
        match differs((a, b), lineage, *name).await {
            Ok(Some(parting)) => (high, found) = (middle, parting),
            Ok(None) => low = middle + 1,
            // Which of the two it is cannot be known: they part here at the latest.
            Err(error) if error.class() == ErrorClass::Corrupt => {
                (high, found) = (middle, Parting { first: *name, why: found.why });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(found))
}

/// The number of the segment in which `timeline` begins, by the history that `repository` has of it; none where it has none. A damaged history
/// says nothing, and is told where it is read.
pub async fn begin(
    repository: &Repository,
    lineage: Lineage,
    timeline: Timeline,
    size: SegmentSize,
) -> Result<Option<u64>, RepoError> {
    match stored::history(repository, lineage, timeline).await {
        Ok(text) => {
            let history = TimelineHistory::parse(timeline, &text).ok();
            let begin = history.and_then(|history| history.begin_of(timeline));
            Ok(begin.map(|begin| begin.segment_number(size)))
        }
        Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first of `names`, which `holder` has of a timeline, that lies before segment number `begin`, where that timeline begins by the history
/// that `teller` has: it is of another server, which was promoted earlier and whose history is not there.
pub fn before_its_timeline(
    names: impl IntoIterator<Item = WalFileName>,
    holder: &Repository,
    (begin, teller): (u64, &Repository),
    size: SegmentSize,
) -> Option<Parting> {
    let is_before = |name: &WalFileName| match name {
        WalFileName::Segment(segment) => segment.number(size).is_some_and(|number| number < begin),
        _ => false,
    };
    let first = names.into_iter().filter(is_before).min()?;
    let why = format!(
        "{first} in repository {:?} lies before the moment at which its timeline begins by the history in repository {:?}: two servers \
         were promoted to that timeline",
        holder.name(),
        teller.name()
    );
    Some(Parting { first, why })
}

async fn differs(
    (a, b): (&Repository, &Repository),
    lineage: Lineage,
    name: WalFileName,
) -> Result<Option<Parting>, TransferError> {
    Ok(match compare(a, b, &layout::wal_file(lineage, name)).await? {
        Compared::Same | Compared::Gone => None,
        Compared::Different { here, there } => {
            let side = |repository: &Repository, (writer, modified): (String, jiff::Timestamp)| {
                format!("in repository {:?} it was written by host {writer:?} at {modified}", repository.name())
            };
            let why = format!("{name} has two contents: {}, {}", side(a, here), side(b, there));
            Some(Parting { first: name, why })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use walward_pg::{SegmentName, Timeline};

    fn name(number: usize) -> WalFileName {
        let segment = u32::try_from(number).expect("small");
        WalFileName::Segment(SegmentName { timeline: Timeline(1), log: 0, segment })
    }

    fn seams(have: &[bool]) -> Vec<usize> {
        let mut seams = Seams::default();
        for (number, all) in have.iter().enumerate() {
            seams.next(name(number), *all);
        }
        let number = |file| (0..have.len()).find(|number| name(*number) == file).expect("one of them");
        seams.end().into_iter().map(number).collect()
    }

    #[test]
    fn both_sides_of_what_one_lacks_and_the_last_of_all_are_compared() {
        assert_eq!(seams(&[]), [] as [usize; 0]);
        assert_eq!(seams(&[true, true, true]), [2]);
        assert_eq!(seams(&[true, true, false, false, true, true]), [1, 4, 5]);
        assert_eq!(seams(&[false, true, false, true, true]), [1, 3, 4]);
        assert_eq!(seams(&[false, false]), [] as [usize; 0]);
    }

    proptest! {
        /// One repository has another life's files from somewhere on, up to where its own server went on with the first life's. Where
        /// something is lacking between the lives, or nothing comes after them, it shows.
        #[test]
        fn a_life_that_ends_at_a_run_that_is_lacking_shows(
            same in 0usize..8, other in 1usize..8, lacking in 0usize..8, again in 0usize..8,
        ) {
            let mut have = vec![true; same + other];
            have.extend(std::iter::repeat_n(false, lacking));
            have.extend(std::iter::repeat_n(true, again));
            let differs = |number: usize| (same..same + other).contains(&number);
            if lacking > 0 || again == 0 {
                prop_assert!(seams(&have).into_iter().any(differs));
            }
        }

        #[test]
        fn few_are_compared_however_many_there_are(have in proptest::collection::vec(any::<bool>(), 0..200)) {
            let found = seams(&have);
            prop_assert!(found.is_sorted_by(|a, b| a < b));
            prop_assert!(found.iter().all(|number| have[*number]));
            let runs = have.chunk_by(|a, b| a == b).filter(|run| !run[0]).count();
            prop_assert!(found.len() <= 2 * runs + 1);
        }
    }
}
