//! Of a record whose bytes are all at hand is said what is said of one that streams past.

use proptest::prelude::*;

use super::chunks::Shown;
use super::parsing::bodies;
use super::whole::tell_blocks;
use super::*;

/// Tells the record at once, and holds that against what is said of it as it streams past. Whether it could be told at once.
fn compare(major: u16, record: &[u8]) -> Result<bool, TestCaseError> {
    let streamed = parsed(major, record, usize::MAX);
    let mut at_once = Changes::default();
    let is_told = tell_blocks(major, record, &mut at_once).is_some();
    if is_told {
        prop_assert_eq!(at_once, streamed);
    } else {
        // It is told again, and nothing may have been told that is not said then.
        let mut both = streamed.clone();
        both.merge(&at_once);
        prop_assert_eq!(both, streamed);
    }
    Ok(is_told)
}

/// A record with these bytes wrong. Its length is right: as many bytes are handed over.
fn damaged(mut record: Vec<u8>, flips: &[(usize, u8)]) -> Vec<u8> {
    let length = u32::try_from(record.len()).expect("small").to_le_bytes();
    for (at, with) in flips {
        let at = at % record.len();
        record[at] ^= with;
    }
    record[..4].copy_from_slice(&length);
    record
}

/// Wrong bytes, most of them near the beginning, where the headers are.
fn flips() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let at = prop_oneof![1 => 16usize..18, 4 => 24usize..60, 2 => 24usize..300, 1 => any::<usize>()];
    let with = prop_oneof![(0u32..8).prop_map(|bit| 1 << bit), any::<u8>()];
    prop::collection::vec((at, with), 0..4)
}

/// A header as it may stand in a record, whether or not it may stand there, and how many bytes it announces.
fn header() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let half = || prop_oneof![2 => 0u16..4, 1 => any::<u16>()];
    let flags = prop_oneof![
        4 => Just(0u8), 4 => Just(0x20), 2 => Just(0x10), 2 => Just(0x80), 2 => Just(0xA0), 2 => Just(0x90), 1 => any::<u8>()
    ];
    let id = prop_oneof![9 => 0u8..=32, 1 => 33u8..=40];
    let number = prop_oneof![9 => 0u32..100, 1 => Just(u32::MAX), 1 => any::<u32>()];
    let image = (
        half(),
        half(),
        prop_oneof![3 => 0u8..8, 2 => Just(4), 2 => Just(5), 1 => any::<u8>()],
        prop::option::of(half()),
    );
    let block = (id, flags, half(), image, 0u32..4, number).prop_map(
        |(id, flags, data, (length, hole, image_flags, hole_length), relation, number)| {
            let data = if flags & 0x20 == 0 && data < 1000 { 0 } else { data };
            let mut bytes = vec![id, flags];
            bytes.extend(data.to_le_bytes());
            let mut announced = usize::from(data);
            if flags & 0x10 != 0 {
                bytes.extend([length.to_le_bytes(), hole.to_le_bytes()].concat());
                bytes.push(image_flags);
                bytes.extend(hole_length.iter().flat_map(|length| length.to_le_bytes()));
                announced += usize::from(length);
            }
            if flags & 0x80 == 0 {
                bytes.extend(words(&[1663, 5, relation]));
            }
            bytes.extend(number.to_le_bytes());
            (bytes, announced)
        },
    );
    let other =
        prop_oneof![Just(vec![253, 1, 2]), Just(vec![252, 1, 2, 3, 4]), prop::collection::vec(any::<u8>(), 1..5)];
    prop_oneof![6 => block, 1 => other.prop_map(|bytes| (bytes, 0))]
}

/// Records of such headers. Most are as long as these say.
fn records() -> impl Strategy<Value = Vec<u8>> {
    let main = prop_oneof![
        1 => Just(None),
        2 => (any::<bool>(), 0usize..40).prop_map(Some),
    ];
    let manager = prop_oneof![6 => Just(10u8), 1 => 0u8..5, 1 => any::<u8>()];
    let info = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
    let more = prop_oneof![8 => Just(0i64), 1 => -3i64..4];
    (manager, info, prop::collection::vec(header(), 0..5), main, more).prop_map(
        |(manager, info, headers, main, more)| {
            let announced: usize = headers.iter().map(|(_, announced)| announced).sum();
            let mut body: Vec<u8> = headers.into_iter().flat_map(|(bytes, _)| bytes).collect();
            let mut rest = announced;
            if let Some((is_short, length)) = main {
                if is_short {
                    body.extend([ID_DATA_SHORT, u8::try_from(length).expect("small")]);
                } else {
                    body.push(ID_DATA_LONG);
                    body.extend(u32::try_from(length).expect("small").to_le_bytes());
                }
                rest += length;
            }
            let rest = usize::try_from(i64::try_from(rest).expect("small") + more).unwrap_or(0);
            body.extend(vec![0; rest]);
            record(manager, info, &body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn records_of_any_headers_say_at_once_what_they_say_as_they_stream_past(record in records(), major in 12u16..=19) {
        compare(major, &record)?;
    }

    #[test]
    fn damaged_records_say_at_once_what_they_say_as_they_stream_past(
        (manager, info, body) in bodies(),
        flips in flips(),
        major in 13u16..=18,
    ) {
        let record = record(manager, info, &body);
        // What only names blocks can be told at once.
        prop_assert_eq!(compare(major, &record)?, manager == 10);
        compare(major, &damaged(record, &flips))?;
    }
}

#[test]
fn records_of_real_servers_say_at_once_what_they_say_as_they_stream_past() {
    let (mut told, mut all) = (0, 0);
    for (major, wal) in REAL {
        let size = SegmentSize::DEFAULT;
        let segment_name = SegmentName::from_number(Timeline(1), 6, size).expect("a name");
        let mut walk = Walk::new(segment_name, size, Shown::default());
        wal.chunks(1).for_each(|byte| walk.feed(byte));
        let (_, shown) = walk.finish();
        for (_, record) in shown.records {
            if record.len()
                != usize::try_from(u32::from_le_bytes(*record.first_chunk().expect("a length"))).expect("small")
            {
                // The last one, which the fixture cuts.
                continue;
            }
            all += 1;
            told += usize::from(compare(major, &record).expect("the same"));
            // Each bit of what may be headers.
            for at in 16..record.len().min(150) {
                for bit in 0..8 {
                    compare(major, &damaged(record.clone(), &[(at, 1 << bit)])).expect("the same");
                }
            }
        }
    }
    assert!(all > 100 && told * 2 > all, "{told} of {all}");
}
