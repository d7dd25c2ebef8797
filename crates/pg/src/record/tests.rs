use super::*;
use crate::Unknown;
use crate::record_layout::ID_DATA_SHORT;
use crate::tests::Writer;
use crate::walk::Walked;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn size(mib: u64) -> SegmentSize {
    SegmentSize::try_from(mib << 20).expect("a valid size")
}

/// Microseconds since the Unix epoch of a moment as pg_waldump prints it.
fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("a time").as_microsecond()
}

#[test]
fn real_segments_give_the_times_and_restore_points_of_pg_waldump() {
    let fixtures: [(&[u8], &str, &str, u64); 4] = [
        (
            include_bytes!("../../../../tests/fixtures/pg/13/000000010000000000000006.head"),
            "2026-11-21T10:11:26.229167Z",
            "2026-11-21T10:11:26.296753Z",
            0x600_0110,
        ),
        (
            include_bytes!("../../../../tests/fixtures/pg/15/000000010000000000000006.head"),
            "2026-11-21T10:11:26.868768Z",
            "2026-11-21T10:11:26.929132Z",
            0x600_0110,
        ),
        (
            include_bytes!("../../../../tests/fixtures/pg/17/000000010000000000000006.head"),
            "2026-11-21T10:11:27.481083Z",
            "2026-11-21T10:11:27.531116Z",
            0x600_0110,
        ),
        (
            include_bytes!("../../../../tests/fixtures/pg/18/000000010000000000000006.head"),
            "2026-11-21T10:11:28.205084Z",
            "2026-11-21T10:11:28.241202Z",
            0x600_0148,
        ),
    ];
    let name = "000000010000000000000006".parse().expect("a name");
    for (bytes, first, last, restore_point) in fixtures {
        for chunk in [1, 7, 8192, 16384] {
            let mut walk = CommitTimes::new(name, size(16));
            bytes.chunks(chunk).for_each(|chunk| walk.feed(chunk));
            let [found] = walk.restore_points() else { panic!("one restore point") };
            assert_eq!((found.name.as_str(), found.lsn), ("before upgrade", Lsn(restore_point)));
            assert!((micros(first)..=micros(last)).contains(&found.time));
            let hour = 3_600_000_000;
            assert!(walk.mark().is_some_and(|mark| (found.time..micros(last) + hour).contains(&mark.time)));
            assert_eq!(walk.finish(), Some((micros(first), micros(last))));
        }
    }
}

fn walk(start: u64, segment: u64, wal: &[u8], chunk: usize) -> CommitTimes {
    let size = SegmentSize::try_from(segment).expect("a valid size");
    let name = SegmentName::from_number(crate::Timeline(1), start / segment, size).expect("a name");
    let mut walk = CommitTimes::new(name, size);
    wal.chunks(chunk.max(1)).for_each(|chunk| walk.feed(chunk));
    walk
}

#[test]
fn a_transaction_is_found_by_its_number_and_a_moment_by_a_record_that_tells_one() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit_of(740, 1);
    let position = MIB + writer.wal.len() as u64;
    writer.commit_of(741, 2);
    // A checkpoint of second 7: its time lies after 64 bytes of other fields.
    let mut checkpoint = vec![ID_DATA_SHORT, 88];
    checkpoint.extend([0; 64]);
    checkpoint.extend(7i64.to_le_bytes());
    checkpoint.extend([0; 16]);
    let marked = MIB + writer.wal.len() as u64;
    writer.record(RM_XLOG, 0x10, &checkpoint);
    let mut sizes = vec![ID_DATA_SHORT, 28];
    sizes.extend([300u32, 8, 10, 0, 64].into_iter().flat_map(u32::to_le_bytes));
    sizes.extend([0; 8]);
    writer.record(RM_XLOG, XLOG_PARAMETER_CHANGE, &sizes);
    let size = SegmentSize::try_from(MIB).expect("a valid size");
    let name = SegmentName::from_number(crate::Timeline(1), 1, size).expect("a name");
    let walk = |from: u64, xid: u32| {
        let mut walk = CommitTimes::looking_for(name, size, Lsn(from), Some(xid));
        walk.feed(&writer.wal);
        walk
    };
    assert_eq!(walk(0, 741).ended(), Some(Lsn(position)));
    assert_eq!((walk(0, 742).ended(), walk(position + 1, 741).ended()), (None, None));
    assert_eq!(walk(0, 741).mark(), Some(Mark { time: 7_000_000, lsn: Lsn(marked) }));
    assert_eq!(walk(0, 741).capacity(), Capacity::read(sizes.get(2..).expect("long enough"), 0));
    // What lies before a fork is another line's, too.
    assert_eq!(walk(0, 741).finish(), Some((1 + POSTGRES_EPOCH, 2 + POSTGRES_EPOCH)));
    assert_eq!(walk(position, 741).finish(), Some((2 + POSTGRES_EPOCH, 2 + POSTGRES_EPOCH)));
    assert_eq!(walk(position + 8, 741).finish(), None);
}

#[test]
fn a_record_over_a_whole_segment_leaves_it_without_times_and_the_next_one_goes_on_behind_it() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    writer.record(10, 0, &vec![0xFF; 2_300_000]);
    writer.commit(5, 300);
    let size = usize::try_from(MIB).expect("small");
    let segments: Vec<_> = writer.wal.chunks(size).collect();
    assert_eq!(segments.len(), 3);
    assert_eq!(walk(MIB, MIB, segments[0], 4096).finish(), Some((1 + POSTGRES_EPOCH, 1 + POSTGRES_EPOCH)));
    assert_eq!(walk(2 * MIB, MIB, segments[1], 4096).finish(), None);
    assert_eq!(walk(3 * MIB, MIB, segments[2], 4096).finish(), Some((5 + POSTGRES_EPOCH, 5 + POSTGRES_EPOCH)));
}

#[test]
fn a_record_that_a_crash_left_unfinished_does_not_hide_what_follows() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    let mut torn = 20_000u32.to_le_bytes().to_vec();
    torn.extend([0; 12]);
    torn.extend([0, 10, 0, 0, 0, 0, 0, 0]);
    torn[8..16].copy_from_slice(&writer.previous.to_le_bytes());
    torn.resize(8192 - writer.wal.len(), 0xAB);
    writer.wal.extend(torn);
    let mut silent = Writer { wal: writer.wal.clone(), ..writer };
    writer.overwrites = true;
    writer.commit(9, 0);
    assert_eq!(walk(MIB, MIB, &writer.wal, 1000).finish(), Some((1 + POSTGRES_EPOCH, 9 + POSTGRES_EPOCH)));
    assert_eq!(walked(MIB, &writer.wal).unknown, Some((Lsn(MIB + writer.wal.len() as u64), Unknown::Short)));
    // Without the page's word that it is so, nothing is known any more.
    silent.commit(9, 0);
    assert_eq!(walk(MIB, MIB, &silent.wal, 1000).finish(), Some((1 + POSTGRES_EPOCH, 1 + POSTGRES_EPOCH)));
    assert_eq!(walked(MIB, &silent.wal).unknown, Some((Lsn(MIB + 8192), Unknown::Continuation)));
}

/// How far a walk comes that looks for nothing.
fn walked(start: u64, wal: &[u8]) -> Walked {
    struct Nothing;
    impl Observer for Nothing {
        fn wants(&self, _: u8, _: u8) -> bool {
            false
        }
        fn see(&mut self, _: &Record<'_>) {}
    }
    let size = SegmentSize::try_from(MIB).expect("a valid size");
    let name = SegmentName::from_number(crate::Timeline(1), start / MIB, size).expect("a name");
    let mut walk = Walk::new(name, size, Nothing);
    wal.chunks(777).for_each(|chunk| walk.feed(chunk));
    walk.finish().0
}

#[test]
fn a_walk_that_stops_says_where_and_why_and_one_that_does_not_has_seen_the_end() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    let second = writer.wal.len();
    writer.record(10, 0, &vec![0xFF; 20_000]);
    let third = writer.wal.len();
    writer.commit(2, 0);
    let end = writer.wal.len();
    let full = usize::try_from(MIB).expect("small");
    let unknown =
        |wal: &[u8]| walked(MIB, wal).unknown.map(|(lsn, why)| (usize::try_from(lsn.0 - MIB).expect("after"), why));
    let changed = |at: usize, with: &[u8]| {
        let mut wal = writer.wal.clone();
        wal.resize(full, 0);
        wal[at..at + with.len()].copy_from_slice(with);
        unknown(&wal)
    };
    assert_eq!(unknown(&writer.wal), Some((end, Unknown::Short)));
    // Zeros, and nothing that ended the segment.
    assert_eq!(changed(0, &[]), Some((end, Unknown::Zeros)));
    // Another predecessor.
    assert_eq!(changed(third + 8, &7u64.to_le_bytes()), Some((third, Unknown::Previous)));
    // A length, and a resource manager, that no record has.
    assert_eq!(changed(third, &8u32.to_le_bytes()), Some((third, Unknown::Record)));
    assert_eq!(changed(third + 17, &[99]), Some((third, Unknown::Record)));
    // The second page says that less goes on than the record has left; or has another address; or is zero.
    assert_eq!(changed(8192 + 16, &5u32.to_le_bytes()), Some((8192, Unknown::Continuation)));
    assert_eq!(changed(8192 + 8, &5u64.to_le_bytes()), Some((8192, Unknown::Page)));
    assert_eq!(changed(8192, &[0; 24]), Some((8192, Unknown::Zeros)));
    // A switch ends the segment.
    writer.record(0, 0x40, &[]);
    writer.wal.resize(full, 0);
    let whole = walked(MIB, &writer.wal);
    assert_eq!(whole.unknown, None);
    assert_eq!(whole.first, Some((Lsn(MIB + 40), Lsn(0))));
    assert_eq!(whole.last, Some(Lsn(writer.previous)));
    assert!(second > 40);
    // A segment that a record fills, and the next: the chain goes on from one to the other.
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    writer.record(10, 0, &vec![0xFF; 1_100_000]);
    let last = writer.previous;
    writer.record(10, 0, &vec![0xFF; 950_000]);
    writer.record(10, 0, &vec![0xFF; 950_000]);
    let (one, two) = (walked(MIB, &writer.wal[..full]), walked(2 * MIB, &writer.wal[full..2 * full]));
    assert_eq!((one.unknown, two.unknown), (None, None));
    assert_eq!((one.last, two.first.map(|(_, previous)| previous)), (Some(Lsn(last)), Some(Lsn(last))));
}

#[test]
fn a_segment_switch_says_where_it_ends_when_its_checksum_proves_it() {
    for (length, cut) in [(100, 7), (8192 - 40 - 24 - 8 - 24 - 8, 1 << 20), (1_000_000, 8192)] {
        let mut writer = Writer::new(MIB, MIB, 8192);
        writer.record(10, 0, &vec![0xFF; length]);
        writer.record(0, 0x40, &[]);
        let end = writer.wal.len();
        let switched_after = |wal: &[u8]| {
            let mut walk =
                Walk::new(SegmentName::from_number(crate::Timeline(1), 1, size(1)).expect("a name"), size(1), ());
            wal.chunks(cut).for_each(|chunk| walk.feed(chunk));
            walk.switched_after()
        };
        let mut wal = writer.wal.clone();
        wal.resize(usize::try_from(MIB).expect("small"), 0xEE);
        assert_eq!(switched_after(&wal), Some(end as u64), "{length}");
        // It may be anything that looks like one.
        wal[end - 8] ^= 1;
        assert_eq!(switched_after(&wal), None, "{length}");
    }
}

#[test]
fn a_commit_that_a_crash_cut_is_void() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    writer.record(10, 0, &vec![0xFF; 8192 - writer.wal.len() - 24 - 64]);
    let before = writer.wal.len();
    writer.commit(5, 9000);
    writer.wal.truncate(8192);
    assert!(before < 8192 - 40);
    writer.overwrites = true;
    writer.previous = MIB + before as u64;
    let mut lost = Writer { wal: writer.wal.clone(), ..writer };
    // The next record names the last whole one.
    lost.previous = walked(MIB, &writer.wal).last.map(|_| 0).unwrap_or_default();
    let whole = MIB + 40 + 40;
    lost.previous = whole;
    lost.commit(9, 0);
    assert_eq!(walk(MIB, MIB, &lost.wal, 1000).finish(), Some((1 + POSTGRES_EPOCH, 9 + POSTGRES_EPOCH)));
}

#[test]
fn what_an_earlier_use_of_the_file_left_behind_is_not_read() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 8192);
    let mut old = Writer::new(7 * MIB, MIB, 8192);
    old.commit(99, 8192);
    old.commit(99, 8192);
    old.commit(99, 8192);
    let mut wal = writer.wal.clone();
    wal.resize(16384, 0);
    wal.extend(&old.wal[16384..]);
    assert_eq!(walk(MIB, MIB, &wal, 512).finish(), Some((1 + POSTGRES_EPOCH, 1 + POSTGRES_EPOCH)));
}

#[test]
fn a_segment_of_another_name_or_size_says_nothing() {
    let mut writer = Writer::new(MIB, MIB, 8192);
    writer.commit(1, 0);
    assert_eq!(walk(2 * MIB, MIB, &writer.wal, 512).finish(), None);
    assert_eq!(walk(2 * MIB, 2 * MIB, &writer.wal, 512).finish(), None);
}

proptest! {
    #[test]
    fn every_commit_is_seen_however_pages_and_chunks_cut_it(
        lengths in prop::collection::vec((0usize..3000, 0usize..600, any::<bool>()), 0..200),
        page in 10u32..=16,
        chunk in 1usize..20_000,
    ) {
        let mut writer = Writer::new(4 * MIB, MIB, 1 << page);
        let mut seen = Vec::new();
        for (time, (length, extra, commit)) in lengths.into_iter().enumerate() {
            if commit {
                let time = i64::try_from(time).expect("small");
                writer.commit(time, extra);
                if (writer.wal.len() as u64) < MIB { seen.push(time + POSTGRES_EPOCH); }
            } else {
                writer.record(10, 0, &vec![0xFF; length]);
            }
        }
        prop_assume!((writer.wal.len() as u64) < MIB);
        let expected = seen.first().copied().zip(seen.last().copied());
        prop_assert_eq!(walk(4 * MIB, MIB, &writer.wal, chunk).finish(), expected);
        // A zero-filled tail, as in a segment that was switched away from.
        writer.wal.resize(usize::try_from(MIB).expect("small"), 0);
        prop_assert_eq!(walk(4 * MIB, MIB, &writer.wal, chunk).finish(), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..4000),
        flips in prop::collection::vec((0usize..40_000, any::<u8>()), 0..20),
        chunk in 1usize..9000,
    ) {
        let _ = walk(0, MIB, &noise, chunk).finish();
        let mut writer = Writer::new(MIB, MIB, 1024);
        for time in 0..60 {
            writer.commit(time, 500);
        }
        for (at, with) in flips {
            if let Some(byte) = writer.wal.get_mut(at) { *byte ^= with; }
        }
        let _ = walk(MIB, MIB, &writer.wal, chunk).finish();
    }
}
