//! What is restored, sorted: directories, and what each pack gives, in the order of its stream.
//!
//! A backup that builds on another one has of some files only the blocks that changed: those are put together from its own packs and from those of the
//! backups before it ([`super::composition`]), each of which is looked through once, the newest first.
//!
//! A manifest is not trusted: paths that lead out, files that overlap or do not lie in their pack, blocks that are nowhere, and a backup without
//! what a server needs to recover are refused before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use super::composition::{Composition, Layer, Run, Use};
use super::error::RestoreError;
use super::journal;
use super::pack_id::PackId;
use super::places::Places;
use walward_pg::changes::BlockSet;
use walward_pg::incremental_bytes;
use walward_repo::entries::Entries;
use walward_repo::manifest::{Entry, EntryKind, Manifest};

/// What makes a directory a cluster; placed last.
pub const CONTROL_FILE: &str = "global/pg_control";

/// What is cut out of a pack: a file, or some blocks of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// The file's path, as in the manifest.
    pub path: Box<str>,
    /// Length in bytes, in the pack.
    pub size: u64,
    /// CRC-32C of that.
    pub crc32c: u32,
    /// Where it begins in the pack's stream.
    pub offset: u64,
    /// Permission bits of the file.
    pub mode: u32,
    /// Modification time of the file, seconds since the Unix epoch.
    pub mtime: i64,
    /// What goes where, when it is not the file.
    pub part: Option<Part>,
}

/// What a member of a pack gives to a file that is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file's number.
    pub file: u32,
    /// In the order of the member.
    pub runs: Vec<Run>,
}

/// A file that is put together, as it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposedFile {
    /// Its number.
    pub file: u32,
    /// Its path.
    pub path: Box<str>,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
}

/// A file as it will be, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its number.
    pub file: u32,
    /// Its path.
    pub path: &'a str,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// CRC-32C of its content; none when it is put together.
    pub crc32c: Option<u32>,
}

/// What a pack has of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    offset: u64,
    size: u64,
    crc32c: u32,
    /// The file's number.
    file: u32,
    /// Whether it is not the whole file.
    is_part: bool,
}

/// What is restored. A file takes some 40 bytes here beside what it takes in [`Entries`]: there may be a million.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Directories (parents before children) and their permission bits.
    pub directories: BTreeMap<String, u32>,
    /// Bytes that go into the data directory.
    pub root_bytes: u64,
    /// Bytes that go into each tablespace, by oid.
    pub tablespace_bytes: BTreeMap<u32, u64>,
    entries: Entries,
    /// What is taken from each pack, in the order of the offsets.
    packs: BTreeMap<PackId, Vec<Member>>,
    /// The numbers of all files, in the order of their paths.
    by_path: Vec<u32>,
    /// What is put together, in the order of the files' numbers.
    compositions: Vec<Composition>,
    block_bytes: u32,
    /// How many backups were looked through.
    levels: u32,
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

    /// The packs from which something is taken, those of the backup itself first, and its last at their end.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.keys().copied()
    }

    /// The pack with what makes a cluster of the files.
    pub fn last_pack(&self) -> Option<PackId> {
        self.packs.keys().copied().rfind(|pack| pack.level == 0)
    }

    /// What is taken from a pack, in the order of its stream.
    pub fn files_of(&self, pack: PackId) -> impl Iterator<Item = PackedFile> {
        (0..).map_while(move |at| self.file_of(pack, at))
    }

    /// One of those, counted from 0; none after the last.
    pub fn file_of(&self, pack: PackId, at: usize) -> Option<PackedFile> {
        let Member { offset, size, crc32c, file, is_part } = *self.packs.get(&pack)?.get(at)?;
        let entry = self.entries.get(file)?;
        let runs = || self.composition(file).map(|made| made.runs(pack.level, self.block_bytes)).unwrap_or_default();
        let part = is_part.then(|| Part { file, runs: runs() });
        let (path, mode, mtime) = (entry.path.into(), entry.mode & 0o777, entry.mtime);
        Some(PackedFile { path, size, crc32c, offset, mode, mtime, part })
    }

    /// Whether all that is taken from a pack are whole files, so that it can be seen later whether they are there.
    pub fn has_whole_files_only(&self, pack: PackId) -> bool {
        self.packs.get(&pack).is_some_and(|members| members.iter().all(|member| !member.is_part))
    }

    /// The paths and lengths of what is written when these packs are: files, and those that are put together from any.
    pub fn left(&self, is_done: impl Fn(PackId) -> bool) -> impl Iterator<Item = (&str, u64)> {
        let packs = self.packs.iter().filter(move |(pack, _)| !is_done(**pack));
        let whole = packs.flat_map(|(_, members)| members).filter(|member| !member.is_part);
        let whole = whole.map(|member| (path_of(&self.entries, member.file), member.size));
        let made = self.compositions.iter().filter_map(|made| self.entries.get(made.file));
        whole.chain(made.map(|entry| (entry.path, size_of(&entry))))
    }

    /// The files that are put together.
    pub fn composed(&self) -> impl Iterator<Item = ComposedFile> {
        self.compositions.iter().filter_map(|made| {
            let entry = self.entries.get(made.file)?;
            let (path, size) = (entry.path.into(), size_of(&entry));
            Some(ComposedFile { file: made.file, path, size, mode: entry.mode & 0o777, mtime: entry.mtime })
        })
    }

    /// The whole file of this path, and its pack; none of one that is put together or comes from another backup.
    pub fn find(&self, path: &str) -> Option<(u32, PackedFile)> {
        let entry = self.entries.get(self.number(path)?)?;
        let EntryKind::File { size, crc32c, pack, offset } = entry.what else { return None };
        let (path, mode, mtime) = (entry.path.into(), entry.mode & 0o777, entry.mtime);
        Some((pack, PackedFile { path, size, crc32c, offset, mode, mtime, part: None }))
    }

    /// Whether a file of this path is restored.
    pub fn has(&self, path: &str) -> bool {
        self.number(path).is_some()
    }

    /// The paths of all files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.iter().map(|number| path_of(&self.entries, *number))
    }

    /// All files, in the order of their paths.
    pub fn listed(&self) -> impl Iterator<Item = Listed<'_>> {
        let elsewhere = self.packs.range(PackId { level: 1, number: 0 }..).flat_map(|(_, members)| members);
        let mut elsewhere: Vec<(u32, u32)> =
            elsewhere.filter(|member| !member.is_part).map(|member| (member.file, member.crc32c)).collect();
        elsewhere.sort_unstable();
        self.by_path.iter().filter_map(move |number| {
            let entry = self.entries.get(*number)?;
            let elsewhere = || {
                let at = elsewhere.binary_search_by_key(number, |(file, _)| *file).ok()?;
                elsewhere.get(at).map(|(_, crc32c)| *crc32c)
            };
            let crc32c = if let EntryKind::File { crc32c, .. } = entry.what { Some(crc32c) } else { elsewhere() };
            Some(Listed { file: *number, path: entry.path, size: size_of(&entry), mtime: entry.mtime, crc32c })
        })
    }

    fn number(&self, path: &str) -> Option<u32> {
        let at = self.by_path.binary_search_by(|number| path_of(&self.entries, *number).cmp(path)).ok()?;
        self.by_path.get(at).copied()
    }

    fn composition(&self, file: u32) -> Option<&Composition> {
        let at = self.compositions.binary_search_by_key(&file, |made| made.file).ok()?;
        self.compositions.get(at)
    }

    /// Sorts what `manifest` says; `blocks` of the entries that have only some. Takes seconds for a million files: blocking.
    pub fn new(
        manifest: &Manifest,
        entries: Entries,
        blocks: Vec<(u32, BlockSet)>,
        places: &Places,
    ) -> Result<Self, RestoreError> {
        let refuse = |why: String| refused(manifest, why);
        let mut packs = Packs::of(manifest, 0);
        let block_bytes = manifest.depends_on.as_ref().map_or(0, |depends_on| depends_on.block_bytes);
        let mut contents = Self {
            directories: BTreeMap::new(),
            root_bytes: 0,
            tablespace_bytes: places.tablespaces().iter().map(|tablespace| (tablespace.oid, 0)).collect(),
            entries,
            packs: BTreeMap::new(),
            by_path: Vec::new(),
            compositions: Vec::new(),
            block_bytes,
            levels: 1,
        };
        let mut blocks = blocks.into_iter();
        for (number, entry) in contents.entries.iter() {
            if places.resolve(entry.path).is_none() {
                return Err(refuse(format!("the path {:?} leads out of the data directory", entry.path)));
            }
            // The links are made from the tablespaces themselves, and PostgreSQL's own manifest does not list the map.
            if entry.path == "tablespace_map" || entry.path == journal::NAME {
                continue;
            }
            if entry.what == EntryKind::Directory {
                contents.directories.insert(entry.path.to_owned(), entry.mode & 0o777);
                continue;
            }
            let bytes = match places.tablespace_of(entry.path) {
                None => &mut contents.root_bytes,
                Some((tablespace, _)) => contents.tablespace_bytes.entry(tablespace.oid).or_default(),
            };
            *bytes = bytes.saturating_add(size_of(&entry));
            contents.by_path.push(number);
            let is_part = if let EntryKind::Blocks { .. } = entry.what {
                let length = length(&entry, block_bytes).map_err(refuse)?;
                let (of, set) = blocks.next().unwrap_or_default();
                if of != number {
                    return Err(refuse(format!("which blocks of {:?} it has is not said", entry.path)));
                }
                let (made, used) = Composition::new(number, length, set);
                contents.compositions.push(made);
                if used == Use::None {
                    continue;
                }
                true
            } else {
                false
            };
            packs.add(&entry, number, is_part, block_bytes).map_err(refuse)?;
        }
        contents.packs = packs.sorted(&contents.entries).map_err(refuse)?;
        contents.check(refuse)?;
        contents.add_parents(places);
        Ok(contents)
    }

    /// Whether blocks are still to be found in the backup that the last one builds on.
    pub fn needs_parent(&self) -> bool {
        self.compositions.iter().any(|made| !made.is_complete())
    }

    /// Takes what is still wanted from the backup that the last one builds on. Blocking.
    pub fn build_on(
        &mut self,
        manifest: &Manifest,
        entries: &Entries,
        blocks: Vec<(u32, BlockSet)>,
    ) -> Result<(), RestoreError> {
        let refuse = |why: String| refused(manifest, why);
        let mut packs = Packs::of(manifest, self.levels);
        let mut blocks = blocks.into_iter();
        let mut whole = BTreeSet::new();
        for (number, entry) in entries.iter() {
            let layer = match entry.what {
                EntryKind::Directory => continue,
                EntryKind::File { .. } => Layer::Whole,
                EntryKind::Blocks { .. } => {
                    let (of, set) = blocks.next().unwrap_or_default();
                    if of != number {
                        return Err(refuse(format!("which blocks of {:?} it has is not said", entry.path)));
                    }
                    Layer::Blocks(set)
                }
            };
            let file = self.number(entry.path);
            let at = file.and_then(|file| self.compositions.binary_search_by_key(&file, |made| made.file).ok());
            let Some(made) = at.and_then(|at| self.compositions.get_mut(at)) else { continue };
            if made.is_complete() {
                continue;
            }
            if made.seen() > self.levels {
                return Err(refuse(format!("{:?} is listed twice", entry.path)));
            }
            let length = length(&entry, self.block_bytes).map_err(refuse)?;
            let is_part = match made.add(length, layer).map_err(|why| refuse(format!("{:?}: {why}", entry.path)))? {
                Use::None => continue,
                Use::Some => true,
                Use::All => false,
            };
            let file = made.file;
            if !is_part {
                whole.insert(file);
            }
            packs.add(&entry, file, is_part, self.block_bytes).map_err(refuse)?;
        }
        self.levels += 1;
        let left_out = self.compositions.iter().find(|made| !made.is_complete() && made.seen() < self.levels);
        if let Some(made) = left_out {
            let path = path_of(&self.entries, made.file);
            return Err(refuse(format!(
                "it does not have {path:?}, of which a backup that builds on it has some blocks only"
            )));
        }
        self.compositions.retain(|made| !whole.contains(&made.file));
        self.packs.extend(packs.sorted(&self.entries).map_err(refuse)?);
        Ok(())
    }

    /// Sorts the files, and refuses those that are listed twice.
    fn check(&mut self, refuse: impl Fn(String) -> RestoreError) -> Result<(), RestoreError> {
        let entries = &self.entries;
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

/// What is taken from the packs of one backup.
struct Packs {
    level: u32,
    /// The packs that its manifest lists, with the lengths of their streams.
    lengths: BTreeMap<u32, u64>,
    members: BTreeMap<u32, Vec<Member>>,
}

impl Packs {
    fn of(manifest: &Manifest, level: u32) -> Self {
        let lengths = manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).collect();
        Self { level, lengths, members: BTreeMap::new() }
    }

    /// Takes for `file` what `entry` says.
    fn add(&mut self, entry: &Entry<&str>, file: u32, is_part: bool, block_bytes: u32) -> Result<(), String> {
        let (size, crc32c, pack, offset) = match entry.what {
            EntryKind::Directory => return Ok(()),
            EntryKind::File { size, crc32c, pack, offset } => (size, crc32c, pack, offset),
            EntryKind::Blocks { crc32c, pack, offset, blocks, .. } => {
                (incremental_bytes(blocks, block_bytes), crc32c, pack, offset)
            }
        };
        let Some(length) = self.lengths.get(&pack) else {
            return Err(format!("{:?} lies in pack {pack}, which is not listed", entry.path));
        };
        if offset.checked_add(size).is_none_or(|end| end > *length) {
            return Err(format!("{:?} ends after the end of pack {pack}", entry.path));
        }
        self.members.entry(pack).or_default().push(Member { offset, size, crc32c, file, is_part });
        Ok(())
    }

    /// Sorts what was taken, and refuses what overlaps.
    fn sorted(mut self, entries: &Entries) -> Result<BTreeMap<PackId, Vec<Member>>, String> {
        for (pack, members) in &mut self.members {
            members.sort_unstable_by_key(|member| (member.offset, member.size));
            let mut end = 0;
            for member in members {
                if member.offset < end {
                    let path = path_of(entries, member.file);
                    return Err(format!("{path:?} overlaps another file in pack {pack}"));
                }
                end = member.offset.saturating_add(member.size);
            }
        }
        let level = self.level;
        Ok(self.members.into_iter().map(|(number, members)| (PackId { level, number }, members)).collect())
    }
}

fn refused(manifest: &Manifest, why: String) -> RestoreError {
    RestoreError::Manifest { label: manifest.label.clone(), why }
}

fn path_of(entries: &Entries, number: u32) -> &str {
    entries.get(number).map_or("", |entry| entry.path)
}

/// The length of a file as it will be.
fn size_of(entry: &Entry<&str>) -> u64 {
    match entry.what {
        EntryKind::File { size, .. } | EntryKind::Blocks { size, .. } => size,
        EntryKind::Directory => 0,
    }
}

/// The length of a file in blocks, when it has whole ones.
fn length(entry: &Entry<&str>, block_bytes: u32) -> Result<u32, String> {
    let size = size_of(entry);
    if block_bytes == 0 {
        return Err(format!("of {:?} it has some blocks only, and it builds on no other backup", entry.path));
    }
    if !size.is_multiple_of(u64::from(block_bytes)) {
        return Err(format!("{:?} is not made of blocks of {block_bytes} bytes", entry.path));
    }
    u32::try_from(size / u64::from(block_bytes)).map_err(|_| format!("{:?} is too long", entry.path))
}

#[cfg(test)]
pub(super) mod tests;
