//! Which WAL is there: the segments of every timeline, and the records of what was let go. Pure.

use std::collections::{BTreeMap, BTreeSet};

use walward_pg::{SegmentSize, Timeline, WalFileName};
use walward_repo::gap::Gap;

/// The segments of one timeline, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineWal {
    /// Whole segments.
    pub segments: BTreeSet<u64>,
    /// Unfinished last segments (`.partial`).
    pub partial: BTreeSet<u64>,
}

/// The WAL of one lineage that any of the repositories has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every timeline with its segments.
    pub timelines: BTreeMap<Timeline, TimelineWal>,
    /// Records of WAL that was let go. They explain what is missing.
    pub let_go: Vec<Gap>,
}

impl Inventory {
    /// Adds the segments among `files`, each of which is `size` long.
    pub fn add(&mut self, files: impl IntoIterator<Item = WalFileName>, size: SegmentSize) {
        for file in files {
            match file {
                WalFileName::Segment(name) => {
                    self.timelines.entry(name.timeline).or_default().segments.extend(name.number(size));
                }
                WalFileName::Partial(name) => {
                    self.timelines.entry(name.timeline).or_default().partial.extend(name.number(size));
                }
                WalFileName::History(_) | WalFileName::BackupHistory(..) => {}
            }
        }
    }

    /// Whether segment `number` of `timeline` is there whole.
    pub fn has(&self, timeline: Timeline, number: u64) -> bool {
        self.timelines.get(&timeline).is_some_and(|wal| wal.segments.contains(&number))
    }

    /// Whether segment `number` of `timeline` is there as a `.partial`.
    pub fn has_partial(&self, timeline: Timeline, number: u64) -> bool {
        self.timelines.get(&timeline).is_some_and(|wal| wal.partial.contains(&number))
    }

    /// The numbers of the whole segments of `timeline` in `numbers`, ascending. A range that ends before it begins is empty.
    pub fn within(&self, timeline: Timeline, numbers: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        let bounds = numbers.start..numbers.end.max(numbers.start);
        self.timelines.get(&timeline).into_iter().flat_map(move |wal| wal.segments.range(bounds.clone()).copied())
    }

    /// The timelines that have a whole segment.
    pub fn with_segments(&self) -> impl Iterator<Item = Timeline> {
        self.timelines.iter().filter(|(_, wal)| !wal.segments.is_empty()).map(|(timeline, _)| *timeline)
    }
}
