//! The repositories of every released format version in `tests/fixtures`, read by this code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;

use super::aside::{self, Aside, Begun, Kept, Stage};
use super::entries::Entries;
use super::facts::{Facts, Predecessor, StoredChanges};
use super::format::{FRAME_BYTES, Kind, Spec};
use super::gap::{self, Gap};
use super::keys::{KeySource, SlotKind};
use super::lease::{Holder, Lease, LeaseError, Work};
use super::manifest::{BackupLabel, BackupType, Entry, EntryKind, Manifest};
use super::{Encryption, Repository, layout, stored};
use walward_base::sys::cpu::CpuPool;
use walward_pg::changes::{self, Changes, DatabaseName, Doubt, RelationChanges, RelationName, SegmentChanges};
use walward_pg::{
    CommitIndex, Commits, Lineage, Lsn, Mark, RestorePoint, SegmentName, SegmentSize, Timeline, Unknown, WalFileName,
    Walked,
};
use walward_storage::{Store, StoreOptions};

const KEY: &str = "walward-key-1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7_437_223_446_531_284_312 };
const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/repo-v1")
}

fn now() -> Timestamp {
    "2026-11-21T06:41:58Z".parse().expect("a time")
}

fn store(folder: &Path) -> Arc<dyn Store> {
    let options = StoreOptions::new(format!("file://{}", folder.display()));
    walward_storage::create_root(&options, "main").expect("a folder");
    walward_storage::open(&options, "main").expect("a store")
}

fn segment(number: u32) -> WalFileName {
    WalFileName::Segment(SegmentName { timeline: Timeline(1), log: 0, segment: number })
}

/// Two frames, the second short.
fn segment_content() -> Bytes {
    (0..FRAME_BYTES + 100).map(|at| b"walward"[at % 7]).collect::<Vec<u8>>().into()
}

fn facts() -> Facts {
    let commits = [(0x200_0100, 1_000_000), (0x200_0200, 2_000_000)];
    let commits = commits.map(|(lsn, time)| Commits { lsn: Lsn(lsn), first: time, last: time, count: 1 });
    let point = RestorePoint { name: "before upgrade".to_owned(), time: 1_500_000, lsn: Lsn(0x200_0180) };
    let mark = Some(Mark { time: 1_500_000, lsn: Lsn(0x200_0180) });
    Facts {
        walk: Some(Walked {
            unknown: Some((Lsn(0x200_0280), Unknown::Zeros)),
            first: Some((Lsn(0x200_0028), Lsn(0x1FF_FFD8))),
            last: Some(Lsn(0x200_0200)),
        }),
        commits: Some(CommitIndex::stored(commits.to_vec(), vec![point], false, mark, Some(740))),
        predecessor: Some(Predecessor {
            name: SegmentName { timeline: Timeline(1), log: 0, segment: 1 },
            digest: [7; 32],
        }),
        changes: StoredChanges::of(&changes()),
    }
}

fn changes() -> SegmentChanges {
    let relation = RelationName { tablespace: 1663, database: 5, relation: 16384 };
    let mut changes = Changes::default();
    let blocks = [0, 7, 70_000].into_iter().collect();
    changes.relations.insert(relation, RelationChanges { blocks, limit: Some(9) });
    changes.databases.insert(DatabaseName { tablespace: 1663, database: 6 });
    changes.doubts.insert(Doubt::Stopped, Lsn(0x200_0280));
    SegmentChanges {
        major: 15,
        start: Lsn(0x200_0000),
        size: SegmentSize::DEFAULT,
        entry: changes::Entry::Record,
        first: Some((Lsn(0x200_0028), Lsn(0x1FF_FFD8))),
        last: Some(Lsn(0x200_0200)),
        open: None,
        changes,
    }
}

fn label() -> BackupLabel {
    BackupLabel::new(now(), BackupType::Full)
}

fn manifest() -> (Manifest, Entry) {
    let head = Manifest {
        format: 1,
        label: label().to_string(),
        kind: BackupType::Full,
        lineage: LINEAGE,
        server_version: "15.18".to_owned(),
        segment_bytes: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: Timeline(1),
        start_lsn: Lsn(0x200_0028),
        stop_lsn: Lsn(0x200_0100),
        started: now(),
        stopped: now(),
        from_standby: false,
        host: "db1".to_owned(),
        walward_version: "0.1.0".to_owned(),
        machine: None,
        data_directory: None,
        wal_directory: None,
        content_bytes: 3,
        stored_bytes: 1000,
        packs: Vec::new(),
        tablespaces: Vec::new(),
        corrupt_pages: Vec::new(),
        depends_on: None,
    };
    let what = EntryKind::File { size: 3, crc32c: 7, pack: 0, offset: 512 };
    (head, Entry { path: "PG_VERSION".to_owned(), mode: 0o600, mtime: 1, what })
}

fn gap() -> Gap {
    Gap {
        format: 1,
        lineage: LINEAGE,
        first: segment(5),
        last: segment(9),
        since: now(),
        until: "2026-11-21T07:00:00Z".parse().expect("a time"),
        host: "db1".to_owned(),
        queue_limit: 1 << 30,
        waiting: (1 << 30) + (16 << 20),
        reason: "cannot reach the store".to_owned(),
    }
}

fn aside_life() -> Begun {
    Begun {
        format: 1,
        id: "20261121T064158Z-1a2b3c4d".parse().expect("an id"),
        lineage: LINEAGE,
        from: segment(4),
        begun: now(),
        host: "db1".to_owned(),
        user: Some("postgres".to_owned()),
        reason: "a volume was rolled back".to_owned(),
        lists: 1,
        objects: 2,
        bytes: 300,
        backups: vec!["20261121T070000Z-full".to_owned()],
    }
}

/// In the order in which they leave the archive; the second is of a store that does not say how it tells objects apart.
fn aside_objects() -> Vec<Kept> {
    let kept = |key: &str, bytes, written: &str, tag: Option<&str>| {
        let written = written.parse().expect("a time");
        Kept { key: key.to_owned(), bytes, written, tag: tag.map(str::to_owned) }
    };
    let tag = "\"5d41402abc4b2a76b9719d911017c592\"";
    let wal = layout::wal_file(LINEAGE, segment(4));
    vec![
        kept("backup/20261121T070000Z-full/manifest", 100, "2026-11-21T07:00:00.5Z", Some(tag)),
        kept(wal.as_str(), 200, "2026-11-21T06:41:58Z", None),
    ]
}

fn key_file() -> (tempfile::NamedTempFile, Encryption) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(KEY.as_bytes()).expect("written");
    let encryption = Encryption::Key(KeySource::KeyFile(file.path().to_owned()));
    (file, encryption)
}

fn pool() -> CpuPool {
    CpuPool::new(1).expect("a thread")
}

async fn put(repository: &Repository, name: WalFileName, kind: Kind, content: Bytes) {
    let spec = Spec { kind, level: 1, writer: "db1".to_owned() };
    let content = stream::iter([Ok(content)]).boxed();
    let key = layout::wal_file(LINEAGE, name);
    let facts = (kind == Kind::Segment).then(facts);
    repository.put_new(&key, spec, content, || facts).await.expect("put");
}

async fn write(folder: &Path, encryption: &Encryption) {
    let store = store(folder);
    let made = Repository::create("r", store.clone(), "main", encryption, &[], pool(), now()).await;
    let (mut repository, _) = made.expect("a repository");
    repository.add_lineage(LINEAGE, SegmentSize::DEFAULT, now()).await.expect("a lineage");
    put(&repository, segment(2), Kind::Segment, segment_content()).await;
    put(&repository, WalFileName::History(Timeline(2)), Kind::History, Bytes::from_static(HISTORY)).await;
    if let Encryption::Key(source) = encryption {
        let mut keys = repository.open_keys(source).await.expect("opens");
        keys.rotate(now());
        keys.store(&*store).await.expect("stored");
        repository = Repository::open("r", store, encryption, pool()).await.expect("opens");
    }
    put(&repository, segment(3), Kind::Segment, Bytes::from_static(b"under the newest key")).await;
    let (head, entry) = manifest();
    let lines = [serde_json::to_string(&head), serde_json::to_string(&entry)];
    let lines: String = lines.into_iter().map(|line| line.expect("JSON") + "\n").collect();
    let spec = Spec { kind: Kind::Manifest, level: 3, writer: "db1".to_owned() };
    let content = stream::iter([Ok(Bytes::from(lines))]).boxed();
    repository.upload(&layout::manifest(&label()), spec, content, 1000).await.expect("uploaded");
    gap::record(&repository, &gap()).await.expect("recorded");
    aside::begin(&repository, &aside_life(), &aside_objects()).await.expect("written");
    let done = "2026-11-21T07:00:00Z".parse().expect("a time");
    aside::reach(&repository, &aside_life().id, Stage::Aside, done, "db1").await.expect("written");
    let lease = Lease::take(&repository, Work::Backup, &named("db1"), Duration::from_hours(1), now()).await;
    lease.expect("taken").release(now()).await.expect("released");
}

fn named(name: &str) -> Holder {
    Holder { name: name.to_owned(), process: None }
}

/// Writes the fixtures of the current version. Those of a released version are never written again.
#[tokio::test]
#[ignore = "writes tests/fixtures/repo-v1, which is done once"]
async fn write_the_fixtures() {
    assert!(!fixtures().join("plain").exists(), "the fixtures are there");
    write(&fixtures().join("plain"), &Encryption::None).await;
    let (_file, encryption) = key_file();
    write(&fixtures().join("sealed"), &encryption).await;
    std::fs::create_dir(fixtures().join("facts")).expect("a folder");
    let mut file = std::fs::File::create(fixtures().join("facts/segment")).expect("a file");
    file.write_all(&facts().encode()).expect("written");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn facts_of_version_1_are_read_and_written_so() {
    let stored = std::fs::read(fixtures().join("facts/segment")).expect("a fixture");
    assert_eq!(Facts::decode(&stored), Ok(facts()));
    assert_eq!(facts().encode(), stored);
}

#[tokio::test]
async fn repositories_of_version_1_are_read() {
    let (_file, encryption) = key_file();
    for (name, encryption) in [("plain", Encryption::None), ("sealed", encryption)] {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&fixtures().join(name), folder.path());
        let repository = Repository::open("r", store(folder.path()), &encryption, pool()).await.expect("opens");
        assert_eq!(repository.identity().name, "main");
        assert_eq!(repository.identity().find(LINEAGE).expect("a lineage").segment_bytes, SegmentSize::DEFAULT);
        for (number, content) in [(2, segment_content()), (3, Bytes::from_static(b"under the newest key"))] {
            let key = layout::wal_file(LINEAGE, segment(number));
            let read = repository.read(&key).await.expect("opens").into_bytes(&key, 2 * FRAME_BYTES).await;
            assert!(read.expect("read") == content);
            let found = repository.read_summary(&key).await.expect("a summary");
            assert_eq!(found.facts, Some(facts()));
            assert_eq!((found.kind, found.writer.as_str()), (Kind::Segment, "db1"));
        }
        let files = stored::wal(&repository, LINEAGE, Timeline(1), 0, SegmentSize::DEFAULT).await.expect("listed");
        assert_eq!(files, [segment(2), segment(3)]);
        assert_eq!(stored::timelines(&repository, LINEAGE).await.expect("listed"), [Timeline(2)]);
        let history = stored::history(&repository, LINEAGE, Timeline(2)).await.expect("read");
        assert_eq!(history.as_bytes(), HISTORY);
        assert_eq!(stored::labels(&repository).await.expect("listed"), [label()]);
        let (head, entry) = manifest();
        assert_eq!(stored::head(&repository, &label()).await.expect("read"), head);
        let mut entries = Entries::default();
        entries.push(&entry).expect("one");
        assert_eq!(stored::manifest(&repository, &label()).await.expect("read"), (head, entries));
        assert_eq!(gap::list(&repository, LINEAGE).await.expect("listed"), [(segment(5), segment(9))]);
        let (gaps, damaged) = gap::read_all(&repository, LINEAGE).await.expect("read");
        assert_eq!((gaps, damaged.len()), (vec![gap()], 0));
        let (asides, damaged) = aside::all(&repository).await.expect("read");
        assert_eq!((asides, damaged.len()), (vec![Aside { begun: aside_life(), stage: Stage::Aside }], 0));
        let listed = aside::objects(&repository, &aside_life()).await.expect("read");
        assert_eq!(listed.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), aside_objects());
        if let Encryption::Key(source) = &encryption {
            let keys = repository.open_keys(source).await.expect("opens");
            let kinds: Vec<_> = keys.slots().iter().map(|slot| slot.kind).collect();
            assert_eq!(kinds, [SlotKind::KeyFile, SlotKind::Recovery]);
            assert_eq!(keys.keyring().iter().count(), 2);
        }
        let next = Lease::take(&repository, Work::Backup, &named("db2"), Duration::from_mins(1), now()).await;
        assert_eq!(next.map_err(|error: LeaseError| error.to_string()).expect("free").fencing(), 3);
    }
}
