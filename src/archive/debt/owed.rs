//! What repositories owe each other: the difference between what they hold. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use walward_pg::{SegmentName, WalFileName};

/// How far the clocks of two stores may lie apart.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(10);

/// What one repository holds in one folder of the archive. A repository that could not be asked has none: of it nothing is
/// known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The files, and when each was written, by the store's clock.
    pub files: BTreeMap<WalFileName, Timestamp>,
    /// The first segment of the lineage that it has. What comes later is owed to it, whatever clocks say.
    pub first: Option<SegmentName>,
    /// When it was told of the lineage, by the store's clock. What was archived since is owed to it. What is older than both comes by
    /// `repo copy`, if somebody wants it.
    pub since: Timestamp,
}

impl Holding {
    /// Whether a file that was archived at `archived` is owed to this repository.
    fn lacks(&self, name: WalFileName, archived: Timestamp) -> bool {
        let comes_later = self.first.is_some_and(|first| match name {
            WalFileName::History(timeline) => timeline >= first.timeline,
            WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::BackupHistory(name, _) => {
                name >= first
            }
        });
        let is_younger = || archived.saturating_add(CLOCK_SKEW_MAX).is_ok_and(|latest| latest >= self.since);
        !self.files.contains_key(&name) && (comes_later || is_younger())
    }
}

/// A file that some repositories hold and others are owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The file.
    pub name: WalFileName,
    /// When it was archived first.
    pub archived: Timestamp,
    /// Who has it, by their place in the list.
    pub from: Vec<usize>,
    /// Who lacks it.
    pub to: Vec<usize>,
}

/// What is owed in one folder, by name. `holdings` are of the repositories in their order.
pub fn owed(holdings: &[Option<Holding>]) -> Vec<Owed> {
    let known = || holdings.iter().enumerate().filter_map(|(at, holding)| Some((at, holding.as_ref()?)));
    let mut archived: BTreeMap<WalFileName, (Timestamp, Vec<usize>)> = BTreeMap::new();
    for (at, holding) in known() {
        for (name, when) in &holding.files {
            let (first, from) = archived.entry(*name).or_insert((*when, Vec::new()));
            *first = (*when).min(*first);
            from.push(at);
        }
    }
    let owed = archived.into_iter().map(|(name, (archived, from))| {
        let to = known().filter(|(_, holding)| holding.lacks(name, archived)).map(|(at, _)| at).collect();
        Owed { name, archived, from, to }
    });
    owed.filter(|owed| !owed.to.is_empty()).collect()
}

/// Whether a file may still be owed to somebody, so that whoever holds it must keep it. A repository of which nothing is known
/// may lack it.
pub fn may_be_owed(name: WalFileName, archived: Timestamp, holdings: &[Option<Holding>]) -> bool {
    holdings.iter().any(|holding| holding.as_ref().is_none_or(|holding| holding.lacks(name, archived)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use walward_pg::Timeline;

    fn name(number: u32) -> WalFileName {
        WalFileName::Segment(SegmentName { timeline: Timeline(1), log: 0, segment: number })
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).expect("a time")
    }

    fn holding(files: &[u32], since: i64) -> Holding {
        Holding {
            files: files.iter().map(|number| (name(*number), at(i64::from(*number)))).collect(),
            first: files.iter().min().map(|number| SegmentName { timeline: Timeline(1), log: 0, segment: *number }),
            since: at(since),
        }
    }

    #[test]
    fn what_comes_after_its_own_first_file_is_owed_whatever_the_clocks_say() {
        // It was told of the lineage two hours after everything was archived, as its clock has it.
        let holdings = [Some(holding(&[1, 2, 3, 4], 0)), Some(holding(&[2], 120))];
        let names: Vec<_> = owed(&holdings).into_iter().map(|owed| owed.name).collect();
        assert_eq!(names, [name(3), name(4)]);
    }

    #[test]
    fn a_repository_is_owed_what_was_archived_since_it_was_made() {
        let holdings = [Some(holding(&[1, 40, 41, 42], 0)), Some(holding(&[41], 40)), None];
        let owed = owed(&holdings);
        let names: Vec<_> = owed.iter().map(|owed| (owed.name, owed.to.clone(), owed.from.clone())).collect();
        assert_eq!(names, [(name(40), vec![1], vec![0]), (name(42), vec![1], vec![0])]);
        // A clock that is somewhat behind does not hide a debt.
        assert_eq!(super::owed(&[Some(holding(&[35], 0)), Some(holding(&[], 40))]).len(), 1);
        assert!(may_be_owed(name(41), at(41), &holdings), "nobody knows what the third has");
        assert!(!may_be_owed(name(41), at(41), &holdings[..2]));
        assert!(may_be_owed(name(42), at(42), &holdings[..2]));
    }

    proptest! {
        #[test]
        fn paying_what_is_owed_leaves_no_debt_and_nothing_else_is_touched(
            files in proptest::collection::vec(
                proptest::option::weighted(0.8, (proptest::collection::btree_set(0u32..60, 0..40), 0i64..60)),
                1..5,
            ),
        ) {
            let mut holdings: Vec<_> = files
                .iter()
                .map(|known| known.as_ref().map(|(files, since)| holding(&files.iter().copied().collect::<Vec<_>>(), *since)))
                .collect();
            let before = holdings.clone();
            for debt in owed(&holdings) {
                prop_assert!(!debt.from.is_empty() && !debt.to.is_empty());
                prop_assert!(debt.from.iter().all(|at| !debt.to.contains(at)));
                prop_assert!(may_be_owed(debt.name, debt.archived, &holdings));
                for to in debt.to {
                    let holding = holdings[to].as_mut().expect("owed to one that was asked");
                    prop_assert!(holding.files.insert(debt.name, debt.archived).is_none(), "it had that");
                }
            }
            prop_assert_eq!(owed(&holdings), Vec::new());
            for (before, after) in before.iter().zip(&holdings) {
                prop_assert_eq!(before.is_none(), after.is_none());
                let (Some(before), Some(after)) = (before, after) else { continue };
                prop_assert!(before.files.keys().all(|name| after.files.contains_key(name)));
                for number in 0..60u32 {
                    // Older than the repository and all that it has: nobody owes it, and it is not brought.
                    let first = before.first.is_none_or(|first| number < first.segment);
                    if first && i64::from(number) + 10 < before.since.duration_since(at(0)).as_mins() {
                        prop_assert_eq!(before.files.contains_key(&name(number)), after.files.contains_key(&name(number)));
                    }
                }
            }
            if holdings.iter().all(Option::is_some) {
                for holding in holdings.iter().flatten() {
                    for (name, archived) in &holding.files {
                        prop_assert!(!may_be_owed(*name, *archived, &holdings));
                    }
                }
            }
        }
    }
}
