//! What a server in recovery is answered, and when: under a clock that stands still while somebody works.

use tokio::time::Instant;

use super::patience::{layered, layered_from_the_start};
use super::*;
use walward_pg::Timeline;
use walward_storage::fault::Call;

const FETCH_DEADLINE: Duration = Duration::from_mins(1);
/// A standby is told within two seconds.
const TOLD: Duration = Duration::from_secs(2);

fn fetcher(room: &Room, repositories: Vec<Arc<LazyRepository>>) -> Fetcher {
    fetcher_of(room, "spools/spool", repositories)
}

/// With a spool of its own; the folder above it is that of an agent.
fn fetcher_of(room: &Room, spool: &str, repositories: Vec<Arc<LazyRepository>>) -> Fetcher {
    let (stats, stop) = (Arc::default(), tokio_util::sync::CancellationToken::new());
    let options = FetchOptions { deadline: FETCH_DEADLINE, refuse_seams: true, workers: 2 };
    let spool = room.folder.path().join(spool);
    Fetcher::new("main", repositories, options, Spool::open(&spool, 1 << 24).expect("a spool"), stats, stop)
}

async fn ask(
    room: &Room,
    fetcher: &Fetcher,
    file: WalFileName,
    asker: Asker,
) -> (Result<Fetched, FetchError>, Duration) {
    let begun = Instant::now();
    let answer = fetcher.fetch(Want::new(Some(room.lineage), file), asker, None).await;
    (answer, begun.elapsed())
}

fn hang() -> Plan {
    Plan::chance(1, 1, &[Fault::Hang])
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_told_within_two_seconds_then_at_once_and_gets_the_file_when_the_store_is_back() {
    let room = Room::new();
    let (lazy, faulty) = layered(&room, Plan::script([])).await;
    let file = waiting(&room, 1)[0];
    archive_file(&[Arc::clone(&lazy)], &room.pg_wal(), file, "host").await.expect("archived");
    faulty.plan(hang());
    let fetcher = fetcher(&room, vec![lazy]);
    let (answer, took) = ask(&room, &fetcher, file, Asker::Standby).await;
    assert!(matches!(answer, Err(FetchError::NotNow { .. })), "{answer:?}");
    assert!(took < TOLD, "{took:?}");
    for number in 0..20 {
        let other = name(&format!("0000000100000000000000{:02X}", 16 + number));
        let (answer, took) = ask(&room, &fetcher, other, Asker::Standby).await;
        assert!(matches!(answer, Err(FetchError::NotNow { .. })) && took.is_zero(), "{answer:?} after {took:?}");
    }
    faulty.plan(Plan::script([]));
    // It asks again every five seconds; a probe that hung is given up after as many, a download after ten.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if let (Ok(Fetched::File(place)), _) = ask(&room, &fetcher, file, Asker::Standby).await {
            assert_eq!(std::fs::read(place.path()).expect("read"), segment(file, room.lineage.system_identifier, 1));
            return;
        }
    }
    panic!("the store is back, and the standby is not told");
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_told_within_two_seconds_by_an_agent_that_never_reached_its_store() {
    let room = Room::new();
    let lazy = layered_from_the_start(hang());
    let fetcher = fetcher(&room, vec![lazy]);
    for at_most in [TOLD, Duration::from_millis(1), Duration::from_millis(1)] {
        let (answer, took) = ask(&room, &fetcher, name("00000002.history"), Asker::Standby).await;
        assert!(matches!(answer, Err(FetchError::NotNow { .. })) && took <= at_most, "{answer:?} after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_deadline_bounds_a_whole_request_of_a_recovery_that_must_know() {
    let room = Room::new();
    let file = name("000000010000000000000001");
    let (open, _faulty) = layered(&room, hang()).await;
    for lazy in [layered_from_the_start(hang()), open] {
        let (answer, took) = ask(&room, &fetcher(&room, vec![Arc::clone(&lazy)]), file, Asker::OneShot).await;
        assert!(answer.as_ref().is_err_and(|error| error.class() == ErrorClass::Transient), "{answer:?}");
        assert!(took <= FETCH_DEADLINE && took > FETCH_DEADLINE / 2, "{took:?}");
        let begun = Instant::now();
        let want = Want::new(Some(room.lineage), file);
        let second = Duration::from_secs(1);
        retrieve(&[lazy], &want, &room.spot(), second, AtHole::Wait).await.expect_err("nobody answers");
        assert!(begun.elapsed() <= second);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_hangs_leaves_time_for_the_next() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let good = layered(&room, Plan::script([])).await.0;
    archive_file(&[Arc::clone(&good)], &room.pg_wal(), file, "host").await.expect("archived");
    for asker in [Asker::OneShot, Asker::Standby] {
        let fetcher = fetcher(&room, vec![layered_from_the_start(hang()), Arc::clone(&good)]);
        let (answer, took) = ask(&room, &fetcher, file, asker).await;
        assert!(matches!(answer, Ok(Fetched::File(_))), "{asker:?}: {answer:?}");
        assert!(took < if asker == Asker::Standby { TOLD } else { FETCH_DEADLINE }, "{asker:?}: {took:?}");
    }
}

#[tokio::test]
async fn what_is_brought_ahead_from_a_repository_that_hangs_leaves_time_for_the_next() {
    let room = Room::new();
    let files = waiting(&room, 3);
    let (one, faulty) = layered(&room, Plan::script([])).await;
    let two = room.repository("two").await;
    for file in &files {
        archive_file(&[Arc::clone(&one), Arc::clone(&two)], &room.pg_wal(), *file, "host").await.expect("archived");
    }
    let wanted = files[1].to_string();
    let hangs = move |call: Call<'_>| (call.verb == "get" && call.key.ends_with(&wanted)).then_some(Fault::Hang);
    faulty.plan(Plan::By(Box::new(hangs)));
    let options = FetchOptions { deadline: Duration::from_secs(9), refuse_seams: true, workers: 2 };
    let spool = Spool::open(&room.folder.path().join("spool"), 1 << 24).expect("a spool");
    let stop = tokio_util::sync::CancellationToken::new();
    let fetcher = Fetcher::new("main", vec![one, two], options, spool, Arc::default(), stop);
    let (answer, _) = ask(&room, &fetcher, files[0], Asker::OneShot).await;
    assert!(matches!(answer, Ok(Fetched::File(_))), "{answer:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (answer, took) = ask(&room, &fetcher, files[1], Asker::OneShot).await;
    assert!(matches!(answer, Ok(Fetched::File(_))), "{answer:?} after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_for_a_standby_is_there_when_it_asks_again() {
    let room = Room::new();
    let (lazy, faulty) = layered(&room, Plan::script([])).await;
    let file = waiting(&room, 1)[0];
    archive_file(&[Arc::clone(&lazy)], &room.pg_wal(), file, "host").await.expect("archived");
    // A disk that has to spin up, a tape: the first byte takes longer than a standby waits.
    let slow = |call: Call<'_>| (call.verb == "get").then_some(Fault::Delay(Duration::from_secs(4)));
    faulty.plan(Plan::By(Box::new(slow)));
    let fetcher = fetcher(&room, vec![lazy]);
    let (answer, took) = ask(&room, &fetcher, file, Asker::Standby).await;
    assert!(matches!(answer, Err(FetchError::NotNow { .. })) && took < TOLD, "{answer:?} after {took:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (answer, took) = ask(&room, &fetcher, file, Asker::Standby).await;
    assert!(matches!(answer, Ok(Fetched::File(_))) && took.is_zero(), "{answer:?} after {took:?}");
}

#[tokio::test]
async fn a_history_that_is_missing_while_its_timeline_has_wal_is_not_absent() {
    let room = Room::new();
    let one = room.repository("one").await;
    let put = async |file: WalFileName, content: &[u8]| {
        room.write(file, content);
        archive_file(&[Arc::clone(&one)], &room.pg_wal(), file, "host").await.expect("archived");
        std::fs::remove_file(room.pg_wal().join(file.to_string())).expect("recycled");
    };
    let history = WalFileName::History(Timeline(2));
    let find = async |file: WalFileName, at_hole: AtHole| {
        let want = Want { pg_wal: Some(room.pg_wal()), ..Want::new(Some(room.lineage), file) };
        retrieve(&[Arc::clone(&one)], &want, &room.spot(), DEADLINE, at_hole).await
    };
    let old = name("000000010000000000000003");
    put(old, &segment(old, room.lineage.system_identifier, 1)).await;
    assert_eq!(find(history, AtHole::Wait).await.expect("the end"), Retrieved::Absent);
    // The next timeline's WAL arrives, and its history was lost.
    let new = name("000000030000000000000004");
    let mut bytes = segment(new, room.lineage.system_identifier, 1);
    bytes[4] = 3;
    put(new, &bytes).await;
    for at_hole in [AtHole::Wait, AtHole::Tell] {
        let error = find(history, at_hole).await.expect_err("not absent");
        assert!(matches!(error, FetchError::HistoryLost { .. }) && error.is_hole(), "{error:?}");
        assert!(error.to_string().contains("000000030000000000000004"), "{error}");
    }
    // A server that is on it, as after pg_resetwal, goes by it no more: here on timeline 1, which has none. And beyond the newest there is nothing to lose.
    for absent in ["00000001.history", "00000004.history"] {
        assert_eq!(find(name(absent), AtHole::Wait).await.expect("absent"), Retrieved::Absent, "{absent}");
    }
    // A server that has a later history only wants to keep the one between.
    room.write(WalFileName::History(Timeline(3)), b"1\t0/5000000\tpromoted\n");
    assert_eq!(find(history, AtHole::Wait).await.expect("not needed"), Retrieved::Absent);
}

#[tokio::test]
async fn after_a_history_that_cannot_be_read_no_segment_is_absent() {
    let room = Room::new();
    let one = room.repository("one").await;
    let file = waiting(&room, 1)[0];
    let history = name("00000002.history");
    room.write(history, b"1\t0/5000000\tpromoted\n");
    for file in [file, history] {
        archive_file(&[Arc::clone(&one)], &room.pg_wal(), file, "host").await.expect("archived");
    }
    let wanted = name("000000010000000000000002");
    let find = async || {
        let want = Want::new(Some(room.lineage), wanted);
        retrieve(&[Arc::clone(&one)], &want, &room.spot(), DEADLINE, AtHole::Tell).await
    };
    let told = find().await;
    assert!(matches!(told, Err(FetchError::Hole { .. })), "timeline 2 left it later: {told:?}");
    walward_base::sys::durable::replace(&room.object("one", history), b"nonsense", 0o600).expect("damaged");
    let told = find().await;
    assert!(matches!(&told, Err(error) if error.class() == ErrorClass::Corrupt), "it may have: {told:?}");
}

#[tokio::test]
async fn a_segment_before_a_timeline_that_only_the_server_knows_of_is_not_absent() {
    let room = Room::new();
    let one = room.repository("one").await;
    let file = waiting(&room, 1)[0];
    archive_file(&[Arc::clone(&one)], &room.pg_wal(), file, "host").await.expect("archived");
    // Timeline 2 left it at 0/5000000, and its history was not archived.
    room.write(name("00000002.history"), b"1\t0/5000000\tpromoted\n");
    let find = async |wanted: &str, pg_wal: Option<PathBuf>| {
        let want = Want { pg_wal, ..Want::new(Some(room.lineage), name(wanted)) };
        retrieve(&[Arc::clone(&one)], &want, &room.spot(), DEADLINE, AtHole::Tell).await
    };
    let missing = "000000010000000000000002";
    let told = find(missing, Some(room.pg_wal())).await;
    let Err(FetchError::Hole { next, .. }) = told else { panic!("timeline 2 left it later: {told:?}") };
    assert_eq!(next.timeline, Timeline(2));
    assert_eq!(find(missing, None).await.expect("no server asks"), Retrieved::Absent);
    let later = find("000000010000000000000051", Some(room.pg_wal())).await;
    assert_eq!(later.expect("after the switch it is the end"), Retrieved::Absent);
}

#[tokio::test]
async fn a_recovery_is_not_given_what_does_not_continue_what_it_was_given_before() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = waiting(&room, 3);
    let push = async |file| archive_file(&[Arc::clone(&one)], &room.pg_wal(), file, "host").await.expect("archived");
    push(files[0]).await;
    room.done(files[0]);
    // Another life wrote the first one, too, and its second one was pushed by hand.
    room.write(files[0], &segment(files[0], room.lineage.system_identifier, 2));
    push(files[1]).await;
    room.done(files[1]);
    push(files[2]).await;
    let given = async |fetcher: &Fetcher, file, asker| ask(&room, fetcher, file, asker).await.0;
    let careful = fetcher(&room, vec![Arc::clone(&one)]);
    for asker in [Asker::OneShot, Asker::Target, Asker::Standby] {
        assert!(matches!(given(&careful, files[0], asker).await, Ok(Fetched::File(_))));
        let seam = given(&careful, files[1], asker).await.expect_err("of another life");
        assert!(matches!(seam, FetchError::Seam { .. }) && !seam.is_hole(), "{seam:?}");
        assert_eq!(seam.class(), ErrorClass::Permanent);
    }
    // What another server is given in between does not matter.
    let of = |name: &str, file| {
        let pg_wal = room.folder.path().join(name).join("pg_wal");
        Want { pg_wal: Some(pg_wal), ..Want::new(Some(room.lineage), file) }
    };
    let both = fetcher_of(&room, "spools/both", vec![Arc::clone(&one)]);
    for (server, file) in [("x", files[0]), ("y", files[2])] {
        assert!(matches!(both.fetch(of(server, file), Asker::OneShot, None).await, Ok(Fetched::File(_))), "{file}");
    }
    let seam = both.fetch(of("x", files[1]), Asker::OneShot, None).await.expect_err("of another life");
    assert!(matches!(seam, FetchError::Seam { .. }), "{seam:?}");
    // Nor that the configuration was read anew.
    let again = fetcher_of(&room, "spools/again", vec![Arc::clone(&one)]);
    let seam = again.fetch(of("x", files[1]), Asker::OneShot, None).await.expect_err("of another life");
    assert!(matches!(seam, FetchError::Seam { .. }), "{seam:?}");
    // An agent that was started anew goes by what the server has: here the other life's.
    let anew = fetcher_of(&room, "anew/spool", vec![Arc::clone(&one)]);
    std::fs::create_dir_all(room.folder.path().join("x/pg_wal")).expect("made");
    let first = room.folder.path().join("x/pg_wal").join(files[0].to_string());
    let life = |byte| segment(files[0], room.lineage.system_identifier, byte);
    walward_base::sys::durable::replace(&first, &life(1), 0o600).expect("written");
    let seam = anew.fetch(of("x", files[1]), Asker::OneShot, None).await.expect_err("of another life");
    assert!(matches!(seam, FetchError::Seam { .. }), "{seam:?}");
    walward_base::sys::durable::replace(&first, &life(2), 0o600).expect("written");
    assert!(matches!(anew.fetch(of("x", files[1]), Asker::OneShot, None).await, Ok(Fetched::File(_))));
    // One that begins after it has nothing to do with it.
    let other = fetcher_of(&room, "other/spool", vec![Arc::clone(&one)]);
    for file in [files[1], files[2]] {
        assert!(matches!(given(&other, file, Asker::OneShot).await, Ok(Fetched::File(_))), "{file}");
    }
    let options = FetchOptions { deadline: FETCH_DEADLINE, refuse_seams: false, workers: 2 };
    let (spool, stop) = (room.folder.path().join("spool"), tokio_util::sync::CancellationToken::new());
    let spool = Spool::open(&spool, 1 << 24).expect("a spool");
    let careless = Fetcher::new("main", vec![one], options, spool, Arc::default(), stop);
    for file in files {
        assert!(matches!(given(&careless, file, Asker::OneShot).await, Ok(Fetched::File(_))), "{file}");
    }
}

#[tokio::test]
async fn a_file_that_the_spool_cannot_take_goes_beside_its_destination_and_is_no_repositorys_fault() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let file = waiting(&room, 1)[0];
    archive_file(&[Arc::clone(&one), Arc::clone(&two)], &room.pg_wal(), file, "host").await.expect("archived");
    let spool = room.folder.path().join("spool");
    let stats = Arc::new(crate::health::FetchStats::default());
    let options = FetchOptions { deadline: Duration::from_secs(5), refuse_seams: true, workers: 2 };
    let stop = tokio_util::sync::CancellationToken::new();
    let opened = Spool::open(&spool, 1 << 24).expect("a spool");
    let fetcher = Fetcher::new("main", vec![one, two], options, opened, Arc::clone(&stats), stop);
    let beside = room.pg_wal().join("RECOVERYXLOG.walward-unverified");
    let want = Want::new(Some(room.lineage), file);
    // A folder that somebody removed is made anew; one that cannot be is done without.
    std::fs::remove_dir_all(&spool).expect("removed");
    for asker in [Asker::OneShot, Asker::Standby] {
        let answer = fetcher.fetch(want.clone(), asker, Some(Spot::own(beside.clone()))).await;
        let Ok(Fetched::File(place)) = answer else { panic!("{answer:?}") };
        assert!(place.path().starts_with(&spool), "{}", place.path().display());
    }
    std::fs::remove_dir_all(&spool).expect("removed");
    walward_base::sys::durable::create(&spool, b"in the way", 0o600).expect("a file");
    for asker in [Asker::OneShot, Asker::Standby] {
        let answer = fetcher.fetch(want.clone(), asker, Some(Spot::own(beside.clone()))).await;
        let Ok(Fetched::File(place)) = answer else { panic!("{answer:?}") };
        assert_eq!(place.path(), beside);
        drop(place);
        let until = Instant::now() + Duration::from_secs(30);
        while beside.exists() {
            assert!(Instant::now() < until, "it goes when nobody took it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let error = fetcher.fetch(want, Asker::OneShot, None).await.expect_err("nowhere to put it");
    assert!(matches!(error, FetchError::Write { .. }), "{error:?}");
    assert_eq!(stats.facts().fallback_total, 0);
}

#[tokio::test]
async fn a_recovery_is_told_of_no_end_by_an_archive_that_has_not_what_it_gave_before() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    let files = waiting(&room, 2);
    archive_file(&both, &room.pg_wal(), files[0], "host").await.expect("archived");
    let fetcher = fetcher(&room, both);
    let absent = async |asker| ask(&room, &fetcher, files[1], asker).await.0;
    assert!(matches!(absent(Asker::OneShot).await, Ok(Fetched::Absent)), "nothing was given before");
    let given = ask(&room, &fetcher, files[0], Asker::OneShot).await.0;
    assert!(matches!(given, Ok(Fetched::File(_))), "{given:?}");
    assert!(matches!(absent(Asker::OneShot).await, Ok(Fetched::Absent)), "it is the end");
    let remove = |repository: &str| {
        std::fs::remove_dir_all(room.folder.path().join(repository).join("main/wal")).expect("removed");
    };
    remove("one");
    assert!(matches!(absent(Asker::OneShot).await, Ok(Fetched::Absent)), "the other one has all");
    remove("two");
    for asker in [Asker::OneShot, Asker::Target] {
        let error = absent(asker).await.expect_err("the end is not known");
        assert!(matches!(error, FetchError::ServedIsGone { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        let history = ask(&room, &fetcher, name("00000002.history"), asker).await.0;
        assert!(matches!(history, Err(FetchError::ServedIsGone { .. })), "{history:?}");
    }
    // It was moved away by hand.
    fetcher.forget();
    assert!(matches!(absent(Asker::OneShot).await, Ok(Fetched::Absent)), "what was given before is let go of");
    // Another recovery was given nothing, and a standby asks again.
    assert!(matches!(absent(Asker::Standby).await, Ok(Fetched::Absent)));
    let want = Want { pg_wal: Some(room.pg_wal()), ..Want::new(Some(room.lineage), files[1]) };
    assert!(matches!(fetcher.fetch(want, Asker::OneShot, None).await, Ok(Fetched::Absent)));
}

#[tokio::test]
async fn what_was_brought_ahead_is_given_to_nobody_once_its_life_is_set_aside() {
    let room = Room::new();
    let one = vec![room.repository("one").await];
    let files = waiting(&room, 2);
    for file in &files {
        archive_file(&one, &room.pg_wal(), *file, "host").await.expect("archived");
    }
    let fetcher = fetcher(&room, one.clone());
    let given = ask(&room, &fetcher, files[0], Asker::OneShot).await.0;
    assert!(matches!(given, Ok(Fetched::File(_))), "{given:?}");
    drop(given);
    let former = segment(files[1], room.lineage.system_identifier, 1);
    let spool = room.folder.path().join("spools").join("spool");
    let is_there = || {
        let mut there = std::fs::read_dir(&spool).expect("a spool").filter_map(Result::ok);
        there.any(|entry| std::fs::read(entry.path()).is_ok_and(|bytes| bytes == former))
    };
    while !is_there() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_file(room.object("one", files[1])).expect("set aside");
    let kept = segment(files[1], room.lineage.system_identifier, 2);
    room.write(files[1], &kept);
    archive_file(&one, &room.pg_wal(), files[1], "host").await.expect("archived");
    fetcher.forget();
    let given = ask(&room, &fetcher, files[1], Asker::OneShot).await.0;
    let Ok(Fetched::File(place)) = given else { panic!("{given:?}") };
    assert_eq!(std::fs::read(place.path()).expect("read"), kept);
}

#[tokio::test(start_paused = true)]
async fn what_a_standby_waits_for_while_a_life_is_set_aside_still_comes() {
    let room = Room::new();
    let (lazy, faulty) = layered(&room, Plan::script([])).await;
    let file = waiting(&room, 1)[0];
    archive_file(&[Arc::clone(&lazy)], &room.pg_wal(), file, "host").await.expect("archived");
    let fetcher = fetcher(&room, vec![lazy]);
    faulty.plan(Plan::chance(1, 1, &[Fault::Delay(Duration::from_millis(300))]));
    let forgets = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(fetcher.counts().0 > 0, "it is on its way");
        fetcher.forget();
    };
    let ((answer, _), ()) = tokio::join!(ask(&room, &fetcher, file, Asker::Standby), forgets);
    assert!(matches!(answer, Ok(Fetched::File(_))), "{answer:?}");
}

#[tokio::test]
async fn what_was_learnt_of_an_archive_that_a_person_changed_leads_no_prefetch() {
    let room = Room::new();
    let one = vec![room.repository("one").await];
    let files = waiting(&room, 3);
    archive_file(&one, &room.pg_wal(), files[0], "host").await.expect("archived");
    let fetcher = fetcher(&room, one.clone());
    let spool = room.folder.path().join("spools").join("spool");
    let brought = |file: WalFileName| {
        let mut there = std::fs::read_dir(&spool).expect("a spool").filter_map(Result::ok);
        there.any(|entry| entry.file_name().to_string_lossy().starts_with(&file.to_string()))
    };
    // The archive's end is met, and a history says that another timeline goes on there.
    let given = ask(&room, &fetcher, files[0], Asker::OneShot).await.0;
    assert!(matches!(given, Ok(Fetched::File(_))), "{given:?}");
    while fetcher.counts().0 > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let history = name("00000002.history");
    room.write(history, b"1\t0/200028\tx\n");
    archive_file(&one, &room.pg_wal(), history, "host").await.expect("archived");
    let given = ask(&room, &fetcher, history, Asker::OneShot).await.0;
    assert!(matches!(given, Ok(Fetched::File(_))), "{given:?}");
    // A person sets that timeline aside, and the first one goes on.
    std::fs::remove_file(room.object("one", history)).expect("set aside");
    for file in &files[1..] {
        archive_file(&one, &room.pg_wal(), *file, "host").await.expect("archived");
    }
    fetcher.forget();
    let given = ask(&room, &fetcher, files[0], Asker::OneShot).await.0;
    assert!(matches!(given, Ok(Fetched::File(_))), "{given:?}");
    let until = Instant::now() + Duration::from_secs(30);
    while !brought(files[1]) {
        assert!(Instant::now() < until, "the next segment is not brought ahead");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
