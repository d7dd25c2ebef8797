//! `gap/<lineage>/<first>-<last>.json`: WAL that was let go before it was archived (`archive.queue_limit`), so that nobody has to
//! guess why it is missing.
//!
//! A record explains and never decides: whether WAL is there is told by the WAL. Records are made once and never changed; the
//! ranges of several may overlap. Without the record a restore is refused all the same, because the segments are missing.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::format::FormatError;
use super::{Repository, checked_json, generations, layout};
use walward_base::ErrorClass;
use walward_pg::{Lineage, WalFileName};

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// WAL files that follow one another and were let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Version of this record; this code reads and writes 1.
    pub format: u32,
    /// Whose WAL.
    pub lineage: Lineage,
    /// The first file. A segment, or any other file that is then alone.
    pub first: WalFileName,
    /// The last, on the same timeline.
    pub last: WalFileName,
    /// When the first was let go.
    pub since: Timestamp,
    /// When the last was.
    pub until: Timestamp,
    /// The host that let it go.
    pub host: String,
    /// `archive.queue_limit` at that time, bytes.
    pub queue_limit: u64,
    /// How much WAL waited, bytes.
    pub waiting: u64,
    /// Why it could not be archived, in one line.
    pub reason: String,
}

impl Gap {
    /// Whether `name` is one of the files.
    pub fn covers(&self, name: WalFileName) -> bool {
        covers((self.first, self.last), name)
    }

    /// The record's bytes, as they lie in a repository.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        checked_json::encode(self, None)
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let gap: Self = checked_json::decode(bytes, FORMAT)?;
        if gap.first.timeline() == gap.last.timeline() && gap.first <= gap.last {
            Ok(gap)
        } else {
            Err(FormatError::Text(format!("{} to {} is no range of files", gap.first, gap.last)))
        }
    }
}

/// Whether `name` lies between the two files of a record, both included.
pub fn covers((first, last): (WalFileName, WalFileName), name: WalFileName) -> bool {
    match (first, last, name) {
        // Segments are ordered by timeline first.
        (WalFileName::Segment(first), WalFileName::Segment(last), WalFileName::Segment(name)) => {
            first <= name && name <= last
        }
        _ => name == first || name == last,
    }
}

/// Writes a record, unless there is one of the same files.
pub async fn record(repository: &Repository, gap: &Gap) -> Result<(), RepoError> {
    let key = layout::gap(gap.lineage, gap.first, gap.last);
    let bytes = gap.encode().map_err(|error| RepoError::damaged(&repository.shown(&key), error))?;
    // Of the same files: when and why may be told in other words by whoever was first.
    repository.put_small(&key, &bytes).await.map(drop)
}

/// The first and last file of every record, without reading any.
pub async fn list(repository: &Repository, lineage: Lineage) -> Result<Vec<(WalFileName, WalFileName)>, RepoError> {
    let listing = repository.store().list(Some(&layout::gaps(lineage))).await?;
    Ok(listing.objects.iter().filter_map(|object| layout::parse_gap(object.key.file_name())).collect())
}

/// Every record that can be read, and what is wrong with the others.
pub async fn read_all(repository: &Repository, lineage: Lineage) -> Result<(Vec<Gap>, Vec<RepoError>), RepoError> {
    let (mut gaps, mut damaged) = (Vec::new(), Vec::new());
    for (first, last) in list(repository, lineage).await? {
        let key = layout::gap(lineage, first, last);
        let read = async {
            let bytes = generations::fetch(&**repository.store(), &key).await?;
            let gap = Gap::decode(&bytes).map_err(|error| RepoError::damaged(&repository.shown(&key), error))?;
            if (gap.lineage, gap.first, gap.last) == (lineage, first, last) {
                Ok(gap)
            } else {
                let error = FormatError::Text("it belongs under another name".to_owned());
                Err(RepoError::damaged(&repository.shown(&key), error))
            }
        };
        match read.await {
            Ok(gap) => gaps.push(gap),
            Err(error) if error.class() == ErrorClass::Corrupt => damaged.push(error),
            // Removed meanwhile.
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((gaps, damaged))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> WalFileName {
        text.parse().expect("a name")
    }

    fn gap(first: &str, last: &str) -> Gap {
        Gap {
            format: FORMAT,
            lineage: Lineage { major: 15, system_identifier: 7 },
            first: name(first),
            last: name(last),
            since: "2026-11-21T06:41:58Z".parse().expect("a time"),
            until: "2026-11-21T07:00:00Z".parse().expect("a time"),
            host: "db1".to_owned(),
            queue_limit: 1 << 30,
            waiting: (1 << 30) + 1,
            reason: "cannot reach the store".to_owned(),
        }
    }

    #[test]
    fn a_record_covers_its_segments_on_its_timeline_only() {
        let gap = gap("0000000100000000000000FE", "000000010000000100000002");
        for inside in ["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000002"] {
            assert!(gap.covers(name(inside)), "{inside}");
        }
        for outside in [
            "0000000100000000000000FD",
            "000000010000000100000003",
            "0000000200000000000000FF",
            "0000000100000000000000FF.partial",
            "00000001.history",
        ] {
            assert!(!gap.covers(name(outside)), "{outside}");
        }
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        for (first, last) in [
            ("000000010000000000000009", "000000010000000000000008"),
            ("000000010000000000000008", "000000020000000000000009"),
        ] {
            let bytes = gap(first, last).encode().expect("JSON");
            assert!(Gap::decode(&bytes).is_err(), "{first} to {last}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_a_flipped_bit_is_noticed(
            at: prop::sample::Index, bit in 0u32..8, host: String, reason: String,
        ) {
            let gap = Gap { host, reason, ..gap("000000010000000000000008", "000000010000000000000009") };
            let mut bytes = gap.encode().expect("JSON").to_vec();
            prop_assert_eq!(Gap::decode(&bytes).expect("what was written"), gap.clone());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(read) = Gap::decode(&bytes) {
                prop_assert_eq!(read, gap);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Gap::decode(&bytes);
        }
    }
}
