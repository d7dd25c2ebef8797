//! What a backup holds, sorted for restoring: directories, and the files of each pack in the order of its stream.
//!
//! A manifest is not trusted: paths that lead out, files that overlap or do not lie in their pack, and a backup without what
//! a server needs to recover are refused before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use super::error::RestoreError;
use super::journal;
use super::places::Places;
use walward_repo::entries::Entries;
use walward_repo::manifest::{EntryKind, Manifest};

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

/// What is restored. A file takes 8 bytes here beside what it takes in [`Entries`]: there may be a million.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Directories (parents before children) and their permission bits.
    pub directories: BTreeMap<String, u32>,
    /// Bytes that go into the data directory.
    pub root_bytes: u64,
    /// Bytes that go into each tablespace, by oid.
    pub tablespace_bytes: BTreeMap<u32, u64>,
    entries: Entries,
    /// The files of each pack by their numbers in `entries`, in the order of their offsets.
    packs: BTreeMap<u32, Vec<u32>>,
    /// The numbers of all files, in the order of their paths.
    by_path: Vec<u32>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.root_bytes.saturating_add(self.tablespace_bytes.values().sum())
    }

    /// The number of files.
    pub fn files(&self) -> u64 {
        self.by_path.len() as u64
    }

    /// The numbers of the packs, in order.
    pub fn packs(&self) -> impl Iterator<Item = u32> {
        self.packs.keys().copied()
    }

    /// The files of a pack, in the order of its stream.
    pub fn files_of(&self, pack: u32) -> impl Iterator<Item = PackedFile> {
        (0..).map_while(move |at| self.file_of(pack, at))
    }

    /// One of the files of a pack, counted from 0; none after the last.
    pub fn file_of(&self, pack: u32, at: usize) -> Option<PackedFile> {
        Some(self.file(*self.packs.get(&pack)?.get(at)?)?.1)
    }

    /// The file of this path, and its pack.
    pub fn find(&self, path: &str) -> Option<(u32, PackedFile)> {
        let at = self.by_path.binary_search_by(|number| path_of(&self.entries, *number).cmp(path)).ok()?;
        self.file(*self.by_path.get(at)?)
    }

    /// The paths of all files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.iter().map(|number| path_of(&self.entries, *number))
    }

    fn file(&self, number: u32) -> Option<(u32, PackedFile)> {
        let entry = self.entries.get(number)?;
        let EntryKind::File { size, crc32c, pack, offset } = entry.what else { return None };
        let (path, mode, mtime) = (entry.path.into(), entry.mode & 0o777, entry.mtime);
        Some((pack, PackedFile { path, size, crc32c, offset, mode, mtime }))
    }

    /// Sorts what `manifest` says. Takes seconds for a million files: blocking.
    pub fn new(manifest: &Manifest, entries: Entries, places: &Places) -> Result<Self, RestoreError> {
        let refuse = |why: String| RestoreError::Manifest { label: manifest.label.clone(), why };
        let lengths: BTreeMap<u32, u64> = manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).collect();
        let mut contents = Self {
            directories: BTreeMap::new(),
            root_bytes: 0,
            tablespace_bytes: places.tablespaces().iter().map(|tablespace| (tablespace.oid, 0)).collect(),
            entries,
            packs: lengths.keys().map(|number| (*number, Vec::new())).collect(),
            by_path: Vec::new(),
        };
        for (number, entry) in contents.entries.iter() {
            if places.resolve(entry.path).is_none() {
                return Err(refuse(format!("the path {:?} leads out of the data directory", entry.path)));
            }
            // The links are made from the tablespaces themselves, and PostgreSQL's own manifest does not list the map.
            if entry.path == "tablespace_map" || entry.path == journal::NAME {
                continue;
            }
            match entry.what {
                EntryKind::Directory => {
                    contents.directories.insert(entry.path.to_owned(), entry.mode & 0o777);
                }
                EntryKind::File { size, pack, offset, .. } => {
                    let (Some(length), Some(files)) = (lengths.get(&pack), contents.packs.get_mut(&pack)) else {
                        return Err(refuse(format!("{:?} lies in pack {pack}, which is not listed", entry.path)));
                    };
                    if offset.checked_add(size).is_none_or(|end| end > *length) {
                        return Err(refuse(format!("{:?} ends after the end of pack {pack}", entry.path)));
                    }
                    let bytes = match places.tablespace_of(entry.path) {
                        None => &mut contents.root_bytes,
                        Some((tablespace, _)) => contents.tablespace_bytes.entry(tablespace.oid).or_default(),
                    };
                    *bytes = bytes.saturating_add(size);
                    files.push(number);
                    contents.by_path.push(number);
                }
                EntryKind::Blocks { .. } => {
                    return Err(refuse(format!("of {:?} it has some blocks only", entry.path)));
                }
            }
        }
        contents.check(refuse)?;
        contents.add_parents(places);
        Ok(contents)
    }

    /// Sorts the files, and refuses those that overlap or are listed twice.
    fn check(&mut self, refuse: impl Fn(String) -> RestoreError) -> Result<(), RestoreError> {
        let entries = &self.entries;
        for (pack, files) in &mut self.packs {
            files.sort_unstable_by_key(|number| place_of(entries, *number));
            let mut end = 0;
            for number in files.iter() {
                let (offset, size) = place_of(entries, *number);
                if offset < end {
                    let path = path_of(entries, *number);
                    return Err(refuse(format!("{path:?} overlaps another file in pack {pack}")));
                }
                end = offset.saturating_add(size);
            }
        }
        self.by_path.sort_unstable_by(|one, other| path_of(entries, *one).cmp(path_of(entries, *other)));
        let mut before = None;
        for number in &self.by_path {
            let path = path_of(entries, *number);
            if before == Some(path) || self.directories.contains_key(path) {
                return Err(refuse(format!("{path:?} is listed twice")));
            }
            before = Some(path);
        }
        for needed in ["PG_VERSION", "backup_label", CONTROL_FILE] {
            if self.find(needed).is_none() {
                return Err(refuse(format!("it lists no {needed}")));
            }
        }
        Ok(())
    }

    /// Adds the directories that files and links lie in and that are not listed.
    fn add_parents(&mut self, places: &Places) {
        let mut missing = BTreeSet::new();
        let links = (!places.tablespaces().is_empty()).then_some("pg_tblspc/link");
        for path in self.paths().chain(links).chain(self.directories.keys().map(String::as_str)) {
            let mut path = path;
            while let Some((parent, _)) = path.rsplit_once('/') {
                if self.directories.contains_key(parent) || missing.contains(parent) {
                    break;
                }
                missing.insert(parent.to_owned());
                path = parent;
            }
        }
        self.directories.extend(missing.into_iter().map(|path| (path, 0o700)));
    }
}

fn path_of(entries: &Entries, number: u32) -> &str {
    entries.get(number).map_or("", |entry| entry.path)
}

/// Where a file begins in its pack, and its length.
fn place_of(entries: &Entries, number: u32) -> (u64, u64) {
    match entries.get(number).map(|entry| entry.what) {
        Some(EntryKind::File { offset, size, .. }) => (offset, size),
        Some(EntryKind::Directory | EntryKind::Blocks { .. }) | None => (0, 0),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
    use walward_repo::manifest::{BackupType, Entry, Pack, Tablespace};

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
            depends_on: None,
        }
    }

    pub fn file(path: &str, pack: u32, offset: u64, content: &[u8]) -> Entry {
        let what = EntryKind::File { size: content.len() as u64, crc32c: crc32c::crc32c(content), pack, offset };
        Entry { path: path.to_owned(), mode: 0o600, mtime: 1_700_000_000, what }
    }

    fn held(listed: impl IntoIterator<Item = Entry>) -> Entries {
        let mut entries = Entries::default();
        for entry in listed {
            entries.push(&entry).expect("few");
        }
        entries
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
        Contents::new(&manifest, held(needed().into_iter().chain(more)), &places)
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
        let entries = held(needed().into_iter().filter(|entry| entry.path != "backup_label"));
        let error = Contents::new(&manifest, entries, &places).expect_err("no label").to_string();
        assert!(error.contains("backup_label"), "{error}");
    }
}
