//! What goes into the archive without being asked for, and what comes after a file that was refused.

use tokio_util::sync::CancellationToken;

use super::*;

/// An archiver that looks ahead until it is dropped.
struct Running {
    archiver: Archiver,
    stop: CancellationToken,
}

impl Running {
    fn start(archiver: Archiver) -> Self {
        let stop = CancellationToken::new();
        let (running, until) = (archiver.clone(), stop.clone());
        tokio::spawn(async move { running.look_ahead(until).await });
        Self { archiver, stop }
    }

    async fn push(&self, file: WalFileName) -> Result<Pushed, Arc<PushError>> {
        self.archiver.push(file, self.archiver.find(file)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until `file` is in the repository.
async fn until_there(room: &Room, file: WalFileName) {
    for _ in 0..500 {
        if room.object("one", file).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{file} is not uploaded ahead");
}

/// Time in which look-ahead would do what it may.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

fn there(room: &Room, files: &[WalFileName]) -> usize {
    files.iter().filter(|file| room.object("one", **file).exists()).count()
}

/// Segments that wait, each filled with `byte`.
fn life(room: &Room, numbers: std::ops::RangeInclusive<u32>, byte: u8) -> Vec<WalFileName> {
    let file = |number| {
        let file = name(&format!("0000000100000000000000{number:02X}"));
        room.write(file, &segment(file, room.lineage.system_identifier, byte));
        let mark = walward_pg::archive_status::ready_path(&room.pg_wal(), file);
        let _ = std::fs::remove_file(&mark);
        room_ready(room, file);
        file
    };
    numbers.map(file).collect()
}

#[tokio::test]
async fn nothing_is_archived_that_no_life_of_this_server_asked_for() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = life(&room, 1..=12, 1);
    let agent = Running::start(archiver(&room, vec![Arc::clone(&one)], Acknowledge::All));
    a_while().await;
    assert_eq!(there(&room, &files), 0, "archive_command may be empty, or another tool's");
    // A person pushes a file that PostgreSQL has marked no longer.
    room.done(files[0]);
    agent.push(files[0]).await.expect("archived");
    a_while().await;
    assert_eq!(there(&room, &files), 1);
    agent.push(files[1]).await.expect("archived");
    room.done(files[1]);
    until_there(&room, files[5]).await;
    a_while().await;
    assert_eq!(there(&room, &files), 6, "one push is not worth more than four files");
    // The server was started anew, perhaps with another archive_command; and so was the agent.
    room.server_starts(2);
    let more = life(&room, 20..=25, 1);
    agent.archiver.wake();
    drop(agent);
    let agent = Running::start(archiver(&room, vec![one], Acknowledge::All));
    a_while().await;
    assert_eq!(there(&room, &files) + there(&room, &more), 6);
    // Nor did the server that asks now ask before it was started anew.
    agent.push(files[2]).await.expect("archived");
    room.server_starts(3);
    agent.archiver.wake();
    a_while().await;
    assert_eq!(there(&room, &more), 0);
}

#[tokio::test]
async fn a_server_that_takes_the_place_of_the_one_that_asked_gets_nothing_archived_by_its_push() {
    let room = Room::new();
    let one = room.repository("one").await;
    let agent = archiver(&room, vec![one], Acknowledge::All);
    let files = life(&room, 1..=8, 1);
    agent.push(files[0], agent.find(files[0])).await.expect("archived");
    room.done(files[0]);
    // All memory is taken, so that what is ahead waits; meanwhile a copy takes the server's place.
    let memory = agent.try_room(64 << 20).expect("all of it");
    let agent = Running::start(agent);
    tokio::time::timeout(Duration::from_secs(10), async {
        while agent.archiver.counts().1 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("something is on its way");
    a_while().await;
    room.server_starts(2);
    life(&room, 2..=8, 2);
    drop(memory);
    a_while().await;
    assert_eq!(there(&room, &files), 1, "the copy asked for nothing");
}

#[tokio::test]
async fn no_timeline_is_entered_before_postgresql_asked_for_one_of_its_files() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = life(&room, 1..=3, 1);
    let history = name("00000002.history");
    let second = name("000000020000000000000003");
    room.write(history, b"1\t0/300028\tno recovery target specified\n");
    room.write(second, &segment(second, room.lineage.system_identifier, 1));
    let agent = Running::start(archiver(&room, vec![one], Acknowledge::All));
    agent.push(files[0]).await.expect("archived");
    room.done(files[0]);
    until_there(&room, files[2]).await;
    // A trial is promoted.
    room_ready(&room, history);
    room_ready(&room, second);
    agent.archiver.wake();
    a_while().await;
    assert_eq!(there(&room, &[history, second]), 0);
    agent.push(history).await.expect("archived");
    room.done(history);
    until_there(&room, second).await;
}

#[tokio::test]
async fn a_backlog_is_uploaded_ahead_as_soon_as_one_file_was_asked_for() {
    let room = Room::new();
    let one = room.repository("one").await;
    let agent = Running::start(archiver(&room, vec![one], Acknowledge::All));
    let files = life(&room, 1..=40, 1);
    let mut ahead = 0;
    for file in &files {
        let how = agent.push(*file).await.expect("archived");
        ahead += usize::from(how == Pushed::Ahead);
        room.done(*file);
        // PostgreSQL starts a program for each.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(ahead > 10, "{ahead} of {}", files.len());
}

#[tokio::test]
async fn after_a_file_with_other_content_nothing_of_its_timeline_becomes_visible() {
    let room = Room::new();
    let one = room.repository("one").await;
    let first = life(&room, 1..=3, 1);
    for file in &first {
        archive_file(std::slice::from_ref(&one), &room.pg_wal(), *file, "first").await.expect("archived");
    }
    // The volume is rolled back to where the second segment ended, and another life begins.
    room.server_starts(2);
    let second = life(&room, 3..=9, 2);
    let agent = Running::start(archiver(&room, vec![Arc::clone(&one)], Acknowledge::All));
    for file in &first[..2] {
        agent.push(*file).await.expect("the same content");
        room.done(*file);
    }
    a_while().await;
    let error = agent.push(second[0]).await.expect_err("other content");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    a_while().await;
    assert_eq!(there(&room, &second), 1, "what the first life wrote, and nothing of the second");
    // A person takes its mark away, or pushes by hand.
    room.done(second[0]);
    a_while().await;
    for file in [second[1], second[4]] {
        let error = agent.push(file).await.expect_err("it comes after the other life's");
        let PushError::Follows { earlier, .. } = &*error else { panic!("{error:?}") };
        assert_eq!(*earlier, second[0]);
        assert!(error.to_string().contains("repository \"one\" holds"), "{error}");
    }
    assert_eq!(there(&room, &second), 1);
    // The first life's file was moved out of the archive by a person who chose the second.
    walward_base::sys::durable::rename(&room.object("one", second[0]), &room.folder.path().join("aside"))
        .expect("moved");
    agent.push(second[0]).await.expect("archived");
    agent.push(second[1]).await.expect("nothing is in its way any more");
}

#[tokio::test]
async fn while_a_history_is_refused_nothing_of_its_timeline_goes_in() {
    let room = Room::new();
    let one = room.repository("one").await;
    let history = name("00000002.history");
    room.write(history, b"1\t0/300028\tanother server\n");
    archive_file(std::slice::from_ref(&one), &room.pg_wal(), history, "other").await.expect("archived");
    let before = life(&room, 1..=2, 1);
    let agent = Running::start(archiver(&room, vec![Arc::clone(&one)], Acknowledge::All));
    agent.push(before[0]).await.expect("archived");
    room.done(before[0]);
    room.write(history, b"1\t0/400028\tthis server\n");
    room_ready(&room, history);
    let segments = ["000000020000000000000004", "000000020000000000000005"].map(name);
    for file in segments {
        room.write(file, &segment(file, room.lineage.system_identifier, 1));
        room_ready(&room, file);
    }
    let error = agent.push(history).await.expect_err("another server's");
    assert!(matches!(*error, PushError::Different { .. }), "{error:?}");
    a_while().await;
    assert_eq!(there(&room, &segments), 0);
    room.done(history);
    let error = agent.push(segments[0]).await.expect_err("its history is refused");
    assert!(matches!(*error, PushError::Follows { earlier, .. } if earlier == history), "{error:?}");
    assert_eq!(there(&room, &segments), 0);
}

#[tokio::test]
async fn by_hand_and_without_an_agent_nothing_is_archived_after_a_waiting_file_with_other_content() {
    let room = Room::new();
    let one = room.repository("one").await;
    let repositories = std::slice::from_ref(&one);
    let third = life(&room, 3..=3, 1);
    archive_file(repositories, &room.pg_wal(), third[0], "first").await.expect("archived");
    let files = life(&room, 3..=7, 2);
    let waiting = archiver(&room, vec![Arc::clone(&one)], Acknowledge::All);
    for file in &files[1..] {
        let error = archive_file(repositories, &room.pg_wal(), *file, "second").await.expect_err("out of turn");
        assert!(matches!(error, PushError::Follows { earlier, .. } if earlier == third[0]), "{error:?}");
        let error = waiting.push(*file, waiting.find(*file)).await.expect_err("out of turn");
        assert!(matches!(*error, PushError::Follows { earlier, .. } if earlier == third[0]), "{error:?}");
    }
    assert_eq!(there(&room, &files), 1);
    // Out of turn alone is no reason: what waits may be the same, or new.
    life(&room, 3..=3, 1);
    archive_file(repositories, &room.pg_wal(), files[2], "second").await.expect("nothing contradicts");
}
