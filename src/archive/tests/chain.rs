//! Which segment continues which, as it is stored.

use super::*;
use walward_repo::ObjectSummary;

async fn stored(room: &Room, lazy: &LazyRepository, file: WalFileName) -> ObjectSummary {
    let repository = lazy.get().await.expect("open");
    repository.read_summary(&layout::wal_file(room.lineage, file)).await.expect("stored")
}

/// Whether `later` is stored as what continues `earlier`, as that is stored; none when it does not say what it continues.
async fn continues(room: &Room, lazy: &LazyRepository, later: WalFileName, earlier: WalFileName) -> Option<bool> {
    let predecessor = stored(room, lazy, later).await.facts.expect("facts").predecessor?;
    assert_eq!(WalFileName::Segment(predecessor.name), earlier);
    Some(stored(room, lazy, earlier).await.summary.content_digest == predecessor.digest)
}

#[tokio::test]
async fn each_segment_is_stored_with_the_digest_of_the_one_before_it_in_every_life_of_its_server() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = waiting(&room, 6);
    let archiver = archiver(&room, vec![Arc::clone(&one)], Acknowledge::All);
    for (at, file) in files.iter().enumerate() {
        // Started anew, it has read none of what lies there.
        if at == 3 {
            room.server_starts(2);
        }
        archiver.push(*file, archiver.find(*file)).await.expect("archived");
        room.done(*file);
    }
    assert_eq!(stored(&room, &one, files[0]).await.facts.expect("facts").predecessor, None);
    for pair in files.windows(2) {
        assert_eq!(continues(&room, &one, pair[1], pair[0]).await, Some(true), "{}", pair[1]);
    }
    // Without an agent, and where the one before was recycled.
    let more = waiting(&room, 8);
    more[..6].iter().for_each(|file| room.done(*file));
    archive_file(&[Arc::clone(&one)], &room.pg_wal(), more[6], "host").await.expect("archived");
    assert_eq!(continues(&room, &one, more[6], files[5]).await, Some(true));
    room.done(more[6]);
    std::fs::remove_file(room.pg_wal().join(more[6].to_string())).expect("recycled");
    archive_file(&[Arc::clone(&one)], &room.pg_wal(), more[7], "host").await.expect("archived");
    assert_eq!(continues(&room, &one, more[7], more[6]).await, None);
}

/// A segment that ends with a switch right after its header, and what lies after it.
fn switched(room: &Room, file: WalFileName, rest: u8) -> Vec<u8> {
    let mut bytes = segment(file, room.lineage.system_identifier, rest);
    let WalFileName::Segment(name) = file else { panic!("a segment") };
    let start = name.start(SegmentSize::try_from(SEGMENT_BYTES).expect("a size")).expect("a start");
    let mut record = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    record.extend((start.0 - 100).to_le_bytes());
    record.extend([0x40, 0, 0, 0]);
    record.extend(crc32c::crc32c(&record).to_le_bytes());
    bytes[40..64].copy_from_slice(&record);
    bytes[64..].fill(rest);
    bytes
}

/// A standby whose connection broke in the zeros after a switch has what its file held before, and goes on with the next segment.
#[tokio::test]
async fn what_lies_after_a_segment_switch_is_no_content_and_makes_no_other_life() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = waiting(&room, 3);
    let push = async |file| archive_file(&[Arc::clone(&one)], &room.pg_wal(), file, "host").await;
    room.write(files[0], &switched(&room, files[0], 0));
    push(files[0]).await.expect("archived");
    // The standby's.
    room.write(files[0], &switched(&room, files[0], 77));
    push(files[0]).await.expect("the same WAL");
    room.done(files[0]);
    push(files[1]).await.expect("archived");
    room.done(files[1]);
    assert_eq!(continues(&room, &one, files[1], files[0]).await, Some(true));
    // And the other way round.
    room.write(files[2], &switched(&room, files[2], 77));
    push(files[2]).await.expect("archived");
    room.write(files[2], &switched(&room, files[2], 0));
    push(files[2]).await.expect("the same WAL");
    let want = Want::new(Some(room.lineage), files[2]);
    let found = retrieve(&[Arc::clone(&one)], &want, &room.spot(), DEADLINE, AtHole::Wait).await;
    assert!(matches!(found, Ok(Retrieved::File { .. })));
    assert!(std::fs::read(room.destination()).expect("the file") == switched(&room, files[2], 0));
    // Before it, everything counts.
    let mut other = switched(&room, files[2], 0);
    other[44] ^= 1;
    room.write(files[2], &other);
    assert!(matches!(push(files[2]).await, Err(PushError::Different { .. })));
}

#[tokio::test]
async fn a_segment_of_another_life_does_not_continue_what_lies_before_it() {
    let room = Room::new();
    let one = room.repository("one").await;
    let files = waiting(&room, 2);
    archive_file(&[Arc::clone(&one)], &room.pg_wal(), files[0], "host").await.expect("archived");
    // A volume was rolled back, and what it wrote was pushed by hand.
    room.done(files[0]);
    room.write(files[0], &segment(files[0], room.lineage.system_identifier, 99));
    archive_file(&[Arc::clone(&one)], &room.pg_wal(), files[1], "host").await.expect("archived");
    assert_eq!(continues(&room, &one, files[1], files[0]).await, Some(false));
}
