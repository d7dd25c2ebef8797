//! Which files repositories hold, in little memory: of segments two numbers are kept for each run without a gap. Pure.

use std::collections::{BTreeMap, BTreeSet};

use walward_pg::{Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};

/// Which files repositories hold.
#[derive(Debug, Default)]
pub struct Held {
    segments: BTreeMap<(usize, Lineage, Timeline), Runs>,
    others: BTreeSet<(usize, Lineage, WalFileName)>,
}

impl Held {
    /// Repository `at` holds `name`.
    pub fn add(&mut self, at: usize, lineage: Lineage, name: WalFileName, size: SegmentSize) {
        match name {
            WalFileName::Segment(segment) => {
                if let Some(number) = segment.number(size) {
                    self.segments.entry((at, lineage, segment.timeline)).or_default().add(number);
                }
            }
            _ => drop(self.others.insert((at, lineage, name))),
        }
    }

    /// Whether it does.
    pub fn has(&self, at: usize, lineage: Lineage, name: WalFileName, size: SegmentSize) -> bool {
        match name {
            WalFileName::Segment(segment) => {
                let runs = self.segments.get(&(at, lineage, segment.timeline));
                runs.is_some_and(|runs| segment.number(size).is_some_and(|number| runs.has(number)))
            }
            _ => self.others.contains(&(at, lineage, name)),
        }
    }

    /// The segments of one lineage in repository `at` alone.
    pub fn segments_of(&self, at: usize, lineage: Lineage) -> Self {
        let of_it = self.segments.iter().filter(|((other, of, _), _)| *other == at && *of == lineage);
        Self { segments: of_it.map(|(key, runs)| (*key, runs.clone())).collect(), others: BTreeSet::new() }
    }

    /// Whether repository `at` lacks a segment of this lineage that another one holds.
    pub fn lacks_any(&self, at: usize, lineage: Lineage) -> bool {
        let mut others = self.segments.iter().filter(|((other, of, _), _)| *other != at && *of == lineage);
        others.any(|((.., timeline), theirs)| {
            let own = self.segments.get(&(at, lineage, *timeline));
            own.is_none_or(|own| !theirs.0.iter().all(|(first, last)| own.has_all(*first, *last)))
        })
    }

    /// The last segment that repository `at` holds before `name`, on the line that leads there. Where the history of its timeline is not known,
    /// on any earlier timeline.
    pub fn last_before(
        &self,
        (at, lineage): (usize, Lineage),
        name: WalFileName,
        history: Option<&TimelineHistory>,
        size: SegmentSize,
    ) -> Option<SegmentName> {
        let (timeline, until) = match name {
            WalFileName::History(timeline) => (timeline, None),
            WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
                (segment.timeline, Some(segment.number(size)?))
            }
        };
        let last = |timeline: Timeline, until: u64| {
            let number = self.segments.get(&(at, lineage, timeline))?.last_before(until)?;
            SegmentName::from_number(timeline, number, size)
        };
        let own = until.and_then(|until| last(timeline, until));
        let until = until.unwrap_or(u64::MAX);
        let earlier = || match history {
            Some(history) => {
                let mut parents = history.parents.iter().rev();
                parents.find_map(|(parent, switch)| last(*parent, until.min(switch.0 / size.bytes())))
            }
            None => (1..timeline.0).rev().find_map(|earlier| last(Timeline(earlier), until)),
        };
        own.or_else(earlier)
    }
}

/// Numbers, as the first and the last of each run.
#[derive(Debug, Default, Clone)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn add(&mut self, number: u64) {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if number <= last => return,
            Some((first, last)) if last.checked_add(1) == Some(number) => first,
            _ => number,
        };
        let last = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        self.0.insert(first, last);
    }

    fn has(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    fn has_all(&self, first: u64, last: u64) -> bool {
        self.0.range(..=first).next_back().is_some_and(|(_, end)| last <= *end)
    }

    fn last_before(&self, number: u64) -> Option<u64> {
        self.0.range(..number).next_back().map(|(_, last)| (*last).min(number.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };

    fn held(names: &[&str]) -> Held {
        let mut held = Held::default();
        for name in names {
            held.add(1, LINEAGE, name.parse().expect("a name"), SIZE);
        }
        held
    }

    #[test]
    fn the_last_before_a_file_is_on_the_line_that_leads_to_it() {
        let held = held(&[
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000005",
            "000000020000000000000003",
            "000000020000000000000004",
        ]);
        // Timeline 3 left timeline 1 in segment 3; timeline 2 is no part of it.
        let third = TimelineHistory::parse(Timeline(3), "1\t0/3000028\tx\n").expect("a history");
        for (name, history, expected) in [
            ("000000010000000000000001", None, None),
            ("000000010000000000000002", None, Some("000000010000000000000001")),
            ("000000010000000000000004", None, Some("000000010000000000000002")),
            ("000000010000000000000006", None, Some("000000010000000000000005")),
            ("000000020000000000000009", None, Some("000000020000000000000004")),
            ("000000030000000000000007", Some(&third), Some("000000010000000000000002")),
            ("00000003.history", Some(&third), Some("000000010000000000000002")),
            ("000000030000000000000007", None, Some("000000020000000000000004")),
            ("00000003.history", None, Some("000000020000000000000004")),
        ] {
            let found = held.last_before((1, LINEAGE), name.parse().expect("a name"), history, SIZE);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected, "{name}");
        }
        assert_eq!(held.last_before((0, LINEAGE), "00000003.history".parse().expect("a name"), None, SIZE), None);
    }

    #[test]
    fn a_repository_lacks_what_another_holds_of_the_same_lineage() {
        let mut held = held(&["000000010000000000000002", "000000010000000000000003"]);
        assert!(!held.lacks_any(1, LINEAGE), "nobody has more");
        let add = |held: &mut Held, at, lineage, name: &str| held.add(at, lineage, name.parse().expect("a name"), SIZE);
        add(&mut held, 0, LINEAGE, "000000010000000000000003");
        assert_eq!((held.lacks_any(0, LINEAGE), held.lacks_any(1, LINEAGE)), (true, false));
        let before = held.segments_of(1, LINEAGE);
        add(&mut held, 0, LINEAGE, "000000020000000000000003");
        assert!(held.lacks_any(1, LINEAGE), "it has no such timeline");
        let other = Lineage { major: 16, ..LINEAGE };
        add(&mut held, 1, LINEAGE, "000000020000000000000003");
        add(&mut held, 0, other, "000000010000000000000001");
        assert!(!held.lacks_any(1, LINEAGE) && held.lacks_any(1, other));
        let has = |held: &Held, at, name: &str| held.has(at, LINEAGE, name.parse().expect("a name"), SIZE);
        assert!(has(&before, 1, "000000010000000000000002") && !has(&before, 0, "000000010000000000000003"));
        assert!(!has(&before, 1, "000000020000000000000003"), "that came later");
    }

    #[test]
    fn what_is_no_segment_is_held_by_its_name() {
        let names =
            ["00000002.history", "000000010000000000000004.partial", "000000010000000000000004.00000028.backup"];
        let held = held(&names);
        for name in names {
            let name = name.parse().expect("a name");
            assert!(held.has(1, LINEAGE, name, SIZE) && !held.has(0, LINEAGE, name, SIZE));
        }
        assert!(!held.has(1, LINEAGE, "000000010000000000000004".parse().expect("a name"), SIZE));
    }

    proptest! {
        #[test]
        fn runs_are_the_numbers_that_were_added(numbers in proptest::collection::vec(0u64..40, 0..60)) {
            let mut runs = Runs::default();
            let all: BTreeSet<u64> = numbers.iter().copied().collect();
            for number in numbers {
                runs.add(number);
            }
            for number in 0..41 {
                prop_assert_eq!(runs.has(number), all.contains(&number));
                prop_assert_eq!(runs.last_before(number), all.range(..number).next_back().copied());
                for last in number..41 {
                    prop_assert_eq!(runs.has_all(number, last), (number..=last).all(|number| all.contains(&number)));
                }
            }
            let begins = all.iter().filter(|number| number.checked_sub(1).is_none_or(|before| !all.contains(&before)));
            prop_assert_eq!(runs.0.len(), begins.count());
        }
    }
}
