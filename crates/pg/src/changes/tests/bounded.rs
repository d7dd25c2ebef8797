//! What a segment changes takes a bounded amount of memory, whatever is written in it.

use super::*;
use crate::tests::Writer;

/// Far above what a segment takes that is ordinary, and far below what one may be made to take.
const MEMORY_MAX: usize = 20 << 20;
const SEGMENT: u64 = 16 * MIB;

/// A segment of records of this kind, as many as there is room for.
fn full_of(manager: u8, info: u8, body: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut writer = Writer { segment: SEGMENT, ..Writer::new(SEGMENT, SEGMENT, 8192) };
    let segment_bytes = usize::try_from(SEGMENT).expect("small");
    for number in 0.. {
        if writer.wal.len() >= segment_bytes {
            break;
        }
        writer.record(manager, info, &body(number));
    }
    writer.wal.truncate(segment_bytes);
    writer.wal
}

/// What the segment changes; its memory is held against the bound all the while.
fn observed(wal: &[u8], observer: ChangesObserver) -> SegmentChanges {
    let size = SegmentSize::try_from(SEGMENT).expect("a size");
    let segment_name = SegmentName::from_number(Timeline(1), 1, size).expect("a name");
    let mut walk = Walk::new(segment_name, size, observer);
    for chunk in wal.chunks(100_000) {
        walk.feed(chunk);
        let memory = walk.observer().memory();
        assert!(memory <= MEMORY_MAX, "{memory}");
    }
    let (walked, observer) = walk.finish();
    assert_eq!(walked.unknown, None);
    observer.finish(&walked).expect("a segment")
}

#[test]
fn a_segment_that_changes_too_much_takes_little_memory_and_is_in_doubt_from_its_start() {
    let hard = [
        // A new relation in each record; a chunk of blocks of its own for each block; relations that are dropped; databases.
        full_of(10, 0, |number| Body::default().simple(0, number, 7).end()),
        full_of(10, 0, |number| {
            let blocks = (0..33).fold(Body::default().simple(0, 1 + number / 1800, 0), |body, id| {
                if id == 0 { body } else { body.block(id, 0, None, (number * 33 + u32::from(id)) << 16, None, 0) }
            });
            blocks.end()
        }),
        full_of(1, 0x81, |number| {
            let drops: Vec<_> = (0..500).map(|at| name(number * 500 + at)).collect();
            Body::default().main(&transaction(0, &drops))
        }),
        full_of(4, 0x21, |number| {
            let tablespaces = (0..500).map(|at| number * 500 + at);
            Body::default().main(&words(&[20, 500].into_iter().chain(tablespaces).collect::<Vec<_>>()))
        }),
    ];
    for wal in &hard {
        let changes = observed(wal, ChangesObserver::default());
        assert_eq!(changes.changes, Changes { doubts: [(Doubt::TooMuch, Lsn(SEGMENT))].into(), ..Changes::default() });
        // What goes on over its ends is known all the same.
        let stored = changes.encode();
        assert!(stored.len() < 2048 && changes.last.is_some());
        assert_eq!(SegmentChanges::decode(&stored), Ok(changes.clone()));
        assert_eq!(joined(&[changes]).finish().doubts.get(&Doubt::TooMuch), Some(&Lsn(SEGMENT)));
    }
}

#[test]
fn a_segment_that_changes_too_much_is_known_once_it_is_read_again_without_a_bound() {
    let wal = full_of(10, 0, |number| Body::default().simple(0, number, 7).end());
    let size = SegmentSize::try_from(SEGMENT).expect("a size");
    let segment_name = SegmentName::from_number(Timeline(1), 1, size).expect("a name");
    let mut walk = Walk::new(segment_name, size, ChangesObserver::keeping(1024));
    walk.feed(&wal);
    let (walked, observer) = walk.finish();
    let changes = observer.finish(&walked).expect("a segment").changes;
    assert!(changes.doubts.is_empty() && changes.relations.len() > 200_000);
    assert!(
        changes
            .relations
            .keys()
            .map(|name| name.relation)
            .eq(0..u32::try_from(changes.relations.len()).expect("small"))
    );
    assert!(changes.relations.values().all(|changes| changes.blocks.iter(..).eq([7])));
}

#[test]
fn what_wal_level_is_said_to_be_is_known_of_a_segment_that_changes_too_much() {
    let wal = full_of(10, 0, |number| Body::default().simple(0, number, 7).end());
    let mut minimal = Writer { segment: SEGMENT, ..Writer::new(SEGMENT, SEGMENT, 8192) };
    minimal.record(10, 0, &Body::default().simple(0, 1, 7).end());
    let level = Body::default().main(&[0; 24]);
    for number in 0.. {
        if minimal.wal.len() >= wal.len() {
            break;
        }
        // Near the end, when all was let go.
        if number == 200_000 {
            minimal.record(0, 0x60, &level);
        } else {
            minimal.record(10, 0, &Body::default().simple(0, number, 7).end());
        }
    }
    minimal.wal.truncate(wal.len());
    let changes = observed(&minimal.wal, ChangesObserver::default()).changes;
    assert_eq!(changes.levels.ends_minimal(), Some(true));
    assert_eq!(changes.doubts.keys().collect::<Vec<_>>(), [&Doubt::Minimal, &Doubt::TooMuch]);
}

#[test]
fn a_segment_whose_changes_fit_is_known_however_many_they_are() {
    let segments = [
        // Blocks all over a large table, and many relations.
        full_of(10, 0x20, |number| {
            let block = number.wrapping_mul(2_654_435_761) % 30_000_000;
            Body::default().simple(0, 16_384, block).main(&[1; 14])
        }),
        full_of(10, 0, |number| Body::default().simple(0, number % 30_000, number / 30_000).main(&[1; 60])),
    ];
    for wal in &segments {
        let bounded = observed(wal, ChangesObserver::default());
        assert!(bounded.changes.doubts.is_empty());
        assert!((300_000..=STORED_BYTES_MAX).contains(&bounded.encode().len()), "{}", bounded.encode().len());
        assert_eq!(bounded, observed(wal, ChangesObserver::keeping(1024)));
    }
}
