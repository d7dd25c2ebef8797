//! Writes PostgreSQL's own `backup_manifest` (src/backend/backup/backup_manifest.c), so that pg_verifybackup can check a
//! restored directory without Walward, and pg_combinebackup can use it. Version 1 up to 16; 2, with the system identifier,
//! from 17.
//!
//! File by file into any writer; memory does not grow with the number of files. The last line holds the SHA-256 of all
//! before it, so that a manifest that was cut is noticed.

use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::{Lineage, Lsn, Timeline};
use walward_base::hex;

/// A manifest that is being written.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    output: W,
    digest: Sha256,
    first: bool,
}

/// WAL of one timeline that a backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: Timeline,
    /// Where it begins: the backup's start, or the switch to this timeline.
    pub start: Lsn,
    /// Where it ends: the backup's end, or the switch to the next timeline.
    pub end: Lsn,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins the manifest of a backup of `lineage`.
    ///
    /// # Errors
    /// Those of `output`, here and below.
    pub fn new(output: W, lineage: Lineage) -> io::Result<Self> {
        let mut writer = Self { output, digest: Sha256::new(), first: true };
        if lineage.major >= 17 {
            let identifier = lineage.system_identifier;
            writer.put(&format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {identifier},\n\"Files\": ["
            ))?;
        } else {
            writer.put("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [")?;
        }
        Ok(writer)
    }

    /// Adds a file. `path` is relative to the data directory, through the links in `pg_tblspc`; `mtime` in seconds since the
    /// Unix epoch; `checksum` the CRC-32C of its content, where it is known: without one pg_verifybackup looks at the length alone.
    pub fn file(&mut self, path: &[u8], size: u64, mtime: i64, checksum: Option<u32>) -> io::Result<()> {
        let separator = if self.first { "\n" } else { ",\n" };
        self.first = false;
        let name = match std::str::from_utf8(path) {
            Ok(path) => format!("\"Path\": {}", serde_json::Value::from(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(path)),
        };
        let modified = Timestamp::from_second(mtime).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
        let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
        // The four bytes as they lie in memory on the machines that PostgreSQL and Walward share.
        let checksum = checksum.map_or(String::new(), |checksum| {
            format!(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\"", hex::encode(&checksum.to_le_bytes()))
        });
        self.put(&format!("{separator}{{ {name}, \"Size\": {size}, \"Last-Modified\": \"{modified}\"{checksum} }}"))
    }

    /// Ends the manifest; `ranges` from the newest timeline to the oldest. Gives the writer back, not flushed.
    pub fn finish(mut self, ranges: &[WalRange]) -> io::Result<W> {
        self.put("\n],\n\"WAL-Ranges\": [\n")?;
        for (index, WalRange { timeline, start, end }) in ranges.iter().enumerate() {
            let separator = if index == 0 { "" } else { ",\n" };
            self.put(&format!(
                "{separator}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            ))?;
        }
        self.put("\n],\n")?;
        let Self { mut output, digest, .. } = self;
        writeln!(output, "\"Manifest-Checksum\": \"{}\"}}", hex::encode(&digest.finalize()))?;
        Ok(output)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.digest.update(text);
        self.output.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest(major: u16, files: &[(&[u8], u64, i64, u32)]) -> String {
        let mut writer = ManifestWriter::new(Vec::new(), Lineage { major, system_identifier: 42 }).expect("memory");
        for (path, size, mtime, checksum) in files {
            writer.file(path, *size, *mtime, Some(*checksum)).expect("memory");
        }
        let range = WalRange { timeline: Timeline(1), start: Lsn(0x200_0028), end: Lsn(0x200_0138) };
        String::from_utf8(writer.finish(&[range]).expect("memory")).expect("text")
    }

    #[test]
    fn a_manifest_reads_as_the_server_writes_it() {
        let text = manifest(15, &[(b"PG_VERSION", 3, 1_795_255_768, 0x1234_5678), (b"\xFFx", 0, 0, 0)]);
        let (body, last) = text.split_at(text.find("\"Manifest-Checksum\"").expect("a checksum"));
        assert_eq!(
            body,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
             { \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-21 10:09:28 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"78563412\" },\n\
             { \"Encoded-Path\": \"ff78\", \"Size\": 0, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n],\n\
             \"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000138\" }\n],\n"
        );
        assert_eq!(last, format!("\"Manifest-Checksum\": \"{}\"}}\n", hex::encode(&Sha256::digest(body))));
    }

    #[test]
    fn from_17_on_the_manifest_names_the_system() {
        let text = manifest(17, &[]);
        assert!(
            text.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 42,\n\"Files\": [")
        );
    }

    proptest! {
        #[test]
        fn any_path_and_time_give_valid_json(path: Vec<u8>, size: u64, mtime: i64, checksum: u32) {
            let text = manifest(18, &[(&path, size, mtime, checksum)]);
            let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
            prop_assert_eq!(value["Files"][0]["Size"].as_u64(), Some(size));
            if let Ok(path) = String::from_utf8(path) {
                prop_assert_eq!(value["Files"][0]["Path"].as_str(), Some(path.as_str()));
            }
        }
    }
}
