//! Timeline history files (`00000003.history`): which timelines a timeline descends from, and where it left each
//! (`readTimeLineHistory`, src/backend/access/transam/timeline.c).
//!
//! One line a parent, oldest first: its timeline in decimal, the position of the switch, a reason for people. Everything from
//! `#` on is a comment.

use std::path::Path;

use super::lsn::{Lsn, SegmentSize, Timeline};
use super::wal_name::{SegmentName, WalFileName};
use walward_base::sys::folder::Folder;

/// A history has a line of some 60 bytes for each promotion.
const BYTES_MAX: u64 = 1 << 20;
/// The most parents that are read; PostgreSQL has no limit, but each is a promotion.
const PARENTS_MAX: usize = 100_000;

/// A timeline and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline that the file is named for.
    pub timeline: Timeline,
    /// Its ancestors, oldest first, each with the position up to which (exclusive) its WAL counts.
    pub parents: Vec<(Timeline, Lsn)>,
}

/// Why a text is not the history of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Timeline 1 has no parents, so that every history names at least one.
    #[error("the history file of timeline {0} is empty or names no parent")]
    Empty(Timeline),
    /// A line that PostgreSQL would refuse.
    #[error(
        "line {line} of the history file of timeline {timeline} is {text:?}; a timeline and a position are expected, as in \"1 0/5000000\""
    )]
    Line {
        /// The timeline of the file.
        timeline: Timeline,
        /// The line, from 1.
        line: usize,
        /// What it says (at most 80 characters).
        text: String,
    },
    /// Timelines do not grow from line to line, or reach the file's own.
    #[error("line {line} of the history file of timeline {timeline} names timeline {found} out of order")]
    Order {
        /// The timeline of the file.
        timeline: Timeline,
        /// The line, from 1.
        line: usize,
        /// The timeline in that line.
        found: Timeline,
    },
    /// More lines than any cluster can have.
    #[error("the history file of timeline {0} names more than 100000 parents")]
    TooLong(Timeline),
}

impl TimelineHistory {
    /// The history of a timeline without parents: that of timeline 1, which has no file.
    pub fn root(timeline: Timeline) -> Self {
        Self { timeline, parents: Vec::new() }
    }

    /// Reads the content of `timeline`'s history file.
    ///
    /// # Errors
    /// When PostgreSQL would refuse it, and when it names no parent: an empty history file reads as "no parents" and would
    /// send a recovery down a wrong path in silence.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, HistoryError> {
        let mut parents: Vec<(Timeline, Lsn)> = Vec::new();
        for (index, full) in text.lines().enumerate() {
            let line = index + 1;
            let content = full.split('#').next().unwrap_or_default();
            let mut words = content.split_ascii_whitespace();
            let Some(first) = words.next() else { continue };
            let wrong = || HistoryError::Line { timeline, line, text: full.chars().take(80).collect() };
            let parent = first.parse().ok().filter(|number| *number != 0).map(Timeline).ok_or_else(wrong)?;
            let switch: Lsn = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            let follows = parents.last().is_none_or(|(last, _)| parent > *last);
            if !follows || parent >= timeline {
                return Err(HistoryError::Order { timeline, line, found: parent });
            }
            if parents.len() == PARENTS_MAX {
                return Err(HistoryError::TooLong(timeline));
            }
            parents.push((parent, switch));
        }
        if parents.is_empty() { Err(HistoryError::Empty(timeline)) } else { Ok(Self { timeline, parents }) }
    }

    /// That of `timeline` as it lies in `pg_wal`; `None` where it cannot be read. Links are not followed. Blocking.
    pub fn in_pg_wal(pg_wal: &Path, timeline: Timeline) -> Option<Self> {
        let folder = Folder::enter(pg_wal).ok()?;
        let text = folder.read(WalFileName::History(timeline).to_string(), BYTES_MAX).ok()?;
        Self::parse(timeline, &String::from_utf8_lossy(&text)).ok()
    }

    /// The timeline that the WAL byte at `lsn` belongs to (`tliOfPointInHistory`).
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.parents.iter().find(|(_, switch)| lsn < *switch).map_or(self.timeline, |(parent, _)| *parent)
    }

    /// The timeline of the file that recovery needs for segment `number`.
    ///
    /// The segment that contains a switch is read from the newer timeline: its file begins with a copy of the older one's
    /// bytes (`XLogInitNewTimeline`, src/backend/access/transam/xlog.c), and a segment's timeline is that of its last byte.
    pub fn required_timeline_for_segment(&self, number: u64, size: SegmentSize) -> Timeline {
        let after = number.saturating_add(1).saturating_mul(size.bytes());
        self.timeline_at(Lsn(after.saturating_sub(1)))
    }

    /// Whether WAL of `timeline` at `lsn` lies on the way to this timeline. A parent's own end counts: a record that ends
    /// where the switch happened is still on the parent.
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.begin_of(timeline).is_some_and(|begin| begin <= lsn)
            && self.switch_of(timeline).is_none_or(|switch| lsn <= switch)
    }

    /// Where `timeline` begins on the way to this one; 0/0 for the oldest, `None` for a timeline that is not on the way.
    pub fn begin_of(&self, timeline: Timeline) -> Option<Lsn> {
        let mut begin = Lsn(0);
        for (parent, switch) in &self.parents {
            if *parent == timeline {
                return Some(begin);
            }
            begin = *switch;
        }
        (timeline == self.timeline).then_some(begin)
    }

    /// Where `timeline` was left on the way to this one; `None` for this timeline itself and for one that is not on the way.
    pub fn switch_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.parents.iter().find(|(parent, _)| *parent == timeline).map(|(_, switch)| *switch)
    }
}

/// The segment that replay reads before `segment`, by the history of its timeline: that of a parent where the timeline began in `segment`.
/// Where the history is not known, one of the same timeline. `None` before the first of all.
pub fn segment_before(
    segment: SegmentName,
    size: SegmentSize,
    history: Option<&TimelineHistory>,
) -> Option<SegmentName> {
    let number = segment.number(size)?.checked_sub(1)?;
    let timeline = history.map_or(segment.timeline, |history| history.required_timeline_for_segment(number, size));
    SegmentName::from_number(timeline, number, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history() -> TimelineHistory {
        let text =
            "1\t0/5000098\tno recovery target specified\n\n# a comment\n2\t0/9000000\tbefore 2026-11-21 \u{e9}\n";
        TimelineHistory::parse(Timeline(0x10), text).expect("a history")
    }

    #[test]
    fn each_position_belongs_to_the_timeline_that_wrote_it() {
        let history = history();
        assert_eq!(history.parents, [(Timeline(1), Lsn(0x500_0098)), (Timeline(2), Lsn(0x900_0000))]);
        assert_eq!(history.timeline_at(Lsn(0x500_0097)), Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x500_0098)), Timeline(2));
        assert_eq!(history.timeline_at(Lsn(0x900_0000)), Timeline(0x10));
    }

    #[test]
    fn the_segment_of_a_switch_is_needed_from_the_newer_timeline() {
        let history = history();
        let timeline = |number| history.required_timeline_for_segment(number, SegmentSize::DEFAULT);
        assert_eq!(timeline(4), Timeline(1));
        assert_eq!(timeline(5), Timeline(2));
        assert_eq!(timeline(8), Timeline(2));
        assert_eq!(timeline(9), Timeline(0x10));
        assert_eq!(timeline(u64::MAX), Timeline(0x10));
    }

    #[test]
    fn a_position_past_the_switch_of_its_timeline_is_not_on_the_way() {
        let history = history();
        assert!(history.contains(Timeline(1), Lsn(0x500_0098)));
        assert!(!history.contains(Timeline(1), Lsn(0x500_0099)));
        assert!(!history.contains(Timeline(2), Lsn(0x500_0000)));
        assert!(history.contains(Timeline(0x10), Lsn(u64::MAX)));
        assert!(!history.contains(Timeline(3), Lsn(0x900_0000)));
        assert!(TimelineHistory::root(Timeline(1)).contains(Timeline(1), Lsn(1)));
    }

    #[test]
    fn an_empty_file_and_one_of_comments_are_refused() {
        for text in ["", "\n\n", "# nothing\n"] {
            assert_eq!(TimelineHistory::parse(Timeline(2), text), Err(HistoryError::Empty(Timeline(2))));
        }
    }

    #[test]
    fn what_postgresql_would_refuse_is_refused() {
        for text in ["x 0/1\n", "1\n", "1 5000098\n", "0 0/1\n", "2 0/1\n1 0/2\n", "3 0/1\n", "1 0/1\n1 0/2\n"] {
            assert!(TimelineHistory::parse(Timeline(3), text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String, lsn: u64, number: u64) {
            if let Ok(history) = TimelineHistory::parse(Timeline(7), &text) {
                let _ = history.timeline_at(Lsn(lsn));
                let _ = history.required_timeline_for_segment(number, SegmentSize::DEFAULT);
            }
        }

        #[test]
        fn written_and_read_again(switches in prop::collection::vec(any::<u64>(), 1..20)) {
            let parents: Vec<_> = (1u32..).map(Timeline).zip(switches.into_iter().map(Lsn)).collect();
            let lines: Vec<_> = parents.iter().map(|(timeline, lsn)| format!("{timeline}\t{lsn}\tpromoted\n")).collect();
            let text = lines.concat();
            let history = TimelineHistory::parse(Timeline(100), &text).expect("a history");
            prop_assert_eq!(history.parents, parents);
        }
    }
}
