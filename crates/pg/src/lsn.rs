//! WAL positions, timelines and segment sizes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the WAL, as PostgreSQL's `pg_lsn`: printed `16/B374D848` (two hexadecimal halves without padding;
/// PostgreSQL 19 pads the low half, both are read).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A text that should have been an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN; it looks like 16/B374D848")]
pub struct LsnError(String);

impl Lsn {
    /// The number of the segment that holds the byte at this position.
    pub fn segment_number(self, size: SegmentSize) -> u64 {
        self.0 / size.bytes()
    }

    /// How far into its segment this position is, in bytes.
    pub fn offset_in_segment(self, size: SegmentSize) -> u64 {
        self.0 % size.bytes()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let error = || LsnError(text.to_owned());
        let half = |part: &str| {
            let hexadecimal = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            hexadecimal.then(|| u64::from_str_radix(part, 16).ok()).flatten().ok_or_else(error)
        };
        let (high, low) = text.split_once('/').ok_or_else(error)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A timeline, as in the first eight digits of a segment's name. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The size of a cluster's WAL segments: a power of two from 1 MiB to 1 GiB
/// (`IsValidWalSegSize`, src/include/access/xlog_internal.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

/// A number that no cluster can have as its segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
pub struct SegmentSizeError(u64);

impl SegmentSize {
    /// 16 MiB, what `initdb` chooses.
    pub const DEFAULT: Self = Self(16 << 20);

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments share a log number (the middle eight digits of a name).
    pub fn segments_per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u64) -> Result<Self, SegmentSizeError> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(SegmentSizeError(bytes))
        }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padded_and_unpadded_spellings_are_the_same_position() {
        assert_eq!("0/3000028".parse(), Ok(Lsn(0x300_0028)));
        assert_eq!("0/03000028".parse(), Ok(Lsn(0x300_0028)));
        assert!("0/".parse::<Lsn>().is_err());
        assert!("0/+3".parse::<Lsn>().is_err());
        assert!("123456789/0".parse::<Lsn>().is_err());
    }

    proptest! {
        #[test]
        fn printed_and_read_again(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<Lsn>();
        }
    }
}
