use proptest::prelude::*;

use super::*;

const HEAP: u8 = 10;
const XLOG: u8 = 0;
const XACT: u8 = 1;
const SMGR: u8 = 2;
const DBASE: u8 = 4;

#[test]
fn blocks_of_main_forks_are_kept_and_those_of_others_are_not() {
    for major in MAJORS {
        let body = Body::default()
            .simple(0, 100, 7)
            .block(1, 0, None, 8, None, 30)
            .block(2, 2, Some(name(200)), 1, None, 0)
            .block(3, 0, None, 9, None, 0)
            .block(5, 1, Some(name(300)), 2, None, 3)
            .block(6, 3, None, 4, None, 0);
        let found = relations(&[(name(100), &[7, 8], None), (name(200), &[9], None)]);
        assert_eq!(read(major, HEAP, 0x20, &body.clone().main(&[1; 9])), found, "{major}");
        assert_eq!(read(major, HEAP, 0x20, &body.clone().main(&[1; 900])), found, "{major}");
        assert_eq!(read(major, HEAP, 0x20, &body.clone().end()), found, "{major}");
        // An origin and a top-level transaction before the main data.
        let body = body.raw(&[253, 1, 0]);
        assert_eq!(read(major, HEAP, 0x20, &body.clone().end()), found);
        let with_transaction = body.raw(&[252, 9, 9, 9, 9]);
        let changes = read(major, HEAP, 0x22, &with_transaction.main(&[1; 9]));
        assert_eq!(changes.doubts.is_empty(), major >= 14);
    }
}

#[test]
fn a_record_of_thirty_three_blocks_with_images_is_read() {
    for major in MAJORS {
        let image = Image { length: 8000, hole: 100, flags: if major >= 15 { 3 } else { 5 }, hole_length: None };
        let mut body = Body::default();
        for id in 0..=32 {
            body = body.block(id, 0, Some(name(1000 + u32::from(id))), u32::from(id), Some(&image), 0);
        }
        let changes = read(major, XLOG, 0xB0, &body.main(&[]));
        assert_eq!((changes.relations.len(), changes.doubts.len()), (33, 0));
    }
}

#[test]
fn the_flags_of_an_image_mean_something_else_from_15_on() {
    // Compressed with a hole: the hole's length follows.
    for (majors, compressed) in
        [(&[13u16, 14][..], &[0x03u8, 0x07][..]), (&[15, 16, 17, 18], &[0x05, 0x07, 0x0B, 0x13])]
    {
        for (major, flags) in majors.iter().flat_map(|major| compressed.iter().map(|flags| (*major, *flags))) {
            let image = Image { length: 500, hole: 40, flags, hole_length: Some(4000) };
            let body = Body::default().block(0, 0, Some(name(1)), 3, Some(&image), 12).block(1, 0, None, 4, None, 0);
            let found = relations(&[(name(1), &[3, 4], None)]);
            assert_eq!(read(major, HEAP, 0, &body.main(&[1; 3])), found, "{major} {flags}");
            let none = Image { length: 500, hole: 40, flags, hole_length: Some(0) };
            let body = Body::default().block(0, 0, Some(name(1)), 3, Some(&none), 0);
            assert_eq!(read(major, HEAP, 0, &body.end()), doubt(Doubt::Unreadable));
        }
    }
    // Not compressed, or without a hole: no length.
    for (major, flags, hole) in
        [(14, 5, 40), (14, 4, 0), (14, 6, 0), (15, 3, 40), (15, 2, 0), (15, 6, 0), (18, 0x12, 0)]
    {
        let image = Image { length: 500, hole, flags, hole_length: None };
        let body = Body::default().block(0, 0, Some(name(1)), 3, Some(&image), 12).block(1, 0, None, 4, None, 0);
        assert_eq!(
            read(major, HEAP, 0, &body.main(&[1; 3])),
            relations(&[(name(1), &[3, 4], None)]),
            "{major} {flags}"
        );
    }
    for (major, flags, hole) in [(14, 0x0C, 0), (15, 0x22, 0), (15, 0x0E, 0), (15, 3, 0), (15, 2, 40)] {
        let image = Image { length: 500, hole, flags, hole_length: None };
        let body = Body::default().block(0, 0, Some(name(1)), 3, Some(&image), 0);
        assert_eq!(read(major, HEAP, 0, &body.end()), doubt(Doubt::Unreadable), "{major} {flags}");
    }
}

#[test]
fn relations_that_are_made_cut_or_dropped_have_a_limit() {
    for major in MAJORS {
        let create = |fork: u32| Body::default().main(&words(&[1663, 5, 100, fork]));
        assert_eq!(read(major, SMGR, 0x11, &create(0)), relations(&[(name(100), &[], Some(0))]));
        assert_eq!(read(major, SMGR, 0x11, &create(3)), Changes::default());
        assert_eq!(read(major, SMGR, 0x11, &create(4)), doubt(Doubt::Unreadable));
        let truncate = |flags: u32| Body::default().main(&words(&[42, 1663, 5, 100, flags]));
        assert_eq!(read(major, SMGR, 0x21, &truncate(7)), relations(&[(name(100), &[], Some(42))]));
        assert_eq!(read(major, SMGR, 0x21, &truncate(6)), Changes::default());
        assert_eq!(read(major, SMGR, 0x21, &truncate(8)), doubt(Doubt::Unreadable));
        let drops: Vec<_> = (0..500).map(|number| name(5000 + number)).collect();
        let dropped: Vec<_> = drops.iter().map(|name| (*name, &[][..], Some(0))).collect();
        // Commit, abort, and those of prepared transactions; as much may follow the list as wants to.
        for info in [0x81, 0xA1, 0xB1, 0xC1] {
            for subtransactions in [0, 1, 10_000] {
                let data = [transaction(subtransactions, &drops), vec![9; 40]].concat();
                assert_eq!(read(major, XACT, info, &Body::default().main(&data)), relations(&dropped));
            }
        }
        let none = transaction(3, &[]);
        assert_eq!(read(major, XACT, 0x80, &Body::default().raw(&[253, 0, 0]).main(&none)), Changes::default());
        assert_eq!(read(major, XACT, 0x00, &Body::default().main(&[0; 8])), Changes::default());
        // A preparation lists what its end lists again.
        assert_eq!(read(major, XACT, 0x10, &Body::default().main(&[0; 300])), Changes::default());
        // More of them than there is room for, and less than none.
        let mut cut = transaction(2, &drops);
        cut.truncate(cut.len() - 1);
        assert_eq!(read(major, XACT, 0x81, &Body::default().main(&cut)), doubt(Doubt::Unreadable));
        let negative = [&[0; 8][..], &words(&[2, u32::MAX])].concat();
        assert_eq!(read(major, XACT, 0x80, &Body::default().main(&negative)), Changes::default());
        let negative = [&[0; 8][..], &words(&[6, u32::MAX, 0])].concat();
        assert_eq!(read(major, XACT, 0x80, &Body::default().main(&negative)), doubt(Doubt::Unreadable));
    }
}

#[test]
fn what_is_done_to_a_database_has_another_number_from_15_on() {
    let databases = |tablespaces: &[u32]| Changes {
        databases: tablespaces
            .iter()
            .map(|tablespace| DatabaseName { tablespace: *tablespace, database: 20 })
            .collect(),
        ..Changes::default()
    };
    let copy = Body::default().main(&words(&[20, 1700, 1, 1663]));
    let logged = Body::default().main(&words(&[20, 1700]));
    let dropped = Body::default().main(&words(&[20, 3, 1663, 1700, 1800]));
    let nowhere = Body::default().main(&words(&[20, 0]));
    for major in MAJORS {
        assert_eq!(read(major, DBASE, 0x01, &copy), databases(&[1700]));
        let drop = if major >= 15 { 0x21 } else { 0x11 };
        assert_eq!(read(major, DBASE, drop, &dropped), databases(&[1663, 1700, 1800]));
        assert_eq!(read(major, DBASE, drop, &nowhere), Changes::default());
        if major >= 15 {
            assert_eq!(read(major, DBASE, 0x11, &logged), databases(&[1700]));
            // What another version means by it.
            assert_eq!(read(major, DBASE, 0x11, &dropped), doubt(Doubt::Unreadable));
        } else {
            assert_eq!(read(major, DBASE, 0x21, &dropped), doubt(Doubt::Unreadable));
            assert_eq!(read(major, DBASE, 0x11, &logged).doubts, doubt(Doubt::Unreadable).doubts);
        }
        assert_eq!(read(major, DBASE, 0x01, &logged), doubt(Doubt::Unreadable));
        assert_eq!(read(major, DBASE, 0x31, &copy), doubt(Doubt::Unreadable));
    }
}

#[test]
fn a_level_is_read_where_the_version_writes_it() {
    let at = |offset: usize, level: u32, length: usize| {
        let mut data = vec![0xEE; length];
        data[offset..offset + 4].copy_from_slice(&level.to_le_bytes());
        Body::default().main(&data)
    };
    for major in MAJORS {
        let kinds = [(0x60, 20, 28, 13), (0x00, 20, 88, 17), (0xE0, 0, 4, 17), (0x90, 16, 24, 17)];
        for (info, offset, length, since) in kinds {
            for (level, is_minimal) in [(0, true), (1, false), (2, false)] {
                let changes = read(major, XLOG, info, &at(offset, level, length));
                if major >= since {
                    assert_eq!(changes.levels.ends_minimal(), Some(is_minimal), "{major} {info}");
                    assert_eq!(changes.doubts.contains_key(&Doubt::Minimal), is_minimal);
                } else if info == 0xE0 {
                    assert_eq!(changes, doubt(Doubt::Unreadable));
                } else {
                    assert_eq!(changes, Changes::default());
                }
            }
        }
        assert_eq!(read(major, XLOG, 0x60, &at(20, 3, 28)), doubt(Doubt::Unreadable));
        assert_eq!(read(major, XLOG, 0x60, &at(0, 1, 20)), doubt(Doubt::Unreadable));
        // Of a checkpoint that goes on, and of one without data, nothing is asked.
        assert_eq!(read(major, XLOG, 0x10, &at(0, 0, 88)), Changes::default());
        assert_eq!(read(major, XLOG, 0x40, &[]), Changes::default());
        assert_eq!(read(major, XLOG, 0xF0, &at(0, 0, 8)), doubt(Doubt::Unreadable));
    }
}

#[test]
fn what_is_not_known_is_in_doubt() {
    for major in MAJORS {
        let block = Body::default().simple(0, 1, 2);
        let found = relations(&[(name(1), &[2], None)]);
        // A heap record that says it changes files.
        let special = Changes { doubts: doubt(Doubt::Special).doubts, ..found.clone() };
        assert_eq!(read(major, HEAP, 0x01, &block.clone().main(&[1])), special);
        assert_eq!(read(major, XACT, 0x11, &block.clone().main(&[1])), special);
        // An extension's manager is a warning.
        let custom = read(major, 200, 0x10, &block.clone().main(&[1]));
        if major >= 15 {
            assert_eq!(custom, Changes { custom_managers: [200].into_iter().collect(), ..found });
        } else {
            assert_eq!(custom, doubt(Doubt::Unreadable));
        }
        let broken = [
            // The same relation as none; a block twice; a block that is none; an unknown fork, id, flag of the record.
            Body::default().block(0, 0, None, 1, None, 0).end(),
            Body::default().simple(1, 1, 2).simple(1, 1, 3).end(),
            Body::default().simple(0, 1, u32::MAX).end(),
            Body::default().block(0, 4, Some(name(1)), 1, None, 0).end(),
            Body::default().raw(&[33, 0, 0, 0]).end(),
            Body::default().raw(&[251, 0, 0, 0]).end(),
            // Data that is not announced, is announced and missing, and that has no length.
            Body::default().block(0, 0x20, Some(name(1)), 1, None, 0).end(),
            block.clone().raw(&[ID_DATA_SHORT, 9]).end(),
            block.clone().raw(&[ID_DATA_SHORT, 0, 9]).end(),
            block.clone().raw(&[ID_DATA_LONG, 1, 0]).end(),
            block.clone().raw(&[7]).end(),
        ];
        for (at, body) in broken.iter().enumerate() {
            assert_eq!(read(major, HEAP, 0, body).doubts, doubt(Doubt::Unreadable).doubts, "{at}");
        }
        assert_eq!(read(major, HEAP, 0x04, &block.end()), doubt(Doubt::Unreadable));
        assert_eq!(read(major, SMGR, 0x31, &Body::default().main(&[0; 16])), doubt(Doubt::Unreadable));
        assert_eq!(read(major, SMGR, 0x11, &[]), doubt(Doubt::Unreadable));
        assert_eq!(read(major, SMGR, 0x11, &Body::default().main(&[0; 15])), doubt(Doubt::Unreadable));
        assert_eq!(read(major, XACT, 0x70, &Body::default().main(&[0; 15])), doubt(Doubt::Unreadable));
        assert_eq!(read(major, XACT, 0x60, &Body::default().main(&[0; 15])).doubts.is_empty(), major >= 14);
    }
}

#[test]
fn a_record_that_matters_no_more_asks_for_no_more() {
    let body = Body::default().simple(0, 1, 2).main(&[1; 90]);
    let record = record(HEAP, 0, &body);
    let mut changes = Changes::default();
    let mut parser = RecordParser::new(16, Lsn(77));
    // The header, the block's, that of the main data.
    assert!(parser.take(&record[..24 + 20], &mut changes));
    assert!(!parser.take(&record[24 + 20..24 + 22], &mut changes));
    parser.finish(&mut changes);
    assert_eq!(changes, relations(&[(name(1), &[2], None)]));
}

/// Records that are well-formed as far as their headers go.
pub(super) fn bodies() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    let blocks = prop::collection::vec((0u8..4, prop::option::of(0u32..5), 0u32..100_000, 0u16..300), 1..33);
    let heap = (blocks, prop::collection::vec(any::<u8>(), 0..400)).prop_map(|(blocks, data)| {
        let body = blocks.into_iter().zip(0..).fold(Body::default(), |body, ((fork, relation, block, data), id)| {
            let relation = if id == 0 { relation.or(Some(0)) } else { relation };
            body.block(id, fork, relation.map(name), block, None, data)
        });
        (HEAP, 0, body.main(&data))
    });
    let ends = (0u32..100, prop::collection::vec(0u32..100, 0..40)).prop_map(|(subtransactions, drops)| {
        let drops: Vec<_> = drops.into_iter().map(name).collect();
        (XACT, 0x81, Body::default().main(&transaction(subtransactions, &drops)))
    });
    let truncations = (0u32..9, 0u32..5)
        .prop_map(|(limit, relation)| (SMGR, 0x21, Body::default().main(&words(&[limit, 1663, 5, relation, 7]))));
    prop_oneof![4 => heap, 2 => ends, 1 => truncations]
}

proptest! {
    #[test]
    fn it_does_not_matter_where_a_record_is_cut(
        (manager, info, body) in bodies(),
        major in 13u16..=18,
        cuts in prop::collection::vec(0usize..2000, 0..20),
    ) {
        let record = record(manager, info, &body);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % record.len()).collect();
        cuts.extend([0, record.len()]);
        cuts.sort_unstable();
        let whole = parsed(major, &record, usize::MAX);
        prop_assert!(whole.doubts.is_empty());
        let mut changes = Changes::default();
        let mut parser = RecordParser::new(major, Lsn(77));
        for cut in cuts.windows(2) {
            parser.take(&record[cut[0]..cut[1]], &mut changes);
        }
        parser.finish(&mut changes);
        prop_assert_eq!(&changes, &whole);
        prop_assert_eq!(parsed(major, &record, 1), whole);
    }

    #[test]
    fn every_record_that_is_cut_short_is_in_doubt_or_lacks_nothing((manager, info, body) in bodies(), at in 24usize..3000) {
        let record = record(manager, info, &body);
        prop_assume!(at < record.len());
        let (whole, cut) = (parsed(16, &record, 100), parsed(16, &record[..at], 100));
        prop_assert!(cut == whole || cut.doubts.contains_key(&Doubt::Unreadable));
    }

    #[test]
    fn arbitrary_records_never_panic(
        (manager, info, body) in bodies(),
        flips in prop::collection::vec((0usize..3000, any::<u8>()), 0..9),
        noise in prop::collection::vec(any::<u8>(), 0..500),
        major in 0u16..20,
        chunk in 1usize..100,
    ) {
        let _ = parsed(major, &noise, chunk);
        let mut record = record(manager, info, &body);
        for (at, with) in flips {
            let at = at % record.len();
            record[at] ^= with;
        }
        prop_assert_eq!(parsed(major, &record, chunk), parsed(major, &record, usize::MAX));
    }
}
