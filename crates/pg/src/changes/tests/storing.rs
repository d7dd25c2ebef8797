use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn blocks() -> impl Strategy<Value = BlockSet> {
    let stretches = prop::collection::vec((0u32..200_000, 1u32..9000, 1u32..4), 0..3);
    let scattered = prop::collection::vec(prop_oneof![any::<u32>(), 0u32..200_000], 0..30);
    (stretches, scattered).prop_map(|(stretches, scattered)| {
        let stretches =
            stretches.into_iter().flat_map(|(from, length, step)| (0..length).map(move |at| from + at * step));
        stretches.chain(scattered).collect()
    })
}

fn said() -> impl Strategy<Value = Option<Said>> {
    let said = (0..u64::MAX / 2, 0..u64::MAX / 2)
        .prop_map(|(first, more)| Said { first: Lsn(first), last: Lsn(first + more) });
    prop::option::of(said)
}

fn changes() -> impl Strategy<Value = Changes> {
    let number = || prop_oneof![0u32..4, any::<u32>()];
    let relation_name = (number(), number(), number()).prop_map(|(tablespace, database, relation)| RelationName {
        tablespace,
        database,
        relation,
    });
    let change =
        (blocks(), prop::option::of(any::<u32>())).prop_map(|(blocks, limit)| RelationChanges { blocks, limit });
    let database = (number(), number()).prop_map(|(tablespace, database)| DatabaseName { tablespace, database });
    let doubt = (1u8..=6, any::<u64>()).prop_map(|(doubt, lsn)| (Doubt::from_stored(doubt).expect("known"), Lsn(lsn)));
    (
        prop::collection::btree_map(relation_name, change, 0..6),
        prop::collection::btree_set(database, 0..5),
        prop::collection::btree_map(
            (1u8..=6).prop_map(|it| Doubt::from_stored(it).expect("known")),
            any::<u64>(),
            0..5,
        ),
        (said(), said()),
        prop::collection::btree_set(128u8.., 0..4),
        doubt,
    )
        .prop_map(|(relations, databases, doubts, (minimal, sufficient), custom_managers, (one, lsn))| {
            let mut doubts: std::collections::BTreeMap<_, _> =
                doubts.into_iter().map(|(doubt, lsn)| (doubt, Lsn(lsn))).collect();
            doubts.insert(one, lsn);
            Changes { relations, databases, doubts, levels: Levels { minimal, sufficient }, custom_managers }
        })
}

fn merged(one: &Changes, other: &Changes) -> Changes {
    let mut both = one.clone();
    both.merge(other);
    both
}

#[test]
fn nothing_takes_little() {
    assert_eq!(Changes::default().encode(), [1, 0, 0, 0, 0, 0]);
    let one = relations(&[(name(16384), &[5], None), (name(16385), &[5, 6], Some(0))]);
    assert_eq!(
        one.encode(),
        // Two relations: 1663, 5, 16384, no limit, a chunk 0 of one block, 5; the next one, a limit of 0, a chunk 0 of two blocks.
        [1, 0, 0, 0, 0, 2, 0xFF, 12, 5, 0x80, 0x80, 1, 0, 1, 0, 0, 5, 0, 0, 1, 1, 1, 0, 1, 5, 0]
    );
}

#[test]
fn stored_changes_have_one_spelling() {
    let one = relations(&[(name(1), &[5], None)]).encode();
    let broken: [&[u8]; 7] = [
        &[],
        // Another version; cut; left over; a number with a needless byte; a doubt of no known reason; flags; an empty chunk's place.
        &[2, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0],
        &[1, 0x80, 0, 0, 0, 0, 0],
        &[1, 1, 7, 0, 0, 0, 0, 0],
        &[1, 0, 4, 0, 0, 0],
    ];
    assert!(broken.iter().all(|bytes| Changes::decode(bytes).is_err()));
    // A relation twice.
    let twice = [&one[..5], &[2], &one[6..], &[0, 0, 0, 0, 0]].concat();
    assert!(Changes::decode(&one).is_ok() && Changes::decode(&twice).is_err());
    // Counts that are larger than what follows take no memory.
    let huge = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    for at in [1, 3, 4, 5] {
        let bytes = [&[1, 0, 0, 0, 0, 0][..at], &huge].concat();
        assert!(Changes::decode(&bytes).is_err());
    }
}

proptest! {
    #[test]
    fn what_is_stored_is_read_again(changes in changes()) {
        let stored = changes.encode();
        prop_assert_eq!(Changes::decode(&stored), Ok(changes));
        prop_assert!(Changes::decode(&stored[..stored.len() - 1]).is_err());
    }

    #[test]
    fn what_is_read_is_what_would_be_written(noise in prop::collection::vec(any::<u8>(), 0..300), changes in changes(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = changes.encode();
        for (at, with) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        let versioned = [&[1][..], &noise].concat();
        for bytes in [&bytes, &noise, &versioned] {
            if let Ok(read) = Changes::decode(bytes) {
                prop_assert_eq!(&read.encode(), bytes);
            }
            if let Ok(read) = SegmentChanges::decode(bytes) {
                prop_assert_eq!(&read.encode(), bytes);
            }
        }
    }

    #[test]
    fn segments_are_read_again_or_refused(
        changes in changes(),
        (remaining, left, bytes) in (1u32..5000, 0u32..5000, prop::collection::vec(any::<u8>(), 0..1024)),
        kind in 0u8..5,
        flags in 0u8..8,
        shift in 20u32..=30,
        number in 0u64..1 << 33,
        at in 0u64..1 << 20,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let size = SegmentSize::try_from(1 << shift).expect("a size");
        let start = number << shift;
        let kept = bytes.len().min(usize::try_from(remaining).expect("small"));
        let continuation = |end| Entry::Continuation(Continuation { remaining, bytes: bytes[..kept].to_vec(), end });
        let entry = match kind {
            0 => Entry::Record,
            1 => Entry::Overwrite,
            2 => continuation(ContinuationEnd::Whole),
            3 => continuation(ContinuationEnd::Void),
            _ => Entry::Continuation(Continuation {
                remaining: remaining + left + 1,
                bytes: bytes[..kept].to_vec(),
                end: ContinuationEnd::GoesOn(left + 1),
            }),
        };
        let total = 24 + u32::try_from(bytes.len()).expect("small") + left + 1;
        let open = Open {
            lsn: Lsn(start + at),
            bytes: if kind == 1 { Vec::new() } else { [&total.to_le_bytes()[..], &bytes].concat() },
            left: left + 1,
        };
        let segment = SegmentChanges {
            major: 13 + u16::from(flags) % 6,
            start: Lsn(start),
            size,
            entry,
            first: (flags & 1 != 0).then_some((Lsn(start + at), Lsn(number))),
            last: (flags & 2 != 0).then_some(Lsn(start + at)),
            open: (flags & 4 != 0).then_some(open),
            changes,
        };
        let mut stored = segment.encode();
        prop_assert_eq!(SegmentChanges::decode(&stored), Ok(segment));
        prop_assert!(SegmentChanges::decode(&stored[..stored.len() - 1]).is_err());
        for (at, with) in flips {
            let at = at.index(stored.len());
            stored[at] ^= with;
        }
        if let Ok(read) = SegmentChanges::decode(&stored) {
            prop_assert_eq!(read.encode(), stored);
        }
    }

    #[test]
    fn merging_commutes_associates_repeats_and_takes_nothing_away(a in changes(), b in changes(), c in changes()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(&merged(&a, &a), &a);
        let both = merged(&a, &b);
        for (name, changes) in &a.relations {
            let ours: BTreeSet<_> = both.relations[name].blocks.iter(..).collect();
            prop_assert!(changes.blocks.iter(..).all(|block| ours.contains(&block)));
            prop_assert!(changes.limit.is_none() || both.relations[name].limit <= changes.limit);
        }
        prop_assert!(a.databases.is_subset(&both.databases));
        prop_assert!(a.doubts.keys().all(|doubt| both.doubts[doubt] <= a.doubts[doubt]));
    }
}
