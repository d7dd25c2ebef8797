//! Several repositories: one fails, hangs, contradicts, lags behind, comes back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test]
async fn one_repository_that_fails_keeps_the_file_out_of_no_other() {
    let room = Room::new();
    let good = room.repository("good").await;
    let broken =
        over(&room, "broken", walward_storage::memory(), Plan::chance(1, 1, &[Fault::Before(ErrorClass::Denied)]))
            .await;
    let (one, two) = (name("000000010000000000000003"), name("000000010000000000000004"));
    for file in [one, two] {
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
    }
    let both = vec![Arc::clone(&broken), Arc::clone(&good)];
    let all = archiver(&room, both.clone(), Acknowledge::All);
    let error = all.push(one, all.find(one)).await.expect_err("one is missing");
    assert!(matches!(&*error, PushError::Repository { repository, .. } if repository == "broken"), "{error:?}");
    assert!(room.object("good", one).exists());
    // What asks for one is content with one, and the other is owed it.
    let enough = archiver(&room, both, ONE);
    assert!(matches!(enough.push(two, enough.find(two)).await, Ok(Pushed::Now)));
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
    let hanging = over(&room, "hanging", walward_storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let archiver = archiver(&room, vec![hanging, good], ONE);
    for number in 1..=12u32 {
        let file = name(&format!("0000000100000000000000{number:02X}"));
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        let begun = std::time::Instant::now();
        assert!(matches!(archiver.push(file, archiver.find(file)).await, Ok(Pushed::Now)));
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for the one that hangs");
    }
    // Two are still on their way there; the others are owed.
    assert!(archiver.repository_facts()[0].files >= 10);
}

#[tokio::test]
async fn a_push_that_takes_too_long_names_the_repository_that_did_not_answer() {
    let room = Room::new();
    let good = room.repository("good").await;
    let hanging = over(&room, "hanging", walward_storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let archiver = archiver_within(&room, vec![good, hanging], Acknowledge::All, Duration::from_millis(500));
    let file = waiting(&room, 1)[0];
    let error = archiver.push(file, archiver.find(file)).await.expect_err("one hangs");
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
    let hanging = over(&room, "hanging", walward_storage::memory(), Plan::chance(1, 1, &[Fault::Hang])).await;
    let both = [room.repository("good").await, hanging];
    let push =
        async |acknowledge| archive_now(&both, acknowledge, &room.pg_wal(), file, "host", Duration::from_secs(2)).await;
    let begun = std::time::Instant::now();
    push(ONE).await.expect("one is enough");
    let error = push(Acknowledge::All).await.expect_err("one hangs");
    assert!(error.to_string().contains("no answer from repository \"hanging\""), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "it was waited for longer than the deadline");
}

/// Guards against: without an agent, the failure that came first was told.
#[tokio::test]
async fn what_a_person_has_to_put_right_is_told_before_a_store_that_is_away_with_an_agent_and_without() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let pool = CpuPool::new(1).expect("a thread");
    let (now, store) = (Timestamp::now(), walward_storage::memory());
    let made = Repository::create("strange", Arc::clone(&store), "main", &Encryption::None, &[], pool.clone(), now);
    made.await.expect("a repository of another lineage");
    let away = Faulty::new(walward_storage::memory(), Plan::chance(1, 1, &[Fault::Before(ErrorClass::Denied)]));
    for order in [[0, 1], [1, 0]] {
        let both = [
            LazyRepository::at("away", Arc::clone(&away) as _, Encryption::None, 1, pool.clone()),
            LazyRepository::at("strange", Arc::clone(&store), Encryption::None, 1, pool.clone()),
        ];
        let both = order.map(|at: usize| Arc::clone(&both[at])).to_vec();
        let alone = archive_now(&both, Acknowledge::All, &room.pg_wal(), file, "host", Duration::from_secs(30)).await;
        assert!(matches!(alone, Err(PushError::Rejected { .. })), "{order:?}: {alone:?}");
        let agent = archiver(&room, both, Acknowledge::All);
        let error = agent.push(file, agent.find(file)).await.expect_err("neither has it");
        assert!(matches!(*error, PushError::Rejected { .. }), "{order:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_file_that_takes_the_place_of_another_is_not_acknowledged_by_who_has_the_other() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let plan = Plan::script([Some(Fault::Before(ErrorClass::Denied))]);
    let healing = over(&room, "healing", walward_storage::memory(), plan).await;
    let archiver = archiver(&room, vec![room.repository("good").await, healing], Acknowledge::All);
    archiver.push(file, archiver.find(file)).await.expect_err("the second one fails");
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
        async move { archiver.push(file, archiver.find(file)).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(memory);
    let error = asked.await.expect("asked").expect_err("the first repository has the other file");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    let error = ahead.await.expect("ended").expect_err("each repository has another file");
    assert!(matches!(*error, PushError::Replaced(_)), "{error:?}");
}

#[tokio::test]
async fn nothing_is_acknowledged_by_a_store_that_was_emptied_and_the_agent_goes_on_with_what_is_made_there() {
    let room = Room::new();
    let inner = walward_storage::memory();
    let lazy = over(&room, "emptied", Arc::clone(&inner), Plan::script([])).await;
    let archiver = archiver(&room, vec![lazy], Acknowledge::All);
    let files = waiting(&room, 3);
    archiver.push(files[0], archiver.find(files[0])).await.expect("archived");
    // Uploaded, and not yet asked for.
    archiver.archive_again(files[1]).await.expect("durable");
    let keys = async || {
        let (mut found, mut folders) = (Vec::new(), vec![None]);
        while let Some(folder) = folders.pop() {
            let listing = inner.list(folder.as_ref()).await.expect("listed");
            found.extend(listing.objects.into_iter().map(|object| object.key));
            folders.extend(listing.folders.iter().map(|name| {
                let above: Option<&walward_storage::ObjectKey> = folder.as_ref();
                Some(above.map_or_else(|| layout::given(name), |above| above.join(name)).expect("a key"))
            }));
        }
        found
    };
    for key in keys().await {
        inner.delete(&key).await.expect("deleted");
    }
    for _ in 0..3 {
        let error = archiver.push(files[2], archiver.find(files[2])).await.expect_err("nobody could read it");
        let gone = matches!(&*error, PushError::Repository { source, .. } if source.is_gone());
        assert!(gone, "{error:?}");
    }
    // What was on its way when it was seen, and nothing later.
    let left = keys().await;
    assert_eq!(left, [layout::wal_file(room.lineage, files[2])]);
    inner.delete(&left[0]).await.expect("moved away");
    over(&room, "emptied", Arc::clone(&inner), Plan::script([])).await;
    for file in [files[1], files[2]] {
        let pushed = archiver.push(file, archiver.find(file)).await.expect("archived");
        assert!(matches!(pushed, Pushed::Now), "{file} was believed to be there");
        inner.head(&layout::wal_file(room.lineage, file)).await.expect("there");
    }
}

#[tokio::test]
async fn a_second_push_sends_the_file_only_where_it_is_missing() {
    let room = Room::new();
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    let calls = || Plan::script(std::iter::repeat_n(None, 100));
    let counted = walward_storage::memory();
    let good = over(&room, "good", counted, calls()).await;
    let inner = walward_storage::memory();
    let plan = Plan::script([Some(Fault::Before(ErrorClass::Denied))]);
    let healing = over(&room, "healing", inner, plan).await;
    let archiver = archiver(&room, vec![good, healing], Acknowledge::All);
    archiver.push(file, archiver.find(file)).await.expect_err("the second one fails");
    assert!(matches!(archiver.push(file, archiver.find(file)).await, Ok(Pushed::Now)));
    assert!(matches!(archiver.push(file, archiver.find(file)).await, Ok(Pushed::Ahead)));
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
    let _ = archiver.push(file, archiver.find(file)).await;
    archiver.drain().await;
    let facts = archiver.repository_facts();
    assert_eq!((facts[0].contradictions_total, facts[0].files), (1, 0));
    assert!(facts[0].last_contradiction.as_ref().is_some_and(|last| last.text.contains("other content")));
    let error = archive_file(&[room.repository("three").await], &room.pg_wal(), file, "host").await;
    assert!(error.is_ok(), "another repository is not concerned");
}

#[tokio::test]
async fn what_one_repository_refused_stays_refused_while_that_one_is_asked_no_more() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    // The one that takes the file is slow: the other has refused it by then.
    let slow = Plan::By(Box::new(|call| (call.verb == "put").then_some(Fault::Delay(Duration::from_secs(3)))));
    let (one, two) = (room.repository("one").await, over(&room, "two", walward_storage::memory(), slow).await);
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), file, "clone").await.expect("archived");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    let archiver = archiver(&room, vec![Arc::clone(&one), two], ONE);
    let push = async || archiver.push(file, archiver.find(file)).await;
    for is_away in [false, false, true] {
        if is_away {
            one.standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        }
        let error = push().await.expect_err("it has two contents");
        assert!(matches!(&*error, PushError::Different { writer, .. } if writer == "clone"), "{error}");
        archiver.drain().await;
    }
    // A person takes the clone's file away.
    std::fs::remove_file(room.object("one", file)).expect("removed");
    one.standing().answered();
    push().await.expect("nothing speaks against it any more");
}

/// Two standbys that were promoted in one segment, one after the other, have received more and less of it.
#[tokio::test]
async fn a_partial_segment_of_an_earlier_promotion_holds_up_no_later_one_and_is_kept() {
    let room = Room::new();
    let one = room.repository("one").await;
    let partial = name("000000010000000000000007.partial");
    let segment = |byte| {
        let whole = name("000000010000000000000007");
        segment(whole, room.lineage.system_identifier, byte)
    };
    room.write(partial, &segment(1));
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), partial, "first").await.expect("archived");
    let stored = std::fs::read(room.object("one", partial)).expect("stored");
    room.write(partial, &segment(2));
    // What a person saved from a dead server is nowhere else.
    let archiver = archiver(&room, vec![Arc::clone(&one)], Acknowledge::All);
    let by_hand = archiver.push(partial, archiver.find(partial)).await.expect_err("other content");
    assert!(matches!(*by_hand, PushError::Different { .. }), "{by_hand}");
    let mark = walward_pg::archive_status::ready_path(&room.pg_wal(), partial);
    walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    // Nothing says where its own timeline begins.
    archiver.forget();
    let unknown = archiver.push(partial, archiver.find(partial)).await.expect_err("other content");
    assert!(matches!(*unknown, PushError::Different { .. }), "{unknown}");
    // PostgreSQL has it in its own timeline.
    room.write(name("00000002.history"), b"1\t0/700100\tno recovery target specified\n");
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), partial, "second").await.expect("nobody waits for it");
    archiver.forget();
    archiver.push(partial, archiver.find(partial)).await.expect("nobody waits for it");
    assert!(std::fs::read(room.object("one", partial)).expect("stored") == stored, "what was there stays");
}

/// Recovery ended at a target, before all that the second one had received.
#[tokio::test]
async fn a_second_partial_segment_that_holds_more_than_its_own_timeline_is_refused() {
    let room = Room::new();
    let one = room.repository("one").await;
    let (partial, whole) = (name("000000010000000000000007.partial"), name("000000010000000000000007"));
    let segment = |byte| segment(whole, room.lineage.system_identifier, byte);
    room.write(partial, &segment(1));
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), partial, "first").await.expect("archived");
    room.write(partial, &segment(2));
    let mark = walward_pg::archive_status::ready_path(&room.pg_wal(), partial);
    walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    let archiver = archiver(&room, vec![Arc::clone(&one)], Acknowledge::All);
    // Its one record begins where recovery ended.
    room.write(name("00000002.history"), b"1\t0/700028\tat restore point \"before\"\n");
    let refused = archiver.push(partial, archiver.find(partial)).await.expect_err("it is nowhere else");
    assert!(matches!(*refused, PushError::Beyond { from: walward_pg::Lsn(0x0070_0028), .. }), "{refused}");
    assert!(!one.standing().is_resting(tokio::time::Instant::now()), "the repository has answered");
    // A person has saved it and takes the mark away; or that one's file goes.
    std::fs::remove_file(room.object("one", partial)).expect("removed");
    archiver.push(partial, archiver.find(partial)).await.expect("archived");
}

#[tokio::test]
async fn what_one_repository_refused_is_offered_to_no_other_while_that_one_refuses_it() {
    let room = Room::new();
    let file = waiting(&room, 1)[0];
    let full = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&full);
    let plan = Plan::By(Box::new(move |call| {
        (call.verb == "put" && fails.load(Ordering::Relaxed)).then_some(Fault::Before(ErrorClass::Denied))
    }));
    let one = room.repository("one").await;
    let inner = walward_storage::memory();
    let two = over(&room, "two", inner.clone(), plan).await;
    let two_has = async || inner.head(&layout::wal_file(room.lineage, file)).await.is_ok();
    room.write(file, &segment(file, room.lineage.system_identifier, 2));
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), file, "clone").await.expect("archived");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    let archiver = archiver(&room, vec![Arc::clone(&one), two], Acknowledge::All);
    let push = async || archiver.push(file, archiver.find(file)).await;
    for is_full in [true, false, false] {
        full.store(is_full, Ordering::Relaxed);
        let error = push().await.expect_err("the first one has other content");
        assert!(matches!(&*error, PushError::Different { writer, .. } if writer == "clone"), "{error}");
        archiver.drain().await;
        assert!(!two_has().await, "it may be another life's");
    }
    std::fs::remove_file(room.object("one", file)).expect("a person took it away");
    push().await.expect("nothing speaks against it any more");
    assert!(two_has().await);
}

#[tokio::test]
async fn a_repository_that_says_late_that_it_has_other_content_gets_nothing_that_comes_after_it() {
    let room = Room::new();
    let files = waiting(&room, 4);
    let is_late = Arc::new(AtomicBool::new(false));
    let plan = Plan::By(Box::new({
        let is_late = Arc::clone(&is_late);
        move |call| {
            let of_second = call.verb == "put" && call.key.ends_with('2') && is_late.load(Ordering::Relaxed);
            of_second.then_some(Fault::Delay(Duration::from_secs(3)))
        }
    }));
    let two = over(&room, "two", walward_storage::memory(), plan).await;
    room.write(files[1], &segment(files[1], room.lineage.system_identifier, 2));
    archive_file(std::slice::from_ref(&two), &room.pg_wal(), files[1], "clone").await.expect("archived");
    is_late.store(true, Ordering::Relaxed);
    room.write(files[1], &segment(files[1], room.lineage.system_identifier, 1));

    let archiver = archiver(&room, vec![room.repository("one").await, Arc::clone(&two)], ONE);
    for file in &files[..2] {
        archiver.push(*file, archiver.find(*file)).await.expect("one is enough");
        room.done(*file);
    }
    archiver.drain().await;
    for file in &files[2..] {
        let error = archiver.push(*file, archiver.find(*file)).await.expect_err("it is known by now");
        assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == files[1]), "{error}");
    }
    let repository = two.get().await.expect("open");
    for (file, is_there) in files.iter().zip([true, true, false, false]) {
        let key = layout::wal_file(room.lineage, *file);
        assert_eq!(repository.exists(&key).await.expect("answered"), is_there, "{file}");
    }
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
        before.push(file, before.find(file)).await.expect("one is enough");
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
            retrieve(&[reopened("late")], &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait)
                .await;
        assert!(matches!(found, Ok(Retrieved::File { .. })), "{file}: {found:?}");
    }
    assert!(std::fs::read(room.destination()).expect("the file").starts_with(b"1\t0/3000000"));
    assert!(!room.object("late", old).exists(), "what is older than the repository is not brought unasked");
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
    archiver.push(file, archiver.find(file)).await.expect("one is enough");
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
async fn what_another_server_wrote_under_a_rotated_key_is_the_same_file_and_tells_where_the_archive_ends() {
    let room = Room::new();
    let key_file = room.folder.path().join("key");
    walward_base::sys::durable::create(&key_file, walward_repo::keys::key_file_text().as_bytes(), 0o600)
        .expect("a key");
    let key = KeySource::KeyFile(key_file);
    let encryption = Encryption::Key(key.clone());
    let (options, pool, now) = (room.options("sealed"), CpuPool::new(1).expect("a thread"), Timestamp::now());
    walward_storage::create_root(&options, "main").expect("a root");
    let store = walward_storage::open(&options, "main").expect("a store");
    let made = Repository::create("sealed", store, "main", &encryption, &[], pool.clone(), now).await;
    let (mut made, _) = made.expect("a repository");
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    made.add_lineage(room.lineage, size, now).await.expect("a lineage");
    let server = || LazyRepository::new("sealed", "main", options.clone(), encryption.clone(), 1, pool.clone());
    // Opened before the rotation, and not since.
    let (primary, recovering) = (server(), server());
    primary.get().await.expect("opened");
    recovering.get().await.expect("opened");
    let mut keys = made.open_keys(&key).await.expect("opened");
    keys.rotate(now);
    keys.store(&**made.store()).await.expect("stored");
    let file = name("000000010000000000000003");
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archive_file(&[server()], &room.pg_wal(), file, "standby").await.expect("archived");
    archive_file(&[Arc::clone(&primary)], &room.pg_wal(), file, "primary").await.expect("the same content");
    // A recovery finds the end of the archive, too, although the history that tells of it is under the newer key.
    let history = name("00000002.history");
    room.write(history, b"1\t0/00300028\tno recovery target specified\n");
    archive_file(&[server()], &room.pg_wal(), history, "standby").await.expect("archived");
    let end = Want::new(Some(room.lineage), name("000000010000000000000004"));
    let fetched = retrieve(&[recovering], &end, &room.spot(), DEADLINE, AtHole::Tell).await;
    assert!(matches!(fetched, Ok(Retrieved::Absent)), "{fetched:?}");
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
    room.damage("one", file);
    let stats = Arc::new(crate::health::FetchStats::default());
    let options = FetchOptions { deadline: Duration::from_mins(1), refuse_seams: true, workers: 1 };
    let spool = room.folder.path().join("spool");
    let stop = tokio_util::sync::CancellationToken::new();
    let spool = Spool::open(&spool, 1 << 24).expect("a spool");
    let fetcher = Fetcher::new("main", both.clone(), options, spool, Arc::clone(&stats), stop);
    let begun = std::time::Instant::now();
    let Ok(Fetched::File(place)) = fetcher.fetch(Want::new(Some(room.lineage), file), Asker::OneShot, None).await
    else {
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

#[tokio::test]
async fn a_store_that_takes_its_time_gets_more_at_once_than_are_read_at_once() {
    let room = Room::new();
    // Two files are written, and the log's folder is listed; then it hangs.
    let plan =
        Plan::By(Box::new(|call| (call.verb == "put" && !call.key.ends_with(['1', '2'])).then_some(Fault::Hang)));
    let hanging = over(&room, "hanging", walward_storage::memory(), plan).await;
    let archiver = archiver(&room, vec![hanging], Acknowledge::All);
    for file in &waiting(&room, 12)[..2] {
        archiver.push(*file, archiver.find(*file)).await.expect("archived");
        room.done(*file);
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn({
        let (archiver, stop) = (archiver.clone(), stop.clone());
        async move { archiver.look_ahead(stop).await }
    });
    // Two are read at once; eight may be ahead of what was asked for.
    let all = tokio::time::timeout(Duration::from_secs(20), async {
        while archiver.counts().1 < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    all.await.expect("eight are on their way");
    stop.cancel();
    running.await.expect("it ends");
}
