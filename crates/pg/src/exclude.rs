//! What a base backup leaves out, after src/backend/backup/basebackup.c (13 to 18). Where PostgreSQL matches a name in any
//! directory although it means one place, only that place is left out here: too much in a backup does no harm.

use std::collections::HashSet;

use super::relation_file::{Fork, file_name, is_temporary};

/// Directories whose content is removed or made anew when the server starts; kept empty for their permissions.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];
/// Directories in `pg_wal` that the server expects: since ever, and since 17.
const WAL_DIRECTORIES: [&str; 2] = ["pg_wal/archive_status", "pg_wal/summaries"];
/// Files of the data directory itself that belong to the running server or to an earlier backup.
const FILES: [&str; 9] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
];
/// Temporary files and directories (`PG_TEMP_FILE_PREFIX`), and the relation cache, which is made anew; at any depth.
const PREFIXES: [&str; 2] = ["pgsql_tmp", "pg_internal.init"];

/// What becomes of a path in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inclusion {
    /// It is taken; a directory's content is judged path by path.
    Keep,
    /// The directory is taken, nothing in it.
    EmptyDirectory,
    /// It is left out, with everything in it.
    Skip,
}

/// Judges one path relative to the data directory, with `/` between its parts and `pg_tblspc/<oid>/…` for tablespaces.
/// `is_directory`: it is a directory, or a link to one (`pg_wal` often is).
///
/// The forks of unlogged relations need the whole directory: see [`UnloggedRelations`]. `global/pg_control` is kept; the
/// caller takes it last. `pg_wal` is empty; a caller who restores it makes `pg_wal/archive_status` too.
pub fn inclusion(path: &str, is_directory: bool) -> Inclusion {
    let top = path.split('/').next().unwrap_or(path);
    if EMPTIED.contains(&path) || WAL_DIRECTORIES.contains(&path) {
        return if is_directory { Inclusion::EmptyDirectory } else { Inclusion::Skip };
    }
    if EMPTIED.contains(&top) {
        return Inclusion::Skip;
    }
    let temporary = path.split('/').any(|part| PREFIXES.iter().any(|prefix| part.starts_with(prefix)));
    let relation = is_in_database(path) && path.rsplit('/').next().is_some_and(is_temporary);
    if FILES.contains(&path) || temporary || relation { Inclusion::Skip } else { Inclusion::Keep }
}

/// Whether a directory's path is one of a database: only there are unlogged and temporary relations looked for.
pub fn is_database_directory(path: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["base", database] => digits(database),
        ["pg_tblspc", tablespace, version, database] => {
            digits(tablespace) && version.starts_with("PG_") && digits(database)
        }
        _ => false,
    }
}

fn is_in_database(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(directory, _)| is_database_directory(directory))
}

/// The unlogged relations of one database directory: after a recovery the server copies their `_init` fork over the
/// others, so that a backup needs no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnloggedRelations(HashSet<u32>);

impl UnloggedRelations {
    /// Finds them in the names of all files of the directory.
    pub fn find<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let init = |name| match file_name(name) {
            Some((number, Fork::Init, _)) => Some(number),
            _ => None,
        };
        Self(names.into_iter().filter_map(init).collect())
    }

    /// Whether the file `name` of the same directory is left out: any fork but `_init` of an unlogged relation.
    pub fn excludes(&self, name: &str) -> bool {
        file_name(name).is_some_and(|(number, fork, _)| fork != Fork::Init && self.0.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_pg_basebackup_takes_is_taken() {
        for path in [
            "PG_VERSION",
            "global/pg_control",
            "global/pg_filenode.map",
            "base/5/16384",
            "base/5/16384_init",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "pg_logical/replorigin_checkpoint",
            "postgresql.auto.conf",
            "current_logfiles",
            "pg_stat/pgstat.stat",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "log/backup_label",
            "extension/pg_wal/file",
            "t3_16384",
        ] {
            assert_eq!(inclusion(path, false), Inclusion::Keep, "{path}");
        }
    }

    #[test]
    fn what_belongs_to_the_running_server_is_left_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "backup_manifest",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "global/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "base/5/t3_16384",
            "base/5/t3_16384_fsm.1",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/x",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.ready",
            "pg_replslot/slot/state",
            "pg_subtrans/0000",
            "pg_notify/0000",
        ] {
            assert_eq!(inclusion(path, false), Inclusion::Skip, "{path}");
        }
    }

    #[test]
    fn emptied_directories_stay_with_nothing_in_them() {
        for path in ["pg_wal", "pg_wal/archive_status", "pg_wal/summaries", "pg_replslot", "pg_stat_tmp", "pg_subtrans"]
        {
            assert_eq!(inclusion(path, true), Inclusion::EmptyDirectory, "{path}");
        }
        assert_eq!(inclusion("pg_replslot/slot", true), Inclusion::Skip);
        assert_eq!(inclusion("base/pgsql_tmp", true), Inclusion::Skip);
        assert_eq!(inclusion("base/5", true), Inclusion::Keep);
    }

    #[test]
    fn of_an_unlogged_relation_only_the_init_fork_is_taken() {
        let names = ["16384", "16384_fsm", "16384_init", "16384.1", "16385", "PG_VERSION"];
        let unlogged = UnloggedRelations::find(names);
        let taken: Vec<_> = names.into_iter().filter(|name| !unlogged.excludes(name)).collect();
        assert_eq!(taken, ["16384_init", "16385", "PG_VERSION"]);
    }

    #[test]
    fn database_directories_are_known_by_their_place() {
        assert!(is_database_directory("base/5"));
        assert!(is_database_directory("pg_tblspc/16400/PG_15_202209061/5"));
        assert!(!is_database_directory("base"));
        assert!(!is_database_directory("pg_xact/5"));
        assert!(!is_database_directory("pg_tblspc/16400/5"));
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path: String, directory: bool) {
            let _ = inclusion(&path, directory);
            let _ = UnloggedRelations::find([path.as_str()]).excludes(&path);
        }
    }
}
