//! Which WAL a recovery reads, and whether it is all there. Pure.

use std::ops::Range;

use serde::Serialize;

use super::inventory::Inventory;
use super::way::Way;
use walward_pg::{Lsn, SegmentName, SegmentSize};

/// How far the archive carries a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Numbers of the segments that are there without a gap, from the backup's first on.
    pub present: Range<u64>,
    /// The segment that comes next on the way and is not there.
    pub missing: Option<SegmentName>,
    /// Where the WAL goes on after the missing one ([`goes_on_after`]): then the missing one is a hole and not the end.
    pub goes_on: Option<SegmentName>,
    /// The missing one is there as a `.partial`, which PostgreSQL does not read by itself.
    pub partial: bool,
}

/// What of the WAL on `way` is there for a recovery that starts at `start`.
pub fn reach(way: &Way, start: Lsn, size: SegmentSize, inventory: &Inventory) -> Reach {
    let first = start.segment_number(size);
    let there = |number| way.segment(number, size).is_some_and(|name| inventory.has(name.timeline, number));
    let mut end = first;
    while there(end) {
        end += 1;
    }
    let missing = way.segment(end, size);
    let partial = missing.is_some_and(|name| inventory.has_partial(name.timeline, end));
    Reach { present: first..end, missing, goes_on: goes_on_after(way, end, size, inventory), partial }
}

/// Where the WAL on `way` goes on after segment `number`: the first later segment that is there, or that in which a later timeline
/// left this way, by its history. None: the archive ends there.
pub fn goes_on_after(way: &Way, number: u64, size: SegmentSize, inventory: &Inventory) -> Option<SegmentName> {
    first_after(way, number, size, inventory).or_else(|| way.left_after(number, size))
}

/// The first segment on `way` with a number above `after` that is there.
fn first_after(way: &Way, after: u64, size: SegmentSize, inventory: &Inventory) -> Option<SegmentName> {
    way.spans()
        .iter()
        .filter_map(|span| {
            let begin = span.begin.segment_number(size).max(after.checked_add(1)?);
            // A segment with a switch in it belongs to the next timeline.
            let end = span.end.map_or(u64::MAX, |end| end.segment_number(size));
            let number = inventory.within(span.timeline, begin..end).next()?;
            way.segment(number, size)
        })
        .min_by_key(|name| name.number(size))
}

/// Counts the partial segment at the end of `way` as a whole one, and names it. One in front of a hole never is: what comes after it
/// would be lost.
pub fn count_partial(inventory: &mut Inventory, way: &Way, start: Lsn, size: SegmentSize) -> Option<SegmentName> {
    let reached = reach(way, start, size, inventory);
    let missing = reached.missing.filter(|_| reached.partial && reached.goes_on.is_none())?;
    inventory.timelines.entry(missing.timeline).or_default().segments.insert(reached.present.end);
    Some(missing)
}

/// The segments that a recovery will ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalNeed {
    /// The first.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
    /// How many.
    pub count: u64,
}

impl WalNeed {
    /// The segments of `numbers` on `way`; `None` when there are none.
    pub fn new(way: &Way, numbers: &Range<u64>, size: SegmentSize) -> Option<Self> {
        let last = numbers.end.checked_sub(1).filter(|last| *last >= numbers.start)?;
        Some(Self {
            first: way.segment(numbers.start, size)?,
            last: way.segment(last, size)?,
            count: numbers.end - numbers.start,
        })
    }
}

/// The segment with the last byte before `position`.
pub fn segment_before(position: Lsn, size: SegmentSize) -> u64 {
    Lsn(position.0.saturating_sub(1)).segment_number(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::way::Histories;
    use proptest::prelude::*;
    use walward_pg::{Timeline, WalFileName};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn position(segment: u64, offset: u64) -> Lsn {
        Lsn(segment * SIZE.bytes() + offset)
    }

    fn way() -> Way {
        let mut histories = Histories::new();
        histories.insert(Timeline(3), vec![(Timeline(1), position(5, 100)), (Timeline(2), position(9, 0))]);
        Way::to(Timeline(3), &histories).expect("known")
    }

    fn inventory(segments: &[(u32, u64)]) -> Inventory {
        let mut inventory = Inventory::default();
        let name = |(timeline, number): &(u32, u64)| {
            SegmentName::from_number(Timeline(*timeline), *number, SIZE).expect("a name")
        };
        inventory.add(segments.iter().map(|segment| WalFileName::Segment(name(segment))), SIZE);
        inventory.add([WalFileName::Partial(name(&(1, 5)))], SIZE);
        inventory
    }

    #[test]
    fn a_left_timeline_may_end_with_a_partial_segment() {
        let all = [(1, 3), (1, 4), (2, 5), (2, 6), (2, 7), (2, 8), (3, 9), (3, 10)];
        let reach = reach(&way(), position(3, 40), SIZE, &inventory(&all));
        assert_eq!(reach.present, 3..11);
        assert_eq!(reach.goes_on, None);
        let need = WalNeed::new(&way(), &reach.present, SIZE).expect("some");
        assert_eq!(need.last.to_string(), "00000003000000000000000A");
        assert_eq!(need.count, 8);
    }

    #[test]
    fn the_old_timelines_copy_of_a_segment_with_a_switch_does_not_do() {
        let reach = reach(&way(), position(3, 40), SIZE, &inventory(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 6)]));
        assert_eq!(reach.present, 3..5);
        assert_eq!(reach.missing.map(|name| name.to_string()).as_deref(), Some("000000020000000000000005"));
        assert_eq!(reach.goes_on.map(|name| name.to_string()).as_deref(), Some("000000020000000000000006"));
    }

    #[test]
    fn a_partial_segment_counts_only_where_the_archive_ends() {
        let one = Way::root(Timeline(1), &Histories::new());
        let mut ended = inventory(&[(1, 3), (1, 4)]);
        let counted = count_partial(&mut ended, &one, position(3, 40), SIZE);
        assert_eq!(counted.map(|name| name.to_string()).as_deref(), Some("000000010000000000000005"));
        assert_eq!(reach(&one, position(3, 40), SIZE, &ended).present, 3..6);
        let mut holed = inventory(&[(1, 3), (1, 4), (1, 6)]);
        assert_eq!(count_partial(&mut holed, &one, position(3, 40), SIZE), None);
        let mut left = inventory(&[(1, 3), (1, 4), (2, 5)]);
        assert_eq!(count_partial(&mut left, &way(), position(3, 40), SIZE), None);
    }

    proptest! {
        #[test]
        fn the_reach_ends_exactly_at_the_first_missing_segment(
            start in 0u64..14,
            held in proptest::collection::btree_set((1u32..=3, 0u64..16), 0..48),
        ) {
            let held: Vec<_> = held.into_iter().collect();
            let inventory = inventory(&held);
            let way = way();
            let reach = reach(&way, position(start, 7), SIZE, &inventory);
            let there = |number: u64| {
                let name = way.segment(number, SIZE).expect("in range");
                held.contains(&(name.timeline.0, number))
            };
            prop_assert_eq!(reach.present.start, start);
            prop_assert!(reach.present.clone().all(there));
            prop_assert!(!there(reach.present.end));
            let later = (reach.present.end + 1..40).find(|number| there(*number));
            prop_assert_eq!(reach.goes_on.and_then(|name| name.number(SIZE)), later);
        }
    }
}
