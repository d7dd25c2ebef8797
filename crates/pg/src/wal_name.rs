//! The names of the files that PostgreSQL archives: segments, partial segments, timeline histories, backup histories
//! (`XLogFileName` and its neighbours, src/include/access/xlog_internal.h).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lsn::{Lsn, SegmentSize, Timeline};

/// The name of a WAL segment: timeline, log and segment, eight upper-case hexadecimal digits each.
///
/// Ordered by timeline first, then by position, as the names sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline that the segment was written on.
    pub timeline: Timeline,
    /// The upper 32 bits of every position in the segment.
    pub log: u32,
    /// The segment within its log; below 4096 (1 MiB segments), 256 (16 MiB) or 4 (1 GiB).
    pub segment: u32,
}

impl SegmentName {
    /// The name of segment `number` (counted from the WAL's beginning) on `timeline`.
    ///
    /// `None` for a number after the last possible position.
    pub fn from_number(timeline: Timeline, number: u64, size: SegmentSize) -> Option<Self> {
        let log = u32::try_from(number / size.segments_per_log()).ok()?;
        let segment = u32::try_from(number % size.segments_per_log()).ok()?;
        Some(Self { timeline, log, segment })
    }

    /// The number of this segment counted from the WAL's beginning, or `None` when the name is impossible for `size`.
    pub fn number(self, size: SegmentSize) -> Option<u64> {
        let segment = u64::from(self.segment);
        (segment < size.segments_per_log()).then(|| u64::from(self.log) * size.segments_per_log() + segment)
    }

    /// The position of the segment's first byte, or `None` when the name is impossible for `size`.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        Some(Lsn(self.number(size)?.checked_mul(size.bytes())?))
    }

    /// The segment that follows on the same timeline.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        Self::from_number(self.timeline, self.number(size)?.checked_add(1)?, size)
    }

    /// Whether the two have one number and different timelines.
    pub fn is_on_another_timeline_than(self, other: Self) -> bool {
        (self.log, self.segment) == (other.log, other.segment) && self.timeline != other.timeline
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

/// A file that PostgreSQL archives or asks for, known by its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// `00000002.history`: where timeline 2 and its parents begin.
    History(Timeline),
    /// `000000010000000000000002`
    Segment(SegmentName),
    /// `000000010000000000000002.00000028.backup`: what a base backup's start and stop were; the number is the start's offset in the segment.
    BackupHistory(SegmentName, u32),
    /// `000000010000000000000002.partial`: the last, unfinished segment of a timeline that was left.
    Partial(SegmentName),
}

/// A name that is none of PostgreSQL's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a WAL file (a segment of 24 hexadecimal digits, or a .partial, .history or .backup file)"
)]
pub struct WalNameError(String);

impl WalFileName {
    /// The timeline in the name.
    pub fn timeline(self) -> Timeline {
        match self {
            Self::History(timeline) => timeline,
            Self::Segment(name) | Self::Partial(name) | Self::BackupHistory(name, _) => name.timeline,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            Self::Segment(name) => name.fmt(f),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
            Self::Partial(name) => write!(f, "{name}.partial"),
        }
    }
}

impl FromStr for SegmentName {
    type Err = WalNameError;

    fn from_str(text: &str) -> Result<Self, WalNameError> {
        segment(text).ok_or_else(|| WalNameError(text.to_owned()))
    }
}

impl FromStr for WalFileName {
    type Err = WalNameError;

    fn from_str(text: &str) -> Result<Self, WalNameError> {
        let name = match text.split_once('.') {
            None => segment(text).map(Self::Segment),
            Some((stem, "history")) => word(stem).and_then(nonzero).map(Self::History),
            Some((stem, "partial")) => segment(stem).map(Self::Partial),
            Some((stem, rest)) => rest
                .strip_suffix(".backup")
                .and_then(word)
                .and_then(|offset| segment(stem).map(|name| Self::BackupHistory(name, offset))),
        };
        name.ok_or_else(|| WalNameError(text.to_owned()))
    }
}

/// Eight upper-case hexadecimal digits, as PostgreSQL writes and checks them (`IsXLogFileName`).
fn word(text: &str) -> Option<u32> {
    let valid = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn nonzero(timeline: u32) -> Option<Timeline> {
    (timeline != 0).then_some(Timeline(timeline))
}

fn segment(text: &str) -> Option<SegmentName> {
    let timeline = nonzero(word(text.get(0..8)?)?)?;
    let log = word(text.get(8..16)?)?;
    let segment = word(text.get(16..)?)?;
    Some(SegmentName { timeline, log, segment })
}

macro_rules! serde_as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(SegmentName);
serde_as_text!(WalFileName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(mib: u64) -> SegmentSize {
        SegmentSize::try_from(mib << 20).expect("a valid size")
    }

    #[test]
    fn the_last_segment_of_a_log_is_followed_by_the_first_of_the_next() {
        let last: SegmentName = "0000000A00000001000000FF".parse().expect("a name");
        assert_eq!(last.next(size(16)).map(|n| n.to_string()).as_deref(), Some("0000000A0000000200000000"));
        let last: SegmentName = "0000000A0000000100000003".parse().expect("a name");
        assert_eq!(last.next(size(1024)).map(|n| n.to_string()).as_deref(), Some("0000000A0000000200000000"));
    }

    #[test]
    fn a_name_that_is_impossible_for_the_segment_size_has_no_number() {
        let name: SegmentName = "000000010000000000000004".parse().expect("a name");
        assert_eq!(name.number(size(1024)), None);
        assert_eq!(name.number(size(16)), Some(4));
    }

    #[test]
    fn what_is_not_wal_is_refused() {
        for text in [
            "",
            "000000000000000000000001",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "../000000010000000000001",
            "00000000.history",
            "000000010000000000000001.ready",
            "000000010000000000000001.0000002.backup",
            "00000001é0000000000000001",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_and_read_again(timeline in 1u32.., log: u32, segment: u32, offset: u32) {
            let name = SegmentName { timeline: Timeline(timeline), log, segment };
            for file in [
                WalFileName::History(name.timeline),
                WalFileName::Segment(name),
                WalFileName::BackupHistory(name, offset),
                WalFileName::Partial(name),
            ] {
                prop_assert_eq!(file.to_string().parse(), Ok(file));
            }
        }

        #[test]
        fn numbers_and_names_agree(timeline in 1u32.., shift in 0u32..=10, position: u64) {
            let size = size(1 << shift);
            let number = Lsn(position).segment_number(size);
            let name = SegmentName::from_number(Timeline(timeline), number, size).expect("positions have names");
            prop_assert_eq!(name.number(size), Some(number));
            let start = name.start(size).expect("a start");
            prop_assert_eq!(start.0 + Lsn(position).offset_in_segment(size), position);
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<WalFileName>();
        }
    }
}
