//! A model of PostgreSQL's side: a data directory with WAL that is written, marked, promoted and recycled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use walward_pg::archive_status::{done_path, ready_path};
use walward_pg::{ControlFile, Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName, synthetic};

use crate::faults::mix;
use crate::truth::{Version, print_of};

pub const SEGMENT_BYTES: u64 = 1 << 20;
/// The segment that the first server begins with.
pub const FIRST: u64 = 3;
const MAJOR: u16 = 15;
/// How much of a segment cannot be compressed, on one half of the seeds and on the other.
const NOISE_BYTES: [usize; 2] = [16 << 10, 1 << 20];

pub fn size() -> SegmentSize {
    SegmentSize::try_from(SEGMENT_BYTES).unwrap()
}

pub fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::from_number(Timeline(timeline), number, size()).unwrap()
}

/// What a server's `archive_command` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Walward's.
    Ours,
    /// Empty: nothing is archived for now, and nothing is marked as archived.
    Empty,
    /// Another tool's, which always succeeds.
    Another,
}

/// What a server wrote, or had inherited with its data directory: stands for the bytes of each file.
pub type Own = Arc<Mutex<BTreeMap<WalFileName, u64>>>;

/// A server's data directory and where it writes.
#[derive(Debug)]
pub struct Postgres {
    data: PathBuf,
    seed: u64,
    pub version: Version,
    pub command: Command,
    pub own: Own,
    /// How many times it was started.
    starts: u64,
    pub lineage: Lineage,
    pub timeline: u32,
    /// The segment that is being written.
    pub next: u64,
    /// The timelines that were left, and where.
    parents: Vec<(u32, Lsn)>,
    /// The record of each segment says that it changes a block, and of which record it is the next.
    pub names_blocks: bool,
}

impl Postgres {
    /// A server whose bytes are its own.
    pub fn new(data: &Path, version: Version, seed: u64) -> Self {
        std::fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
        std::fs::create_dir_all(data.join("global")).unwrap();
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/15");
        std::fs::copy(fixtures.join("pg_control"), data.join("global/pg_control")).unwrap();
        std::fs::write(data.join("PG_VERSION"), format!("{MAJOR}\n")).unwrap();
        let lineage = ControlFile::read(data).unwrap().lineage();
        let mut server = Self {
            data: data.to_owned(),
            seed,
            version,
            command: Command::Ours,
            own: Own::default(),
            starts: 0,
            lineage,
            timeline: 1,
            next: FIRST,
            parents: Vec::new(),
            names_blocks: false,
        };
        server.start();
        server
    }

    /// It is started (again): another life.
    pub fn start(&mut self) {
        self.starts += 1;
        let path = self.data.join("postmaster.pid");
        let _ = std::fs::remove_file(&path);
        let started = 1_800_000_000 + u64::from(self.version) * 100_000 + self.starts;
        std::fs::write(path, format!("1\n{}\n{started}\n5432\n\n", self.data.display())).unwrap();
    }

    /// A checkpoint of the running server at `checkpoint`, from whose `redo` on it would recover, is written to pg_control. No pages have
    /// checksums: these are none.
    pub fn note_checkpoint(&self, checkpoint: Lsn, redo: Lsn) {
        const IN_PRODUCTION: u32 = 6;
        const CRC_AT: usize = 288;
        let path = self.data.join("global/pg_control");
        let mut bytes = std::fs::read(&path).unwrap();
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(16, &IN_PRODUCTION.to_le_bytes());
        put(32, &checkpoint.0.to_le_bytes());
        put(40, &redo.0.to_le_bytes());
        put(48, &self.timeline.to_le_bytes());
        put(228, &u32::try_from(SEGMENT_BYTES).unwrap().to_le_bytes());
        put(252, &0u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    /// A cold copy of its data directory, which goes on by itself: what it writes from now on are other bytes.
    pub fn copy(&self, data: &Path, version: Version) -> Self {
        let mut copy = Self::new(data, version, self.seed);
        for folder in ["pg_wal", "pg_wal/archive_status"] {
            for entry in std::fs::read_dir(self.data.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, data.join(folder).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        (copy.timeline, copy.next, copy.parents) = (self.timeline, self.next, self.parents.clone());
        copy.own = Arc::new(Mutex::new(self.own.lock().unwrap().clone()));
        copy
    }

    /// The volume is rolled back: `former`, a cold copy, takes the place of this data directory, and is started.
    pub fn roll_back(&mut self, former: Self) {
        std::fs::remove_dir_all(&self.data).unwrap();
        std::fs::rename(&former.data, &self.data).unwrap();
        let own = std::mem::take(&mut *former.own.lock().unwrap());
        // Whoever looks at what this server wrote looks at the new one.
        *self.own.lock().unwrap() = own;
        let (data, own) = (self.data.clone(), Arc::clone(&self.own));
        *self = Self { data, own, ..former };
        self.start();
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn pg_wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    pub fn path(&self, name: WalFileName) -> PathBuf {
        self.pg_wal().join(name.to_string())
    }

    /// The segment is full: it is marked, and the next one is begun.
    pub fn finish_segment(&mut self) -> WalFileName {
        let name = WalFileName::Segment(segment(self.timeline, self.next));
        self.write(name);
        self.next += 1;
        name
    }

    /// Writes what belongs under `name`, and marks it for the archiver.
    pub fn write(&mut self, name: WalFileName) {
        let content = self.content(name);
        // As PostgreSQL does: a recycled or restored file takes the name at once.
        let other = self.pg_wal().join("xlogtemp");
        self.own.lock().unwrap().insert(name, print_of(&content));
        std::fs::write(&other, content).unwrap();
        std::fs::rename(&other, self.path(name)).unwrap();
        self.mark(name);
    }

    /// It is to be archived (again).
    pub fn mark(&self, name: WalFileName) {
        let _ = std::fs::remove_file(done_path(&self.pg_wal(), name));
        std::fs::write(ready_path(&self.pg_wal(), name), b"").unwrap();
    }

    /// A standby takes over: a new timeline begins within the segment that is being written, whose old beginning is kept as
    /// a partial segment.
    pub fn promote(&mut self) {
        let switch = Lsn(self.next * SEGMENT_BYTES + 0x2468);
        self.write(WalFileName::Partial(segment(self.timeline, self.next)));
        self.parents.push((self.timeline, switch));
        self.timeline += 1;
        self.write(WalFileName::History(Timeline(self.timeline)));
    }

    /// What waits for the archiver, in its order: histories first, then by name.
    pub fn ready(&self) -> Vec<WalFileName> {
        let mut ready: Vec<WalFileName> = std::fs::read_dir(self.pg_wal().join("archive_status"))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".ready")?.parse().ok())
            .collect();
        ready.sort_by_key(|name| (!matches!(name, WalFileName::History(_)), name.to_string()));
        ready
    }

    /// It was archived.
    pub fn done(&self, name: WalFileName) {
        std::fs::rename(ready_path(&self.pg_wal(), name), done_path(&self.pg_wal(), name)).unwrap();
    }

    /// Somebody decided that it need not be archived.
    pub fn give_up(&self, name: WalFileName) {
        let _ = std::fs::remove_file(ready_path(&self.pg_wal(), name));
    }

    /// A checkpoint recycles what was archived.
    pub fn checkpoint(&self) {
        for entry in std::fs::read_dir(self.pg_wal().join("archive_status")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(name) = name.strip_suffix(".done") else { continue };
            // A history is kept.
            if !name.ends_with(".history") {
                let _ = std::fs::remove_file(self.pg_wal().join(name));
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    fn content(&self, name: WalFileName) -> Vec<u8> {
        match name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => self.segment(name, segment),
            WalFileName::History(_) => {
                let lines = self
                    .parents
                    .iter()
                    .map(|(timeline, switch)| format!("{timeline}\t{switch}\tserver {} was told to\n", self.version));
                lines.collect::<String>().into_bytes()
            }
            WalFileName::BackupHistory(segment, _) => {
                format!("START WAL LOCATION: {segment}\nLABEL: {}\n", self.version).into_bytes()
            }
        }
    }

    fn segment(&self, name: WalFileName, segment: SegmentName) -> Vec<u8> {
        let mut bytes = vec![self.version; usize::try_from(SEGMENT_BYTES).unwrap()];
        let mut random = StdRng::seed_from_u64(mix(self.seed, &(name, self.version)));
        random.fill_bytes(&mut bytes[..NOISE_BYTES[(mix(self.seed, &"noise") & 1) as usize]]);
        let mut bytes = synthetic::segment(segment, size(), self.lineage, bytes);
        if self.names_blocks {
            name_a_block(&mut bytes, segment);
        }
        bytes
    }
}

/// The block that the record of segment `number` changes: the first one of this relation.
pub fn changed_relation(number: u64) -> u32 {
    16_384 + u32::try_from(number % 12).unwrap()
}

/// Makes of the record of a segment, which is all of it, one that follows that of the segment before, and names a block (access/xlogrecord.h).
fn name_a_block(bytes: &mut [u8], segment: SegmentName) {
    const RECORD: usize = 40;
    let number = segment.number(size()).unwrap();
    let before = (number - 1) * SEGMENT_BYTES + RECORD as u64;
    bytes[RECORD + 8..RECORD + 16].copy_from_slice(&before.to_le_bytes());
    let length = u32::from_le_bytes(bytes[RECORD..RECORD + 4].try_into().unwrap());
    let mut headers = vec![0, 0, 0, 0];
    for word in [1663, 5, changed_relation(number), 0] {
        headers.extend_from_slice(&word.to_le_bytes());
    }
    // The rest is its main data.
    headers.push(254);
    headers.extend_from_slice(&(length - 24 - u32::try_from(headers.len() + 4).unwrap()).to_le_bytes());
    bytes[RECORD + 24..RECORD + 24 + headers.len()].copy_from_slice(&headers);
}
