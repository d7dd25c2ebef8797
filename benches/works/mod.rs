//! The work that bytes go through on their way, one function at a time, for whoever measures it: `hot.rs` its time, `instructions.rs`
//! what it takes of the machine.

use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use walward::backup::packs;
use walward_base::sys::cpu::CpuPool;
use walward_pg::changes::ChangesObserver;
use walward_pg::{
    CommitIndex, CommitTimes, Lineage, PageState, SegmentName, SegmentSize, Timeline, WalFileName, Walk, verify_page,
};
use walward_repo::format::{Kind, Spec};
use walward_repo::keys::KeySource;
use walward_repo::manifest::{Entry, EntryKind};
use walward_repo::{Encryption, Repository, layout};
use walward_storage::{ObjectKey, memory};
use walward_wire::{HEADER_BYTES, Request};

const PAGES: &[u8] = include_bytes!("../../tests/fixtures/pg/15/relation");
const PAGE_BYTES: usize = 8192;
const WAL: &[u8] = include_bytes!("../../tests/fixtures/pg/15/000000010000000000000006.head");
pub const MIB: usize = 1 << 20;
const SEGMENT_BYTES: usize = 16 * MIB;
const MILLION: usize = 1_000_000;

/// What a size counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Elements,
}

/// One piece of work.
pub struct Work {
    pub name: &'static str,
    pub unit: Unit,
    /// How much of it is usual.
    pub size: usize,
    /// Gets ready for work of a size; what comes of it does it once.
    pub prepare: fn(usize) -> Box<dyn FnMut()>,
}

const fn work(name: &'static str, unit: Unit, size: usize, prepare: fn(usize) -> Box<dyn FnMut()>) -> Work {
    Work { name, unit, size, prepare }
}

pub const ALL: [Work; 12] = [
    work("object written, plain", Unit::Bytes, SEGMENT_BYTES, |size| written(size, false)),
    work("object written, sealed", Unit::Bytes, SEGMENT_BYTES, |size| written(size, true)),
    work("object read, plain", Unit::Bytes, SEGMENT_BYTES, |size| read(size, false)),
    work("object read, sealed", Unit::Bytes, SEGMENT_BYTES, |size| read(size, true)),
    work("CRC-32C", Unit::Bytes, SEGMENT_BYTES, crc),
    work("page checksums", Unit::Bytes, MIB, page_checksums),
    work("WAL records", Unit::Bytes, WAL.len(), wal_records),
    work("WAL records as archived", Unit::Bytes, WAL.len(), wal_records_as_archived),
    work("manifest lines written", Unit::Elements, MILLION, manifest_written),
    work("manifest lines read", Unit::Elements, MILLION, manifest_read),
    work("files planned into packs", Unit::Elements, MILLION, planned),
    work("requests there and back", Unit::Elements, 1_000, requests),
];

/// About 4 : 1 at zstd's level 1, as WAL of an OLTP load is: words that repeat, and numbers that do not (splitmix64).
fn content(size: usize) -> Bytes {
    let mut state = 42u64;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    };
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        bytes.extend_from_slice(&next().to_le_bytes());
        bytes.extend_from_slice(&PAGES[(next() % 4000) as usize..][..48]);
    }
    bytes.truncate(size);
    bytes.into()
}

/// A repository in memory with one thread to work for it, and a name for a segment in it.
struct Room {
    runtime: tokio::runtime::Runtime,
    repository: Repository,
    key: ObjectKey,
}

impl Room {
    fn new(sealed: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key: PathBuf = folder.path().join("key");
        std::fs::write(&key, format!("walward-key-1:{}", walward_base::hex::encode(&[7; 32]))).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let encryption = if sealed { Encryption::Key(KeySource::KeyFile(key)) } else { Encryption::None };
        let pool = CpuPool::new(1).unwrap();
        let create = Repository::create("bench", memory(), "main", &encryption, &[], pool, jiff::Timestamp::UNIX_EPOCH);
        let (repository, _) = runtime.block_on(create).unwrap();
        let name = SegmentName::from_number(Timeline(1), 1, SegmentSize::DEFAULT).unwrap();
        let key = layout::wal_file(Lineage { major: 15, system_identifier: 1 }, WalFileName::Segment(name));
        Self { runtime, repository, key }
    }

    /// In place of what was there before.
    fn write(&self, content: &Bytes) {
        let pieces: Vec<std::io::Result<Bytes>> =
            (0..content.len()).step_by(MIB).map(|at| Ok(content.slice(at..content.len().min(at + MIB)))).collect();
        let spec = Spec { kind: Kind::Segment, level: 1, writer: "bench".to_owned() };
        self.runtime.block_on(async {
            self.repository.store().delete(&self.key).await.unwrap();
            self.repository.put_new(&self.key, spec, stream::iter(pieces).boxed(), || None).await.unwrap();
        });
    }
}

fn written(size: usize, sealed: bool) -> Box<dyn FnMut()> {
    let (room, content) = (Room::new(sealed), content(size));
    Box::new(move || room.write(&content))
}

fn read(size: usize, sealed: bool) -> Box<dyn FnMut()> {
    let room = Room::new(sealed);
    room.write(&content(size));
    Box::new(move || {
        let bytes = room.runtime.block_on(async {
            let object = room.repository.read(&room.key).await.unwrap();
            object.content.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await.unwrap()
        });
        assert_eq!(bytes, size);
    })
}

fn crc(size: usize) -> Box<dyn FnMut()> {
    let content = content(size);
    Box::new(move || {
        black_box(crc32c::crc32c(black_box(&content)));
    })
}

fn page_checksums(size: usize) -> Box<dyn FnMut()> {
    Box::new(move || {
        for _ in 0..size / PAGE_BYTES {
            assert_eq!(verify_page(black_box(&PAGES[..PAGE_BYTES]), 0), PageState::Ok);
        }
    })
}

fn wal_records(_size: usize) -> Box<dyn FnMut()> {
    let name = SegmentName::from_number(Timeline(1), 6, SegmentSize::DEFAULT).unwrap();
    Box::new(move || {
        let mut times = CommitTimes::new(name, SegmentSize::DEFAULT);
        times.feed(black_box(WAL));
        black_box(times.finish());
    })
}

/// With all that look on while a segment is archived.
fn wal_records_as_archived(_size: usize) -> Box<dyn FnMut()> {
    let name = SegmentName::from_number(Timeline(1), 6, SegmentSize::DEFAULT).unwrap();
    Box::new(move || {
        let observers = (CommitIndex::default(), ChangesObserver::default());
        let mut walk = Walk::new(name, SegmentSize::DEFAULT, observers);
        walk.feed(black_box(WAL));
        let (walked, (commits, changes)) = walk.finish();
        black_box((commits, changes.finish(&walked).map(|changes| changes.encode())));
    })
}

fn entry(number: usize) -> Entry {
    let what = EntryKind::File { size: 8192, crc32c: 7, pack: 0, offset: number as u64 * 8704 };
    Entry { path: format!("base/16384/{}", 16_384 + number), mode: 0o600, mtime: 1_763_700_000, what }
}

fn manifest_written(lines: usize) -> Box<dyn FnMut()> {
    Box::new(move || {
        let bytes: usize = (0..lines).map(|number| serde_json::to_vec(&entry(number)).unwrap().len()).sum();
        black_box(bytes);
    })
}

fn manifest_read(lines: usize) -> Box<dyn FnMut()> {
    let lines: Vec<Vec<u8>> = (0..lines).map(|number| serde_json::to_vec(&entry(number)).unwrap()).collect();
    Box::new(move || {
        let read = lines.iter().filter(|line| serde_json::from_slice::<Entry>(line).unwrap().mode == 0o600);
        assert_eq!(read.count(), lines.len());
    })
}

/// Most files of a database are small, some are a gigabyte.
fn planned(files: usize) -> Box<dyn FnMut()> {
    let bytes = |number: u32| if number.is_multiple_of(100) { 1 << 30 } else { u64::from(number % 64) * 8192 };
    Box::new(move || {
        let files = u32::try_from(files).unwrap();
        assert!(packs((0..files).map(|number| (number, bytes(number))), 64 << 20).len() > 1);
    })
}

fn requests(count: usize) -> Box<dyn FnMut()> {
    let path = "/var/lib/postgresql/15/main/pg_wal/000000010000000000000001".into();
    let push = Request::Push { cluster: "main".to_owned(), path };
    Box::new(move || {
        for _ in 0..count {
            let frame = black_box(&push).encode();
            black_box(Request::decode(frame[3], &frame[HEADER_BYTES..]).unwrap());
        }
    })
}
