//! Whether a record is at hand whole, or comes in pieces of any size, makes no difference.

use proptest::prelude::*;

use super::parsing::bodies;
use super::*;
use crate::tests::Writer;
use crate::{CommitIndex, Observer, Record, Walked};

/// A segment's records: those that are well-formed, some with wrong bytes in their body.
fn records() -> impl Strategy<Value = Vec<(u8, u8, Vec<u8>)>> {
    let flips = prop::collection::vec((0usize..2000, any::<u8>()), 0..3);
    let broken = (bodies(), flips, any::<u8>()).prop_map(|((manager, _, mut body), flips, info)| {
        let length = body.len();
        for (at, with) in flips {
            body.iter_mut().skip(at % length.max(1)).take(1).for_each(|byte| *byte ^= with);
        }
        (manager, info, body)
    });
    let compressed = (13u8..32, any::<u16>(), any::<u16>(), prop::option::of(any::<u16>())).prop_map(
        |(flags, length, hole, hole_length)| {
            let image = Image { length: length % 900, hole, flags, hole_length };
            (10, 0, Body::default().block(0, 0, Some(name(1)), 3, Some(&image), 12).block(1, 0, None, 4, None, 0).end())
        },
    );
    let commits = (0u8..2).prop_map(|abort| (1, abort << 5, Body::default().main(&[9; 8])));
    let custom = bodies().prop_map(|(_, info, body)| (200, info, body));
    let any_record = prop_oneof![6 => bodies(), 2 => broken, 1 => compressed, 2 => commits, 1 => custom];
    prop::collection::vec(any_record, 1..60)
}

fn written(major: u16, page: u64, records: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer { page, ..Writer::of(major) };
    for (manager, info, body) in records {
        writer.record(*manager, *info, body);
    }
    writer.switch();
    writer.wal
}

type Found = (Walked, CommitIndex, Option<SegmentChanges>);

/// What is found in the first segment of `wal`.
fn found(wal: &[u8], chunk: usize) -> Found {
    found_in((1, MIB), wal.chunks(chunk))
}

/// What is found in the segment of this number and size.
fn found_in<'a>((number, bytes): (u64, u64), chunks: impl Iterator<Item = &'a [u8]>) -> Found {
    let size = SegmentSize::try_from(bytes).expect("a size");
    let segment_name = SegmentName::from_number(Timeline(1), number, size).expect("a name");
    let mut walk = Walk::new(segment_name, size, (CommitIndex::default(), Some(ChangesObserver::default())));
    chunks.for_each(|chunk| walk.feed(chunk));
    let (walked, (commits, changes)) = walk.finish();
    (walked, commits, changes.and_then(|changes| changes.finish(&walked)))
}

/// The parts of `wal` between these places.
fn parts(wal: &[u8], cuts: Vec<usize>) -> impl Iterator<Item = &[u8]> {
    let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % wal.len()).collect();
    cuts.extend([0, wal.len()]);
    cuts.sort_unstable();
    (1..cuts.len()).map(move |at| &wal[cuts[at - 1]..cuts[at]])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn pieces_of_every_odd_size_say_what_the_whole_says(
        records in records(),
        major in 13u16..=18,
        page in 9u32..=16,
        flips in prop::collection::vec((40usize..20_000, any::<u8>()), 0..3),
        is_damaged in any::<bool>(),
        cuts in prop::collection::vec(0usize..40_000, 0..40),
    ) {
        let mut wal = written(major, 1 << page, &records);
        if is_damaged {
            for (at, with) in flips {
                wal[at] ^= with;
            }
        }
        // Of the first segment.
        wal.truncate(1 << 20);
        let whole = found(&wal, usize::MAX);
        prop_assert_eq!(&found_in((1, MIB), parts(&wal, cuts)), &whole);
        // Of single bytes no record is ever at hand whole.
        for chunk in (1..100).step_by(2).chain([201, 333, 1023, 4097, 8191, 8193, 65_537]) {
            prop_assert_eq!(&found(&wal, chunk), &whole, "{}", chunk);
        }
    }
}

proptest! {
    #[test]
    fn pieces_of_what_a_real_server_wrote_say_what_the_whole_says(
        which in 0..REAL.len(),
        flips in prop::collection::vec((0usize..16_384, any::<u8>()), 0..3),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut wal = REAL[which].1.to_vec();
        for (at, with) in flips {
            wal[at] ^= with;
        }
        let whole = found_in((6, 16 * MIB), [&wal[..]].into_iter());
        prop_assert_eq!(&found_in((6, 16 * MIB), wal.chunks(1)), &whole);
        prop_assert_eq!(&found_in((6, 16 * MIB), parts(&wal, cuts)), &whole);
    }
}

/// The records as they are shown, and how many of them whole.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) records: Vec<(Lsn, Vec<u8>)>,
    seen: Vec<Lsn>,
    whole: usize,
}

impl Observer for Shown {
    fn wants(&self, _: u8, _: u8) -> bool {
        false
    }

    fn see(&mut self, record: &Record<'_>) {
        self.seen.push(record.lsn);
    }

    fn begin(&mut self, lsn: Lsn, header: &[u8]) -> bool {
        self.records.push((lsn, header.to_vec()));
        true
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        if let Some((_, record)) = self.records.last_mut() {
            record.extend_from_slice(bytes);
        }
        true
    }

    fn whole(&mut self, lsn: Lsn, bytes: &[u8]) {
        self.whole += 1;
        self.records.push((lsn, bytes.to_vec()));
        self.seen.push(lsn);
    }
}

#[test]
fn records_on_one_page_are_shown_whole_and_all_are_shown_once() {
    let mut writer = Writer::of(17);
    let mut expected = Vec::new();
    for number in 0..3000u32 {
        let body = Body::default().simple(0, number % 7, number).main(&vec![0xEE; number as usize % 300]);
        let (at, previous) = (writer.wal.len(), writer.previous);
        writer.record(10, 0, &body);
        assert!(writer.wal.len() > at && writer.previous > previous);
        expected.push((Lsn(writer.previous), body));
    }
    let size = SegmentSize::try_from(MIB).expect("a size");
    let segment_name = SegmentName::from_number(Timeline(1), 1, size).expect("a name");
    for (chunk, whole_min) in [(usize::MAX, 2900), (65_536, 2900), (4096, 2700), (1, 0)] {
        let mut walk = Walk::new(segment_name, size, Shown::default());
        writer.wal.chunks(chunk).for_each(|chunk| walk.feed(chunk));
        let (_, shown) = walk.finish();
        assert!(shown.whole >= whole_min, "{}", shown.whole);
        assert!(chunk > 1 || shown.whole == 0);
        assert!(shown.seen.iter().eq(expected.iter().map(|(lsn, _)| lsn)));
        let bodies = shown.records.iter().map(|(lsn, bytes)| (*lsn, bytes[24..].to_vec()));
        assert!(bodies.eq(expected.iter().cloned()));
    }
}
