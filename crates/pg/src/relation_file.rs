//! Which files of a data directory hold pages of relations (`GetRelationPath`, src/common/relpath.c;
//! `parse_filename_for_nontemp_relation`, src/backend/storage/file/reinit.c).

/// `DEFAULTTABLESPACE_OID` and `GLOBALTABLESPACE_OID`, src/include/catalog/pg_tablespace.dat.
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

/// One of the files that a relation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fork {
    /// The rows.
    Main,
    /// The free space map.
    FreeSpace,
    /// The visibility map.
    Visibility,
    /// What an unlogged relation is set back to.
    Init,
}

/// A file of pages, as its path tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The tablespace's object identifier: 1663 under `base`, 1664 under `global`.
    pub tablespace: u32,
    /// The database's, 0 under `global`.
    pub database: u32,
    /// The number in the file's name.
    pub number: u32,
    /// Which of the relation's forks.
    pub fork: Fork,
    /// Which file of the fork, from 0.
    pub segment: u32,
}

impl RelationFile {
    /// Reads a path relative to the data directory, with `/` between its parts and `pg_tblspc/<oid>/PG_…/…` for tablespaces.
    ///
    /// `None` for everything that has no pages with checksums: other files, and temporary relations.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (tablespace, database) = match parts.next()? {
            "global" => (GLOBAL_TABLESPACE, 0),
            "base" => (DEFAULT_TABLESPACE, number(parts.next()?)?),
            "pg_tblspc" => {
                let tablespace = number(parts.next()?)?;
                parts.next()?.strip_prefix("PG_")?;
                (tablespace, number(parts.next()?)?)
            }
            _ => return None,
        };
        let (number, fork, segment) = file_name(parts.next()?)?;
        parts.next().is_none().then_some(Self { tablespace, database, number, fork, segment })
    }

    /// The block number of the file's first page; `segment_blocks` is `ControlFile::relation_segment_blocks`. `None` when
    /// no relation is that long.
    pub fn first_block(&self, segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(segment_blocks)
    }
}

/// `16384`, `16384_vm`, `16384.2`, `16384_fsm.1`: number, fork, segment.
pub(super) fn file_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, number(segment)?),
        None => (name, 0),
    };
    let (relation, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((relation, "fsm")) => (relation, Fork::FreeSpace),
        Some((relation, "vm")) => (relation, Fork::Visibility),
        Some((relation, "init")) => (relation, Fork::Init),
        Some(_) => return None,
    };
    Some((number(relation)?, fork, segment))
}

/// `t3_16384`: a relation that is gone when its session (number 3) ends (`looks_like_temp_rel_name`,
/// src/backend/storage/file/fd.c).
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(session, file)| number(session).is_some_and(|_| file_name(file).is_some()))
}

/// A number above 0 in decimal without leading zeros.
fn number(text: &str) -> Option<u32> {
    let valid = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    valid.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tablespace: u32, database: u32, number: u32, fork: Fork, segment: u32) -> RelationFile {
        RelationFile { tablespace, database, number, fork, segment }
    }

    #[test]
    fn files_of_pages_are_recognised_in_every_tablespace() {
        assert_eq!(RelationFile::parse("global/1262"), Some(file(1664, 0, 1262, Fork::Main, 0)));
        assert_eq!(RelationFile::parse("base/5/16384.2"), Some(file(1663, 5, 16384, Fork::Main, 2)));
        assert_eq!(RelationFile::parse("base/5/16384_fsm"), Some(file(1663, 5, 16384, Fork::FreeSpace, 0)));
        assert_eq!(
            RelationFile::parse("pg_tblspc/16400/PG_15_202209061/5/16401_vm.1"),
            Some(file(16400, 5, 16401, Fork::Visibility, 1))
        );
        assert_eq!(RelationFile::parse("base/5/16384_init"), Some(file(1663, 5, 16384, Fork::Init, 0)));
    }

    #[test]
    fn other_files_are_not() {
        for path in [
            "",
            "PG_VERSION",
            "global/pg_control",
            "global/pg_filenode.map",
            "global/1262/1",
            "base/5",
            "base/5/PG_VERSION",
            "base/5/pg_internal.init",
            "base/5/t3_16384",
            "base/5/16384_new",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/+16384",
            "base/5/99999999999",
            "base/pgsql_tmp/1",
            "pg_tblspc/16400/5/16401",
            "pg_xact/0000",
        ] {
            assert_eq!(RelationFile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn blocks_are_counted_over_the_files_of_a_fork() {
        let file = RelationFile::parse("base/5/16384.3").expect("a relation file");
        assert_eq!(file.first_block(131_072), Some(393_216));
        let file = RelationFile::parse("base/5/16384.4000000").expect("a relation file");
        assert_eq!(file.first_block(131_072), None);
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path: String, name in "(base|global|pg_tblspc)/[0-9_./a-z]{0,30}") {
            let _ = RelationFile::parse(&path);
            let _ = RelationFile::parse(&name);
        }
    }
}
