//! `backup/<label>/manifest`: what a backup is made of. JSON lines: the first is [`Manifest`], then one [`Entry`] a line.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::format::FormatError;
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};

/// A backup's name: `20261121T064158Z-full`, the start's second in UTC and the type. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupLabel(String);

/// Full, differential or incremental, as in pgBackRest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Everything.
    Full,
    /// What changed since the last full.
    Diff,
    /// What changed since the last backup.
    Incr,
}

/// A text that is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup label; it looks like 20261121T064158Z-full")]
pub struct LabelError(String);

impl BackupType {
    /// The type as one word: in labels, reports and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl BackupLabel {
    /// How the start is written: UTC, to the second.
    const TIME: &str = "%Y%m%dT%H%M%SZ";

    /// The label of a backup of type `kind` that starts at `start`.
    pub fn new(start: Timestamp, kind: BackupType) -> Self {
        Self(format!("{}-{kind}", start.strftime(Self::TIME)))
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Full, differential or incremental, as the label says.
    pub fn kind(&self) -> BackupType {
        match self.0.rsplit('-').next() {
            Some("diff") => BackupType::Diff,
            Some("incr") => BackupType::Incr,
            _ => BackupType::Full,
        }
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BackupLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let error = || LabelError(text.to_owned());
        let (start, kind) = text.split_once('-').ok_or_else(error)?;
        let kind = [BackupType::Full, BackupType::Diff, BackupType::Incr]
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(error)?;
        let start = jiff::civil::DateTime::strptime(Self::TIME, start)
            .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| error())?;
        let label = Self::new(start.timestamp(), kind);
        // One spelling only, so that a label and the name of its folder are the same text.
        if label.0 == text { Ok(label) } else { Err(error()) }
    }
}

/// The first line of a manifest: everything about a backup but its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this shape: 1.
    pub format: u32,
    /// The backup's label, the same as in the object's name.
    pub label: String,
    /// Full, differential or incremental.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// What it was taken from.
    pub lineage: Lineage,
    /// `server_version`, for people: `15.18`.
    pub server_version: String,
    /// Size of WAL segments, bytes.
    pub segment_bytes: SegmentSize,
    /// Whether page checksums are on in the cluster, and so were verified.
    pub data_checksums: bool,
    /// Timeline of the start.
    pub timeline: Timeline,
    /// `pg_backup_start`'s position: WAL is needed from its segment on.
    pub start_lsn: Lsn,
    /// `pg_backup_stop`'s position: WAL is needed up to here before the backup is consistent.
    pub stop_lsn: Lsn,
    /// When pg_backup_start was called, by the server's clock.
    pub started: Timestamp,
    /// When pg_backup_stop answered, by the server's clock. A target before this cannot be reached from this backup.
    pub stopped: Timestamp,
    /// Whether it was taken on a standby.
    pub from_standby: bool,
    /// The host that took it.
    pub host: String,
    /// What tells the machine from another of the same name; none where it has no identity, as in most containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Version of walward that took it.
    pub walward_version: String,
    /// Where the data directory was on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// Where `pg_wal` was, when it was a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_directory: Option<String>,
    /// Bytes of all files.
    pub content_bytes: u64,
    /// Bytes stored in the packs.
    pub stored_bytes: u64,
    /// The packs, in order; the last holds backup_label, tablespace_map (when there are tablespaces), backup_manifest and,
    /// as its very last member, global/pg_control.
    pub packs: Vec<Pack>,
    /// The tablespaces at the time.
    pub tablespaces: Vec<Tablespace>,
    /// Relation pages whose checksum did not match, after reading again: (path, block).
    #[serde(deserialize_with = "corrupt_pages")]
    pub corrupt_pages: Vec<(String, u32)>,
    /// The backup without which this one is not whole; none of a full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<DependsOn>,
}

/// What a differential or an incremental backup builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependsOn {
    /// The parent: the blocks that are not stored here are in it, or in what it builds on.
    pub label: String,
    /// Its timeline, where its WAL begins and when it began: two clones of a cluster may take backups of one label.
    pub timeline: Timeline,
    /// See `timeline`.
    pub start_lsn: Lsn,
    /// See `timeline`.
    pub started: Timestamp,
    /// How it was found which blocks are to be stored.
    pub changes: ChangesSource,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// The object that says which blocks are stored ([`crate::block_index`]).
    pub index: StoredIndex,
}

impl DependsOn {
    /// Whether `backup` is the parent, and not another one of its label.
    pub fn is(&self, backup: &Manifest) -> bool {
        let Self { label, timeline, start_lsn, started, .. } = self;
        (label, timeline, start_lsn, started) == (&backup.label, &backup.timeline, &backup.start_lsn, &backup.started)
    }
}

/// Where it is known from what changed since the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangesSource {
    /// From the records of the archived WAL.
    Wal,
}

/// A block index as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIndex {
    /// Length of its content.
    pub content_bytes: u64,
    /// Length of the object.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes before the trailer, hexadecimal.
    pub stored_sha256: String,
}

/// One pack of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Number in the object's name, from 0.
    pub number: u32,
    /// Length of the tar stream.
    pub content_bytes: u64,
    /// Length of the object.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes before the trailer, hexadecimal: an older or foreign pack in this place is noticed.
    pub stored_sha256: String,
}

/// One tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Object identifier: the name of its link in pg_tblspc.
    pub oid: u32,
    /// Its name in SQL.
    pub name: String,
    /// Where the link pointed.
    pub location: String,
}

/// One file or directory of a backup. Paths are relative to the data directory, with `pg_tblspc/<oid>/…` for tablespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<P = String> {
    /// Relative path. PostgreSQL's own names are ASCII; other bytes are refused by the backup.
    pub path: P,
    /// Permission bits, for example 0o600.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// What it is and where its bytes lie.
    #[serde(flatten)]
    pub what: EntryKind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// CRC-32C of the content.
        crc32c: u32,
        /// The pack that holds it.
        pack: u32,
        /// Where its bytes begin in the pack's tar stream.
        offset: u64,
    },
    /// A file of a relation, of which the blocks are stored that the parent does not have: PostgreSQL's `INCREMENTAL.` file.
    Blocks {
        /// Length of the whole file in bytes, a multiple of the block size.
        size: u64,
        /// CRC-32C of the incremental file.
        crc32c: u32,
        /// The pack that holds it.
        pack: u32,
        /// Where the incremental file begins in the pack's tar stream.
        offset: u64,
        /// How many blocks are stored. Which ones, the block index says.
        blocks: u32,
    },
}

/// The format of manifests that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The longest first line that is read, with every pack and the corrupt pages in it. Bounds memory.
const HEAD_BYTES_MAX: usize = 64 << 20;
/// The longest of the other lines. A path has 4096 bytes at most on Linux, each of which six letters can stand for.
const ENTRY_BYTES_MAX: usize = 64 << 10;
/// How many directories and files a backup may have.
pub const ENTRIES_MAX: usize = 20_000_000;
/// How many corrupt pages a manifest may list.
pub const CORRUPT_PAGES_MAX: usize = 1000;
/// How many bytes of content each stored byte of a manifest may become. Its lines differ in places, sizes and checksums: one of a
/// million empty files becomes 20 times as long.
const EXPANSION_MAX: u64 = 128;
/// How many there may be besides.
const EXPANSION_BYTES_MIN: u64 = 1 << 20;

/// What is looked at in the first line before anything else.
#[derive(Deserialize)]
struct Probe {
    format: u32,
}

/// Lines out of a manifest's content as it arrives.
#[derive(Debug, Default)]
pub(super) struct ManifestLines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// How far after `at` there is no line's end.
    searched: usize,
    /// Bytes of content so far, and how many there may be.
    content_bytes: u64,
    content_bytes_max: u64,
    entries: usize,
}

impl ManifestLines {
    /// Those of a manifest that is stored in so many bytes.
    pub(super) fn of(stored_bytes: u64) -> Self {
        let content_bytes_max = stored_bytes.saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_BYTES_MIN);
        Self { content_bytes_max, ..Self::default() }
    }

    /// More content.
    pub(super) fn push(&mut self, content: &[u8]) -> Result<(), FormatError> {
        self.content_bytes += content.len() as u64;
        if self.content_bytes > self.content_bytes_max {
            let what = format!("its content is more than {EXPANSION_MAX} times as long as it is stored");
            return Err(FormatError::Text(what));
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(content);
        Ok(())
    }

    /// Whether every line was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.buffer.len()
    }

    /// The first line, which must be that of backup `label`; `None`: not all of it has arrived.
    pub(super) fn head(&mut self, label: &BackupLabel) -> Result<Option<Manifest>, FormatError> {
        let Some(line) = self.line(HEAD_BYTES_MAX)? else { return Ok(None) };
        let probe: Probe = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        if probe.format > FORMAT {
            return Err(FormatError::Newer(probe.format));
        }
        let head: Manifest = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        if head.label != label.as_str() {
            return Err(FormatError::Text(format!("it is the manifest of {:?}", head.label)));
        }
        Ok(Some(head))
    }

    /// The next line after the first; `None`: not all of it has arrived.
    pub(super) fn entry(&mut self) -> Result<Option<Entry>, FormatError> {
        let Some(line) = self.line(ENTRY_BYTES_MAX)? else { return Ok(None) };
        let entry: Entry = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(FormatError::Text(format!("it lists more than {ENTRIES_MAX} directories and files")));
        }
        if is_safe(&entry.path) {
            Ok(Some(entry))
        } else {
            Err(FormatError::Text(format!("it names the path {:?}, which leads out of the data directory", entry.path)))
        }
    }

    fn line(&mut self, bytes_max: usize) -> Result<Option<&[u8]>, FormatError> {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let fresh = rest.get(self.searched..).unwrap_or_default();
        let too_long = || FormatError::Text(format!("it has a line of more than {bytes_max} bytes"));
        match fresh.iter().position(|byte| *byte == b'\n') {
            Some(length) if self.searched + length > bytes_max => Err(too_long()),
            Some(length) => {
                let length = self.searched + length;
                let begin = self.at;
                self.at += length + 1;
                self.searched = 0;
                Ok(self.buffer.get(begin..begin + length))
            }
            None if rest.len() > bytes_max => Err(too_long()),
            None => {
                self.searched = rest.len();
                Ok(None)
            }
        }
    }
}

/// Reads no more corrupt pages than there may be: each takes several times as many bytes as it is written in.
fn corrupt_pages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, u32)>, D::Error> {
    struct Pages;

    impl<'de> Visitor<'de> for Pages {
        type Value = Vec<(String, u32)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {CORRUPT_PAGES_MAX} pages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut pages = Vec::new();
            while let Some(page) = list.next_element()? {
                if pages.len() == CORRUPT_PAGES_MAX {
                    return Err(A::Error::invalid_length(CORRUPT_PAGES_MAX + 1, &self));
                }
                pages.push(page);
            }
            Ok(pages)
        }
    }

    deserializer.deserialize_seq(Pages)
}

fn invalid(error: &serde_json::Error) -> FormatError {
    FormatError::Text(format!("it has an invalid line: {error}"))
}

/// Whether a path stays where it is put: relative, without `.`, `..`, empty parts or NUL. The data directory itself is the
/// empty path.
fn is_safe(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path.is_empty() || path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_says_when_and_what() {
        let start: Timestamp = "2026-11-21T06:41:58.9Z".parse().expect("a time");
        let label = BackupLabel::new(start, BackupType::Full);
        assert_eq!(label.as_str(), "20261121T064158Z-full");
        assert_eq!(label.kind(), BackupType::Full);
    }

    #[test]
    fn what_is_not_a_label_is_refused() {
        for text in [
            "",
            "20261121T064158Z",
            "20261121T064158Z-",
            "20261121T064158Z-FULL",
            "20261321T064158Z-full",
            "20261121T064158-full",
            "2026121T064158Z-full",
            "20261121T064158Z-full/..",
            " 20261121T064158Z-full",
        ] {
            assert!(text.parse::<BackupLabel>().is_err(), "{text:?}");
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let path = "[a-z0-9_]{1,9}(/[a-zé.]{3,9}){0,3}";
        let what = prop_oneof![
            Just(EntryKind::Directory),
            any::<(u64, u32, u32, u64)>().prop_map(|(size, crc32c, pack, offset)| EntryKind::File {
                size,
                crc32c,
                pack,
                offset
            }),
            any::<(u64, u32, u32, u64, u32)>().prop_map(|(size, crc32c, pack, offset, blocks)| EntryKind::Blocks {
                size,
                crc32c,
                pack,
                offset,
                blocks
            }),
        ];
        let entry = (path, any::<u32>(), any::<i64>(), what)
            .prop_filter("safe", |(path, ..)| is_safe(path))
            .prop_map(|(path, mode, mtime, what)| Entry { path, mode, mtime, what });
        proptest::collection::vec(entry, 0..20)
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for path in ["/etc/passwd", "..", "base/../../x", "./x", "base//1", "base/", "a\0b", "."] {
            let entry = Entry { path: path.to_owned(), mode: 0, mtime: 0, what: EntryKind::Directory };
            let mut lines = ManifestLines::of(1000);
            lines.push(format!("{}\n", serde_json::to_string(&entry).expect("JSON")).as_bytes()).expect("short");
            assert!(matches!(lines.entry(), Err(FormatError::Text(_))), "{path:?}");
        }
        assert!(is_safe("") && is_safe("base/1/1259") && is_safe("pg_tblspc/16384/PG_15_202209061/x..y"));
    }

    #[test]
    fn a_newer_manifest_is_told() {
        let label = "20261121T064158Z-full".parse().expect("a label");
        let mut lines = ManifestLines::of(1000);
        lines.push(b"{\"format\":2,\"shape\":\"round\"}\n").expect("short");
        assert_eq!(lines.head(&label), Err(FormatError::Newer(2)));
    }

    #[test]
    fn a_short_object_becomes_no_long_manifest() {
        let mut lines = ManifestLines::of(1000);
        let zeros = vec![b'0'; 1 << 20];
        lines.push(&zeros).expect("a frame is always read");
        assert!(matches!(lines.push(&zeros), Err(FormatError::Text(what)) if what.contains("128 times")));
    }

    #[derive(Debug, Deserialize)]
    struct Listed {
        #[serde(deserialize_with = "corrupt_pages")]
        corrupt_pages: Vec<(String, u32)>,
    }

    #[test]
    fn a_line_and_a_list_in_it_have_their_bounds() {
        let mut lines = ManifestLines::of(1 << 20);
        let mut line = b"{\"path\":\"a\",\"mode\":0,\"mtime\":0,\"kind\":\"directory\",\"more\":[0".to_vec();
        line.extend(b",0".repeat(ENTRY_BYTES_MAX / 2));
        line.extend(b"]}\n");
        lines.push(&line).expect("some");
        assert!(matches!(lines.entry(), Err(FormatError::Text(what)) if what.contains("65536 bytes")));

        let listed = |count: usize| {
            let pages = vec!["[\"\",0]"; count].join(",");
            serde_json::from_str::<Listed>(&format!("{{\"corrupt_pages\":[{pages}]}}"))
        };
        assert_eq!(listed(CORRUPT_PAGES_MAX).expect("as many as may be").corrupt_pages.len(), CORRUPT_PAGES_MAX);
        let error = listed(CORRUPT_PAGES_MAX + 1).expect_err("one too many").to_string();
        assert!(error.contains("at most 1000 pages"), "{error}");
    }

    proptest! {
        #[test]
        fn entries_are_read_back_whatever_arrives_at_once(entries in entries(), piece in 1usize..200) {
            let text: String =
                entries.iter().map(|entry| serde_json::to_string(entry).expect("JSON") + "\n").collect();
            let mut lines = ManifestLines::of(1000);
            let mut read = Vec::new();
            for piece in text.as_bytes().chunks(piece) {
                lines.push(piece).expect("short");
                while let Some(entry) = lines.entry().expect("valid") {
                    read.push(entry);
                }
            }
            prop_assert!(lines.is_empty());
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_lines_never_panic(bytes: Vec<u8>) {
            let mut lines = ManifestLines::of(1000);
            lines.push(&bytes).expect("short");
            lines.push(b"\n").expect("short");
            let _ = lines.entry();
            let _ = lines.head(&"20261121T064158Z-full".parse().expect("a label"));
        }

        #[test]
        fn a_label_is_read_back(second in 0i64..253_402_207_200, kind in 0usize..3) {
            let kind = [BackupType::Full, BackupType::Diff, BackupType::Incr][kind];
            let label = BackupLabel::new(Timestamp::from_second(second).expect("in range"), kind);
            prop_assert_eq!(label.as_str().parse(), Ok(label.clone()));
            prop_assert_eq!(label.kind(), kind);
        }

        #[test]
        fn arbitrary_text_is_no_panic(text: String) {
            let _ = text.parse::<BackupLabel>();
        }
    }
}
