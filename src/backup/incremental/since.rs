//! Which blocks of a file are stored by a backup that builds on another one. Pure.
//!
//! Of a file that the parent has, a block is stored when a record since the parent's start names it, when it lies at or above a length that the relation
//! was brought to since, and when it lies at or above the length that the parent's version of the file is restored to: what lies there in an older backup
//! may be of before a truncation. A file is stored whole when the parent does not have it, when nothing that is known of its relation holds for
//! it, and when its blocks would save little.

use std::collections::BTreeMap;

use walward_pg::changes::{BlockSet, Changes, DatabaseName, RelationName};
use walward_pg::{Fork, RelationFile};
use walward_repo::block_index::FILE_BLOCKS_MAX;
use walward_repo::manifest::{Entry, EntryKind};

/// A file is stored whole when at least nine tenths of its blocks would be stored, as PostgreSQL does (`GetFileBackupMethod`,
/// src/backend/backup/basebackup_incremental.c, 17).
const WHOLE_TENTHS: u64 = 9;

/// Of main forks of relations: one file of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileName {
    relation: RelationName,
    segment: u32,
}

impl FileName {
    fn of(path: &str) -> Option<Self> {
        let RelationFile { tablespace, database, number, fork, segment } = RelationFile::parse(path)?;
        let relation = RelationName { tablespace, database, relation: number };
        (fork == Fork::Main).then_some(Self { relation, segment })
    }
}

/// The files of relations that a backup restores, with their lengths. Twenty bytes each.
#[derive(Debug, Default)]
pub struct ParentFiles {
    files: Vec<(FileName, u32)>,
    is_sorted: bool,
}

impl ParentFiles {
    /// Adds what a manifest lists; `block_bytes` of a block. What is no file of whole blocks is left out: it is then stored whole.
    pub fn add(&mut self, entry: &Entry<impl AsRef<str>>, block_bytes: u32) {
        let (EntryKind::File { size, .. } | EntryKind::Blocks { size, .. }) = entry.what else { return };
        let block_bytes = u64::from(block_bytes.max(1));
        if let (Some(name), Ok(blocks)) = (FileName::of(entry.path.as_ref()), u32::try_from(size / block_bytes))
            && size.is_multiple_of(block_bytes)
        {
            self.is_sorted = false;
            self.files.push((name, blocks));
        }
    }

    /// No more will be added.
    fn sort(&mut self) {
        self.files.sort_unstable();
        self.is_sorted = true;
    }

    fn blocks(&self, name: FileName) -> Option<u32> {
        let at = self.files.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        self.files.get(at).map(|(_, blocks)| *blocks)
    }
}

/// What is known of the time since the parent.
#[derive(Debug)]
pub struct Since {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks in a whole file of a relation.
    segment_blocks: u32,
    parent: ParentFiles,
    changes: Changes,
    /// Blocks that had a wrong checksum in the parent: they are looked at again.
    again: BTreeMap<FileName, BlockSet>,
}

impl Since {
    /// What changed since the backup with these files.
    pub fn new(
        mut parent: ParentFiles,
        changes: Changes,
        corrupt_pages: &[(String, u32)],
        block_bytes: u32,
        segment_blocks: u32,
    ) -> Self {
        parent.sort();
        let mut again: BTreeMap<FileName, BlockSet> = BTreeMap::new();
        for (path, block) in corrupt_pages {
            if let Some(name) = FileName::of(path) {
                again.entry(name).or_default().insert(*block);
            }
        }
        Self { block_bytes, segment_blocks, parent, changes, again }
    }

    /// The blocks to store of the file at `path`, which is `bytes` long, counted in the file; `None`: it is stored whole.
    pub fn blocks(&self, path: &str, bytes: u64) -> Option<BlockSet> {
        let name = FileName::of(path)?;
        let length = u32::try_from(bytes / u64::from(self.block_bytes.max(1))).ok()?;
        if !bytes.is_multiple_of(u64::from(self.block_bytes.max(1)))
            || length > self.segment_blocks.min(FILE_BLOCKS_MAX)
        {
            return None;
        }
        let in_parent = self.parent.blocks(name)?;
        let RelationName { tablespace, database, .. } = name.relation;
        if self.changes.databases.contains(&DatabaseName { tablespace, database }) {
            return None;
        }
        let first = name.segment.checked_mul(self.segment_blocks)?;
        let mut from = in_parent;
        let mut stored = BlockSet::default();
        if let Some(changes) = self.changes.relations.get(&name.relation) {
            if let Some(limit) = changes.limit {
                if limit <= first {
                    return None;
                }
                from = from.min(limit - first);
            }
            stored.extend(changes.blocks.iter(first..first.saturating_add(length)).map(|block| block - first));
        }
        if let Some(again) = self.again.get(&name) {
            stored.extend(again.iter(..length));
        }
        // Too many to be counted one by one, when a relation has grown much.
        let above = u64::from(length.saturating_sub(from));
        let is_whole = |count: u64| count * 10 >= u64::from(length) * WHOLE_TENTHS && length > 0;
        if is_whole(above) {
            return None;
        }
        stored.extend(from.min(length)..length);
        (!is_whole(stored.count())).then_some(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use walward_pg::changes::RelationChanges;

    const BLOCK: u32 = 8192;
    const NAME: RelationName = RelationName { tablespace: 1663, database: 5, relation: 16384 };

    fn parent(files: &[(&str, u64)]) -> ParentFiles {
        let mut parent = ParentFiles::default();
        for (path, size) in files {
            let what = EntryKind::File { size: *size, crc32c: 0, pack: 0, offset: 0 };
            parent.add(&Entry { path: *path, mode: 0, mtime: 0, what }, BLOCK);
        }
        parent
    }

    fn changes(blocks: &[u32], limit: Option<u32>) -> Changes {
        let changed = RelationChanges { blocks: blocks.iter().copied().collect(), limit };
        Changes { relations: BTreeMap::from([(NAME, changed)]), ..Changes::default() }
    }

    fn since(parent: ParentFiles, changes: Changes, segment_blocks: u32) -> Since {
        Since::new(parent, changes, &[], BLOCK, segment_blocks)
    }

    fn blocks(since: &Since, path: &str, blocks: u64) -> Option<Vec<u32>> {
        since.blocks(path, blocks * u64::from(BLOCK)).map(|set| set.iter(..).collect())
    }

    #[test]
    fn what_is_no_main_fork_of_the_parent_is_stored_whole() {
        let files = parent(&[("base/5/16384", 81920), ("base/5/16384_vm", 8192), ("base/5/16385", 8191)]);
        let since = since(files, changes(&[3], None), 131_072);
        assert_eq!(blocks(&since, "base/5/16384", 10), Some(vec![3]));
        for path in ["base/5/16384_vm", "base/5/16385", "base/5/16386", "base/5/16384.1", "pg_xact/0000"] {
            assert_eq!(blocks(&since, path, 1), None, "{path}");
        }
        assert_eq!(since.blocks("base/5/16384", 81_921), None);
        assert!(since.blocks("base/5/16384", 0).is_some_and(|blocks| blocks.is_empty()));
    }

    #[test]
    fn what_lies_above_a_length_since_then_or_of_the_parent_is_stored() {
        let files = || parent(&[("base/5/16384", 20 * 8192)]);
        // Cut to 17 blocks and grown to 22 again: 5 of 22 may be others.
        assert_eq!(blocks(&since(files(), changes(&[], Some(17)), 100), "base/5/16384", 22), Some((17..22).collect()));
        // The parent has 20 blocks only.
        assert_eq!(blocks(&since(files(), changes(&[4], None), 100), "base/5/16384", 22), Some(vec![4, 20, 21]));
        // Made anew, or dropped.
        assert_eq!(blocks(&since(files(), changes(&[4], Some(0)), 100), "base/5/16384", 22), None);
    }

    #[test]
    fn blocks_are_counted_in_the_file_and_not_in_the_relation() {
        let files = || parent(&[("base/5/16384", 100 * 8192), ("base/5/16384.1", 50 * 8192)]);
        let changed = || changes(&[7, 100, 149, 150], None);
        assert_eq!(blocks(&since(files(), changed(), 100), "base/5/16384", 100), Some(vec![7]));
        assert_eq!(blocks(&since(files(), changed(), 100), "base/5/16384.1", 50), Some(vec![0, 49]));
        let cut = || changes(&[], Some(140));
        assert_eq!(blocks(&since(files(), cut(), 100), "base/5/16384.1", 50), Some((40..50).collect()));
        assert_eq!(blocks(&since(files(), changes(&[], Some(100)), 100), "base/5/16384.1", 50), None);
    }

    #[test]
    fn files_of_a_database_that_was_made_anew_are_stored_whole() {
        let mut changed = changes(&[1], None);
        changed.databases.insert(DatabaseName { tablespace: 1663, database: 5 });
        let since = since(parent(&[("base/5/16384", 81920), ("base/6/16384", 81920)]), changed, 100);
        assert_eq!(blocks(&since, "base/5/16384", 10), None);
        assert_eq!(blocks(&since, "base/6/16384", 10), Some(Vec::new()));
    }

    #[test]
    fn pages_that_were_wrong_in_the_parent_are_looked_at_again() {
        let corrupt = [("base/5/16384".to_owned(), 3), ("base/5/16384_vm".to_owned(), 0)];
        let since = Since::new(parent(&[("base/5/16384", 81920)]), Changes::default(), &corrupt, BLOCK, 100);
        assert_eq!(blocks(&since, "base/5/16384", 10), Some(vec![3]));
        assert_eq!(blocks(&since, "base/5/16384", 3), Some(vec![]));
    }

    proptest! {
        #[test]
        fn a_block_is_left_out_only_where_the_parent_has_the_same(
            length in 0u32..60, in_parent in 0u32..60, first in prop_oneof![Just(0u32), Just(1)],
            changed in proptest::collection::btree_set(0u32..120, 0..20), limit in proptest::option::of(0u32..120),
        ) {
            let path = if first == 0 { "base/5/16384" } else { "base/5/16384.1" };
            let files = parent(&[(path, u64::from(in_parent) * u64::from(BLOCK))]);
            let changed_blocks: Vec<u32> = changed.iter().copied().collect();
            let since = since(files, changes(&changed_blocks, limit), 60);
            let (stored, first) = (blocks(&since, path, u64::from(length)), first * 60);
            let wanted: BTreeSet<u32> = (0..length)
                .filter(|block| {
                    let absolute = first + block;
                    changed.contains(&absolute) || limit.is_some_and(|limit| absolute >= limit) || *block >= in_parent
                })
                .collect();
            match stored {
                Some(stored) => prop_assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), wanted),
                None => prop_assert!(
                    limit.is_some_and(|limit| limit <= first) || wanted.len() * 10 >= length as usize * 9 && length > 0
                ),
            }
        }
    }
}
