//! Repositories that hold two contents under one name.

use super::*;
use crate::archive::agree::Parting;
use walward_base::describe;
use walward_base::sys::ground::{Ground, LOOKS_MAX};
use walward_repo::gap;

pub(super) fn numbered(number: u32) -> WalFileName {
    name(&format!("0000000100000000000000{number:02X}"))
}

/// A server writes these, each filled with `byte`, and they go to `repositories` without the agent.
pub(super) async fn archived(room: &Room, repositories: &[Arc<LazyRepository>], numbers: &[u32], byte: u8) {
    for number in numbers {
        let file = numbered(*number);
        room.write(file, &segment(file, room.lineage.system_identifier, byte));
        archive_file(repositories, &room.pg_wal(), file, &format!("host-{byte}")).await.expect("archived");
    }
}

pub(super) fn held(room: &Room, repository: &str, numbers: std::ops::RangeInclusive<u32>) -> Vec<u32> {
    numbers.filter(|number| room.object(repository, numbered(*number)).exists()).collect()
}

/// Moves what a repository has under these names out of it.
pub(super) fn set_aside(room: &Room, repository: &str, numbers: &[u32]) {
    for number in numbers {
        let aside = room.folder.path().join(format!("aside-{repository}-{number}"));
        walward_base::sys::durable::rename(&room.object(repository, numbered(*number)), &aside).expect("moved");
    }
}

#[tokio::test]
async fn what_a_clone_wrote_while_a_repository_was_away_is_not_continued_there() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let archiver = archiver(&room, vec![Arc::clone(&one), Arc::clone(&two)], ONE);
    let push = async |number: u32| {
        let file = numbered(number);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archiver.push(file, archiver.find(file)).await
    };
    for number in 1..=2 {
        push(number).await.expect("archived");
    }
    archiver.drain().await;
    let away = Away::take(&room, "two");
    for number in 3..=6 {
        push(number).await.expect("one is enough");
    }
    away.back(&two);
    archived(&room, std::slice::from_ref(&two), &[3, 4, 5], 2).await;
    push(7).await.expect("one is enough");
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4, 5], "it was not compared since it was away");

    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4, 5], "a debt does not bring what comes after two contents");
    for facts in archiver.repository_facts() {
        assert_eq!(facts.differs, Some(numbered(3).to_string()));
        assert_eq!(facts.contradictions_total, 1);
        assert!(facts.last_contradiction.is_some_and(|last| last.text.contains("host \"host-2\"")));
    }
    assert_eq!(archiver.repository_facts()[1].files, 2, "it is not called complete");
    archiver.compare_once().await;
    assert_eq!(archiver.repository_facts()[0].contradictions_total, 1, "it is told once");
    let error = push(8).await.expect_err("the timeline has two contents");
    let text = describe(error.as_ref());
    assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(3)), "{text}");
    assert!(text.contains("repository \"one\"") && text.contains("repository \"two\""), "{text}");

    // A person chooses the first server's.
    set_aside(&room, "two", &[3, 4, 5]);
    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(archiver.repository_facts().iter().filter(|facts| facts.differs.is_some()).count(), 0);
    push(8).await.expect("archived");
}

#[tokio::test]
async fn no_debt_brings_what_comes_after_a_file_that_cannot_be_compared() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both[..1], &[3, 4, 5], 1).await;
    archived(&room, &both[1..], &[3], 2).await;
    let damaged = room.object("two", numbered(3));
    let bytes = std::fs::read(&damaged).expect("read");
    walward_base::sys::durable::replace(&damaged, &bytes[..bytes.len() / 2], 0o600).expect("cut");
    let archiver = archiver(&room, both, ONE);
    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3], "it may be the file of another life");
    // New files are not held up by the damage of an old one.
    room.write(numbered(6), &segment(numbered(6), room.lineage.system_identifier, 1));
    archiver.push(numbered(6), archiver.find(numbered(6))).await.expect("archived");

    set_aside(&room, "two", &[3]);
    archiver.compare_once().await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_agent_that_has_just_started_sends_nothing_where_the_file_before_cannot_be_compared() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both[..1], &[1], 1).await;
    archived(&room, &both[1..], &[1], 2).await;
    let damaged = room.object("two", numbered(1));
    let bytes = std::fs::read(&damaged).expect("read");
    walward_base::sys::durable::replace(&damaged, &bytes[..bytes.len() / 2], 0o600).expect("cut");
    let archiver = archiver(&room, both, ONE);
    room.write(numbered(2), &segment(numbered(2), room.lineage.system_identifier, 1));
    archiver.push(numbered(2), archiver.find(numbered(2))).await.expect("one is enough");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 1..=3), held(&room, "two", 1..=3)), (vec![1, 2], vec![1]));
}

#[tokio::test]
async fn an_agent_that_has_just_started_sees_that_another_life_lies_before_its_own_files() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both[1..], &[3], 2).await;
    archived(&room, &both[..1], &[3], 1).await;
    // The last one is the same in both, and in the second one follows another life's.
    archived(&room, &both, &[4], 1).await;
    let archiver = archiver(&room, both, ONE);
    room.write(numbered(5), &segment(numbered(5), room.lineage.system_identifier, 1));
    let refused = archiver.push(numbered(5), archiver.find(numbered(5))).await.expect_err("two lives");
    assert!(matches!(*refused, PushError::Follows { earlier, .. } if earlier == numbered(3)), "{refused}");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 5..=5), held(&room, "two", 5..=5)), (vec![], vec![]));
}

#[tokio::test]
async fn an_agent_that_has_just_started_sends_nothing_where_it_could_not_look_for_the_file_before() {
    let room = Room::new();
    let one = room.repository("one").await;
    let two = room.repository("two").await;
    archived(&room, std::slice::from_ref(&one), &[1], 1).await;
    archived(&room, std::slice::from_ref(&two), &[1], 2).await;
    let away = Away::take(&room, "two");
    let archiver = archiver(&room, vec![one, Arc::clone(&two)], ONE);
    let push = async |number: u32| {
        let file = numbered(number);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archiver.push(file, archiver.find(file)).await.map(drop)
    };
    // Looked for, and not sent: nothing else says that the second repository missed anything.
    let file = numbered(2);
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    archiver.first_look(file, archiver.find(file).life).await.expect("one of them says that it has it");
    away.back(&two);
    push(2).await.expect("one is enough");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 1..=3), held(&room, "two", 1..=3)), (vec![1, 2], vec![1]));
}

#[tokio::test]
async fn an_agent_that_has_just_started_sends_nothing_where_another_life_lies_before_a_gap() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both[..1], &[3, 4, 5], 1).await;
    // This server went on after the gap before the clone came.
    archived(&room, &both, &[6], 1).await;
    archived(&room, &both[1..], &[3], 2).await;
    let archiver = archiver(&room, both, ONE);
    room.write(numbered(7), &segment(numbered(7), room.lineage.system_identifier, 1));
    archiver.push(numbered(7), archiver.find(numbered(7))).await.expect("one is enough");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 7..=9), held(&room, "two", 1..=9)), (vec![7], vec![1, 2, 3, 6]));
    archiver.compare_once().await;
    assert_eq!(archiver.repository_facts()[1].differs, Some(numbered(3).to_string()));
}

#[tokio::test]
async fn a_repository_that_began_later_than_another_missed_nothing() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both[..1], &[1, 2], 1).await;
    archived(&room, &both, &[3, 4], 1).await;
    let archiver = archiver(&room, both, ONE);
    room.write(numbered(5), &segment(numbered(5), room.lineage.system_identifier, 1));
    archiver.push(numbered(5), archiver.find(numbered(5))).await.expect("archived");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 5..=9), held(&room, "two", 1..=9)), (vec![5], vec![3, 4, 5]));
}

#[tokio::test]
async fn a_file_that_was_looked_at_before_two_contents_were_found_goes_nowhere() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both[..1], &[1], 1).await;
    archived(&room, &both[1..], &[1], 2).await;
    let archiver = archiver(&room, both, Acknowledge::All);
    archiver.compare_once().await;
    let file = numbered(2);
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    // The way of a file that was let through earlier.
    let error = archiver.archive_again(file).await.expect_err("it comes after two contents");
    assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(1)), "{error}");
    archiver.drain().await;
    assert_eq!((held(&room, "one", 2..=3), held(&room, "two", 2..=3)), (vec![], vec![]));
}

#[tokio::test]
async fn two_contents_are_found_among_the_newest_files_although_the_last_ones_agree() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both[..1], &[3, 4], 1).await;
    archived(&room, &both[1..], &[3, 4], 2).await;
    archived(&room, &both, &[5, 6], 1).await;
    let archiver = archiver(&room, both, ONE);
    archiver.compare_once().await;
    assert_eq!(archiver.repository_facts()[0].differs, Some(numbered(3).to_string()));
}

#[tokio::test]
async fn a_copy_brings_nothing_that_comes_after_a_file_with_two_contents() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let from = std::slice::from_ref(&one);
    archived(&room, from, &[1, 2, 3, 4, 5, 6], 1).await;
    // Timeline 2 was left behind by nobody before segment 5, timeline 3 began in segment 2.
    let [second, third] = ["00000002.history", "00000003.history"].map(name);
    room.write(second, b"1\t0/500028\tno recovery target specified\n");
    room.write(third, b"1\t0/200028\tbefore\n");
    let others = ["000000020000000000000005", "000000030000000000000002"].map(name);
    for file in others {
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
    }
    for file in [second, third, others[0], others[1]] {
        archive_file(from, &room.pg_wal(), file, "host-1").await.expect("archived");
    }
    archived(&room, std::slice::from_ref(&two), &[2], 1).await;
    archived(&room, std::slice::from_ref(&two), &[3, 4], 2).await;
    let (from, to) = (one.get().await.expect("open"), two.get().await.expect("open"));
    let missing = missing_wal(&from, &to).await.expect("compared");
    let names: Vec<_> = missing.files.iter().map(|file| file.name).collect();
    assert_eq!(names, [third, numbered(1), others[1]]);
    assert_eq!(missing.withheld, 4, "segments 5 and 6, and the timeline that begins after them");
    assert_eq!(missing.contradictions.len(), 1);
    assert!(missing.contradictions[0].starts_with(&numbered(3).to_string()), "{:?}", missing.contradictions);
    assert_eq!(gap::read_all(&to, room.lineage).await.expect("read").0, Vec::new());
}

#[tokio::test]
async fn nothing_of_a_timeline_goes_where_another_server_was_on_it_before_it_began() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let second = name("00000002.history");
    room.write(second, b"1\t0/A00028\tno recovery target specified\n");
    let write = async |repository: &Arc<LazyRepository>, names: &[&str]| {
        for file in names.iter().map(|text| name(text)) {
            if file != second {
                room.write(file, &segment(file, room.lineage.system_identifier, 1));
            }
            let done = archive_file(std::slice::from_ref(repository), &room.pg_wal(), file, "host").await;
            done.expect("archived");
        }
    };
    // Promoted in segment 10; the other one was in segment 5, and its history has gone from the second repository, or never came there.
    let begin = ["00000002.history", "00000002000000000000000A", "00000002000000000000000B"];
    write(&one, &begin).await;
    write(&two, &["000000020000000000000005"]).await;
    let (from, to) = (one.get().await.expect("open"), two.get().await.expect("open"));
    let missing = missing_wal(&from, &to).await.expect("compared");
    assert_eq!(
        (missing.files.len(), missing.withheld),
        (0, 3),
        "nor the history: it would lead to what is there: {missing:?}"
    );
    assert!(missing.contradictions[0].starts_with("000000020000000000000005"), "{:?}", missing.contradictions);
    let archiver = archiver(&room, vec![one, two], ONE);
    archiver.compare_once().await;
    for later in &begin {
        assert!(!room.object("two", name(later)).exists(), "{later}");
    }
    assert_eq!(archiver.repository_facts()[1].differs.as_deref(), Some("000000020000000000000005"));
}

#[tokio::test]
async fn where_a_timeline_begins_is_asked_anew_before_it_accuses() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let both = [Arc::clone(&one), Arc::clone(&two)];
    let promoted = async |at: &str, first: &str| {
        let second = name("00000002.history");
        room.write(second, format!("1\t{at}\tno recovery target specified\n").as_bytes());
        room.write(name(first), &segment(name(first), room.lineage.system_identifier, 1));
        for file in [second, name(first)] {
            archive_file(&both, &room.pg_wal(), file, "host").await.expect("archived");
        }
    };
    promoted("0/A00028", "00000002000000000000000A").await;
    let archiver = archiver(&room, both.to_vec(), ONE);
    archiver.compare_once().await;
    // On another host a person sets that life aside, and the one that stays was promoted earlier.
    for (repository, file) in [("one", "00000002.history"), ("one", "00000002000000000000000A")]
        .into_iter()
        .chain([("two", "00000002.history"), ("two", "00000002000000000000000A")])
    {
        let aside = room.folder.path().join(format!("{repository}-{file}"));
        walward_base::sys::durable::rename(&room.object(repository, name(file)), &aside).expect("moved");
    }
    promoted("0/200028", "000000020000000000000002").await;
    archiver.compare_once().await;
    assert_eq!(archiver.repository_facts().iter().find_map(|facts| facts.differs.clone()), None);
}

#[tokio::test]
async fn debts_trust_no_clock_of_the_host_that_made_the_repository() {
    let room = Room::new();
    let ahead = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(2)).expect("a time");
    let both = vec![room.repository("one").await, room.repository_made_at("two", ahead).await];
    archived(&room, &both[..1], &[1, 2, 3, 4, 5], 1).await;
    archiver(&room, both, ONE).compare_once().await;
    assert_eq!(held(&room, "two", 1..=5), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn debts_trust_no_clock_of_a_store_for_what_comes_after_its_own_first_file() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both[..1], &[1], 1).await;
    archived(&room, &both, &[2], 1).await;
    archived(&room, &both[..1], &[3, 4], 1).await;
    let later = std::time::SystemTime::now() + Duration::from_hours(2);
    for entry in std::fs::read_dir(room.folder.path().join("two/main/cluster")).expect("listed") {
        let file = std::fs::File::options().write(true).open(entry.expect("an entry").path()).expect("the identity");
        file.set_modified(later).expect("another time");
    }
    archiver(&room, both, ONE).compare_once().await;
    assert_eq!(held(&room, "two", 1..=5), [2, 3, 4]);
}

#[tokio::test]
async fn no_debt_brings_what_comes_after_a_file_that_the_server_was_refused() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let both = [Arc::clone(&one), Arc::clone(&two)];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both, &[3], 2).await;
    // A part of the other life is on its way out of one of them.
    archived(&room, std::slice::from_ref(&two), &[4, 5], 2).await;
    let archiver = archiver(&room, both.to_vec(), Acknowledge::All);
    let own = numbered(3);
    room.write(own, &segment(own, room.lineage.system_identifier, 1));
    walward_base::sys::durable::create(&walward_pg::archive_status::ready_path(&room.pg_wal(), own), b"", 0o600)
        .expect("a mark");
    let refused = archiver.push(own, archiver.find(own)).await.expect_err("other content");
    assert!(matches!(*refused, PushError::Different { .. }), "{refused}");
    let contest = archiver.contest(own);
    assert!(contest.is_contested && !contest.is_archived, "{contest:?}");
    archiver.compare_once().await;
    assert_eq!(held(&room, "one", 1..=9), [1, 2, 3], "a debt does not bring what comes after what was refused");

    // A person sets the other life aside: the next push archives the file, without a restart.
    for repository in ["one", "two"] {
        set_aside(&room, repository, &[3]);
    }
    set_aside(&room, "two", &[4, 5]);
    archiver.forget();
    assert_eq!(archiver.contest(own).contested, []);
    archiver.push(own, archiver.find(own)).await.expect("archived");
    for facts in archiver.repository_facts() {
        assert_eq!((facts.last_contradiction, facts.differs), (None, None));
    }
}

#[tokio::test]
async fn what_a_repository_says_late_of_an_archive_that_a_person_has_changed_meanwhile_is_not_remembered() {
    let room = Room::new();
    let slow = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let plan = Plan::By(Box::new({
        let slow = Arc::clone(&slow);
        move |call| {
            let is_slow = call.verb == "put" && slow.load(std::sync::atomic::Ordering::Relaxed);
            is_slow.then_some(Fault::Delay(Duration::from_secs(3)))
        }
    }));
    let both = vec![room.repository("one").await, over(&room, "two", walward_storage::memory(), plan).await];
    archived(&room, &both, &[1], 2).await;
    let archiver = archiver(&room, both, Acknowledge::All);
    slow.store(true, std::sync::atomic::Ordering::Relaxed);
    room.write(numbered(1), &segment(numbered(1), room.lineage.system_identifier, 1));
    let error = archiver.push(numbered(1), archiver.find(numbered(1))).await.expect_err("other content");
    assert!(matches!(&*error, PushError::Different { repository, .. } if repository == "one"), "{error}");
    archiver.forget();
    archiver.drain().await;
    assert_eq!(archiver.contest(numbered(1)).contested, []);
    for facts in archiver.repository_facts() {
        assert_eq!((facts.last_contradiction, facts.differs), (None, None));
    }
}

#[tokio::test]
async fn a_file_that_is_refused_while_a_person_sets_the_other_life_aside_is_sent_once_more() {
    let room = Room::new();
    let plan = Plan::By(Box::new(|call| (call.verb == "put").then_some(Fault::Delay(Duration::from_secs(1)))));
    let store = walward_storage::memory();
    let one = over(&room, "one", Arc::clone(&store), plan).await;
    archived(&room, std::slice::from_ref(&one), &[1], 2).await;
    let archiver = archiver(&room, vec![one], Acknowledge::All);
    let file = numbered(1);
    room.write(file, &segment(file, room.lineage.system_identifier, 1));
    let refused = async {
        let error = archiver.archive_again(file).await.expect_err("other content");
        assert!(matches!(*error, PushError::Different { .. }), "{error}");
        store.delete(&layout::wal_file(room.lineage, file)).await.expect("set aside");
    };
    let pushed = async {
        archiver.forget();
        archiver.push(file, archiver.find(file)).await
    };
    let ((), pushed) = futures::join!(refused, pushed);
    pushed.expect("what it met is there no more");
}

#[tokio::test]
async fn a_repository_that_missed_files_and_is_alone_is_held_against_what_the_server_still_has() {
    // The clone's files, the first that the server still has, and whether that proves anything.
    for (of_the_clone, still_there, refused) in [(vec![3, 4], 3, true), (vec![3], 4, false), (vec![], 3, false)] {
        let room = Room::new();
        let (one, two) = (room.repository("one").await, room.repository("two").await);
        let archiver = archiver(&room, vec![Arc::clone(&one), Arc::clone(&two)], ONE);
        let write = |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            file
        };
        let push = async |number: u32| archiver.push(write(number), archiver.find(numbered(number))).await;
        for number in 1..=2 {
            push(number).await.expect("archived");
        }
        archiver.drain().await;
        let away = Away::take(&room, "two");
        for number in 3..=5 {
            push(number).await.expect("one is enough");
            archiver.drain().await;
        }
        away.back(&two);
        archived(&room, std::slice::from_ref(&two), &of_the_clone, 2).await;
        for number in still_there..=5 {
            let mark = walward_pg::archive_status::done_path(&room.pg_wal(), write(number));
            walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
        }

        let away = Away::take(&room, "one");
        one.standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        let mut pushed = push(6).await;
        for _ in 0..20 {
            if !matches!(pushed.as_ref().map_err(|error| &**error), Err(PushError::Repository { .. })) {
                break;
            }
            pushed = push(6).await;
        }
        match pushed {
            Err(error) if refused => {
                let text = describe(error.as_ref());
                assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(3)), "{text}");
                assert!(text.contains("repository \"two\", which can be compared with no other"), "{text}");
            }
            other => assert!(other.is_ok() && !refused, "{of_the_clone:?}: {other:?}"),
        }
        let there: Vec<u32> = [1, 2].into_iter().chain(of_the_clone).chain((!refused).then_some(6)).collect();
        assert_eq!(held(&room, "two", 1..=9), there);

        // Compared with the other, once that is back, the clone's files are found whatever the server has.
        away.back(&one);
        archiver.compare_once().await;
        let differs = archiver.repository_facts()[1].differs.clone();
        assert_eq!(differs, there.contains(&3).then(|| numbered(3).to_string()));
    }
}

#[tokio::test]
async fn a_file_is_refused_and_not_held_up_while_what_it_is_compared_with_is_not_listed() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1], 1).await;
    archived(&room, &both[1..], &[2], 1).await;
    let write =
        |number: u32| room.write(numbered(number), &segment(numbered(number), room.lineage.system_identifier, 1));
    write(2);
    let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(2));
    walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    let archiver = archiver(&room, both.clone(), ONE);
    let _away = Away::take(&room, "one");
    both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
    write(3);
    // The data directory's places are taken, as when its file system hangs.
    let ground = Ground::of(archiver.data_directory());
    let (release, waits) = std::sync::mpsc::sync_channel::<()>(1);
    let waits = Arc::new(std::sync::Mutex::new(waits));
    for _ in 0..LOOKS_MAX {
        let waits = Arc::clone(&waits);
        let hung = ground.look(move || waits.lock().is_ok_and(|waits| waits.recv().is_ok()));
        assert!(tokio::time::timeout(Duration::from_millis(20), hung).await.is_err());
    }
    let error = archiver.push(numbered(3), archiver.find(numbered(3))).await.expect_err("not compared");
    let text = describe(error.as_ref());
    assert!(matches!(&*error, PushError::NoAnswer { .. }) && text.contains("archive_status was not listed"), "{text}");
    assert_eq!(held(&room, "two", 1..=9), [1, 2], "nothing goes before it is compared");
    drop(release);
    archiver.push(numbered(3), archiver.find(numbered(3))).await.expect("it is compared by now");
}

#[tokio::test]
async fn an_agent_that_has_just_started_takes_no_name_for_the_content_of_the_only_repository_that_answers() {
    for of_a_clone in [false, true] {
        let room = Room::new();
        let both = vec![room.repository("one").await, room.repository("two").await];
        archived(&room, &both, &[1], 1).await;
        archived(&room, &both[1..], &[2], if of_a_clone { 2 } else { 1 }).await;
        room.write(numbered(2), &segment(numbered(2), room.lineage.system_identifier, 1));
        let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(2));
        walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
        let archiver = archiver(&room, both.clone(), ONE);
        let _away = Away::take(&room, "one");
        both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        room.write(numbered(3), &segment(numbered(3), room.lineage.system_identifier, 1));
        let pushed = archiver.push(numbered(3), archiver.find(numbered(3))).await;
        let is_refused = matches!(&pushed, Err(error) if matches!(&**error, PushError::Follows { earlier, .. } if *earlier == numbered(2)));
        assert_eq!((is_refused, pushed.is_ok()), (of_a_clone, !of_a_clone), "{pushed:?}");
        assert_eq!(held(&room, "two", 1..=9), if of_a_clone { vec![1, 2] } else { vec![1, 2, 3] });
    }
}

#[tokio::test]
async fn a_gap_that_another_life_has_filled_is_found_in_the_only_repository_that_answers() {
    let room = Room::new();
    let both = vec![room.repository("one").await, room.repository("two").await];
    archived(&room, &both, &[1, 2], 1).await;
    archived(&room, &both[..1], &[3, 4, 5], 1).await;
    // This server went on after the gap before the clone came.
    archived(&room, &both, &[6, 7, 8, 9, 10, 11], 1).await;
    archived(&room, &both[1..], &[3, 4, 5], 2).await;
    for number in 1..=11 {
        room.write(numbered(number), &segment(numbered(number), room.lineage.system_identifier, 1));
        let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(number));
        walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
    }
    let archiver = archiver(&room, both.clone(), ONE);
    let _away = Away::take(&room, "one");
    both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
    room.write(numbered(12), &segment(numbered(12), room.lineage.system_identifier, 1));
    let error = archiver.push(numbered(12), archiver.find(numbered(12))).await.expect_err("two lives");
    assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(5)), "{error}");
    assert_eq!(held(&room, "two", 12..=13), [] as [u32; 0]);
}

#[tokio::test]
async fn a_gap_that_another_life_has_filled_is_found_where_it_cannot_be_read_what_comes_after_it() {
    for fault in [Fault::Corrupt, Fault::Before(ErrorClass::Permanent)] {
        let room = Room::new();
        let two = over(&room, "two", walward_storage::memory(), Plan::script([])).await;
        let both = vec![room.repository("one").await, two];
        archived(&room, &both, &[1, 2], 1).await;
        archived(&room, &both[..1], &[3, 4, 5], 1).await;
        archived(&room, &both, &[6, 7, 8, 9, 10, 11], 1).await;
        archived(&room, &both[1..], &[3, 4, 5], 2).await;
        for number in 1..=11 {
            room.write(numbered(number), &segment(numbered(number), room.lineage.system_identifier, 1));
            let mark = walward_pg::archive_status::done_path(&room.pg_wal(), numbered(number));
            walward_base::sys::durable::create(&mark, b"", 0o600).expect("a mark");
        }
        let plan = Plan::By(Box::new(move |call| {
            (call.verb != "put" && call.verb != "list" && call.key.ends_with("00000006")).then_some(fault)
        }));
        let store = Faulty::new(both[1].get().await.expect("open").store().clone(), plan);
        let two = LazyRepository::at("two", store, Encryption::None, 1, CpuPool::new(1).expect("a thread"));
        let archiver = archiver(&room, vec![Arc::clone(&both[0]), two], ONE);
        let _away = Away::take(&room, "one");
        both[0].standing().failed(ErrorClass::Transient, tokio::time::Instant::now());
        room.write(numbered(12), &segment(numbered(12), room.lineage.system_identifier, 1));
        let error = archiver.push(numbered(12), archiver.find(numbered(12))).await.expect_err("two lives");
        assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(5)), "{error}");
    }
}

#[tokio::test]
async fn the_repositories_are_looked_at_anew_for_each_life_of_the_server_and_when_a_person_changed_the_archive() {
    for of_a_later_life in [true, false] {
        let room = Room::new();
        let both = vec![room.repository("one").await, room.repository("two").await];
        archived(&room, &both, &[1], 1).await;
        let archiver = archiver(&room, both.clone(), ONE);
        let push = async |number: u32| {
            let file = numbered(number);
            room.write(file, &segment(file, room.lineage.system_identifier, 1));
            archiver.push(file, archiver.find(file)).await.map(drop)
        };
        room.server_starts(1);
        push(2).await.expect("archived");
        archiver.drain().await;
        assert_eq!(held(&room, "two", 1..=9), [1, 2]);
        // Another server was the primary meanwhile, and one of the repositories was away from it.
        archived(&room, &both[..1], &[3], 1).await;
        archived(&room, &both[1..], &[3], 2).await;
        if of_a_later_life {
            room.server_starts(2);
        } else {
            archiver.forget();
        }
        let error = push(4).await.expect_err("what comes before it has two contents");
        assert!(matches!(&*error, PushError::Follows { earlier, .. } if *earlier == numbered(3)), "{error}");
        archiver.drain().await;
        assert_eq!(held(&room, "two", 1..=9), [1, 2, 3]);
    }
}

#[tokio::test]
async fn that_a_repository_missed_files_is_forgotten_when_a_person_changed_the_archive() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let archiver = archiver(&room, vec![Arc::clone(&one), Arc::clone(&two)], ONE);
    let push = async |number: u32| {
        let file = numbered(number);
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        archiver.push(file, archiver.find(file)).await.expect("one is enough");
        archiver.drain().await;
    };
    push(1).await;
    let away = Away::take(&room, "two");
    push(2).await;
    away.back(&two);
    push(3).await;
    assert_eq!(held(&room, "two", 1..=9), [1], "it was not compared since it was away");
    archived(&room, std::slice::from_ref(&two), &[2, 3], 1).await;
    archiver.forget();
    push(4).await;
    assert_eq!(held(&room, "two", 1..=9), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_contradiction_that_is_found_while_a_comparison_runs_outlives_it() {
    let room = Room::new();
    let repositories = vec![room.repository("one").await, room.repository("two").await, room.repository("three").await];
    let archiver = archiver(&room, repositories, ONE);
    let parted = |pair| (pair, room.lineage, Parting { first: numbered(3), why: "other content".to_owned() });
    let (of_two, of_three) = (parted((0, 1)), parted((0, 2)));
    archiver.state().parted = vec![of_two.clone(), of_three.clone()];
    // It began before: what it listed may lack the file.
    archiver.compared(&[true, true, true], std::slice::from_ref(&of_two), &[]);
    assert_eq!(archiver.state().parted, std::slice::from_ref(&of_three));
    // Of one that takes no part it says nothing.
    archiver.compared(&[true, true, false], std::slice::from_ref(&of_three), &[]);
    assert_eq!(archiver.state().parted, std::slice::from_ref(&of_three));
    archiver.compared(&[true, true, true], std::slice::from_ref(&of_three), &[]);
    assert_eq!(archiver.state().parted, []);
}
