//! What a stretch of WAL changes: blocks of main forks, lengths, databases; and why that may not be all.
//!
//! Other forks are not kept: the visibility map changes without a trace in the WAL (visibilitymap_clear, src/backend/access/heap, 13 to 16 and
//! early minors of 17 and 18), the free space map is hardly logged, and both are small.

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::BlockSet;
use super::levels::Levels;
use crate::lsn::Lsn;

/// A relation's files, as WAL names them (`RelFileNode` to 15, `RelFileLocator` from 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationName {
    /// The tablespace's object identifier; 1663 is `base`, 1664 `global`.
    pub tablespace: u32,
    /// The database's, 0 in `global`.
    pub database: u32,
    /// The number in the files' names.
    pub relation: u32,
}

/// A database's directory in a tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName {
    /// The tablespace's object identifier.
    pub tablespace: u32,
    /// The database's.
    pub database: u32,
}

/// What changes of a relation's main fork. Block numbers count over all of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelationChanges {
    /// The blocks that records name.
    pub blocks: BlockSet,
    /// The smallest length that the fork is brought to, in blocks: 0 when it is created or dropped, none when it is never made shorter.
    /// Blocks from there on may have changed without being named.
    pub limit: Option<u32>,
}

/// Why the changes may not be all. Stored; the numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Doubt {
    /// A record says that it changes files in a way of its own (`XLR_SPECIAL_REL_UPDATE`), and which way is not known.
    Special = 1,
    /// A record, or what matters of it, cannot be read.
    Unreadable = 2,
    /// `wal_level` is minimal, see [`Levels`].
    Minimal = 3,
    /// The walk stopped, see [`Walked::unknown`](crate::Walked::unknown).
    Stopped = 4,
    /// A segment does not go on where the one before it ends.
    Seam = 5,
    /// A segment changes more than is stored of one; what it changes was not kept.
    TooMuch = 6,
}

impl Doubt {
    /// The reason with this number.
    pub fn from_stored(number: u8) -> Option<Self> {
        [Self::Special, Self::Unreadable, Self::Minimal, Self::Stopped, Self::Seam, Self::TooMuch]
            .into_iter()
            .find(|doubt| *doubt as u8 == number)
    }
}

/// What is told what records change.
pub trait Sink {
    /// A block of a relation's main fork is changed.
    fn block(&mut self, name: RelationName, block: u32);
    /// A relation's main fork is brought to this length or a smaller one.
    fn limit(&mut self, name: RelationName, limit: u32);
    /// The directory of a database is made or removed.
    fn database(&mut self, name: DatabaseName);
    /// From the record at `lsn` on this may not be all.
    fn doubt(&mut self, doubt: Doubt, lsn: Lsn);
    /// The record at `lsn` says `wal_level`.
    fn level(&mut self, is_minimal: bool, lsn: Lsn);
    /// There is a record of an extension's resource manager.
    fn custom_manager(&mut self, manager: u8);
}

/// What a stretch of WAL changes. [`Changes::merge`] is commutative, associative and idempotent, and never takes anything away: in which order
/// stretches are merged, and whether some overlap, does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The relations of which something changes.
    pub relations: BTreeMap<RelationName, RelationChanges>,
    /// The databases whose directory is made or removed; their files may be others under the same names.
    pub databases: BTreeSet<DatabaseName>,
    /// Why this may not be all, each with the position of the first record that is in doubt.
    pub doubts: BTreeMap<Doubt, Lsn>,
    /// What records say of `wal_level`.
    pub levels: Levels,
    /// The resource managers of extensions. Blocks that their records name are known; whether they change others is not: a warning.
    pub custom_managers: BTreeSet<u8>,
}

impl Changes {
    /// Adds what another stretch changes: the union of blocks, and the smaller length. A limit takes no block away, because blocks above it may
    /// have been written again in the other stretch.
    pub fn merge(&mut self, other: &Self) {
        for (name, changes) in &other.relations {
            let ours = self.relations.entry(*name).or_default();
            ours.blocks.union(&changes.blocks);
            ours.bring_to(changes.limit);
        }
        self.databases.extend(&other.databases);
        for (doubt, lsn) in &other.doubts {
            self.doubt(*doubt, *lsn);
        }
        self.levels.merge(&other.levels);
        self.custom_managers.extend(&other.custom_managers);
    }
}

impl Sink for Changes {
    fn block(&mut self, name: RelationName, block: u32) {
        self.relations.entry(name).or_default().blocks.insert(block);
    }

    fn limit(&mut self, name: RelationName, limit: u32) {
        self.relations.entry(name).or_default().bring_to(Some(limit));
    }

    fn database(&mut self, name: DatabaseName) {
        self.databases.insert(name);
    }

    fn doubt(&mut self, doubt: Doubt, lsn: Lsn) {
        self.doubts.entry(doubt).and_modify(|first| *first = lsn.min(*first)).or_insert(lsn);
    }

    fn level(&mut self, is_minimal: bool, lsn: Lsn) {
        self.levels.say(is_minimal, lsn);
        if is_minimal {
            self.doubt(Doubt::Minimal, lsn);
        }
    }

    fn custom_manager(&mut self, manager: u8) {
        self.custom_managers.insert(manager);
    }
}

impl RelationChanges {
    pub(super) fn bring_to(&mut self, limit: Option<u32>) {
        self.limit = [self.limit, limit].into_iter().flatten().min();
    }
}
