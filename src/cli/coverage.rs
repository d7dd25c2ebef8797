//! What the WAL in a repository covers: ranges, gaps, and the windows of time to which one can recover. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use walward_pg::{Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::gap::Gap;

/// The segments of one timeline, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TimelineWal {
    /// Whole segments.
    pub(super) segments: BTreeSet<u64>,
    /// Unfinished last segments.
    pub(super) partial: BTreeSet<u64>,
}

/// Segments that follow one another on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    /// The first.
    #[serde(serialize_with = "as_text")]
    pub(super) first: SegmentName,
    /// The last.
    #[serde(serialize_with = "as_text")]
    pub(super) last: SegmentName,
    /// How many there are.
    pub(super) segments: u64,
}

fn as_text<S: serde::Serializer>(name: &SegmentName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// A backup, as far as coverage goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BackupSpan {
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
}

/// How far one backup's WAL goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// The way that recovery takes.
    pub(super) way: TimelineHistory,
    /// Its first segment.
    pub(super) first: u64,
    /// The number behind the last segment that is there without a gap.
    pub(super) end: u64,
    /// Whether that is enough to make the backup consistent.
    pub(super) consistent: bool,
}

impl TimelineWal {
    /// The segments among `files`.
    pub(super) fn new(files: &[WalFileName], size: SegmentSize) -> Self {
        let mut wal = Self::default();
        for file in files {
            match file {
                WalFileName::Segment(name) => wal.segments.extend(name.number(size)),
                WalFileName::Partial(name) => wal.partial.extend(name.number(size)),
                WalFileName::History(_) | WalFileName::BackupHistory(..) => {}
            }
        }
        wal
    }
}

/// The ranges of numbers (both ends included) in `numbers`.
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

fn range(timeline: Timeline, (first, last): (u64, u64), size: SegmentSize) -> Option<Range> {
    Some(Range {
        first: SegmentName::from_number(timeline, first, size)?,
        last: SegmentName::from_number(timeline, last, size)?,
        segments: last - first + 1,
    })
}

/// What is there, by timeline and position.
pub(super) fn ranges(wal: &BTreeMap<Timeline, TimelineWal>, size: SegmentSize) -> Vec<Range> {
    let runs = wal.iter().flat_map(|(timeline, wal)| runs(&wal.segments).into_iter().map(|run| (*timeline, run)));
    runs.filter_map(|(timeline, run)| range(timeline, run, size)).collect()
}

/// What is missing: between two ranges of a timeline, and anywhere on the way to a timeline that has WAL, from the first
/// segment that is there on that way. The segment of a switch belongs to the newer timeline. What was let go is missing even where
/// nothing lies behind it.
pub(super) fn gaps(
    wal: &BTreeMap<Timeline, TimelineWal>,
    histories: &BTreeMap<Timeline, TimelineHistory>,
    let_go: &[Gap],
    size: SegmentSize,
) -> Vec<Range> {
    let none = BTreeSet::new();
    let of = |timeline: Timeline| wal.get(&timeline).map_or(&none, |wal| &wal.segments);
    let mut gaps: BTreeSet<(Timeline, u64, u64)> = BTreeSet::new();
    for (timeline, own) in wal {
        let (Some(first), Some(last)) = (own.segments.first(), own.segments.last()) else { continue };
        gaps.extend(missing(&own.segments, *first, last + 1).map(|(first, last)| (*timeline, first, last)));
        let Some(history) = histories.get(timeline) else { continue };
        let mut begin = 0;
        let mut way = Vec::new();
        for (parent, switch) in &history.parents {
            let end = switch.segment_number(size);
            way.push((*parent, begin, end));
            begin = end;
        }
        way.push((*timeline, begin, last + 1));
        // Before the first one nothing was archived.
        let start = way.iter().find_map(|(timeline, begin, end)| within(of(*timeline), *begin, *end).next());
        for (timeline, begin, end) in way {
            let begin = begin.max(start.unwrap_or(end));
            gaps.extend(missing(of(timeline), begin, end).map(|(first, last)| (timeline, first, last)));
        }
    }
    for gap in let_go {
        if let Some((timeline, first, last)) = let_go_numbers(gap, size) {
            gaps.extend(missing(of(timeline), first, last + 1).map(|(first, last)| (timeline, first, last)));
        }
    }
    let mut merged: Vec<(Timeline, u64, u64)> = Vec::new();
    for (timeline, first, last) in gaps {
        match merged.last_mut() {
            Some((other, _, end)) if *other == timeline && first <= *end + 1 => *end = last.max(*end),
            _ => merged.push((timeline, first, last)),
        }
    }
    merged.into_iter().filter_map(|(timeline, first, last)| range(timeline, (first, last), size)).collect()
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

/// Whether some of what is missing in `range` is missing because it was let go as `gap` tells.
pub(super) fn explains(gap: &Gap, range: &Range) -> bool {
    match (gap.first, gap.last) {
        (WalFileName::Segment(first), WalFileName::Segment(last)) => first <= range.last && range.first <= last,
        _ => false,
    }
}

/// The numbers from `begin` to before `end` that are there.
fn within(numbers: &BTreeSet<u64>, begin: u64, end: u64) -> impl Iterator<Item = u64> {
    // A range that ends before it begins is not one for the set.
    numbers.range(begin..end.max(begin)).copied()
}

/// The runs of numbers (both ends included) from `begin` to before `end` that are not there.
fn missing(numbers: &BTreeSet<u64>, begin: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let stops = within(numbers, begin, end).chain(std::iter::once(end));
    let mut next = begin;
    stops.filter_map(move |stop| {
        let hole = (next < stop).then(|| (next, stop - 1));
        next = stop + 1;
        hole
    })
}

/// The timelines with WAL whose history is needed and not there: where they come from cannot be told.
pub(super) fn without_history(
    wal: &BTreeMap<Timeline, TimelineWal>,
    histories: &BTreeMap<Timeline, TimelineHistory>,
) -> Vec<Timeline> {
    let known = |timeline: Timeline| timeline.0 <= 1 || histories.contains_key(&timeline);
    let there = wal.iter().filter(|(_, wal)| !wal.segments.is_empty()).map(|(timeline, _)| *timeline);
    there.filter(|timeline| !known(*timeline)).collect()
}

/// How far recovery from `backup` goes on the way to `newest`, or on the backup's own timeline when it is not on that way or
/// does not become consistent on it.
pub(super) fn reach(
    backup: BackupSpan,
    newest: &TimelineHistory,
    own: &TimelineHistory,
    wal: &BTreeMap<Timeline, TimelineWal>,
    size: SegmentSize,
) -> Reach {
    let on_the_way = newest.contains(backup.timeline, backup.start) && newest.contains(backup.timeline, backup.stop);
    let reached = |way: &TimelineHistory| {
        let first = backup.start.segment_number(size);
        let there = |number: u64| {
            let timeline = way.required_timeline_for_segment(number, size);
            wal.get(&timeline).is_some_and(|wal| wal.segments.contains(&number))
        };
        let mut end = first;
        while there(end) {
            end += 1;
        }
        // The stop position is behind the last byte that is needed.
        let needed = Lsn(backup.stop.0.saturating_sub(1)).segment_number(size);
        Reach { way: way.clone(), first, end, consistent: end > needed }
    };
    let on_newest = on_the_way.then(|| reached(newest));
    on_newest.filter(|reach| reach.consistent).unwrap_or_else(|| reached(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn wal(timelines: &[(u32, &[u64])]) -> BTreeMap<Timeline, TimelineWal> {
        let wal =
            |numbers: &&[u64]| TimelineWal { segments: numbers.iter().copied().collect(), ..TimelineWal::default() };
        timelines.iter().map(|(timeline, numbers)| (Timeline(*timeline), wal(numbers))).collect()
    }

    fn at(number: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + 40)
    }

    fn history(timeline: u32, parents: &[(u32, u64)]) -> TimelineHistory {
        let parents = parents.iter().map(|(parent, number)| (Timeline(*parent), at(*number))).collect();
        TimelineHistory { timeline: Timeline(timeline), parents }
    }

    fn numbers(ranges: &[Range]) -> Vec<(u32, u64, u64)> {
        ranges
            .iter()
            .map(|range| (range.first.timeline.0, range.first.number(SIZE).unwrap(), range.last.number(SIZE).unwrap()))
            .collect()
    }

    #[test]
    fn ranges_and_gaps_of_one_timeline() {
        let wal = wal(&[(1, &[3, 4, 5, 8, 9, 11])]);
        assert_eq!(numbers(&ranges(&wal, SIZE)), [(1, 3, 5), (1, 8, 9), (1, 11, 11)]);
        assert_eq!(numbers(&gaps(&wal, &BTreeMap::new(), &[], SIZE)), [(1, 6, 7), (1, 10, 10)]);
    }

    #[test]
    fn a_switch_is_no_gap_and_what_is_missing_around_it_is_one() {
        let histories = BTreeMap::from([(Timeline(2), history(2, &[(1, 5)]))]);
        assert_eq!(gaps(&wal(&[(1, &[3, 4]), (2, &[5, 6])]), &histories, &[], SIZE), []);
        assert_eq!(numbers(&gaps(&wal(&[(1, &[2, 3]), (2, &[5, 6])]), &histories, &[], SIZE)), [(1, 4, 4)]);
        assert_eq!(numbers(&gaps(&wal(&[(1, &[3, 4]), (2, &[6])]), &histories, &[], SIZE)), [(2, 5, 5)]);
        // The old timeline went on by itself for a while.
        assert_eq!(gaps(&wal(&[(1, &[3, 4, 5, 6]), (2, &[5, 6])]), &histories, &[], SIZE), []);
    }

    #[test]
    fn a_timeline_that_is_missing_on_the_way_is_a_gap() {
        let histories = BTreeMap::from([(Timeline(3), history(3, &[(1, 5), (2, 9)]))]);
        let all = |wal: &BTreeMap<Timeline, TimelineWal>| numbers(&gaps(wal, &histories, &[], SIZE));
        assert_eq!(all(&wal(&[(1, &[3, 4]), (3, &[9, 10])])), [(2, 5, 8)]);
        // An ancestor's end, and a hole behind the switch of one that went on.
        assert_eq!(all(&wal(&[(1, &[3]), (2, &[5, 6, 7, 8]), (3, &[9])])), [(1, 4, 4)]);
        assert_eq!(all(&wal(&[(1, &[3, 7]), (2, &[5, 6, 7, 8]), (3, &[9])])), [(1, 4, 6)]);
        // Archiving began here.
        assert_eq!(all(&wal(&[(2, &[7, 8]), (3, &[9, 10])])), []);
        // Whose switch lies behind all of its own WAL.
        assert_eq!(all(&wal(&[(3, &[2])])), []);
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
        let found = |let_go: &[Gap]| gaps(&wal(&[(1, &[3, 4, 9])]), &BTreeMap::new(), let_go, SIZE);
        assert_eq!(numbers(&found(&[gap(5, 8)])), [(1, 5, 8)]);
        let two = found(&[gap(10, 12), gap(12, 14)]);
        assert_eq!(numbers(&two), [(1, 5, 8), (1, 10, 14)]);
        assert!(explains(&gap(12, 14), &two[1]) && !explains(&gap(12, 14), &two[0]));
        // Archived after all.
        assert_eq!(numbers(&found(&[gap(3, 4)])), [(1, 5, 8)]);
    }

    #[test]
    fn a_timeline_without_its_history_is_named() {
        let histories = BTreeMap::from([(Timeline(2), history(2, &[(1, 5)]))]);
        assert_eq!(without_history(&wal(&[(1, &[3]), (2, &[5]), (3, &[7]), (4, &[])]), &histories), [Timeline(3)]);
    }

    #[test]
    fn a_backup_that_is_consistent_only_on_its_own_timeline_counts() {
        let newest = history(2, &[(1, 5)]);
        let own = TimelineHistory::root(Timeline(1));
        let backup = BackupSpan { timeline: Timeline(1), start: at(4), stop: at(5) };
        let reached = reach(backup, &newest, &own, &wal(&[(1, &[4, 5]), (2, &[6])]), SIZE);
        assert_eq!((reached.way.timeline, reached.end, reached.consistent), (Timeline(1), 6, true));
        assert!(!reach(backup, &newest, &own, &wal(&[(1, &[4]), (2, &[6])]), SIZE).consistent);
    }

    #[test]
    fn a_backup_reaches_over_switches_until_the_first_hole() {
        let wal = wal(&[(1, &[3, 4, 5, 6]), (2, &[5, 6, 8])]);
        let newest = history(2, &[(1, 5)]);
        let own = TimelineHistory::root(Timeline(1));
        let backup = BackupSpan { timeline: Timeline(1), start: at(3), stop: at(4) };
        let reached = reach(backup, &newest, &own, &wal, SIZE);
        assert_eq!((reached.first, reached.end, reached.consistent), (3, 7, true));
        assert_eq!(reached.way.timeline, Timeline(2));
        // Taken on timeline 1 after it was left.
        let stray = BackupSpan { timeline: Timeline(1), start: at(6), stop: at(7) };
        let reached = reach(stray, &newest, &own, &wal, SIZE);
        assert_eq!((reached.way.timeline, reached.end, reached.consistent), (Timeline(1), 7, false));
    }

    #[test]
    fn a_stop_at_a_segment_boundary_needs_no_next_segment() {
        let wal = wal(&[(1, &[3])]);
        let own = TimelineHistory::root(Timeline(1));
        let backup = BackupSpan { timeline: Timeline(1), start: at(3), stop: Lsn(4 * SIZE.bytes()) };
        assert!(reach(backup, &own, &own, &wal, SIZE).consistent);
    }

    proptest! {
        #[test]
        fn ranges_and_gaps_tile_what_lies_between_the_ends(segments in proptest::collection::btree_set(0u64..200, 1..60)) {
            let list: Vec<u64> = segments.iter().copied().collect();
            let wal = wal(&[(1, &list)]);
            let (there, missing) = (ranges(&wal, SIZE), gaps(&wal, &BTreeMap::new(), &[], SIZE));
            let count = |ranges: &[Range]| ranges.iter().map(|range| range.segments).sum::<u64>();
            prop_assert_eq!(count(&there), list.len() as u64);
            prop_assert_eq!(count(&there) + count(&missing), list.last().unwrap() - list[0] + 1);
        }
    }
}
