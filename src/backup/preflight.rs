//! Whether server, data directory and repositories belong together. Pure, but for [`check_apart`], which follows links.

use std::path::{Path, PathBuf};

use walward_base::sys::within::lies_within;
use walward_pg::session::ServerFacts;
use walward_pg::{ClusterState, ControlFile, Lineage, Lsn, SegmentSize, Timeline};
use walward_repo::identity::Identity;

/// Why a backup must not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nowhere to put it.
    #[error("the cluster has no repository to back up to")]
    NoRepository,
    /// The connection leads to another server than the one whose files would be copied.
    #[error(
        "the connection leads to {server}, but {} is the data directory of {directory}: correct `connection` or `data_directory`",
        path.display()
    )]
    OtherCluster {
        /// The configured data directory.
        path: PathBuf,
        /// What it is.
        directory: Lineage,
        /// What the server is.
        server: Lineage,
    },
    /// A copy of the right cluster: a standby's directory with the primary's connection, an old copy, a snapshot.
    #[error(
        "{} is not the directory of the server that the connection leads to, but a copy of the same cluster ({why}): \
         correct `connection` or `data_directory`",
        path.display()
    )]
    OtherCopy {
        /// The configured data directory.
        path: PathBuf,
        /// How it can be told.
        why: String,
    },
    /// The backup would hold the earlier ones.
    #[error(
        "repository {repository} lies in {}, which is backed up: every backup would hold the earlier ones, and one mishap would take \
         both; give the repository a folder elsewhere",
        outer.display()
    )]
    Inside {
        /// The repository's name.
        repository: String,
        /// The data directory or tablespace.
        outer: PathBuf,
    },
    /// The repository has not been told of this lineage.
    #[error(
        "repository {repository} belongs to {}, but the server is {server}: \
         after a major upgrade or a new initdb run `walward setup` for this cluster",
        repository_has.map_or_else(|| "no cluster yet".to_owned(), |lineage| lineage.to_string())
    )]
    Lineage {
        /// The repository's name.
        repository: String,
        /// Its newest lineage.
        repository_has: Option<Lineage>,
        /// What the server is.
        server: Lineage,
    },
    /// `pg_resetwal --wal-segsize` was used.
    #[error(
        "repository {repository} was set up for WAL segments of {} bytes, but the server writes {}: run `walward setup` for this cluster",
        u64::from(*repository_has),
        u64::from(*server)
    )]
    SegmentSize {
        /// The repository's name.
        repository: String,
        /// What it was set up for.
        repository_has: SegmentSize,
        /// What the server writes.
        server: SegmentSize,
    },
    /// No WAL would ever arrive.
    #[error(
        "archive_mode is off, so the WAL that a backup needs would never be archived: \
         set archive_mode = on and archive_command, and restart the server"
    )]
    ArchivingOff,
    /// The server was a standby when the backup began.
    #[error("the standby was promoted while it was backed up; take the backup again")]
    Promoted,
    /// A standby of a standby followed a promotion while it was backed up.
    #[error("the standby moved from timeline {from} to {to} while it was backed up; take the backup again")]
    TimelineChanged {
        /// Where it began.
        from: Timeline,
        /// Where it ended.
        to: Timeline,
    },
}

/// Checks what can be known before the backup begins.
pub fn check<'a>(
    server: &ServerFacts,
    data_directory: &Path,
    control: &ControlFile,
    repositories: impl IntoIterator<Item = (&'a str, &'a Identity)>,
) -> Result<(), Refusal> {
    let lineage = server.lineage();
    if control.lineage() != lineage {
        let path = data_directory.to_owned();
        return Err(Refusal::OtherCluster { path, directory: control.lineage(), server: lineage });
    }
    if !server.in_recovery && server.archive_mode == "off" {
        return Err(Refusal::ArchivingOff);
    }
    let mut any = false;
    for (name, identity) in repositories {
        any = true;
        let repository = name.to_owned();
        let newest = identity.lineages.last();
        match newest {
            Some(entry) if entry.lineage == lineage => {
                if entry.segment_bytes != server.wal_segment_bytes {
                    let (repository_has, server) = (entry.segment_bytes, server.wal_segment_bytes);
                    return Err(Refusal::SegmentSize { repository, repository_has, server });
                }
            }
            _ => {
                let repository_has = newest.map(|entry| entry.lineage);
                return Err(Refusal::Lineage { repository, repository_has, server: lineage });
            }
        }
    }
    if any { Ok(()) } else { Err(Refusal::NoRepository) }
}

/// Checks that no repository on a disk lies in the data directory or in one of the server's tablespaces, links followed. Blocking.
pub fn check_apart<'a>(
    data_directory: &Path,
    tablespaces: impl IntoIterator<Item = &'a Path>,
    repositories: &[(String, PathBuf)],
) -> Result<(), Refusal> {
    // A tablespace in place is named relative to the data directory, in which it lies.
    let tablespaces = tablespaces.into_iter().map(|place| data_directory.join(place));
    for outer in std::iter::once(data_directory.to_owned()).chain(tablespaces) {
        if let Some((repository, _)) = repositories.iter().find(|(_, folder)| lies_within(folder, &outer)) {
            return Err(Refusal::Inside { repository: repository.clone(), outer });
        }
    }
    Ok(())
}

/// Checks, after `pg_backup_start` answered `start`, that the data directory is the one that the server works in: its
/// pg_control knows of the checkpoint that the backup begins with, and says standby when the server does.
pub fn check_begun(in_recovery: bool, start: Lsn, data_directory: &Path, control: &ControlFile) -> Result<(), Refusal> {
    let other = |why: String| Err(Refusal::OtherCopy { path: data_directory.to_owned(), why });
    if control.redo < start {
        return other(format!("its last checkpoint is at {}, the server's at {start}", control.redo));
    }
    match (control.state, in_recovery) {
        (ClusterState::InProduction, false) | (ClusterState::InArchiveRecovery, true) => Ok(()),
        (_, true) => other("it is not a standby's".to_owned()),
        (_, false) => other("it is not in production".to_owned()),
    }
}

/// Checks, with pg_control as it was copied last, that a standby stayed on its timeline: the WAL that the backup needs would else
/// lie on two.
pub fn check_ended(in_recovery: bool, timeline: Timeline, control: &ControlFile) -> Result<(), Refusal> {
    let now = control.min_recovery_timeline;
    if in_recovery && now.0 > timeline.0 {
        return Err(Refusal::TimelineChanged { from: timeline, to: now });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use walward_pg::Capacity;
    use walward_repo::identity::LineageEntry;

    const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7_437_223_446_531_284_312 };
    const DIRECTORY: &str = "/data";

    fn server() -> ServerFacts {
        ServerFacts {
            version_num: 150_018,
            server_version: "15.18".to_owned(),
            system_identifier: LINEAGE.system_identifier,
            data_directory: DIRECTORY.to_owned(),
            wal_segment_bytes: SegmentSize::DEFAULT,
            block_size: 8192,
            data_checksums: true,
            in_recovery: false,
            timeline: Timeline(1),
            wal_level: "replica".to_owned(),
            archive_mode: "on".to_owned(),
            archive_command: "walward-wal push %p".to_owned(),
            archive_library: String::new(),
            archive_timeout: 0,
            restore_command: String::new(),
            summarize_wal: false,
            full_page_writes: true,
            tablespaces: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn control() -> ControlFile {
        ControlFile {
            major: 15,
            system_identifier: LINEAGE.system_identifier,
            control_version: 1300,
            catalog_version: 202_209_061,
            state: ClusterState::InProduction,
            time: 0,
            checkpoint: Lsn(0x300_0060),
            redo: Lsn(0x300_0028),
            timeline: Timeline(1),
            checkpoint_time: 0,
            min_recovery_point: Lsn(0),
            min_recovery_timeline: Timeline(0),
            backup_start: Lsn(0),
            wal_level: 1,
            capacity: Capacity::default(),
            block_size: 8192,
            relation_segment_blocks: 131_072,
            wal_block_size: 8192,
            segment_size: SegmentSize::DEFAULT,
            checksum_version: 1,
        }
    }

    fn identity(lineages: &[(Lineage, SegmentSize)]) -> Identity {
        Identity {
            format: 1,
            cluster_id: "0".repeat(32),
            name: "main".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            encrypted: false,
            root: None,
            lineages: lineages
                .iter()
                .map(|&(lineage, segment_bytes)| LineageEntry { lineage, segment_bytes, since: Timestamp::UNIX_EPOCH })
                .collect(),
        }
    }

    fn checked(server: &ServerFacts, control: &ControlFile, identity: &Identity) -> Result<(), Refusal> {
        check(server, Path::new(DIRECTORY), control, [("disk", identity)])
    }

    #[test]
    fn what_belongs_together_is_backed_up() {
        let older = Lineage { major: 13, system_identifier: 1 };
        let upgraded = identity(&[(older, SegmentSize::DEFAULT), (LINEAGE, SegmentSize::DEFAULT)]);
        assert_eq!(checked(&server(), &control(), &upgraded), Ok(()));
        let standby = ServerFacts { in_recovery: true, archive_mode: "off".to_owned(), ..server() };
        assert_eq!(checked(&standby, &control(), &upgraded), Ok(()));
    }

    #[test]
    fn another_cluster_is_refused() {
        let ours = identity(&[(LINEAGE, SegmentSize::DEFAULT)]);
        let elsewhere = ServerFacts { system_identifier: 8, ..server() };
        assert!(matches!(checked(&elsewhere, &control(), &ours), Err(Refusal::OtherCluster { .. })));
        let other = Lineage { system_identifier: 8, ..LINEAGE };
        let moved_on = identity(&[(LINEAGE, SegmentSize::DEFAULT), (other, SegmentSize::DEFAULT)]);
        assert!(matches!(checked(&server(), &control(), &moved_on), Err(Refusal::Lineage { .. })));
        assert!(matches!(checked(&server(), &control(), &identity(&[])), Err(Refusal::Lineage { .. })));
    }

    #[test]
    fn what_could_never_be_restored_is_refused() {
        let ours = identity(&[(LINEAGE, SegmentSize::DEFAULT)]);
        let silent = ServerFacts { archive_mode: "off".to_owned(), ..server() };
        assert_eq!(checked(&silent, &control(), &ours), Err(Refusal::ArchivingOff));
        let small = identity(&[(LINEAGE, SegmentSize::try_from(1 << 20).unwrap())]);
        assert!(matches!(checked(&server(), &control(), &small), Err(Refusal::SegmentSize { .. })));
        let nowhere: [(&str, &Identity); 0] = [];
        assert_eq!(check(&server(), Path::new(DIRECTORY), &control(), nowhere), Err(Refusal::NoRepository));
    }

    #[test]
    fn a_repository_in_what_it_protects_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("space")).unwrap();
        std::os::unix::fs::symlink(at("space"), at("link")).unwrap();
        let refused = |path: &str| {
            let repositories = [("far".to_owned(), at("far")), ("near".to_owned(), at(path))];
            let space = at("space");
            check_apart(&at("data"), [space.as_path(), Path::new("pg_tblspc/1")], &repositories)
        };
        let inside = |outer: &str| Err(Refusal::Inside { repository: "near".to_owned(), outer: at(outer) });
        assert_eq!(refused("data/backups"), inside("data"));
        assert_eq!(refused("link/backups"), inside("space"));
        assert_eq!(refused("elsewhere"), Ok(()));
    }

    #[test]
    fn a_copy_of_the_right_cluster_is_refused() {
        let begun = |in_recovery, start, control: &ControlFile| {
            check_begun(in_recovery, Lsn(start), Path::new(DIRECTORY), control).is_ok()
        };
        let standby = ControlFile { state: ClusterState::InArchiveRecovery, ..control() };
        assert!(begun(false, 0x300_0028, &control()));
        assert!(begun(true, 0x300_0028, &standby));
        assert!(!begun(false, 0x300_0028, &standby));
        assert!(!begun(true, 0x300_0028, &control()));
        assert!(!begun(false, 0x400_0028, &control()), "an old copy does not know the checkpoint");
    }

    #[test]
    fn a_standby_must_stay_on_its_timeline() {
        let moved = ControlFile { min_recovery_timeline: Timeline(2), ..control() };
        assert!(check_ended(true, Timeline(1), &moved).is_err());
        assert!(check_ended(true, Timeline(2), &moved).is_ok());
        assert!(check_ended(false, Timeline(1), &control()).is_ok());
    }
}
