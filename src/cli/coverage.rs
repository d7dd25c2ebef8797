//! What the WAL in a repository covers: ranges, gaps, and the windows of time to which one can recover. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};

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

/// What is missing: between two ranges of a timeline; where a timeline begins, up to its first segment; and before a
/// timeline was left for one that has WAL, up to the segment of the switch (which belongs to the newer one).
pub(super) fn gaps(
    wal: &BTreeMap<Timeline, TimelineWal>,
    histories: &BTreeMap<Timeline, TimelineHistory>,
    size: SegmentSize,
) -> Vec<Range> {
    let mut gaps = BTreeSet::new();
    for (timeline, segments) in wal {
        let runs = runs(&segments.segments);
        for pair in runs.windows(2) {
            if let [(_, before), (after, _)] = pair {
                gaps.insert((*timeline, before + 1, after - 1));
            }
        }
        let Some((first, _)) = runs.first() else { continue };
        let Some((parent, switch)) = histories.get(timeline).and_then(|history| history.parents.last()) else {
            continue;
        };
        let begin = switch.segment_number(size);
        if begin < *first {
            gaps.insert((*timeline, begin, first - 1));
        }
        let last = wal.get(parent).and_then(|parent| parent.segments.range(..begin).next_back());
        if let Some(last) = last
            && last + 1 < begin
        {
            let next = wal.get(parent).and_then(|parent| parent.segments.range(begin..).next());
            // A parent that went on was listed above, as a gap between two of its own ranges.
            if next.is_none() {
                gaps.insert((*parent, last + 1, begin - 1));
            }
        }
    }
    gaps.into_iter().filter_map(|(timeline, first, last)| range(timeline, (first, last), size)).collect()
}

/// How far recovery from `backup` goes on the way to `newest`, or on the backup's own timeline when it is not on that way.
pub(super) fn reach(
    backup: BackupSpan,
    newest: &TimelineHistory,
    own: &TimelineHistory,
    wal: &BTreeMap<Timeline, TimelineWal>,
    size: SegmentSize,
) -> Reach {
    let on_the_way = newest.contains(backup.timeline, backup.start) && newest.contains(backup.timeline, backup.stop);
    let way = if on_the_way { newest } else { own };
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
        assert_eq!(numbers(&gaps(&wal, &BTreeMap::new(), SIZE)), [(1, 6, 7), (1, 10, 10)]);
    }

    #[test]
    fn a_switch_is_no_gap_and_what_is_missing_around_it_is_one() {
        let histories = BTreeMap::from([(Timeline(2), history(2, &[(1, 5)]))]);
        assert_eq!(gaps(&wal(&[(1, &[3, 4]), (2, &[5, 6])]), &histories, SIZE), []);
        assert_eq!(numbers(&gaps(&wal(&[(1, &[2, 3]), (2, &[5, 6])]), &histories, SIZE)), [(1, 4, 4)]);
        assert_eq!(numbers(&gaps(&wal(&[(1, &[3, 4]), (2, &[6])]), &histories, SIZE)), [(2, 5, 5)]);
        // The old timeline went on by itself for a while.
        assert_eq!(gaps(&wal(&[(1, &[3, 4, 5, 6]), (2, &[5, 6])]), &histories, SIZE), []);
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
            let (there, missing) = (ranges(&wal, SIZE), gaps(&wal, &BTreeMap::new(), SIZE));
            let count = |ranges: &[Range]| ranges.iter().map(|range| range.segments).sum::<u64>();
            prop_assert_eq!(count(&there), list.len() as u64);
            prop_assert_eq!(count(&there) + count(&missing), list.last().unwrap() - list[0] + 1);
        }
    }
}
