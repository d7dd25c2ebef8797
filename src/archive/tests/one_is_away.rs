//! Three repositories of which one is away: what the others hold may all be another server's.

use super::agree::{archived, held, numbered, set_aside};
use super::*;
use crate::archive::debt::work_off::Memory;

/// Three repositories of which the third is the only one with this server's files from 3 on, and is away; a clone wrote 3 to 5 to the first.
async fn with_a_clones_files(room: &Room) -> (Vec<Arc<LazyRepository>>, Away) {
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        all.push(room.repository(name).await);
    }
    archived(room, &all, &[1, 2], 1).await;
    archived(room, &all[2..], &[3, 4], 1).await;
    archived(room, &all[..1], &[3, 4, 5], 2).await;
    (all, Away::take(room, "three"))
}

fn recycle(room: &Room, numbers: std::ops::RangeInclusive<u32>) {
    numbers.for_each(|number| drop(std::fs::remove_file(room.pg_wal().join(numbered(number).to_string()))));
}

#[tokio::test]
async fn no_debt_brings_another_servers_files_while_the_only_repository_with_this_servers_is_away() {
    for still_there in [true, false] {
        let room = Room::new();
        let (all, away) = with_a_clones_files(&room).await;
        recycle(&room, 1..=5);
        if still_there {
            (1..=4).for_each(|number| {
                let file = numbered(number);
                room.write(file, &segment(file, room.lineage.system_identifier, 1));
            });
        }
        let archiver = archiver(&room, all.clone(), ONE);
        archiver.compare_once().await;
        assert_eq!(held(&room, "two", 1..=9), [1, 2], "they are the clone's");
        let facts = archiver.repository_facts();
        let waits = facts[1].waits.as_deref().unwrap_or_default();
        assert!(waits.contains(&numbered(3).to_string()) && waits.contains("repository \"three\""), "{waits:?}");
        assert_eq!((facts[1].files, &facts[0].waits), (3, &None));

        // It is back: the two lives are told apart, and a person chooses.
        away.back(&all[2]);
        archiver.compare_once().await;
        assert_eq!(held(&room, "two", 1..=9), [1, 2]);
        assert_eq!(archiver.repository_facts()[0].differs, Some(numbered(3).to_string()));
        set_aside(&room, "one", &[3, 4, 5]);
        archiver.compare_once().await;
        for repository in ["one", "two", "three"] {
            assert_eq!(held(&room, repository, 1..=9), [1, 2, 3, 4], "{repository}");
        }
        for facts in archiver.repository_facts() {
            assert_eq!((facts.files, facts.waits, facts.differs), (0, None, None));
        }
    }
}

#[tokio::test]
async fn a_debt_that_waits_for_an_absent_repository_is_brought_when_that_is_back() {
    let room = Room::new();
    let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    archived(&room, &all, &[1, 2], 1).await;
    archived(&room, &all[..1], &[3, 4], 1).await;
    recycle(&room, 1..=4);
    let away = Away::take(&room, "three");
    let archiver = archiver(&room, all.clone(), ONE);
    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2], "an agent that has just started knows nothing of them");
    assert!(archiver.repository_facts()[1].waits.is_some());
    away.back(&all[2]);
    archiver.compare_once().await;
    assert_eq!((held(&room, "two", 1..=9), held(&room, "three", 1..=9)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
    assert_eq!(archiver.repository_facts()[1].waits, None);
}

#[tokio::test]
async fn what_is_known_to_be_this_servers_is_brought_while_a_repository_is_away() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Known {
        Pushed,
        InPgWal,
        ComparedBefore,
    }
    for how in [Known::Pushed, Known::InPgWal, Known::ComparedBefore] {
        let room = Room::new();
        let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
        let archiver = archiver(&room, all.clone(), ONE);
        let push = async |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            archiver.push(file, archiver.find(file)).await.expect("one is enough");
        };
        let mut memory = Memory::default();
        if how == Known::Pushed {
            for number in 1..=2 {
                push(number).await;
                archiver.drain().await;
            }
            let away = Away::take(&room, "two");
            push(3).await;
            push(4).await;
            archiver.drain().await;
            away.back(&all[1]);
        } else {
            archived(&room, &all, &[1, 2, 3, 4], 1).await;
            archiver.compare_as(&mut memory).await;
            set_aside(&room, "two", &[3, 4]);
        }
        match how {
            Known::InPgWal => memory = Memory::default(),
            Known::Pushed | Known::ComparedBefore => recycle(&room, 1..=4),
        }
        let _away = Away::take(&room, "three");
        archiver.compare_as(&mut memory).await;
        assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4], "{how:?}");
        assert_eq!(archiver.repository_facts()[1].waits, None, "{how:?}");
    }
}

#[tokio::test]
async fn what_was_compared_before_is_not_known_of_a_repository_that_missed_files_since() {
    let room = Room::new();
    let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    let archiver = archiver(&room, all.clone(), ONE);
    let mut memory = Memory::default();
    archived(&room, &all, &[1, 2], 1).await;
    // A clone is ahead of the server, in one repository.
    archived(&room, &all[..1], &[3, 4], 2).await;
    archiver.compare_as(&mut memory).await;
    set_aside(&room, "two", &[3, 4]);
    set_aside(&room, "three", &[3, 4]);
    recycle(&room, 1..=4);
    let away = [Away::take(&room, "one"), Away::take(&room, "two")];
    let file = numbered(3);
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archiver.push(file, archiver.find(file)).await.expect("one is enough");
    archiver.drain().await;
    recycle(&room, 1..=4);
    let [one, two] = away;
    one.back(&all[0]);
    two.back(&all[1]);
    let _away = Away::take(&room, "three");
    archiver.compare_as(&mut memory).await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2], "the server has written 3 otherwise");
}

#[tokio::test]
async fn this_servers_files_are_not_brought_after_another_servers_while_a_repository_is_away() {
    let room = Room::new();
    let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    archived(&room, &all, &[1, 2], 1).await;
    archived(&room, &all[2..], &[3, 4, 5], 1).await;
    archived(&room, &all[1..2], &[3, 4, 5], 2).await;
    recycle(&room, 1..=5);
    let away = Away::take(&room, "three");
    archived(&room, &all[..1], &[6, 7], 1).await;
    let archiver = archiver(&room, all.clone(), ONE);
    archiver.compare_once().await;
    assert_eq!((held(&room, "one", 1..=9), held(&room, "two", 1..=9)), (vec![1, 2, 6, 7], vec![1, 2, 3, 4, 5]));
    let waits = archiver.repository_facts()[1].waits.clone().unwrap_or_default();
    assert!(waits.contains(&numbered(6).to_string()), "{waits:?}");
    away.back(&all[2]);
    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4, 5], "two contents are found, and it comes after them");
}

#[tokio::test]
async fn no_history_of_another_server_is_brought_while_the_only_repository_with_this_servers_is_away() {
    let room = Room::new();
    let (all, away) = with_a_clones_files(&room).await;
    recycle(&room, 1..=5);
    let (history, first) = (name("00000002.history"), name("000000020000000000000005"));
    room.write(history, b"1\t0/500028\tof the clone\n");
    room.write(first, &segment(first, room.lineage.system_identifier, 2));
    for file in [history, first] {
        archive_file(&all[..1], &room.pg_wal(), file, "host-2").await.expect("archived");
        std::fs::remove_file(room.pg_wal().join(file.to_string())).expect("recycled");
    }
    let archiver = archiver(&room, all.clone(), ONE);
    archiver.compare_once().await;
    for file in [history, first] {
        assert!(!room.object("two", file).exists(), "{file}");
    }
    away.back(&all[2]);
    archiver.compare_once().await;
    for file in [history, first] {
        assert!(!room.object("two", file).exists() && !room.object("three", file).exists(), "{file}");
    }
}

#[tokio::test]
async fn two_repositories_that_agree_are_held_against_the_server_while_a_third_does_not_answer() {
    let room = Room::new();
    let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    archived(&room, &all, &[1], 1).await;
    archived(&room, &all[2..], &[2], 1).await;
    let own = std::fs::read(room.pg_wal().join(numbered(2).to_string())).expect("read");
    archived(&room, &all[..2], &[2], 2).await;
    room.write(numbered(2), &own);
    let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(2));
    walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    let archiver = archiver(&room, all.clone(), ONE);
    let _away = Away::take(&room, "three");
    all[2].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
    room.write(numbered(3), &segment(numbered(3), room.lineage.system_identifier, 1));
    let error = archiver.push(numbered(3), archiver.find(numbered(3))).await.expect_err("it comes after the clone's");
    assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(2)), "{error}");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 1..=3), held(&room, "two", 1..=3)), (vec![1, 2], vec![1, 2]));
}

#[tokio::test]
async fn what_lacks_the_file_before_is_held_against_the_server_while_the_only_one_that_may_have_it_does_not_answer() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1], 1).await;
    archived(&room, &both[1..], &[2], 2).await;
    archived(&room, &both[..1], &[2, 3], 1).await;
    for number in 2..=3 {
        let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(number));
        walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    }
    let archiver = archiver(&room, both.clone(), ONE);
    let _away = Away::take(&room, "one");
    both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
    room.write(numbered(4), &segment(numbered(4), room.lineage.system_identifier, 1));
    let error = archiver.push(numbered(4), archiver.find(numbered(4))).await.expect_err("it comes after the clone's");
    assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(2)), "{error}");
    archiver.drain().await;
    assert_eq!(held(&room, "two", 1..=4), [1, 2]);
}

#[tokio::test]
async fn what_cannot_be_compared_now_gets_no_file_unseen_and_what_is_damaged_holds_up_none() {
    let away = Fault::Before(ErrorClass::Transient);
    for (fault, spare, is_taken) in [(away, false, false), (away, true, true), (Fault::Corrupt, false, true)] {
        let room = Room::new();
        let one = room.repository("one").await;
        let plan = Plan::By(Box::new(move |call| {
            (call.verb != "put" && call.verb != "list" && call.key.ends_with('2')).then_some(fault)
        }));
        let two = over(&room, "two", walward_storage::memory(), Plan::script([])).await;
        let mut all = vec![Arc::clone(&one), Arc::clone(&two)];
        if spare {
            all.push(room.repository("three").await);
        }
        archived(&room, &all, &[1, 2], 1).await;
        let two = LazyRepository::at(
            "two",
            Faulty::new(two.get().await.expect("open").store().clone(), plan),
            Encryption::None,
            1,
            CpuPool::new(1).expect("a thread"),
        );
        let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(2));
        walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
        all[1] = two;
        let archiver = archiver(&room, all, ONE);
        let _away = Away::take(&room, "one");
        one.standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        room.write(numbered(3), &segment(numbered(3), room.lineage.system_identifier, 1));
        match archiver.push(numbered(3), archiver.find(numbered(3))).await {
            // Where another one can be compared, that gets the file.
            Ok(_) if spare => {
                archiver.drain().await;
                assert!(room.object("three", numbered(3)).exists());
            }
            Err(error) => assert!(!is_taken && matches!(&*error, PushError::NotCompared { .. }), "{error}"),
            Ok(_) => assert!(is_taken, "it was compared with nothing"),
        }
    }
}

/// Marks these segments as archived.
fn marked(room: &Room, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(number));
        walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    }
}

/// A clone writes `number` to a repository; the server has its own of that name again.
async fn a_clone_writes(room: &Room, number: u32, to: &Arc<LazyRepository>) {
    archived(room, std::slice::from_ref(to), &[number], 2).await;
    room.write(numbered(number), &segment(numbered(number), room.lineage.system_identifier, 1));
}

async fn after(minutes: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(minutes)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_another_server_writes_into_a_gap_is_seen_although_this_servers_files_after_it_were_proven() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Proven {
        HeldAgainstOwn,
        Compared,
    }
    for how in [Proven::HeldAgainstOwn, Proven::Compared] {
        let room = Room::new();
        let both = vec![room.repository("one").await, room.repository("two").await];
        archived(&room, &both[..1], &[1, 2, 3], 1).await;
        archived(&room, &both, &[4], 1).await;
        marked(&room, 1..=4);
        // Older than the second repository, and than all that it has: this is not owed to it, and stays lacking.
        for number in 1..=3 {
            let object = std::fs::File::options().write(true).open(room.object("one", numbered(number)));
            let earlier = std::time::SystemTime::now() - Duration::from_hours(2);
            object.expect("the object").set_modified(earlier).expect("another time");
        }
        let archiver = archiver(&room, both.clone(), ONE);
        let push = async |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            let pushed = archiver.push(file, archiver.find(file)).await.map(drop);
            archiver.drain().await;
            pushed
        };
        if how == Proven::Compared {
            archiver.compare_once().await;
        }
        let away = Away::take(&room, "one");
        both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        push(5).await.expect("4 is this server's");
        a_clone_writes(&room, 3, &both[1]).await;
        assert_eq!(held(&room, "two", 1..=9), [3, 4, 5]);
        after(2).await;
        let error = push(6).await.expect_err("it comes after the clone's");
        assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(3)), "{how:?}: {error}");
        assert_eq!(held(&room, "two", 1..=9), [3, 4, 5]);
        drop(away);
    }
}

#[tokio::test]
async fn a_gap_that_this_server_fills_or_has_recycled_is_listed_no_more() {
    for recycled in [true, false] {
        let room = Room::new();
        let both = vec![room.repository("one").await, room.repository("two").await];
        archived(&room, &both[..1], &[1, 2], 1).await;
        archived(&room, &both, &[3], 1).await;
        marked(&room, 1..=3);
        let archiver = archiver(&room, both.clone(), ONE);
        let _away = Away::take(&room, "one");
        both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        for number in 4..=5 {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            archiver.push(file, archiver.find(file)).await.expect("archived");
            archiver.drain().await;
            assert_eq!(archiver.state().gappy.contains_key(&1), number == 4, "{number}");
            if recycled && number == 4 {
                recycle(&room, 1..=2);
                (1..=2).for_each(|number| {
                    let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(number));
                    std::fs::remove_file(mark).expect("removed");
                });
            } else if number == 4 {
                archived(&room, &both[1..], &[1, 2], 1).await;
            }
            after(2).await;
        }
    }
}

#[tokio::test]
async fn a_gap_that_stays_costs_a_list_a_minute_and_where_none_is_nothing_is_asked() {
    for has_gap in [true, false] {
        let room = Room::new();
        let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = Arc::clone(&calls);
        let plan = Plan::By(Box::new(move |call| {
            if call.key.starts_with("wal/") {
                noted.lock().expect("unpoisoned").push(call.verb);
            }
            None
        }));
        let both = vec![room.repository("one").await, over(&room, "two", walward_storage::memory(), plan).await];
        archived(&room, if has_gap { &both[..1] } else { &both }, &[1, 2], 1).await;
        archived(&room, &both, &[3], 1).await;
        marked(&room, 1..=3);
        for number in 1..=2 {
            let object = std::fs::File::options().write(true).open(room.object("one", numbered(number)));
            let earlier = std::time::SystemTime::now() - Duration::from_hours(2);
            object.expect("the object").set_modified(earlier).expect("another time");
        }
        let archiver = archiver(&room, both.clone(), ONE);
        let push = async |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            calls.lock().expect("unpoisoned").clear();
            archiver.push(file, archiver.find(file)).await.expect("archived");
            while archiver.state().lagging.iter().any(|(name, _)| *name == file) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let calls = calls.lock().expect("unpoisoned");
            let count = |wanted: &str| calls.iter().filter(|verb| **verb == wanted).count();
            assert_eq!((count("get"), count("range")), (0, 0), "{number}: {calls:?}");
            count("list")
        };
        archiver.compare_once().await;
        let file = numbered(4);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archiver.push(file, archiver.find(file)).await.expect("archived");
        assert_eq!(archiver.state().gappy.contains_key(&1), has_gap);
        // The timeline, and the one log of it that the server still has.
        let list = if has_gap { 2 } else { 0 };
        for (number, lists) in [(5, 0), (6, list), (7, 0)] {
            if number == 6 {
                after(2).await;
            }
            assert_eq!(push(number).await, lists, "{number}");
        }
    }
}

#[tokio::test]
async fn no_debt_is_brought_after_what_another_server_wrote_into_a_gap_before_this_servers_own_files() {
    for of_a_clone in [true, false] {
        let room = Room::new();
        let all = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
        archived(&room, &all[2..], &[1, 2], 1).await;
        let archiver = archiver(&room, all.clone(), ONE);
        let push = async |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            archiver.push(file, archiver.find(file)).await.expect("one is enough");
            archiver.drain().await;
        };
        // Two repositories lack 1 and 2, and what comes later goes to the third.
        push(3).await;
        archived(&room, &all[..2], &[3], 1).await;
        marked(&room, 1..=3);
        push(4).await;
        archived(&room, &all[..2], &[4], 1).await;
        (0..3).for_each(|at| archiver.state().holds(None, numbered(4), at));
        push(5).await;
        archived(&room, &all[..1], &[5], 1).await;
        if of_a_clone {
            a_clone_writes(&room, 2, &all[1]).await;
        }
        let away = Away::take(&room, "three");
        archiver.compare_once().await;
        assert_eq!(held(&room, "two", 1..=9), if of_a_clone { vec![2, 3, 4] } else { vec![3, 4, 5] });
        let waits = archiver.repository_facts()[1].waits.clone().unwrap_or_default();
        assert_eq!(waits.contains(&numbered(5).to_string()), of_a_clone, "{waits:?}");
        away.back(&all[2]);
    }
}
