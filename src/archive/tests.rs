//! Push and fetch over real file repositories, with segments made by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::base::ErrorClass;
use crate::pg::{Lineage, SegmentName, SegmentSize, WalFileName, magic_of_major};
use crate::repo::keys::KeySource;
use crate::repo::{Encryption, LazyRepository, Repository, layout};
use crate::storage::fault::{Fault, Faulty, Plan};
use crate::storage::{self, StoreOptions};
use crate::sys::cpu::CpuPool;

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
        crate::sys::durable::create(&data.join("PG_VERSION"), b"15\n", 0o600).expect("PG_VERSION");
        let lineage = crate::pg::ControlFile::read(&data).expect("pg_control").lineage();
        Self { folder, lineage }
    }

    fn pg_wal(&self) -> PathBuf {
        self.folder.path().join("data/pg_wal")
    }

    fn options(&self, name: &str) -> StoreOptions {
        StoreOptions::new(format!("file://{}", self.folder.path().join(name).display()))
    }

    /// A new repository that knows the data directory's lineage.
    async fn repository(&self, name: &str) -> Arc<LazyRepository> {
        let options = self.options(name);
        let pool = CpuPool::new(2).expect("threads");
        storage::create_root(&options, "main").expect("a root");
        let store = storage::open(&options, "main").expect("a store");
        let now = Timestamp::now();
        let created = Repository::create(name, store, "main", &Encryption::None, &[], pool.clone(), now).await;
        let (mut repository, _) = created.expect("a repository");
        let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
        repository.add_lineage(self.lineage, size, now).await.expect("a lineage");
        LazyRepository::new(name, "main", options, Encryption::None, 1, pool)
    }

    fn write(&self, name: WalFileName, content: &[u8]) {
        let path = self.pg_wal().join(name.to_string());
        let _ = std::fs::remove_file(&path);
        crate::sys::durable::create(&path, content, 0o600).expect("a file");
    }

    /// Where the object of `name` lies.
    fn object(&self, repository: &str, name: WalFileName) -> PathBuf {
        self.folder.path().join(repository).join("main").join(layout::wal_file(self.lineage, name).as_str())
    }

    fn destination(&self) -> PathBuf {
        self.folder.path().join("fetched")
    }
}

fn name(text: &str) -> WalFileName {
    text.parse().expect("a name")
}

/// A segment whose first page is right; the rest is `fill`.
fn segment(name: WalFileName, system_identifier: u64, fill: u8) -> Vec<u8> {
    let WalFileName::Segment(segment) = name else { panic!("a segment") };
    let start = SegmentName::start(segment, SegmentSize::try_from(SEGMENT_BYTES).expect("a size")).expect("a start");
    let mut bytes = vec![fill; usize::try_from(SEGMENT_BYTES).expect("a length")];
    let mut header = Vec::new();
    header.extend(magic_of_major(15).expect("supported").to_le_bytes());
    header.extend(2u16.to_le_bytes());
    header.extend(segment.timeline.0.to_le_bytes());
    header.extend(start.0.to_le_bytes());
    header.extend([0; 8]);
    header.extend(system_identifier.to_le_bytes());
    header.extend(u32::try_from(SEGMENT_BYTES).expect("a size").to_le_bytes());
    header.extend(8192u32.to_le_bytes());
    bytes[..header.len()].copy_from_slice(&header);
    bytes
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
    let found = retrieve(&repositories, Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { bytes: SEGMENT_BYTES })));
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
    let ask = async || retrieve(&both, Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(ask().await, Ok(Retrieved::Absent)));
    // The second repository's disk is gone.
    let (mounted, away) = (room.folder.path().join("two"), room.folder.path().join("away"));
    crate::sys::durable::rename(&mounted, &away).expect("moved away");
    assert!(ask().await.is_err(), "an unmounted repository is not an empty one");
    // An empty disk in its place.
    std::fs::create_dir_all(mounted.join("main")).expect("an empty folder");
    assert!(ask().await.is_err(), "an empty folder is not the repository");
    std::fs::remove_dir_all(&mounted).expect("removed");
    crate::sys::durable::rename(&away, &mounted).expect("moved back");
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
    let object = room.object("one", file);
    let mut bytes = std::fs::read(&object).expect("the object");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    crate::sys::durable::replace(&object, &bytes, 0o600).expect("damaged");
    let found = retrieve(&both, Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { .. })));
    assert!(std::fs::read(room.destination()).expect("the file") == content);
    let error = retrieve(&[one], Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait)
        .await
        .expect_err("damaged");
    assert_eq!(error.class(), crate::base::ErrorClass::Corrupt);
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
    let found = retrieve(&repositories, Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { .. })));
}

#[tokio::test]
async fn a_segment_with_others_behind_it_is_a_hole_and_not_the_end() {
    let room = Room::new();
    let repositories = [room.repository("one").await];
    for file in ["000000010000000000000001", "000000010000000100000000"] {
        let file = name(file);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archive_file(&repositories, &room.pg_wal(), file, "host").await.expect("archived");
    }
    let ask = async |file: &str, at_hole| {
        retrieve(&repositories, Some(room.lineage), name(file), &room.destination(), DEADLINE, at_hole).await
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
        retrieve(&repositories, Some(room.lineage), name(file), &room.destination(), DEADLINE, AtHole::Tell).await
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
    // Where a timeline was left, and behind that, is its end; and nobody left the third.
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
    let mut waited = 0;
    while stats.facts().uploaded_total < 8 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 1000, "look-ahead does not run");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stats.facts().uploaded_total, 8, "no further ahead than allowed");
    assert!(matches!(archiver.push(files[0]).await, Ok(Pushed::Ahead)));
    // Another file takes the place of the second before PostgreSQL asks.
    room.write(files[1], &segment(files[1], room.lineage.system_identifier, 2));
    let error = archiver.push(files[1]).await.expect_err("other content");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    stop.cancel();
    running.await.expect("ended");
    archiver.drain().await;
}

fn room_ready(room: &Room, file: WalFileName) {
    let mark = crate::pg::archive_status::ready_path(&room.pg_wal(), file);
    crate::sys::durable::create(&mark, b"", 0o600).expect("a mark");
}

/// A repository over a store that fails by plan from now on, and what it holds.
async fn over(room: &Room, name: &str, inner: Arc<dyn storage::Store>, plan: Plan) -> Arc<LazyRepository> {
    let pool = CpuPool::new(1).expect("a thread");
    let now = Timestamp::now();
    let made = Repository::create(name, Arc::clone(&inner), "main", &Encryption::None, &[], pool.clone(), now).await;
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    made.expect("a repository").0.add_lineage(room.lineage, size, now).await.expect("a lineage");
    let faulty = Faulty::new(inner, Plan::script([]));
    let store = Arc::clone(&faulty) as Arc<dyn storage::Store>;
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

#[tokio::test]
async fn one_repository_that_fails_keeps_the_file_out_of_no_other() {
    let room = Room::new();
    let good = room.repository("good").await;
    let broken =
        over(&room, "broken", storage::memory(), Plan::chance(1, 1, &[Fault::Before(ErrorClass::Denied)])).await;
    let (one, two) = (name("000000010000000000000003"), name("000000010000000000000004"));
    for file in [one, two] {
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
    }
    let both = vec![Arc::clone(&broken), Arc::clone(&good)];
    let all = archiver(&room, both.clone(), Acknowledge::All);
    let error = all.push(one).await.expect_err("one is missing");
    assert!(matches!(&*error, PushError::Repository { repository, .. } if repository == "broken"), "{error:?}");
    assert!(room.object("good", one).exists());
    // What asks for one is content with one, and the other is owed it.
    let enough = archiver(&room, both, ONE);
    assert!(matches!(enough.push(two).await, Ok(Pushed::Now)));
    enough.drain().await;
    let facts = enough.repository_facts();
    assert_eq!((facts[0].files, facts[1].files), (1, 0));
    assert_eq!(facts[0].oldest_file.as_deref(), Some("000000010000000000000004"));
    assert!(facts[0].last_error.is_some() || broken.standing().is_resting(tokio::time::Instant::now()));
}

#[tokio::test]
async fn a_repository_that_hangs_holds_nobody_up_where_enough_others_have_the_file() {
    let room = Room::new();
    let good = room.repository("good").await;
    let hanging = over(&room, "hanging", storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let archiver = archiver(&room, vec![hanging, good], ONE);
    for number in 1..=12u32 {
        let file = name(&format!("0000000100000000000000{number:02X}"));
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        let begun = std::time::Instant::now();
        assert!(matches!(archiver.push(file).await, Ok(Pushed::Now)));
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for the one that hangs");
    }
    // Two are still on their way there; the others are owed.
    assert!(archiver.repository_facts()[0].files >= 10);
}

#[tokio::test]
async fn a_push_that_takes_too_long_names_the_repository_that_did_not_answer() {
    let room = Room::new();
    let good = room.repository("good").await;
    let hanging = over(&room, "hanging", storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let archiver = archiver_within(&room, vec![good, hanging], Acknowledge::All, Duration::from_millis(500));
    let file = waiting(&room, 1)[0];
    let error = archiver.push(file).await.expect_err("one hangs");
    let text = error.to_string();
    assert_eq!(
        text,
        format!("{file} was not durable after 0 s: no answer from repository \"hanging\"; PostgreSQL will ask again")
    );
    assert_eq!(error.class(), ErrorClass::Transient);
}

#[tokio::test]
async fn without_an_agent_one_that_hangs_fails_no_push_that_enough_others_have() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let hanging = over(&room, "hanging", storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let both = [room.repository("good").await, hanging];
    let push =
        async |acknowledge| archive_now(&both, acknowledge, &room.pg_wal(), file, "host", Duration::from_secs(2)).await;
    let begun = std::time::Instant::now();
    push(ONE).await.expect("one is enough");
    let error = push(Acknowledge::All).await.expect_err("one hangs");
    assert!(error.to_string().contains("no answer from repository \"hanging\""), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "it was waited for longer than the deadline");
}

#[tokio::test]
async fn a_file_that_takes_the_place_of_another_is_not_acknowledged_by_who_has_the_other() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let plan = Plan::script([Some(Fault::Before(ErrorClass::Denied))]);
    let healing = over(&room, "healing", storage::memory(), plan).await;
    let archiver = archiver(&room, vec![room.repository("good").await, healing], Acknowledge::All);
    archiver.push(file).await.expect_err("the second one fails");
    // Looked at, and waiting for memory, when another file takes its place and is asked for.
    let memory = archiver.try_room(64 << 20).expect("all of it");
    let ahead = tokio::spawn({
        let archiver = archiver.clone();
        async move { archiver.archive_again(file).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    let asked = tokio::spawn({
        let archiver = archiver.clone();
        async move { archiver.push(file).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(memory);
    let error = asked.await.expect("asked").expect_err("the first repository has the other file");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    let _ = ahead.await;
}

#[tokio::test]
async fn a_second_push_sends_the_file_only_where_it_is_missing() {
    let room = Room::new();
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    let calls = || Plan::script(std::iter::repeat_n(None, 100));
    let counted = storage::memory();
    let good = over(&room, "good", counted, calls()).await;
    let inner = storage::memory();
    let plan = Plan::script([Some(Fault::Before(ErrorClass::Denied))]);
    let healing = over(&room, "healing", inner, plan).await;
    let archiver = archiver(&room, vec![good, healing], Acknowledge::All);
    archiver.push(file).await.expect_err("the second one fails");
    assert!(matches!(archiver.push(file).await, Ok(Pushed::Now)));
    assert!(matches!(archiver.push(file).await, Ok(Pushed::Ahead)));
    assert_eq!(archiver.repository_facts().iter().map(|facts| facts.files).sum::<u64>(), 0);
}

#[tokio::test]
async fn other_content_in_one_repository_refuses_the_file_and_is_an_alarm_not_a_debt() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), file, "first").await.expect("archived");
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    let archiver = archiver(&room, vec![one, two], ONE);
    // Which of the two answers first is open; once it is told, it stays refused.
    let _ = archiver.push(file).await;
    archiver.drain().await;
    let facts = archiver.repository_facts();
    assert_eq!((facts[0].contradictions_total, facts[0].files), (1, 0));
    assert!(facts[0].last_contradiction.as_ref().is_some_and(|last| last.text.contains("other content")));
    let error = archive_file(&[room.repository("three").await], &room.pg_wal(), file, "host").await;
    assert!(error.is_ok(), "another repository is not concerned");
}

#[tokio::test]
async fn a_debt_is_found_again_after_a_restart_and_paid_from_what_others_hold() {
    let room = Room::new();
    let good = room.repository("good").await;
    let late = room.repository("late").await;
    // From before the second repository was made: nobody owes it that.
    let old = name("000000010000000000000001");
    let files = ["000000010000000000000003", "000000010000000100000000", "00000002.history"].map(name);
    room.write(old, &segment(old, room.lineage.system_identifier, 1));
    archive_file(std::slice::from_ref(&good), &room.pg_wal(), old, "host").await.expect("archived");
    let hours_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    let object = std::fs::File::options().write(true).open(room.object("good", old)).expect("the object");
    object.set_modified(hours_ago).expect("another time");
    room.write(files[2], b"1\t0/3000000\tno recovery target specified\n");
    for file in &files[..2] {
        room.write(*file, &segment(*file, room.lineage.system_identifier, 1));
    }
    // Away while these are archived.
    let away = Away::take(&room, "late");
    let before = archiver(&room, vec![Arc::clone(&good), Arc::clone(&late)], ONE);
    for file in files {
        before.push(file).await.expect("one is enough");
    }
    before.drain().await;
    assert_eq!(before.repository_facts()[1].files, 3);
    assert!(before.repository_facts()[1].compared.is_none());
    away.back(&late);
    // PostgreSQL has recycled them, and the agent is another.
    for file in files {
        std::fs::remove_file(room.pg_wal().join(file.to_string())).expect("removed");
    }
    let reopened = |name: &str| {
        LazyRepository::new(name, "main", room.options(name), Encryption::None, 3, CpuPool::new(1).expect("a thread"))
    };
    let after = archiver(&room, vec![reopened("good"), reopened("late")], ONE);
    let closing = tokio_util::sync::CancellationToken::new();
    let working = tokio::spawn({
        let (after, closing) = (after.clone(), closing.clone());
        async move { after.work_off(closing).await }
    });
    let mut waited = 0;
    while after.repository_facts()[1].paid_total < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 1500, "nothing is brought: {:?}", after.repository_facts());
    }
    closing.cancel();
    working.await.expect("ended");
    let facts = &after.repository_facts()[1];
    assert_eq!((facts.files, facts.oldest_file.clone()), (0, None));
    assert!(facts.compared.is_some());
    for file in files {
        let found =
            retrieve(&[reopened("late")], Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await;
        assert!(matches!(found, Ok(Retrieved::File { .. })), "{file}: {found:?}");
    }
    assert!(std::fs::read(room.destination()).expect("the file").starts_with(b"1\t0/3000000"));
    assert!(!room.object("late", old).exists(), "what is older than the repository is not brought unasked");
}

/// An archiver that lets WAL go as soon as more than one segment waits.
fn limited(room: &Room, repositories: Vec<Arc<LazyRepository>>, acknowledge: Acknowledge) -> Archiver {
    let archiver = archiver(room, repositories, acknowledge);
    archiver.limit_queue(Some(SEGMENT_BYTES), room.folder.path().join("let-go"));
    archiver
}

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

#[tokio::test]
async fn wal_is_let_go_only_when_fewer_repositories_than_must_can_take_it_and_all_are_told() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let archiver = limited(&room, vec![Arc::clone(&one), Arc::clone(&two)], ONE);
    let files = waiting(&room, 4);
    let second = Away::take(&room, "two");
    assert!(matches!(archiver.push(files[0]).await, Ok(Pushed::Now)), "one is enough, whatever waits");
    let first = Away::take(&room, "one");
    for file in &files[1..3] {
        assert!(matches!(archiver.push(*file).await, Ok(Pushed::LetGo)), "{file}");
    }
    // PostgreSQL has recycled the first of them by the time the first repository is back.
    std::fs::remove_file(room.pg_wal().join(files[1].to_string())).expect("removed");
    let limit = archiver.queue_limit().expect("a limit");
    first.back(&one);
    assert!(archiver.settle_all(limit).await, "the second cannot be told yet");
    assert_eq!(archiver.unrecorded_gaps(), 1);
    archiver.drain().await;
    assert!(!room.object("one", files[1]).exists() && room.object("one", files[2]).exists());
    second.back(&two);
    assert!(!archiver.settle_all(limit).await);
    assert_eq!(archiver.unrecorded_gaps(), 0);
    archiver.compare_once().await;
    for (repository, lazy) in [("one", one), ("two", two)] {
        assert!(room.object(repository, files[0]).exists(), "owed, and paid");
        let ask = async |file| {
            let from = std::slice::from_ref(&lazy);
            retrieve(from, Some(room.lineage), file, &room.destination(), DEADLINE, AtHole::Wait).await
        };
        let lost = ask(files[1]).await;
        assert!(matches!(lost, Err(FetchError::LetGo { .. })), "{repository}: {lost:?}");
        // The second was told that it lacked this one, and has it since.
        assert!(matches!(ask(files[2]).await, Ok(Retrieved::File { .. })), "{repository}");
    }
}

#[tokio::test]
async fn a_copied_repository_knows_what_was_let_go() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let archiver = limited(&room, vec![Arc::clone(&one)], Acknowledge::All);
    let files = waiting(&room, 3);
    archiver.push(files[0]).await.expect("archived");
    let away = Away::take(&room, "one");
    assert!(matches!(archiver.push(files[1]).await, Ok(Pushed::LetGo)));
    std::fs::remove_file(room.pg_wal().join(files[1].to_string())).expect("removed");
    away.back(&one);
    assert!(!archiver.settle_all(archiver.queue_limit().expect("a limit")).await);
    let (from, to) = (one.get().await.expect("open"), two.get().await.expect("open"));
    let missing = missing_wal(&from, &to).await.expect("compared");
    copy_wal(&from, &to, 1, &missing, |_| {}).await.expect("copied");
    let ask = async || {
        retrieve(&[Arc::clone(&two)], Some(room.lineage), files[1], &room.destination(), DEADLINE, AtHole::Tell).await
    };
    assert!(matches!(ask().await, Ok(Retrieved::Absent)), "it looks like the end of the archive");
    for _ in 0..2 {
        assert_eq!(copy_gaps(&from, &to).await.expect("copied"), (1, Vec::new()));
        let lost = ask().await;
        assert!(matches!(lost, Err(FetchError::LetGo { .. })), "{lost:?}");
    }
}

#[tokio::test]
async fn no_wal_is_let_go_once_anything_was_archived_since_the_failure() {
    let room = Room::new();
    let one = room.repository("one").await;
    let archiver = limited(&room, vec![Arc::clone(&one)], Acknowledge::All);
    let files = waiting(&room, 4);
    let away = Away::take(&room, "one");
    assert!(matches!(archiver.push(files[0]).await, Ok(Pushed::LetGo)));
    away.back(&one);
    // Ahead of PostgreSQL.
    archiver.archive_again(files[1]).await.expect("archived");
    assert!(matches!(archiver.push(files[2]).await, Ok(Pushed::Now)), "more waits than the limit, and the store works");
}

#[tokio::test]
async fn no_wal_is_let_go_because_of_a_wrong_key_or_a_damaged_repository() {
    let room = Room::new();
    let files = waiting(&room, 4);
    let key = |name: &str| {
        let path = room.folder.path().join(name);
        crate::sys::durable::create(&path, crate::repo::keys::key_file_text().as_bytes(), 0o600).expect("a key");
        Encryption::Key(KeySource::KeyFile(path))
    };
    let (options, pool, now) = (room.options("sealed"), CpuPool::new(1).expect("a thread"), Timestamp::now());
    storage::create_root(&options, "main").expect("a root");
    let store = storage::open(&options, "main").expect("a store");
    let made = Repository::create("sealed", store, "main", &key("right"), &[], pool.clone(), now).await;
    made.expect("a repository");
    let lost = key("wrong");
    let sealed = LazyRepository::new("sealed", "main", options, lost, 1, pool);
    let error = limited(&room, vec![sealed], Acknowledge::All).push(files[0]).await.expect_err("the key is wrong");
    assert!(!error.is_the_stores(), "{error:?}");

    let damaged = room.repository("damaged").await;
    archive_file(std::slice::from_ref(&damaged), &room.pg_wal(), files[0], "host").await.expect("archived");
    crate::sys::durable::replace(&room.object("damaged", files[0]), b"nonsense", 0o600).expect("damaged");
    // Beside a store that is away, whichever answers first.
    let gone = room.repository("gone").await;
    let _away = Away::take(&room, "gone");
    let both = limited(&room, vec![Arc::clone(&gone), damaged], Acknowledge::All);
    let error = both.push(files[0]).await.expect_err("what is there cannot be verified");
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error:?}");
    assert_eq!(both.unrecorded_gaps(), 0);
}

/// Takes a repository's folder away, and brings it back.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(room: &Room, repository: &str) -> Self {
        let away = Self(room.folder.path().join(repository), room.folder.path().join(format!("{repository}-away")));
        crate::sys::durable::rename(&away.0, &away.1).expect("moved away");
        away
    }

    fn back(self, lazy: &LazyRepository) {
        crate::sys::durable::rename(&self.1, &self.0).expect("moved back");
        lazy.standing().answered();
    }
}

#[tokio::test]
async fn a_debt_is_not_forgotten_because_the_repositories_that_lack_the_file_agree() {
    let room = Room::new();
    let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    let archiver = archiver(&room, all.clone(), ONE);
    archiver.compare_once().await;
    let (two, three) = (Away::take(&room, "two"), Away::take(&room, "three"));
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archiver.push(file).await.expect("one is enough");
    archiver.drain().await;
    let owed = || archiver.repository_facts().iter().map(|facts| facts.files).collect::<Vec<_>>();
    assert_eq!(owed(), [0, 1, 1]);
    // The only one that has it goes as the others come back.
    let one = Away::take(&room, "one");
    two.back(&all[1]);
    three.back(&all[2]);
    archiver.compare_once().await;
    assert_eq!(owed(), [0, 1, 1], "nobody asked the one that has it");
    one.back(&all[0]);
    archiver.compare_once().await;
    assert_eq!(owed(), [0, 0, 0]);
    assert!(room.object("two", file).exists() && room.object("three", file).exists());
}

#[tokio::test]
async fn what_another_server_wrote_under_a_rotated_key_is_the_same_file() {
    let room = Room::new();
    let key_file = room.folder.path().join("key");
    crate::sys::durable::create(&key_file, crate::repo::keys::key_file_text().as_bytes(), 0o600).expect("a key");
    let key = KeySource::KeyFile(key_file);
    let encryption = Encryption::Key(key.clone());
    let (options, pool, now) = (room.options("sealed"), CpuPool::new(1).expect("a thread"), Timestamp::now());
    storage::create_root(&options, "main").expect("a root");
    let store = storage::open(&options, "main").expect("a store");
    let made = Repository::create("sealed", store, "main", &encryption, &[], pool.clone(), now).await;
    let (mut made, _) = made.expect("a repository");
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    made.add_lineage(room.lineage, size, now).await.expect("a lineage");
    let server = || LazyRepository::new("sealed", "main", options.clone(), encryption.clone(), 1, pool.clone());
    // Opened before the rotation, and not since.
    let primary = server();
    primary.get().await.expect("opened");
    let mut keys = made.open_keys(&key).await.expect("opened");
    keys.rotate(now);
    keys.store(&**made.store()).await.expect("stored");
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archive_file(&[server()], &room.pg_wal(), file, "standby").await.expect("archived");
    archive_file(&[Arc::clone(&primary)], &room.pg_wal(), file, "primary").await.expect("the same content");
    // Other content is refused all the same.
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    let error = archive_file(&[server()], &room.pg_wal(), file, "primary").await.expect_err("other content");
    assert!(matches!(error, PushError::Different { .. }), "{error:?}");
}

#[tokio::test]
async fn what_one_repository_cannot_give_comes_from_the_next_at_once_and_is_counted() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let file = name("000000010000000000000003");
    let content = segment(file, room.lineage.system_identifier, 7);
    room.write(file, &content);
    let both = vec![one, two];
    archive_file(&both, &room.pg_wal(), file, "host").await.expect("archived");
    let object = room.object("one", file);
    let mut bytes = std::fs::read(&object).expect("the object");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    crate::sys::durable::replace(&object, &bytes, 0o600).expect("damaged");
    let stats = Arc::new(crate::health::FetchStats::default());
    let options = FetchOptions { deadline: Duration::from_mins(1), workers: 1 };
    let spool = room.folder.path().join("spool");
    let stop = tokio_util::sync::CancellationToken::new();
    let fetcher =
        Fetcher::new("main", both.clone(), options, (&spool, 1 << 24), Arc::clone(&stats), stop).expect("a spool");
    let begun = std::time::Instant::now();
    let Ok(Fetched::File(place)) = fetcher.fetch(Some(room.lineage), file, AtHole::Wait).await else {
        panic!("not fetched")
    };
    assert!(begun.elapsed() < Duration::from_secs(10), "it was tried again first");
    assert!(std::fs::read(place.path()).expect("the file") == content);
    let facts = stats.facts();
    assert_eq!((facts.fallback_total, facts.fallback_damaged_total), (1, 1));
    assert!(facts.last_fallback.is_some_and(|last| last.text.contains("one")));
    // Damage to one object says nothing about the repository.
    assert!(!both[0].standing().is_resting(tokio::time::Instant::now()));
}
