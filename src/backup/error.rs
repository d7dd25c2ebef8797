//! Why there is no backup.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::copy::CopyError;
use super::preflight::Refusal;
use super::scan::ScanError;
use walward_base::sys::ground::Unanswered;
use walward_pg::{BackupLabelError, ControlError, SegmentName, Timeline, session::SessionError};
use walward_repo::RepoError;
use walward_repo::lease::Work;

/// Why a backup was not made. Whatever was uploaded has no manifest, so it is no backup; what could be removed was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Server, data directory and repository do not belong together, or are not what a backup needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another backup is running, or other work that keeps backups away.
    #[error("{holder} is at work in repository {repository} ({}); its lease ends at {until} unless it goes on", work.as_str())]
    Locked {
        /// The repository.
        repository: String,
        /// At what.
        work: Work,
        /// Who holds the lease.
        holder: String,
        /// When it ends.
        until: Timestamp,
    },
    /// The lease could not be renewed in time: somebody else may have begun.
    #[error("the lease on repository {repository} was lost, so another backup may have begun")]
    LeaseLost {
        /// The repository.
        repository: String,
    },
    /// A pack of this backup vanished before the manifest was written.
    #[error(
        "pack {pack} of this backup is not in repository {repository} any more; find out what removes objects there, and take the backup again"
    )]
    PackGone {
        /// The repository.
        repository: String,
        /// The pack's number.
        pack: u32,
    },
    /// The server could not be asked.
    #[error("cannot {doing}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What the server or the way to it said.
        #[source]
        source: SessionError,
    },
    /// The data directory could not be listed.
    #[error("cannot list the data directory")]
    Scan(#[from] ScanError),
    /// More than a restore would read.
    #[error(
        "the cluster has {files} files and directories, and a backup may have {} at most",
        walward_repo::manifest::ENTRIES_MAX
    )]
    TooManyFiles {
        /// How many.
        files: u64,
    },
    /// A file could not be copied.
    #[error("cannot copy the data directory")]
    Copy(#[from] CopyError),
    /// pg_control could not be read.
    #[error("cannot read what kind of cluster this is")]
    Control(#[from] ControlError),
    /// A repository could not be read or written.
    #[error("cannot {doing} repository {repository}")]
    Repository {
        /// What was being done: "write pack 3 to".
        doing: String,
        /// The repository's name.
        repository: String,
        /// What it said.
        #[source]
        source: RepoError,
    },
    /// The WAL that the backup needs has not been archived in time.
    #[error(
        "{segment} is not in repository {repository} after {}: archiving does not work or does not keep up; \
         look at pg_stat_archiver and the server's log{}",
        walward_base::format_duration(*.waited),
        if *.standby { "; the backup was taken on a standby, so the primary must archive that segment: SELECT pg_switch_wal() there" } else { "" }
    )]
    WalMissing {
        /// The first segment that is missing.
        segment: SegmentName,
        /// Where.
        repository: String,
        /// How long it was waited for.
        waited: Duration,
        /// Whether the backup was taken on a standby.
        standby: bool,
    },
    /// What the archive holds under the name of the backup's WAL is not what the server wrote.
    #[error(
        "{segment} in repository {repository}, written by host {writer:?} at {modified}, is not the WAL of this server: another server \
         archives the same timeline, or this data directory was put back to an older state; a backup that needs it could not be restored"
    )]
    OtherWal {
        /// The segment.
        segment: SegmentName,
        /// The repository.
        repository: String,
        /// Who wrote what is there.
        writer: String,
        /// When.
        modified: Timestamp,
    },
    /// A repository holds another history of the backup's timeline: another server was promoted to the same number.
    #[error(
        "repository {repository} holds another history of timeline {timeline}, written by {writer}: two servers were promoted \
         to the same timeline; only one of them can use this repository"
    )]
    History {
        /// The timeline.
        timeline: Timeline,
        /// The repository.
        repository: String,
        /// Who wrote what is there.
        writer: String,
    },
    /// The server's backup label cannot be read.
    #[error("cannot read the server's backup label")]
    LabelSyntax(#[from] BackupLabelError),
    /// The server's backup label is that of another backup.
    #[error("the server's backup label does not belong to this backup: {0:?}")]
    Label(String),
    /// A file of the machine could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The data directory's file system does not answer.
    #[error("{read}: its file system hangs, and the backup was given up (backup.read_deadline)")]
    Hangs {
        /// What it was asked for.
        read: Unanswered,
    },
    /// An earlier backup met a file system that hangs, and it still does.
    #[error(
        "the file system of {} still hangs: {read}; a backup was given up for it, and another one would hang, too. It can be taken when \
         the file system answers again",
        data_directory.display()
    )]
    StillHangs {
        /// The cluster's.
        data_directory: PathBuf,
        /// What it was asked for.
        read: Unanswered,
    },
    /// All threads for reading are with file systems that do not answer.
    #[error(
        "none of the {} threads that read data directories came free: their file systems hang; walward status names them",
        walward_base::sys::ground::THREADS_MAX
    )]
    NoThread,
    /// The backup was given up because somebody asked for it.
    #[error("the backup was cancelled")]
    Cancelled,
    /// A thread or task panicked.
    #[error("a part of the backup died; the log says where")]
    Died,
}
