//! The way out where two lives of a cluster met under one name: one of them is moved out of the archive, to where no reader takes it
//! for the archive, and back. Nothing is deleted: an object leaves its place when its bytes were read again from the other one.
//!
//! The order is what makes it safe, in every repository before the next step begins in any:
//!
//! 1. what is to be moved is written down ([`walward_repo::aside`]): from then on nothing else is moved under this name, however often
//!    the work is cut and taken up again. What took a name meanwhile is another object, and stays;
//! 2. every object is copied, and compared with its copy;
//! 3. backups leave the archive, each with its manifest first, then WAL, the newest first, and last the file from which on the life
//!    is set aside: as long as it is there, the archiver of the other life waits;
//! 4. the move is written down as done.
//!
//! Back it goes the other way round: histories, WAL from the oldest on, packs, manifests; only then the copies go.
//!
//! Bytes are moved as they are stored: no key is needed for it, and what is sealed stays sealed. Which backups and timelines belong to the
//! life is read in manifests and histories, and needs the key.
//!
//! | file | what it does |
//! |---|---|
//! | `jobs` | what there is to do in each repository, when it is refused, and what is to be known before |
//! | `plan` | which objects belong to the life (pure), and the reader of what it needs to know |
//! | `rest` | which objects of a move that was cut are still to be moved (pure) |
//! | `kept` | what the kept server still has in its pg_wal: that stays |
//! | `carry` | one object from one name to another; two objects compared |
//! | `away`, `back` | the moves |

mod away;
mod back;
mod carry;
mod jobs;
mod kept;
mod plan;
mod rest;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use walward_base::{ErrorClass, format_duration};
use walward_repo::RepoError;

pub use away::Away;
pub use back::Back;
pub use jobs::{Job, Jobs, Refusal, TwoLives, cut, may_go, two_lives};
pub use kept::{KeptServer, is_archived};
pub use plan::{AsidePlan, Facts, TimelineCount, plan};
pub use rest::{Rest, rest};

/// Why a life was not moved.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// A repository failed. The same command goes on where it stopped.
    #[error("cannot {doing} in repository {repository:?}")]
    Repository {
        /// What was being done.
        doing: &'static str,
        /// The repository's name.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// The kept server's data directory is there and cannot be read: what it has is not known.
    #[error("cannot see what the server has in {path}")]
    Server {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system of the kept server's data directory hangs: what it has is not known.
    #[error("{path}: its file system did not answer within {} (backup.read_deadline), so that what the server has is not known", format_duration(*.limit))]
    Hangs {
        /// What was being read.
        path: PathBuf,
        /// How long it may take.
        limit: Duration,
    },
    /// The copy of an object is not what was copied, again and again.
    #[error("the copy {object} in repository {repository:?} has other bytes than were written; nothing was removed")]
    BadCopy {
        /// The repository's name.
        repository: String,
        /// The copy.
        object: String,
    },
    /// A name to put something back under was taken meanwhile.
    #[error(
        "repository {repository:?} holds other content under {count} of the names by now, the first of them {first}; nothing is overwritten"
    )]
    Taken {
        /// The repository's name.
        repository: String,
        /// The first of the names.
        first: String,
        /// How many.
        count: usize,
    },
    /// What should be aside is neither there nor in the archive.
    #[error("{first} and {} other object(s) are neither set aside nor in the archive of repository {repository:?}: something else removed them", count.saturating_sub(1))]
    Gone {
        /// The repository's name.
        repository: String,
        /// The first of them.
        first: String,
        /// How many.
        count: usize,
    },
}

impl AsideError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Repository { source, .. } => source.class(),
            Self::Server { source, .. } => ErrorClass::of_io(source).never_absent(),
            Self::BadCopy { .. } | Self::Gone { .. } => ErrorClass::Corrupt,
            Self::Hangs { .. } => ErrorClass::Transient,
            Self::Taken { .. } => ErrorClass::Permanent,
        }
    }
}

/// An error of `repository`, met while `doing`.
fn failed(repository: &walward_repo::Repository, doing: &'static str) -> impl Fn(RepoError) -> AsideError {
    let repository = repository.name().to_owned();
    move |source| AsideError::Repository { doing, repository: repository.clone(), source }
}
