//! Every stretch of a lineage's WAL that is there, and every one that is missing. Pure.

use std::collections::BTreeSet;

use serde::Serialize;

use super::inventory::Inventory;
use super::way::{Histories, Way};
use walward_pg::{SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::gap::Gap;

/// Segments that follow one another on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The first.
    #[serde(serialize_with = "as_text")]
    pub first: SegmentName,
    /// The last.
    #[serde(serialize_with = "as_text")]
    pub last: SegmentName,
    /// How many there are.
    pub segments: u64,
}

fn as_text<S: serde::Serializer>(name: &SegmentName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// The stretches of numbers (both ends included) in `numbers`.
fn runs(numbers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    runs
}

fn stretch(timeline: Timeline, (first, last): (u64, u64), size: SegmentSize) -> Option<Stretch> {
    Some(Stretch {
        first: SegmentName::from_number(timeline, first, size)?,
        last: SegmentName::from_number(timeline, last, size)?,
        segments: last - first + 1,
    })
}

/// What is there, by timeline and position.
pub fn stretches(inventory: &Inventory, size: SegmentSize) -> Vec<Stretch> {
    let runs = inventory
        .timelines
        .iter()
        .flat_map(|(timeline, wal)| runs(&wal.segments).into_iter().map(|run| (*timeline, run)));
    runs.filter_map(|(timeline, run)| stretch(timeline, run, size)).collect()
}

/// What is missing: between two stretches of a timeline, and anywhere on the way to a timeline that is known by its WAL or its history,
/// from the first segment that is there on that way. The segment of a switch belongs to the newer timeline. What was let go is missing
/// even where nothing comes after it.
pub fn holes(inventory: &Inventory, histories: &Histories, size: SegmentSize) -> Vec<Stretch> {
    let mut holes: BTreeSet<(Timeline, u64, u64)> = BTreeSet::new();
    let mut add = |timeline: Timeline, begin: u64, end: u64| {
        holes.extend(missing(inventory, timeline, begin, end).into_iter().map(|(first, last)| (timeline, first, last)));
    };
    for (timeline, wal) in &inventory.timelines {
        if let (Some(first), Some(last)) = (wal.segments.first(), wal.segments.last()) {
            add(*timeline, *first, last + 1);
        }
    }
    for way in histories.keys().filter_map(|timeline| Way::to(*timeline, histories)) {
        let spans: Vec<(Timeline, u64, u64)> = way
            .spans()
            .iter()
            .map(|span| {
                let begin = span.begin.segment_number(size);
                let last = || inventory.timelines.get(&span.timeline).and_then(|wal| wal.segments.last());
                let end =
                    span.end.map_or_else(|| last().map_or(begin, |last| last + 1), |end| end.segment_number(size));
                (span.timeline, begin, end)
            })
            .collect();
        // Before the first one nothing was archived.
        let start = spans.iter().find_map(|(timeline, begin, end)| inventory.within(*timeline, *begin..*end).next());
        let Some(start) = start else { continue };
        for (timeline, begin, end) in spans {
            add(timeline, begin.max(start), end);
        }
    }
    for (timeline, first, last) in inventory.let_go.iter().filter_map(|gap| let_go_numbers(gap, size)) {
        add(timeline, first, last + 1);
    }
    let mut merged: Vec<(Timeline, u64, u64)> = Vec::new();
    for (timeline, first, last) in holes {
        match merged.last_mut() {
            Some((other, _, end)) if *other == timeline && first <= *end + 1 => *end = last.max(*end),
            _ => merged.push((timeline, first, last)),
        }
    }
    merged.into_iter().filter_map(|(timeline, first, last)| stretch(timeline, (first, last), size)).collect()
}

/// The segments of a record.
fn let_go_numbers(gap: &Gap, size: SegmentSize) -> Option<(Timeline, u64, u64)> {
    match (gap.first, gap.last) {
        (WalFileName::Segment(first), WalFileName::Segment(last)) => {
            Some((first.timeline, first.number(size)?, last.number(size)?))
        }
        _ => None,
    }
}

/// Whether some of what is missing in `hole` is missing because it was let go as `gap` tells.
pub fn explains(gap: &Gap, hole: &Stretch) -> bool {
    match (gap.first, gap.last) {
        (WalFileName::Segment(first), WalFileName::Segment(last)) => first <= hole.last && hole.first <= last,
        _ => false,
    }
}

/// The stretches of numbers (both ends included) of `timeline` from `begin` to before `end` that are not there.
fn missing(inventory: &Inventory, timeline: Timeline, begin: u64, end: u64) -> Vec<(u64, u64)> {
    let mut next = begin;
    let mut holes = Vec::new();
    for stop in inventory.within(timeline, begin..end).chain(std::iter::once(end)) {
        if next < stop {
            holes.push((next, stop - 1));
        }
        next = stop + 1;
    }
    holes
}

/// The timelines with WAL whose history is needed and not there: where they come from cannot be told.
pub fn without_history(inventory: &Inventory, histories: &Histories) -> Vec<Timeline> {
    let known = |timeline: &Timeline| timeline.0 <= 1 || histories.contains_key(timeline);
    inventory.with_segments().filter(|timeline| !known(timeline)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use walward_pg::Lsn;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn wal(timelines: &[(u32, &[u64])]) -> Inventory {
        let mut inventory = Inventory::default();
        for (timeline, numbers) in timelines {
            let wal = inventory.timelines.entry(Timeline(*timeline)).or_default();
            wal.segments.extend(numbers.iter().copied());
        }
        inventory
    }

    fn at(number: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + 40)
    }

    fn history(timeline: u32, parents: &[(u32, u64)]) -> Histories {
        let parents = parents.iter().map(|(parent, number)| (Timeline(*parent), at(*number))).collect();
        Histories::from([(Timeline(timeline), parents)])
    }

    fn numbers(stretches: &[Stretch]) -> Vec<(u32, u64, u64)> {
        stretches
            .iter()
            .map(|hole| (hole.first.timeline.0, hole.first.number(SIZE).unwrap(), hole.last.number(SIZE).unwrap()))
            .collect()
    }

    #[test]
    fn stretches_and_holes_of_one_timeline() {
        let wal = wal(&[(1, &[3, 4, 5, 8, 9, 11])]);
        assert_eq!(numbers(&stretches(&wal, SIZE)), [(1, 3, 5), (1, 8, 9), (1, 11, 11)]);
        assert_eq!(numbers(&holes(&wal, &Histories::new(), SIZE)), [(1, 6, 7), (1, 10, 10)]);
    }

    #[test]
    fn a_switch_is_no_gap_and_what_is_missing_around_it_is_one() {
        let histories = history(2, &[(1, 5)]);
        assert_eq!(holes(&wal(&[(1, &[3, 4]), (2, &[5, 6])]), &histories, SIZE), []);
        assert_eq!(numbers(&holes(&wal(&[(1, &[2, 3]), (2, &[5, 6])]), &histories, SIZE)), [(1, 4, 4)]);
        assert_eq!(numbers(&holes(&wal(&[(1, &[3, 4]), (2, &[6])]), &histories, SIZE)), [(2, 5, 5)]);
        // The old timeline went on by itself for a while.
        assert_eq!(holes(&wal(&[(1, &[3, 4, 5, 6]), (2, &[5, 6])]), &histories, SIZE), []);
    }

    #[test]
    fn a_timeline_that_is_missing_on_the_way_is_a_gap() {
        let histories = history(3, &[(1, 5), (2, 9)]);
        let all = |wal: &Inventory| numbers(&holes(wal, &histories, SIZE));
        assert_eq!(all(&wal(&[(1, &[3, 4]), (3, &[9, 10])])), [(2, 5, 8)]);
        // An ancestor's end, and a hole after the switch of one that went on.
        assert_eq!(all(&wal(&[(1, &[3]), (2, &[5, 6, 7, 8]), (3, &[9])])), [(1, 4, 4)]);
        assert_eq!(all(&wal(&[(1, &[3, 7]), (2, &[5, 6, 7, 8]), (3, &[9])])), [(1, 4, 6)]);
        // Archiving began here.
        assert_eq!(all(&wal(&[(2, &[7, 8]), (3, &[9, 10])])), []);
        // Whose switch comes after all of its own WAL.
        assert_eq!(all(&wal(&[(3, &[2])])), []);
    }

    #[test]
    fn what_a_later_timelines_history_says_was_written_is_missing_even_without_its_wal() {
        let all = |wal: &Inventory| numbers(&holes(wal, &history(2, &[(1, 6)]), SIZE));
        assert_eq!(all(&wal(&[(1, &[3, 4])])), [(1, 5, 5)]);
        // Up to the segment of the switch there is nothing to miss, and an archive that never had any WAL has no hole.
        assert_eq!(all(&wal(&[(1, &[3, 4, 5])])), []);
        assert_eq!(all(&wal(&[])), []);
    }

    #[test]
    fn what_was_let_go_is_a_gap_even_at_the_end() {
        let gap = |first: u64, last: u64| Gap {
            format: 1,
            lineage: walward_pg::Lineage { major: 15, system_identifier: 7 },
            first: WalFileName::Segment(SegmentName::from_number(Timeline(1), first, SIZE).unwrap()),
            last: WalFileName::Segment(SegmentName::from_number(Timeline(1), last, SIZE).unwrap()),
            since: jiff::Timestamp::UNIX_EPOCH,
            until: jiff::Timestamp::UNIX_EPOCH,
            host: String::new(),
            queue_limit: 1,
            waiting: 2,
            reason: String::new(),
        };
        let found = |let_go: &[Gap]| {
            let held = wal(&[(1, &[3, 4, 9])]);
            holes(&Inventory { let_go: let_go.to_vec(), ..held }, &Histories::new(), SIZE)
        };
        assert_eq!(numbers(&found(&[gap(5, 8)])), [(1, 5, 8)]);
        let two = found(&[gap(10, 12), gap(12, 14)]);
        assert_eq!(numbers(&two), [(1, 5, 8), (1, 10, 14)]);
        assert!(explains(&gap(12, 14), &two[1]) && !explains(&gap(12, 14), &two[0]));
        // Archived after all.
        assert_eq!(numbers(&found(&[gap(3, 4)])), [(1, 5, 8)]);
    }

    #[test]
    fn a_timeline_without_its_history_is_named() {
        let histories = history(2, &[(1, 5)]);
        assert_eq!(without_history(&wal(&[(1, &[3]), (2, &[5]), (3, &[7]), (4, &[])]), &histories), [Timeline(3)]);
    }

    proptest! {
        #[test]
        fn stretches_and_holes_tile_what_lies_between_the_ends(segments in proptest::collection::btree_set(0u64..200, 1..60)) {
            let list: Vec<u64> = segments.iter().copied().collect();
            let wal = wal(&[(1, &list)]);
            let (there, missing) = (stretches(&wal, SIZE), holes(&wal, &Histories::new(), SIZE));
            let count = |stretches: &[Stretch]| stretches.iter().map(|stretch| stretch.segments).sum::<u64>();
            prop_assert_eq!(count(&there), list.len() as u64);
            prop_assert_eq!(count(&there) + count(&missing), list.last().unwrap() - list[0] + 1);
        }
    }
}
