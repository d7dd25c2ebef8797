//! Why a file was not archived.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::accept::Rejection;
use walward_base::ErrorClass;
use walward_pg::{ControlError, Lineage, Lsn, WalFileName};
use walward_repo::RepoError;

/// Why a file was not archived.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data directory's pg_control cannot be read.
    #[error("cannot tell which cluster {path} belongs to")]
    Control {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: ControlError,
    },
    /// The file is not acceptable.
    #[error("{name} is refused: {reason}")]
    Rejected {
        /// The file.
        name: WalFileName,
        /// Why.
        reason: Rejection,
    },
    /// A repository failed.
    #[error("cannot archive {name} in repository {repository:?}")]
    Repository {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// The name is taken by other content.
    #[error(
        "{name} is refused: repository {repository:?} holds a file of this name with other content, written by host {writer:?} at {modified}; two servers write the same timeline (a former primary or a clone that still archives?): stop archiving on the wrong one, nothing was overwritten"
    )]
    Different {
        /// The file.
        name: WalFileName,
        /// Of the server.
        lineage: Lineage,
        /// The repository's name.
        repository: String,
        /// Who wrote the first.
        writer: String,
        /// When.
        modified: jiff::Timestamp,
    },
    /// Another server was promoted in the same segment before, and this one holds WAL that neither that one's file nor its own timeline has.
    #[error(
        "{name} is refused: repository {repository:?} holds that of host {writer:?}, which was promoted in this segment before, and from {from} on this one holds WAL that is nowhere else, because recovery ended before it; nothing was overwritten. Copy pg_wal/{name} to a safe place, then remove pg_wal/archive_status/{name}.ready: PostgreSQL goes on with what comes next"
    )]
    Beyond {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// Who wrote the first.
        writer: String,
        /// The first record that is nowhere else.
        from: Lsn,
    },
    /// What comes before it has other content in a repository, or another server's.
    #[error(
        "{name} is refused: it continues {earlier}, which has two contents, and what two servers wrote must not become one archive ({why}); nothing was overwritten; the page \"When two servers wrote the same WAL\" of the documentation says how to go on"
    )]
    Follows {
        /// The file.
        name: WalFileName,
        /// The file with two contents.
        earlier: WalFileName,
        /// What was found there.
        why: String,
    },
    /// The server's own files could not be looked at in time, so that the archive's cannot be held against them.
    #[error(
        "{name} is not archived yet: {path} was not listed within {} s, and without it nothing tells whether the archive is this server's; PostgreSQL will ask again", .after.as_secs()
    )]
    NoAnswer {
        /// The file.
        name: WalFileName,
        /// What did not answer.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// A repository that is needed missed files or lacks some, and cannot be held against what the server still has.
    #[error(
        "{name} is not archived yet: repository {repository:?}, which may hold another server's files, could not be compared with what this server has in pg_wal ({why}); PostgreSQL will ask again"
    )]
    NotCompared {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// What failed.
        why: String,
    },
    /// It took too long; it may still go on, and the next try will find out.
    #[error("{name} was not durable after {} s{}; PostgreSQL will ask again", .after.as_secs(), unanswered(.waiting))]
    Deadline {
        /// The file.
        name: WalFileName,
        /// How long it was waited for.
        after: Duration,
        /// The repositories that had not answered.
        waiting: Vec<String>,
    },
    /// Too few repositories answer, so that it is not waited for; it may still go on, and the next try will find out.
    #[error("{name} is not durable yet: {}; PostgreSQL will ask again", why_each(.failing))]
    Unanswered {
        /// The file.
        name: WalFileName,
        /// The repositories that fail or do not answer, and why.
        failing: Vec<(String, String)>,
    },
    /// Another file took its place, so that what was asked for is not what was archived.
    #[error("another file took the place of {0} while it was archived; PostgreSQL will ask again")]
    Replaced(WalFileName),
    /// A bug: the upload panicked. The log says where.
    #[error("the upload of {0} died of an internal error; the log says where")]
    Died(WalFileName),
    /// The agent is stopping.
    #[error("{0} was given up because the agent is stopping; PostgreSQL will ask again")]
    Stopping(WalFileName),
}

fn unanswered(waiting: &[String]) -> String {
    let names: Vec<String> = waiting.iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { String::new() } else { format!(": no answer from repository {}", names.join(", ")) }
}

fn why_each(failing: &[(String, String)]) -> String {
    let each: Vec<String> =
        failing.iter().map(|(name, why)| format!("repository {name:?} cannot be written to ({why})")).collect();
    each.join(", ")
}

impl PushError {
    /// The repository that it is about, when it is about one.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Repository { repository, .. }
            | Self::Different { repository, .. }
            | Self::Beyond { repository, .. }
            | Self::NotCompared { repository, .. } => Some(repository),
            _ => None,
        }
    }

    /// What decisions and metrics are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read { source, .. } => ErrorClass::of_io(source).never_absent(),
            Self::Control { .. }
            | Self::Rejected { .. }
            | Self::Different { .. }
            | Self::Beyond { .. }
            | Self::Follows { .. }
            | Self::Died(_) => ErrorClass::Permanent,
            Self::Repository { source, .. } => source.class(),
            Self::Deadline { .. }
            | Self::Unanswered { .. }
            | Self::NoAnswer { .. }
            | Self::NotCompared { .. }
            | Self::Replaced(_) => ErrorClass::Transient,
            Self::Stopping(_) => ErrorClass::Cancelled,
        }
    }

    /// Whether a store that fails, or is away, kept the file from being archived.
    pub(in crate::archive) fn is_the_stores(&self) -> bool {
        match self {
            Self::Repository { source, .. } => source.is_the_stores(),
            Self::Deadline { .. } | Self::Unanswered { .. } | Self::NotCompared { .. } => true,
            Self::Read { .. }
            | Self::Control { .. }
            | Self::Rejected { .. }
            | Self::Different { .. }
            | Self::Beyond { .. }
            | Self::Follows { .. }
            | Self::NoAnswer { .. }
            | Self::Replaced(_)
            | Self::Died(_)
            | Self::Stopping(_) => false,
        }
    }

    /// Which of several failures is told, the least number first: what a person has to put right before a store that is away, and before all
    /// that other content has the name.
    pub(super) fn urgency(&self) -> u8 {
        match self {
            Self::Different { .. } | Self::Beyond { .. } => 0,
            error => 1 + u8::from(error.is_the_stores()),
        }
    }

    /// Whether trying again changes nothing before a person has put something right: the file is none, or another one has its name.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Different { .. } | Self::Beyond { .. } | Self::Follows { .. })
    }
}
