use proptest::prelude::*;

use super::parsing::bodies;
use super::*;
use crate::CommitIndex;
use crate::tests::Writer;

const FULL: usize = 1 << 20;

impl Writer {
    pub(super) fn of(major: u16) -> Self {
        Self { major, ..Self::new(MIB, MIB, 8192) }
    }

    /// Where the next record begins.
    fn at(&self) -> u64 {
        let at = self.start + self.wal.len() as u64;
        let header = if at.is_multiple_of(self.segment) { 40 } else { 24 };
        if at.is_multiple_of(self.page) { at + header } else { at }
    }

    /// A record without meaning, after which the next one begins `before` bytes before the end of the segment.
    fn fill(&mut self, before: u64) {
        let from = self.start + self.wal.len() as u64;
        let mut to = from.next_multiple_of(self.segment) - before;
        if to < from + 2 * self.page {
            to += self.segment;
        }
        let pages = (from.div_ceil(self.page)..to.div_ceil(self.page)).map(|page| page * self.page);
        let headers: u64 = pages.map(|page| if page.is_multiple_of(self.segment) { 40 } else { 24 }).sum();
        let data = usize::try_from(to - from - headers).expect("small") - 24 - 5;
        self.record(0, 0x20, &Body::default().main(&vec![0; data]));
        assert_eq!(self.start + self.wal.len() as u64, to);
    }

    /// A switch, and the rest of the segment.
    pub(super) fn switch(&mut self) {
        // A walk does not know of a switch that a segment's end cuts.
        while self.at() % self.segment + 24 > self.segment {
            self.record(0, 0x20, &Body::default().main(&[0; 8]));
        }
        self.record(0, 0x40, &[]);
        self.wal.resize(self.wal.len().next_multiple_of(FULL), 0);
    }
}

/// What this record alone changes.
fn alone(major: u16, at: u64, (manager, info, body): &(u8, u8, Vec<u8>)) -> Changes {
    let mut changes = Changes::default();
    let mut parser = RecordParser::new(major, Lsn(at));
    parser.take(&record(*manager, *info, body), &mut changes);
    parser.finish(&mut changes);
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn neighbours_say_together_what_their_records_say(
        records in prop::collection::vec((1u64..300, bodies()), 1..5),
        major in 13u16..=18,
        page in 10u32..=16,
        chunk in 1usize..20_000,
    ) {
        let mut writer = Writer { major, page: 1 << page, ..Writer::of(major) };
        let mut all = Changes::default();
        for (before, record) in &records {
            // Near the end of a segment, now more than the record is long, now less.
            writer.fill((before * 8).min((1 << page) - 48));
            let (manager, info, body) = record;
            all.merge(&alone(major, writer.at(), record));
            writer.record(*manager, *info, body);
        }
        writer.switch();
        let segments = segments(MIB, MIB, &writer.wal, chunk);
        let chain = joined(&segments);
        prop_assert_eq!((chain.from(), chain.until()), (Some(Lsn(MIB)), Some(Lsn(MIB + writer.wal.len() as u64))));
        let changes = chain.finish();
        prop_assert!(changes.doubts.is_empty(), "{:?}", changes.doubts);
        prop_assert_eq!(&changes, &all);
        // As they are stored.
        let stored: Vec<_> =
            segments.iter().map(|segment| SegmentChanges::decode(&segment.encode()).expect("read")).collect();
        prop_assert_eq!(&stored, &segments);
        // In company, the others see what they saw alone, and it finds the same.
        let size = SegmentSize::try_from(MIB).expect("a size");
        let segment_name = SegmentName::from_number(Timeline(1), 1, size).expect("a name");
        let (first, _) = writer.wal.split_at(FULL);
        let mut walk = Walk::new(segment_name, size, (CommitIndex::default(), ChangesObserver::default()));
        let mut single = Walk::new(segment_name, size, CommitIndex::default());
        for chunk in first.chunks(chunk) {
            walk.feed(chunk);
            single.feed(chunk);
        }
        let (walked, (commits, observer)) = walk.finish();
        prop_assert_eq!((walked, commits), single.finish());
        let in_company = observer.finish(&walked);
        prop_assert_eq!(in_company.as_ref(), segments.first());
    }
}

#[test]
fn every_cut_at_the_end_of_a_segment_is_joined() {
    let drops: Vec<_> = (0..70).map(|number| name(9000 + number)).collect();
    let image = Image { length: 700, hole: 0, flags: 2, hole_length: None };
    let mut blocks = Body::default();
    for id in 0..=32 {
        blocks = blocks.block(id, 0, Some(name(u32::from(id))), 7, Some(&image), 0);
    }
    let records = [
        (10, 0, blocks.main(&[1; 40])),
        (1, 0x81, Body::default().main(&transaction(0, &drops))),
        (1, 0x81, Body::default().main(&transaction(10_000, &drops))),
        (2, 0x11, Body::default().main(&words(&[1663, 5, 777, 0]))),
        (4, 0x21, Body::default().main(&words(&[20, 2, 1663, 1700]))),
    ];
    for record in &records {
        let (manager, info, body) = record;
        let lengths: Vec<_> = (8..=200u64).step_by(8).chain([400, 600, 920, 960, 1600]).collect();
        for lengths in lengths.chunks(8) {
            let mut writer = Writer::of(17);
            let mut all = Changes::default();
            for before in lengths {
                writer.fill(*before);
                all.merge(&alone(17, writer.at(), record));
                writer.record(*manager, *info, body);
            }
            writer.switch();
            let changes = joined(&segments(MIB, MIB, &writer.wal, 4096)).finish();
            if body.len() < 10_000 || *manager != 1 {
                assert_eq!(changes, all);
            } else {
                // What is dropped comes after more than is kept.
                assert_eq!(changes.doubts.keys().collect::<Vec<_>>(), [&Doubt::Unreadable]);
            }
            assert_eq!(joined(&segments_keeping(50_000, MIB, MIB, &writer.wal, 4096)).finish(), all);
        }
    }
}

#[test]
fn a_record_over_three_segments_is_one_record() {
    let body = Body::default().simple(0, 100, 7).main(&vec![0xCC; 2_300_000]);
    let subtransactions = Body::default().main(&transaction(400_000, &[name(300)]));
    for before in [8, 16, 24, 40, 48, 4000] {
        let mut writer = Writer::of(16);
        writer.fill(before);
        writer.record(10, 0, &body);
        writer.record(10, 0, &Body::default().simple(0, 200, 8).main(&[1]));
        writer.switch();
        let segments = segments(MIB, MIB, &writer.wal, 8192);
        assert_eq!(segments.len(), 4);
        assert!(segments[1].first.is_none() && segments[1].open.is_none());
        assert_eq!(joined(&segments).finish(), relations(&[(name(100), &[7], None), (name(200), &[8], None)]));
        // Entered in its middle: it is known from the record after it.
        let chain = joined(&segments[1..]);
        assert_eq!(chain.from(), segments[3].first.map(|(lsn, _)| lsn));
        assert_eq!(chain.finish(), relations(&[(name(200), &[8], None)]));
        // Left in its middle: its block is known, or it is in doubt.
        for end in 1..=3 {
            let chain = joined(&segments[..end]);
            let (until, open) = (chain.until(), segments[0].open.as_ref().map(|open| open.lsn));
            let changes = chain.finish();
            let is_known = changes == relations(&[(name(100), &[7], None)]);
            assert_eq!(is_known, changes.doubts.is_empty());
            assert_eq!(until, if is_known { Some(segments[end - 1].end()) } else { open });
            assert!(is_known || end == 1 && before < 100);
        }
    }
    // What is wanted lies where nothing was kept.
    let mut writer = Writer::of(16);
    writer.fill(4000);
    let at = writer.at();
    writer.record(1, 0x81, &subtransactions);
    writer.switch();
    let changes = joined(&segments(MIB, MIB, &writer.wal, 8192)).finish();
    assert_eq!(changes.doubts.into_iter().collect::<Vec<_>>(), [(Doubt::Unreadable, Lsn(at))]);
}

#[test]
fn a_long_list_that_the_end_of_a_segment_cuts_is_in_doubt_and_one_inside_is_not() {
    let drops: Vec<_> = (0..500).map(|number| name(9000 + number)).collect();
    let body = Body::default().main(&transaction(10, &drops));
    // The list; and a long list of messages after it, in which the cut may lie.
    let with_messages = Body::default().main(&[transaction(10, &drops), vec![7; 20_000]].concat());
    let cases = [(8, &body, false), (2000, &body, false), (6104, &body, true), (2000, &with_messages, false)];
    for (before, body, is_known) in cases.into_iter().chain([(6200, &with_messages, true)]) {
        let mut writer = Writer::of(15);
        writer.fill(before);
        let at = writer.at();
        writer.record(1, 0x81, body);
        writer.switch();
        let segments = segments(MIB, MIB, &writer.wal, 8192);
        let changes = joined(&segments).finish();
        let doubts: Vec<_> = changes.doubts.into_iter().collect();
        assert_eq!(doubts, if is_known { vec![] } else { vec![(Doubt::Unreadable, Lsn(at))] });
        // No segment keeps more than its part of the bound.
        assert!(segments.iter().all(|segment| segment.open.as_ref().is_none_or(|open| open.bytes.len() <= 1048)));
    }
}

#[test]
fn what_recovery_made_void_is_not_waited_for() {
    let torn = Body::default().simple(0, 100, 7).main(&vec![0xCC; 50_000]);
    let after = Body::default().simple(0, 200, 8).main(&[1]);
    // Void at the start of the next segment, on a later page of it, and on a page of its own segment.
    for (before, length) in
        [(4000, FULL), (8, FULL), (16, FULL), (4000, FULL + 8192), (8, FULL + 16384), (30_000, FULL - 8192)]
    {
        let mut writer = Writer::of(14);
        writer.fill(before);
        let (whole, lost) = (writer.previous, writer.at());
        writer.record(10, 0, &torn);
        writer.wal.truncate(length);
        (writer.previous, writer.overwrites) = (whole, true);
        let overwrite = [&lost.to_le_bytes()[..], &[0; 8]].concat();
        writer.record(0, 0xD0, &Body::default().main(&overwrite));
        writer.record(10, 0, &after);
        writer.switch();
        let segments = segments(MIB, MIB, &writer.wal, 777);
        let changes = joined(&segments).finish();
        assert!(changes.doubts.is_empty(), "{before} {length}: {:?}", changes.doubts);
        assert_eq!(changes.relations.get(&name(200)), relations(&[(name(200), &[8], None)]).relations.get(&name(200)));
        // That the block of what is void is named does no harm.
        assert!(changes.relations.len() <= 2);
    }
}

#[test]
fn segments_that_do_not_follow_each_other_are_in_doubt() {
    let stretch = |blocks: u32| {
        let mut writer = Writer::of(15);
        for block in 0..blocks {
            writer.fill(400);
            writer.record(10, 0, &Body::default().simple(0, 100, block).main(&vec![0xCC; 900 + block as usize]));
        }
        writer.switch();
        segments(MIB, MIB, &writer.wal, 8192)
    };
    let segments = stretch(5);
    let seams = |segments: &[SegmentChanges]| {
        let changes = joined(segments).finish();
        assert!(changes.doubts.keys().all(|doubt| *doubt == Doubt::Seam));
        changes.doubts.get(&Doubt::Seam).copied()
    };
    assert_eq!(seams(&segments), None);
    let without = [&segments[..2], &segments[3..]].concat();
    assert_eq!(seams(&without), Some(segments[3].start));
    let mut swapped = segments.clone();
    swapped.swap(1, 2);
    assert_eq!(seams(&swapped), Some(segments[1].start));
    assert_eq!(seams(&[segments[1].clone(), segments[1].clone()]), Some(segments[1].start));
    // Of another life: more goes on, or less, or nothing; another predecessor; another version.
    for change in [
        |segment: &mut SegmentChanges| segment.entry = Entry::Record,
        |segment: &mut SegmentChanges| {
            if let Entry::Continuation(continuation) = &mut segment.entry {
                continuation.remaining += 8;
            }
        },
        |segment: &mut SegmentChanges| segment.first = segment.first.map(|(lsn, previous)| (lsn, Lsn(previous.0 + 8))),
        |segment: &mut SegmentChanges| segment.major = 16,
    ] {
        let mut other = segments.clone();
        change(&mut other[2]);
        assert_eq!(seams(&other), Some(segments[2].start));
    }
}

#[test]
fn a_walk_that_stops_leaves_a_doubt_where_it_stopped() {
    let mut writer = Writer::of(15);
    writer.record(10, 0, &Body::default().simple(0, 100, 1).main(&[1; 9]));
    let end = writer.at();
    let changes = |wal: &[u8]| joined(&segments(MIB, MIB, wal, 100)).finish();
    let found = relations(&[(name(100), &[1], None)]).relations;
    let cut = changes(&writer.wal);
    assert_eq!((cut.relations, cut.doubts.into_iter().collect()), (found.clone(), vec![(Doubt::Stopped, Lsn(end))]));
    // A record that is not read to its end is not known, although it begins before.
    writer.record(10, 0, &Body::default().simple(0, 100, 2).main(&[1; 9]));
    let incomplete = changes(&writer.wal[..usize::try_from(end - MIB).expect("small") + 40]);
    assert_eq!(
        (incomplete.relations, incomplete.doubts.into_iter().collect()),
        (found, vec![(Doubt::Stopped, Lsn(end))])
    );
}

#[test]
fn records_of_real_servers_are_read() {
    // All blocks that pg_waldump shows.
    let found = [(13_443, 16_395), (5, 16_399), (5, 16_398), (5, 16_398)];
    for ((major, bytes), (database, relation)) in REAL.into_iter().zip(found) {
        let [segment] = &segments(6 * 16 * MIB, 16 * MIB, bytes, 7)[..] else { panic!("one segment") };
        let name = RelationName { database, ..name(relation) };
        assert_eq!((segment.major, &segment.changes), (major, &relations(&[(name, &[0], None)])));
    }
}
