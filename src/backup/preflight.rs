//! Whether server, data directory and repositories belong together. Pure.

use std::path::{Path, PathBuf};

use crate::pg::{ClusterState, ControlFile, Lineage, Lsn, SegmentSize};
use crate::repo::identity::Identity;

/// Why a backup must not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nowhere to put it.
    #[error("the cluster has no repository to back up to")]
    NoRepository,
    /// A version that this program does not know.
    #[error("the server is PostgreSQL {0}; 13 to 18 are supported")]
    Version(u16),
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
    /// A cascade of standbys followed a promotion while the backup was running.
    #[error("the standby moved from timeline {from} to {to} while it was backed up; take the backup again")]
    TimelineChanged {
        /// Where it began.
        from: u32,
        /// Where it ended.
        to: u32,
    },
}

/// What the server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerFacts {
    /// Version and system identifier.
    pub lineage: Lineage,
    /// Size of WAL segments.
    pub segment_size: SegmentSize,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether `archive_mode` is not off.
    pub archiving: bool,
}

/// Checks what can be known before the backup begins.
pub fn check<'a>(
    server: ServerFacts,
    data_directory: &Path,
    control: &ControlFile,
    repositories: impl IntoIterator<Item = (&'a str, &'a Identity)>,
) -> Result<(), Refusal> {
    if !(13..=18).contains(&server.lineage.major) {
        return Err(Refusal::Version(server.lineage.major));
    }
    if control.lineage() != server.lineage {
        let path = data_directory.to_owned();
        return Err(Refusal::OtherCluster { path, directory: control.lineage(), server: server.lineage });
    }
    if !server.in_recovery && !server.archiving {
        return Err(Refusal::ArchivingOff);
    }
    let mut any = false;
    for (name, identity) in repositories {
        any = true;
        let repository = name.to_owned();
        let newest = identity.lineages.last();
        match newest {
            Some(entry) if entry.lineage == server.lineage => {
                if entry.segment_bytes != server.segment_size {
                    let (repository_has, server) = (entry.segment_bytes, server.segment_size);
                    return Err(Refusal::SegmentSize { repository, repository_has, server });
                }
            }
            _ => {
                let repository_has = newest.map(|entry| entry.lineage);
                return Err(Refusal::Lineage { repository, repository_has, server: server.lineage });
            }
        }
    }
    if any { Ok(()) } else { Err(Refusal::NoRepository) }
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
