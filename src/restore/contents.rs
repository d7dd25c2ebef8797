//! What a backup holds, sorted for restoring: directories, and the files of each pack in the order of its stream.
//!
//! A manifest is not trusted: paths that lead out, files that overlap or do not lie in their pack, and a backup without what
//! a server needs to recover are refused before anything is written.

use std::collections::{BTreeMap, HashSet};

use super::error::RestoreError;
use super::journal;
use super::places::Places;
use walward_repo::manifest::{Entry, EntryKind, Manifest};

/// What makes a directory a cluster; placed last.
pub const CONTROL_FILE: &str = "global/pg_control";

/// A file to be cut out of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Its path, as in the manifest.
    pub path: Box<str>,
    /// Length in bytes.
    pub size: u64,
    /// CRC-32C of its content.
    pub crc32c: u32,
    /// Where it begins in the pack's stream.
    pub offset: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
}

/// What is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Directories (parents before children) and their permission bits.
    pub directories: BTreeMap<String, u32>,
    /// The files of each pack, by their offset.
    pub packs: BTreeMap<u32, Vec<PackedFile>>,
    /// Bytes that go into the data directory.
    pub root_bytes: u64,
    /// Bytes that go into each tablespace, by oid.
    pub tablespace_bytes: BTreeMap<u32, u64>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.root_bytes.saturating_add(self.tablespace_bytes.values().sum())
    }

    /// The number of files.
    pub fn files(&self) -> u64 {
        self.packs.values().map(|files| files.len() as u64).sum()
    }

    /// Sorts what `manifest` says.
    pub fn new(manifest: &Manifest, entries: Vec<Entry>, places: &Places) -> Result<Self, RestoreError> {
        let refuse = |why: String| RestoreError::Manifest { label: manifest.label.clone(), why };
        let lengths: BTreeMap<u32, u64> = manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).collect();
        let mut contents = Self {
            directories: BTreeMap::new(),
            packs: lengths.keys().map(|number| (*number, Vec::new())).collect(),
            root_bytes: 0,
            tablespace_bytes: places.tablespaces().iter().map(|tablespace| (tablespace.oid, 0)).collect(),
        };
        for entry in entries {
            if places.resolve(&entry.path).is_none() {
                return Err(refuse(format!("the path {:?} leads out of the data directory", entry.path)));
            }
            // The links are made from the tablespaces themselves, and PostgreSQL's own manifest does not list the map.
            if entry.path == "tablespace_map" || entry.path == journal::NAME {
                continue;
            }
            match entry.what {
                EntryKind::Directory => {
                    contents.directories.insert(entry.path, entry.mode & 0o777);
                }
                EntryKind::File { size, crc32c, pack, offset } => {
                    let (Some(length), Some(files)) = (lengths.get(&pack), contents.packs.get_mut(&pack)) else {
                        return Err(refuse(format!("{:?} lies in pack {pack}, which is not listed", entry.path)));
                    };
                    if offset.checked_add(size).is_none_or(|end| end > *length) {
                        return Err(refuse(format!("{:?} ends after the end of pack {pack}", entry.path)));
                    }
                    let bytes = match places.tablespace_of(&entry.path) {
                        None => &mut contents.root_bytes,
                        Some((tablespace, _)) => contents.tablespace_bytes.entry(tablespace.oid).or_default(),
                    };
                    *bytes = bytes.saturating_add(size);
                    let (mode, mtime) = (entry.mode & 0o777, entry.mtime);
                    files.push(PackedFile { path: entry.path.into(), size, crc32c, offset, mode, mtime });
                }
            }
        }
        contents.check(refuse)?;
        contents.add_parents(places);
        Ok(contents)
    }

    fn check(&mut self, refuse: impl Fn(String) -> RestoreError) -> Result<(), RestoreError> {
        let mut paths = HashSet::new();
        for (number, files) in &mut self.packs {
            files.sort_by_key(|file| (file.offset, file.size));
            let mut end = 0;
            for file in files.iter() {
                if file.offset < end {
                    return Err(refuse(format!("{:?} overlaps another file in pack {number}", file.path)));
                }
                end = file.offset.saturating_add(file.size);
                if !paths.insert(&*file.path) || self.directories.contains_key(&*file.path) {
                    return Err(refuse(format!("{:?} is listed twice", file.path)));
                }
            }
        }
        for needed in ["PG_VERSION", "backup_label", CONTROL_FILE] {
            if !paths.contains(needed) {
                return Err(refuse(format!("it lists no {needed}")));
            }
        }
        Ok(())
    }

    /// Adds the directories that files and links lie in and that are not listed.
    fn add_parents(&mut self, places: &Places) {
        let mut missing = Vec::new();
        let files = self.packs.values().flatten().map(|file| &*file.path);
        let links = (!places.tablespaces().is_empty()).then_some("pg_tblspc/link");
        for path in files.chain(links).chain(self.directories.keys().map(String::as_str)) {
            let mut path = path;
            while let Some((parent, _)) = path.rsplit_once('/') {
                if self.directories.contains_key(parent) {
                    break;
                }
                missing.push(parent.to_owned());
                path = parent;
            }
        }
        self.directories.extend(missing.into_iter().map(|path| (path, 0o700)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
    use walward_repo::manifest::{BackupType, Pack, Tablespace};

    pub fn manifest(packs: &[u64], tablespaces: Vec<Tablespace>) -> Manifest {
        let time = "2026-11-21T06:41:58Z".parse().expect("a time");
        let pack = |(number, content_bytes): (usize, &u64)| Pack {
            number: u32::try_from(number).expect("few"),
            content_bytes: *content_bytes,
            stored_bytes: 0,
            stored_sha256: String::new(),
        };
        Manifest {
            format: 1,
            label: "20261121T064158Z-full".to_owned(),
            kind: BackupType::Full,
            lineage: Lineage { major: 15, system_identifier: 7 },
            server_version: "15.18".to_owned(),
            segment_bytes: SegmentSize::DEFAULT,
            data_checksums: true,
            timeline: Timeline(1),
            start_lsn: Lsn(0x200_0028),
            stop_lsn: Lsn(0x200_0138),
            started: time,
            stopped: time,
            from_standby: false,
            host: "db1".to_owned(),
            walward_version: "0.1.0".to_owned(),
            machine: None,
            data_directory: None,
            wal_directory: None,
            content_bytes: 0,
            stored_bytes: 0,
            packs: packs.iter().enumerate().map(pack).collect(),
            tablespaces,
            corrupt_pages: Vec::new(),
        }
    }

    pub fn file(path: &str, pack: u32, offset: u64, content: &[u8]) -> Entry {
        let what = EntryKind::File { size: content.len() as u64, crc32c: crc32c::crc32c(content), pack, offset };
        Entry { path: path.to_owned(), mode: 0o600, mtime: 1_700_000_000, what }
    }

    fn needed() -> Vec<Entry> {
        vec![
            file("PG_VERSION", 0, 512, b"15\n"),
            file("backup_label", 1, 512, b"label"),
            file(CONTROL_FILE, 1, 1536, b"control"),
        ]
    }

    fn contents(more: Vec<Entry>) -> Result<Contents, RestoreError> {
        let tablespaces = vec![Tablespace { oid: 16384, name: "fast".to_owned(), location: "/fast".to_owned() }];
        let manifest = manifest(&[10_000, 10_000], tablespaces);
        let places = Places::new(Path::new("/data"), &manifest.label, &manifest.tablespaces, &[], None).expect("valid");
        Contents::new(&manifest, needed().into_iter().chain(more).collect(), &places)
    }

    #[test]
    fn files_are_counted_where_they_go_and_their_directories_are_known() {
        let contents = contents(vec![
            file("pg_tblspc/16384/PG_15_202209061/5/1259", 0, 4096, &[7; 100]),
            file("tablespace_map", 1, 3000, b"16384 /fast\n"),
        ])
        .expect("sound");
        assert_eq!((contents.root_bytes, contents.bytes(), contents.files()), (15, 115, 4));
        assert_eq!(contents.tablespace_bytes, BTreeMap::from([(16384, 100)]));
        let directories: Vec<&str> = contents.directories.keys().map(String::as_str).collect();
        assert_eq!(
            directories,
            [
                "global",
                "pg_tblspc",
                "pg_tblspc/16384",
                "pg_tblspc/16384/PG_15_202209061",
                "pg_tblspc/16384/PG_15_202209061/5"
            ]
        );
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        for (more, reason) in [
            (file("../etc/passwd", 0, 4096, b"x"), "leads out"),
            (file("/etc/passwd", 0, 4096, b"x"), "leads out"),
            (file("base/1/1", 0, 513, b"x"), "overlaps"),
            (file("base/1/1", 0, 9_999, b"xx"), "ends after"),
            (file("base/1/1", 0, u64::MAX, b"xx"), "ends after"),
            (file("base/1/1", 2, 0, b"x"), "not listed"),
            (file("PG_VERSION", 0, 4096, b"x"), "twice"),
        ] {
            let error = contents(vec![more]).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_backup_without_its_label_is_refused() {
        let manifest = manifest(&[10_000, 10_000], Vec::new());
        let places = Places::new(Path::new("/data"), &manifest.label, &[], &[], None).expect("valid");
        let entries = needed().into_iter().filter(|entry| entry.path != "backup_label").collect();
        let error = Contents::new(&manifest, entries, &places).expect_err("no label").to_string();
        assert!(error.contains("backup_label"), "{error}");
    }
}
