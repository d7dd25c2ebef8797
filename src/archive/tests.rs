//! Push and fetch over real file repositories, with segments made by hand.

mod agree;
mod ahead;
mod chain;
mod fetching;
mod one_is_away;
mod patience;
mod queue_limit;
mod several;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use walward_base::ErrorClass;
use walward_base::sys::cpu::CpuPool;
use walward_pg::{Lineage, SegmentSize, WalFileName, synthetic};
use walward_repo::keys::KeySource;
use walward_repo::{Encryption, LazyRepository, Repository, layout};
use walward_storage::StoreOptions;
use walward_storage::fault::{Fault, Faulty, Plan};

const SEGMENT_BYTES: u64 = 1 << 20;
/// One round over the repositories.
const DEADLINE: Duration = Duration::ZERO;

/// A data directory with a real pg_control, and repositories beside it.
struct Room {
    folder: TempDir,
    lineage: Lineage,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("pg_wal/archive_status")).expect("pg_wal");
        std::fs::create_dir_all(data.join("global")).expect("global");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/15");
        std::fs::copy(fixtures.join("pg_control"), data.join("global/pg_control")).expect("the fixture");
        walward_base::sys::durable::create(&data.join("PG_VERSION"), b"15\n", 0o600).expect("PG_VERSION");
        let lineage = walward_pg::ControlFile::read(&data).expect("pg_control").lineage();
        let room = Self { folder, lineage };
        room.server_starts(1);
        room
    }

    /// The server in the data directory is another one from now on.
    fn server_starts(&self, number: u32) {
        let path = self.folder.path().join("data/postmaster.pid");
        let _ = std::fs::remove_file(&path);
        let text = format!("77\n/data\n{}\n5432\n/run\n", 1_800_000_000 + number);
        walward_base::sys::durable::create(&path, text.as_bytes(), 0o600).expect("postmaster.pid");
    }

    /// What PostgreSQL does when it was told that a file is archived.
    fn done(&self, file: WalFileName) {
        let (ready, done) = (
            walward_pg::archive_status::ready_path(&self.pg_wal(), file),
            walward_pg::archive_status::done_path(&self.pg_wal(), file),
        );
        walward_base::sys::durable::rename(&ready, &done).expect("renamed");
    }

    fn pg_wal(&self) -> PathBuf {
        self.folder.path().join("data/pg_wal")
    }

    fn options(&self, name: &str) -> StoreOptions {
        StoreOptions::new(format!("file://{}", self.folder.path().join(name).display()))
    }

    /// A new repository that knows the data directory's lineage.
    async fn repository(&self, name: &str) -> Arc<LazyRepository> {
        self.repository_made_at(name, Timestamp::now()).await
    }

    /// The same, by a host whose clock says `now`.
    async fn repository_made_at(&self, name: &str, now: Timestamp) -> Arc<LazyRepository> {
        let options = self.options(name);
        let pool = CpuPool::new(2).expect("threads");
        walward_storage::create_root(&options, "main").expect("a root");
        let store = walward_storage::open(&options, "main").expect("a store");
        let created = Repository::create(name, store, "main", &Encryption::None, &[], pool.clone(), now).await;
        let (mut repository, _) = created.expect("a repository");
        let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
        repository.add_lineage(self.lineage, size, now).await.expect("a lineage");
        LazyRepository::new(name, "main", options, Encryption::None, 1, pool)
    }

    fn write(&self, name: WalFileName, content: &[u8]) {
        let path = self.pg_wal().join(name.to_string());
        let _ = std::fs::remove_file(&path);
        walward_base::sys::durable::create(&path, content, 0o600).expect("a file");
    }

    /// Where the object of `name` lies.
    fn object(&self, repository: &str, name: WalFileName) -> PathBuf {
        self.folder.path().join(repository).join("main").join(layout::wal_file(self.lineage, name).as_str())
    }

    /// Flips a bit in the middle of the object of `name`.
    fn damage(&self, repository: &str, name: WalFileName) {
        let object = self.object(repository, name);
        let mut bytes = std::fs::read(&object).expect("the object");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        walward_base::sys::durable::replace(&object, &bytes, 0o600).expect("damaged");
    }

    /// Where a file is fetched to.
    fn spot(&self) -> Spot {
        Spot::own(self.destination())
    }

    fn destination(&self) -> PathBuf {
        self.folder.path().join("fetched")
    }
}

fn name(text: &str) -> WalFileName {
    text.parse().expect("a name")
}

/// A segment of one record, filled with `fill`.
fn segment(name: WalFileName, system_identifier: u64, fill: u8) -> Vec<u8> {
    let WalFileName::Segment(segment) = name else { panic!("a segment") };
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    let content = vec![fill; usize::try_from(SEGMENT_BYTES).expect("a length")];
    synthetic::segment(segment, size, Lineage { major: 15, system_identifier }, content)
}

#[tokio::test]
async fn the_same_again_is_a_success_and_other_content_is_refused() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archive_file(&repositories, &room.pg_wal(), file, "first").await.expect("archived");
    archive_file(&repositories, &room.pg_wal(), file, "second").await.expect("the same content again");
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    let error = archive_file(&repositories, &room.pg_wal(), file, "second").await.expect_err("other content");
    let PushError::Different { writer, .. } = &error else { panic!("{error:?}") };
    assert_eq!(writer, "first");
    // What was there is still there.
    let found =
        retrieve(&repositories, &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { bytes: SEGMENT_BYTES, .. })));
    let fetched = std::fs::read(room.destination()).expect("the file");
    assert!(fetched == segment(file, room.lineage.system_identifier, 1));
}

#[tokio::test]
async fn wal_of_another_cluster_or_of_another_name_is_refused() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier + 1, 1));
    let error = archive_file(&repositories, &room.pg_wal(), file, "host").await.expect_err("foreign");
    assert!(matches!(error, PushError::Rejected { reason: Rejection::Foreign { .. }, .. }), "{error:?}");
    room.write(file, &segment(name("000000010000000000000004"), room.lineage.system_identifier, 1));
    let error = archive_file(&repositories, &room.pg_wal(), file, "host").await.expect_err("renamed");
    assert!(matches!(error, PushError::Rejected { reason: Rejection::Page(_), .. }), "{error:?}");
    let mut short = segment(file, room.lineage.system_identifier, 1);
    short.truncate(8192);
    room.write(file, &short);
    let error = archive_file(&repositories, &room.pg_wal(), file, "host").await.expect_err("cut");
    assert!(matches!(error, PushError::Rejected { reason: Rejection::Page(_), .. }), "{error:?}");
    assert!(!room.object("one", file).exists());
}

#[tokio::test]
async fn a_link_is_not_followed_out_of_pg_wal() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    let file = name("000000010000000000000003");
    std::os::unix::fs::symlink("/etc/hostname", room.pg_wal().join(file.to_string())).expect("a link");
    let error = archive_file(&repositories, &room.pg_wal(), file, "host").await.expect_err("a link");
    assert!(matches!(error, PushError::Read { .. }), "{error:?}");
}

#[tokio::test]
async fn absent_is_said_only_when_every_repository_proved_itself() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let both = [one, two];
    let file = name("000000010000000000000003");
    let ask =
        async || retrieve(&both, &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(ask().await, Ok(Retrieved::Absent)));
    // The second repository's disk is gone.
    let (mounted, away) = (room.folder.path().join("two"), room.folder.path().join("away"));
    walward_base::sys::durable::rename(&mounted, &away).expect("moved away");
    assert!(ask().await.is_err(), "an unmounted repository is not an empty one");
    // An empty disk in its place.
    std::fs::create_dir_all(mounted.join("main")).expect("an empty folder");
    assert!(ask().await.is_err(), "an empty folder is not the repository");
    std::fs::remove_dir_all(&mounted).expect("removed");
    walward_base::sys::durable::rename(&away, &mounted).expect("moved back");
    assert!(matches!(ask().await, Ok(Retrieved::Absent)));
}

#[tokio::test]
async fn damage_in_one_repository_is_mended_from_the_next_and_never_served() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let file = name("000000010000000000000003");
    let content = segment(file, room.lineage.system_identifier, 7);
    room.write(file, &content);
    let both = [Arc::clone(&one), two];
    archive_file(&both, &room.pg_wal(), file, "host").await.expect("archived");
    room.damage("one", file);
    let found = retrieve(&both, &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { .. })));
    assert!(std::fs::read(room.destination()).expect("the file") == content);
    let error = retrieve(&[one], &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait)
        .await
        .expect_err("damaged");
    assert_eq!(error.class(), walward_base::ErrorClass::Corrupt);
}

#[tokio::test]
async fn an_empty_history_file_is_neither_archived_nor_taken_for_one() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    let file = name("00000002.history");
    room.write(file, b"");
    let error = archive_file(&repositories, &room.pg_wal(), file, "host").await.expect_err("empty");
    assert!(matches!(error, PushError::Rejected { .. }), "{error:?}");
    room.write(file, b"1\t0/3000000\tno recovery target specified\n");
    archive_file(&repositories, &room.pg_wal(), file, "host").await.expect("archived");
    let found =
        retrieve(&repositories, &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { .. })));
}

#[tokio::test]
async fn a_segment_with_others_after_it_is_a_hole_and_not_the_end() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    for file in ["000000010000000000000001", "000000010000000100000000"] {
        let file = name(file);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archive_file(&repositories, &room.pg_wal(), file, "host").await.expect("archived");
    }
    let ask = async |file: &str, at_hole| {
        retrieve(&repositories, &Want::new(Some(room.lineage), name(file)), &room.spot(), DEADLINE, at_hole).await
    };
    for at_hole in [AtHole::Wait, AtHole::Tell] {
        let error = ask("000000010000000000000002", at_hole).await.expect_err("a hole");
        assert!(error.to_string().contains("goes on with 000000010000000100000000"), "{error}");
        for end in ["000000010000000100000001", "000000020000000000000002"] {
            assert!(matches!(ask(end, at_hole).await, Ok(Retrieved::Absent)), "{end}");
        }
    }
}

#[tokio::test]
async fn a_segment_before_the_switch_to_a_later_timeline_is_a_hole_although_its_own_ends_there() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    let ask = async |file: &str| {
        retrieve(&repositories, &Want::new(Some(room.lineage), name(file)), &room.spot(), DEADLINE, AtHole::Tell).await
    };
    for file in ["000000010000000000000001", "000000020000000000000005"] {
        let file = name(file);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archive_file(&repositories, &room.pg_wal(), file, "host").await.expect("archived");
    }
    assert!(matches!(ask("000000010000000000000002").await, Ok(Retrieved::Absent)), "nobody knows of a switch yet");
    // Timeline 2 left timeline 1 in segment 5, timeline 3 left timeline 2 in segment 9.
    for (file, text) in [
        ("00000002.history", "1\t0/00500028\tno recovery target specified\n"),
        ("00000003.history", "1\t0/00500028\tno recovery target specified\n2\t0/00900028\tat the end\n"),
    ] {
        room.write(name(file), text.as_bytes());
        archive_file(&repositories, &room.pg_wal(), name(file), "host").await.expect("archived");
    }
    for (missing, next) in [
        ("000000010000000000000002", "goes on with 000000020000000000000005"),
        ("000000010000000000000004", "goes on with 000000020000000000000005"),
        ("000000020000000000000008", "goes on with 000000030000000000000009"),
    ] {
        let error = ask(missing).await.expect_err("a hole");
        assert!(error.to_string().contains(next), "{missing}: {error}");
    }
    // Where a timeline was left, and after that, is its end; and nobody left the third.
    for end in
        ["000000010000000000000005", "000000010000000000000007", "00000002000000000000000A", "000000030000000000000009"]
    {
        assert!(matches!(ask(end).await, Ok(Retrieved::Absent)), "{end}");
    }
}

#[tokio::test]
async fn what_was_uploaded_ahead_is_acknowledged_only_while_it_is_the_same_file() {
    let room = Room::new();
    let repository = room.repository("one").await;
    let stats = Arc::new(crate::health::ArchiveStats::default());
    let options = ArchiveOptions {
        acknowledge: Acknowledge::All,
        workers: 2,
        look_ahead: 8,
        deadline: Duration::from_secs(20),
        rescan_interval: Duration::from_millis(50),
        writer: "host".to_owned(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let memory = (Arc::new(tokio::sync::Semaphore::new(64)), 64);
    let data = room.pg_wal().parent().expect("the data directory").to_path_buf();
    let archiver = Archiver::new("main", &data, vec![repository], options, memory, Arc::clone(&stats), stop.clone());
    let files: Vec<_> = (1..=20u32).map(|n| name(&format!("0000000100000000000000{n:02X}"))).collect();
    for file in &files {
        room.write(*file, &segment(*file, room.lineage.system_identifier, 1));
        room_ready(&room, *file);
    }
    let running = tokio::spawn({
        let (archiver, stop) = (archiver.clone(), stop.clone());
        async move { archiver.look_ahead(stop).await }
    });
    for file in &files[..2] {
        archiver.push(*file, archiver.find(*file)).await.expect("archived");
        room.done(*file);
    }
    let mut waited = 0;
    while stats.facts().uploaded_total < 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 1000, "look-ahead does not run");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stats.facts().uploaded_total, 10, "no further ahead than allowed");
    assert!(matches!(archiver.push(files[2], archiver.find(files[2])).await, Ok(Pushed::Ahead)));
    // Another file takes the place of the next one before PostgreSQL asks.
    room.write(files[3], &segment(files[3], room.lineage.system_identifier, 2));
    let error = archiver.push(files[3], archiver.find(files[3])).await.expect_err("other content");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    stop.cancel();
    running.await.expect("ended");
    archiver.drain().await;
}

fn room_ready(room: &Room, file: WalFileName) {
    let mark = walward_pg::archive_status::ready_path(&room.pg_wal(), file);
    walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
}

/// A repository over a store that fails by plan from now on, and what it holds.
async fn over(room: &Room, name: &str, inner: Arc<dyn walward_storage::Store>, plan: Plan) -> Arc<LazyRepository> {
    let pool = CpuPool::new(1).expect("a thread");
    let now = Timestamp::now();
    let made = Repository::create(name, Arc::clone(&inner), "main", &Encryption::None, &[], pool.clone(), now).await;
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    made.expect("a repository").0.add_lineage(room.lineage, size, now).await.expect("a lineage");
    let faulty = Faulty::new(inner, Plan::script([]));
    let store = Arc::clone(&faulty) as Arc<dyn walward_storage::Store>;
    let lazy = LazyRepository::at(name, store, Encryption::None, 1, pool);
    lazy.get().await.expect("opened");
    faulty.plan(plan);
    lazy
}

fn archiver(room: &Room, repositories: Vec<Arc<LazyRepository>>, acknowledge: Acknowledge) -> Archiver {
    archiver_within(room, repositories, acknowledge, Duration::from_secs(20))
}

fn archiver_within(
    room: &Room,
    repositories: Vec<Arc<LazyRepository>>,
    acknowledge: Acknowledge,
    deadline: Duration,
) -> Archiver {
    let options = ArchiveOptions {
        acknowledge,
        workers: 2,
        look_ahead: 8,
        deadline,
        rescan_interval: Duration::from_millis(50),
        writer: "host".to_owned(),
    };
    let memory = (Arc::new(tokio::sync::Semaphore::new(64)), 64);
    let data = room.pg_wal().parent().expect("the data directory").to_path_buf();
    let stop = tokio_util::sync::CancellationToken::new();
    Archiver::new("main", &data, repositories, options, memory, Arc::default(), stop)
}

const ONE: Acknowledge = Acknowledge::Number(std::num::NonZeroUsize::MIN);

/// So many segments that wait to be archived.
fn waiting(room: &Room, count: u32) -> Vec<WalFileName> {
    let file = |number| {
        let file = name(&format!("0000000100000000000000{number:02X}"));
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        room_ready(room, file);
        file
    };
    (1..=count).map(file).collect()
}

/// Takes a repository's folder away, and brings it back.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(room: &Room, repository: &str) -> Self {
        let away = Self(room.folder.path().join(repository), room.folder.path().join(format!("{repository}-away")));
        walward_base::sys::durable::rename(&away.0, &away.1).expect("moved away");
        away
    }

    fn back(self, lazy: &LazyRepository) {
        walward_base::sys::durable::rename(&self.1, &self.0).expect("moved back");
        lazy.standing().answered();
    }
}
