//! WAL that is let go, and what repositories are told of it.

use super::*;

/// An archiver that lets WAL go as soon as more than one segment waits.
fn limited(room: &Room, repositories: Vec<Arc<LazyRepository>>, acknowledge: Acknowledge) -> Archiver {
    let archiver = archiver(room, repositories, acknowledge);
    archiver.limit_queue(Some(SEGMENT_BYTES), room.folder.path().join("let-go"));
    archiver
}

#[tokio::test]
async fn wal_is_let_go_only_when_fewer_repositories_than_must_can_take_it_and_all_are_told() {
    let room = Room::new();
    let (one, two) = (room.repository("one").await, room.repository("two").await);
    let archiver = limited(&room, vec![Arc::clone(&one), Arc::clone(&two)], ONE);
    let files = waiting(&room, 4);
    let second = Away::take(&room, "two");
    assert!(
        matches!(archiver.push(files[0], archiver.find(files[0])).await, Ok(Pushed::Now)),
        "one is enough, whatever waits"
    );
    let first = Away::take(&room, "one");
    for file in &files[1..3] {
        assert!(matches!(archiver.push(*file, archiver.find(*file)).await, Ok(Pushed::LetGo)), "{file}");
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
            retrieve(from, &Want::new(Some(room.lineage), file), &room.spot(), DEADLINE, AtHole::Wait).await
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
    archiver.push(files[0], archiver.find(files[0])).await.expect("archived");
    let away = Away::take(&room, "one");
    assert!(matches!(archiver.push(files[1], archiver.find(files[1])).await, Ok(Pushed::LetGo)));
    std::fs::remove_file(room.pg_wal().join(files[1].to_string())).expect("removed");
    away.back(&one);
    assert!(!archiver.settle_all(archiver.queue_limit().expect("a limit")).await);
    let (from, to) = (one.get().await.expect("open"), two.get().await.expect("open"));
    let missing = missing_wal(&from, &to).await.expect("compared");
    copy_wal(&from, &to, 1, &missing.files, |_| {}).await.expect("copied");
    let ask = async || {
        retrieve(&[Arc::clone(&two)], &Want::new(Some(room.lineage), files[1]), &room.spot(), DEADLINE, AtHole::Tell)
            .await
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
    assert!(matches!(archiver.push(files[0], archiver.find(files[0])).await, Ok(Pushed::LetGo)));
    away.back(&one);
    // Ahead of PostgreSQL.
    archiver.archive_again(files[1]).await.expect("archived");
    assert!(
        matches!(archiver.push(files[2], archiver.find(files[2])).await, Ok(Pushed::Now)),
        "more waits than the limit, and the store works"
    );
}

#[tokio::test]
async fn what_is_durable_already_is_not_let_go() {
    let room = Room::new();
    let one = room.repository("one").await;
    let archiver = limited(&room, vec![Arc::clone(&one)], Acknowledge::All);
    let files = waiting(&room, 4);
    // Ahead of PostgreSQL.
    archiver.archive_again(files[1]).await.expect("archived");
    let _away = Away::take(&room, "one");
    let push = async |file| archiver.push(file, archiver.find(file)).await;
    assert!(matches!(push(files[0]).await, Ok(Pushed::LetGo)));
    // The first still has its mark, so that this one is not the next.
    assert!(matches!(push(files[1]).await, Ok(Pushed::Ahead)), "it is in the repository");
    assert_eq!(archiver.unrecorded_gaps(), 1);
    assert!(matches!(push(files[2]).await, Ok(Pushed::LetGo)));
}

#[tokio::test]
async fn no_wal_is_let_go_because_of_a_wrong_key_or_a_damaged_repository() {
    let room = Room::new();
    let files = waiting(&room, 4);
    let key = |name: &str| {
        let path = room.folder.path().join(name);
        walward_base::sys::durable::create(&path, walward_repo::keys::key_file_text().as_bytes(), 0o600)
            .expect("a key");
        Encryption::Key(KeySource::KeyFile(path))
    };
    let (options, pool, now) = (room.options("sealed"), CpuPool::new(1).expect("a thread"), Timestamp::now());
    walward_storage::create_root(&options, "main").expect("a root");
    let store = walward_storage::open(&options, "main").expect("a store");
    let made = Repository::create("sealed", store, "main", &key("right"), &[], pool.clone(), now).await;
    made.expect("a repository");
    let lost = key("wrong");
    let sealed = LazyRepository::new("sealed", "main", options, lost, 1, pool);
    let wrong = limited(&room, vec![sealed], Acknowledge::All);
    let error = wrong.push(files[0], wrong.find(files[0])).await.expect_err("the key is wrong");
    assert!(!error.is_the_stores(), "{error:?}");

    let damaged = room.repository("damaged").await;
    archive_file(std::slice::from_ref(&damaged), &room.pg_wal(), files[0], "host").await.expect("archived");
    walward_base::sys::durable::replace(&room.object("damaged", files[0]), b"nonsense", 0o600).expect("damaged");
    // Beside a store that is away, whichever answers first.
    let gone = room.repository("gone").await;
    let _away = Away::take(&room, "gone");
    let both = limited(&room, vec![Arc::clone(&gone), damaged], Acknowledge::All);
    let error = both.push(files[0], both.find(files[0])).await.expect_err("what is there cannot be verified");
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error:?}");
    assert_eq!(both.unrecorded_gaps(), 0);
}

#[tokio::test]
async fn a_history_is_put_off_and_not_let_go_and_archived_when_the_store_is_back() {
    let room = Room::new();
    let one = room.repository("one").await;
    let archiver = limited(&room, vec![Arc::clone(&one)], Acknowledge::All);
    let files = waiting(&room, 4);
    let history = name("00000002.history");
    room.write(history, b"1\t0/500028\tno recovery target specified\n");
    let away = Away::take(&room, "one");
    let push = async |file| archiver.push(file, archiver.find(file)).await;
    assert!(matches!(push(history).await, Ok(Pushed::PutOff)));
    assert_eq!(archiver.unrecorded_gaps(), 0, "nothing is lost");
    // What PostgreSQL asks for after it is what frees the disk.
    assert!(matches!(push(files[0]).await, Ok(Pushed::LetGo)));
    assert_eq!(archiver.unrecorded_gaps(), 1);
    away.back(&one);
    assert!(!archiver.settle_all(archiver.queue_limit().expect("a limit")).await);
    assert!(room.object("one", history).exists());
    assert_eq!(archiver.unrecorded_gaps(), 0);
}
