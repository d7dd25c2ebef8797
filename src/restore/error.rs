//! What goes wrong in a restore.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::refusal::Refusal;
use crate::catalogue::CatalogueError;
use walward_base::{ErrorClass, format_bytes};
use walward_repo::lease::Work;

/// A restore that was not begun, or not finished. One that was begun can be run again with the same request and goes on
/// where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It cannot do what was asked. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The files would not fit.
    #[error(
        "not enough space on the file system of {}: {} are needed and {} are free",
        .path.display(), format_bytes(*.needed_bytes), format_bytes(*.free_bytes)
    )]
    NoSpace {
        /// A directory on it.
        path: PathBuf,
        /// What is to be written there, bytes.
        needed_bytes: u64,
        /// What is free there, bytes.
        free_bytes: u64,
    },
    /// The repositories do not say what has to be known.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A pack could not be had whole from any repository.
    #[error("cannot restore pack {pack} of backup {label}; {}", .attempts.join("; "))]
    Pack {
        /// The backup.
        label: String,
        /// The pack's number.
        pack: u32,
        /// What failed, a line for each repository.
        attempts: Vec<String>,
        /// The class of the last failure.
        class: ErrorClass,
    },
    /// A manifest that contradicts itself.
    #[error("the manifest of backup {label} cannot be trusted: {why}")]
    Manifest {
        /// The backup.
        label: String,
        /// What is wrong.
        why: String,
    },
    /// Work goes on that takes away or moves what would be read.
    #[error("{holder} is at work ({}) in repository {repository}; its lease ends at {until} unless it goes on", work.as_str())]
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
    /// The machine failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the machine said.
        #[source]
        source: io::Error,
    },
    /// A sync failed before, and nothing can be proven any more.
    #[error("what was written to {} may not be on the disk, because a sync failed; run the restore again", .0.display())]
    Unproven(PathBuf),
    /// Somebody gave up. Running it again goes on.
    #[error("the restore was interrupted; run it again to go on where it stopped")]
    Cancelled,
    /// A bug: a thread panicked.
    #[error("a thread died while restoring")]
    Died,
}

impl RestoreError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(refusal) if refusal.is_not_found() => ErrorClass::NotFound,
            Self::Refused(_) | Self::Locked { .. } | Self::Unproven(_) | Self::Died => ErrorClass::Permanent,
            Self::NoSpace { .. } => ErrorClass::NoSpace,
            Self::Catalogue(error) => error.class(),
            Self::Pack { class, .. } => *class,
            Self::Manifest { .. } => ErrorClass::Corrupt,
            Self::Io { source, .. } => ErrorClass::of_io(source),
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    pub(super) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { verb, path: path.to_owned(), source }
    }
}
