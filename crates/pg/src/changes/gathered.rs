//! Gathers what the records of one segment change, while the segment is archived: fast, because there is a record every hundred bytes, and with
//! a bound, because what does not fit into what is stored need not be kept.
//!
//! How many bytes that takes at least is counted as it grows. Once it is more than is stored of a segment, all that was gathered of
//! relations and databases is let go, and no more is. Each of these bytes stands for at most some 40 bytes of memory, so that a
//! segment takes at most some 20 MiB, whatever its records say.

use std::collections::HashMap;

use super::relations::{Changes, DatabaseName, Doubt, RelationChanges, RelationName, Sink};
use crate::lsn::Lsn;

/// How many relations are found again without searching, unless two of them have the same place.
const RECENT: usize = 64;
/// How many bytes a relation takes at least: its name, its limit, the number of its chunks; and a database.
const RELATION_BYTES_MIN: usize = 3 + 1 + 1;
const DATABASE_BYTES_MIN: usize = 2;

/// What the records of a segment change, so far.
#[derive(Debug)]
pub(super) struct Gathered {
    /// All but the relations.
    others: Changes,
    relations: Vec<(RelationName, RelationChanges)>,
    /// Where in `relations` a relation is.
    places: HashMap<RelationName, usize>,
    /// What was changed last of relations, each at the place that its number says.
    recent: [Option<Recent>; RECENT],
    /// How many bytes it takes at least when it is stored, and how many it may.
    stored_min: usize,
    stored_max: usize,
}

/// A relation, and some of its blocks that were gathered already.
#[derive(Debug, Clone, Copy)]
struct Recent {
    name: RelationName,
    place: usize,
    /// The blocks whose number divided by 64 is this one, a bit for each.
    word: u32,
    bits: u64,
}

impl Gathered {
    /// Nothing yet, and to be let go when it cannot be stored in so many bytes.
    pub(super) fn up_to(stored_max: usize) -> Self {
        Self {
            others: Changes::default(),
            relations: Vec::new(),
            places: HashMap::new(),
            recent: [None; RECENT],
            stored_min: 0,
            stored_max,
        }
    }

    /// What was gathered; a doubt from `start` on, where the segment begins, when it was let go.
    pub(super) fn finish(mut self, start: Lsn) -> Changes {
        if self.is_too_much() {
            self.others.doubt(Doubt::TooMuch, start);
        }
        self.others.relations = self.relations.into_iter().collect();
        self.others
    }

    /// Whether all was let go.
    pub(super) fn is_too_much(&self) -> bool {
        self.stored_min > self.stored_max
    }

    /// How much memory it takes, but for what the allocator adds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let blocks: usize = self.relations.iter().map(|(_, changes)| changes.blocks.memory()).sum();
        blocks
            + self.relations.capacity() * size_of::<(RelationName, RelationChanges)>()
            + self.places.capacity() * size_of::<(RelationName, usize)>()
            + self.others.databases.len() * size_of::<DatabaseName>()
    }

    fn grow(&mut self, stored_more: usize) {
        self.stored_min = self.stored_min.saturating_add(stored_more);
        if self.is_too_much() {
            self.relations = Vec::new();
            self.places = HashMap::new();
            self.recent = [None; RECENT];
            self.others.databases.clear();
        }
    }

    /// Where in `relations` it is; it is added if need be.
    fn place(&mut self, name: RelationName) -> usize {
        if let Some(recent) = self.recent(name) {
            return recent.place;
        }
        let next = self.relations.len();
        let place = *self.places.entry(name).or_insert(next);
        if place == next {
            self.relations.push((name, RelationChanges::default()));
            self.grow(RELATION_BYTES_MIN);
        }
        place
    }

    fn recent(&self, name: RelationName) -> Option<&Recent> {
        let recent = self.recent.get(recent_place(name))?.as_ref();
        recent.filter(|recent| recent.name == name)
    }

    /// As [`Sink::block`], of a block that may not have been gathered yet.
    fn add(&mut self, name: RelationName, block: u32) {
        if self.is_too_much() {
            return;
        }
        let place = self.place(name);
        let Some((_, changes)) = self.relations.get_mut(place) else { return };
        let more = if changes.blocks.insert(block) { changes.blocks.stored_more(block) } else { 0 };
        let (word, bit) = word_and_bit(block);
        let bits = self.recent(name).filter(|recent| recent.word == word).map_or(0, |recent| recent.bits);
        if let Some(recent) = self.recent.get_mut(recent_place(name)) {
            *recent = Some(Recent { name, place, word, bits: bits | bit });
        }
        self.grow(more);
    }
}

impl Sink for Gathered {
    fn block(&mut self, name: RelationName, block: u32) {
        let (word, bit) = word_and_bit(block);
        let is_known = self.recent(name).is_some_and(|recent| recent.word == word && recent.bits & bit != 0);
        if !is_known {
            self.add(name, block);
        }
    }

    fn limit(&mut self, name: RelationName, limit: u32) {
        if self.is_too_much() {
            return;
        }
        let place = self.place(name);
        if let Some((_, changes)) = self.relations.get_mut(place) {
            changes.bring_to(Some(limit));
        }
    }

    fn database(&mut self, name: DatabaseName) {
        if !self.is_too_much() && self.others.databases.insert(name) {
            self.grow(DATABASE_BYTES_MIN);
        }
    }

    fn doubt(&mut self, doubt: Doubt, lsn: Lsn) {
        self.others.doubt(doubt, lsn);
    }

    fn level(&mut self, is_minimal: bool, lsn: Lsn) {
        self.others.level(is_minimal, lsn);
    }

    fn custom_manager(&mut self, manager: u8) {
        self.others.custom_manager(manager);
    }
}

fn recent_place(name: RelationName) -> usize {
    usize::try_from(name.relation).unwrap_or(0) % RECENT
}

fn word_and_bit(block: u32) -> (u32, u64) {
    (block / 64, 1 << (block % 64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a record may tell.
    #[derive(Debug, Clone, Copy)]
    enum Told {
        Blocks { from: u32, count: u32, step: u32 },
        Limit(u32),
        Database,
    }

    fn told() -> impl Strategy<Value = Told> {
        let blocks = (0u32..300_000, prop_oneof![8 => 1u32..200, 1 => 1u32..9000], prop_oneof![1u32..3, 1u32..100_000]);
        prop_oneof![
            4 => blocks.prop_map(|(from, count, step)| Told::Blocks { from, count, step }),
            1 => any::<u32>().prop_map(Told::Limit),
            1 => Just(Told::Database),
        ]
    }

    fn tell(sink: &mut impl Sink, number: u32, told: Told) {
        // Some of them share a place.
        let name = RelationName { tablespace: number % 2, database: 5, relation: number * 32 };
        match told {
            Told::Blocks { from, count, step } => {
                (0..count).for_each(|at| sink.block(name, from.wrapping_add(at.wrapping_mul(step))));
            }
            Told::Limit(limit) => sink.limit(name, limit),
            Told::Database => sink.database(DatabaseName { tablespace: number, database: 5 }),
        }
    }

    proptest! {
        #[test]
        fn it_gathers_what_is_told_and_never_takes_it_for_longer_than_it_is_stored(
            all in prop::collection::vec((0u32..9, told()), 0..60),
            stored_max in 0usize..30_000,
        ) {
            let (mut expected, mut gathered) = (Changes::default(), Gathered::up_to(usize::MAX));
            let mut bounded = Gathered::up_to(stored_max);
            for (number, told) in all {
                tell(&mut expected, number, told);
                tell(&mut gathered, number, told);
                tell(&mut bounded, number, told);
            }
            let stored = expected.encode().len();
            prop_assert!(gathered.stored_min <= stored, "{} {stored}", gathered.stored_min);
            let is_too_much = gathered.stored_min > stored_max;
            prop_assert_eq!(bounded.is_too_much(), is_too_much);
            prop_assert_eq!(&gathered.finish(Lsn(9)), &expected);
            let bounded = bounded.finish(Lsn(9));
            if is_too_much {
                let nothing = Changes { doubts: [(Doubt::TooMuch, Lsn(9))].into(), ..Changes::default() };
                prop_assert_eq!(bounded, nothing);
            } else {
                prop_assert_eq!(bounded, expected);
            }
        }
    }
}
