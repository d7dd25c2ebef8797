//! One file of pg_wal into every repository.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::accept::{Rejection, accept};
use super::source::{FileStamp, WalFile};
use crate::base::ErrorClass;
use crate::pg::{ControlError, ControlFile, Lineage, WalFileName};
use crate::repo::format::Spec;
use crate::repo::{LazyRepository, PutNew, RepoError, layout};

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
        /// The repository's name.
        repository: String,
        /// Who wrote the first.
        writer: String,
        /// When.
        modified: jiff::Timestamp,
    },
    /// It took too long; it may still go on, and the next try will find out.
    #[error("{name} was not durable after {} s; PostgreSQL will ask again", .after.as_secs())]
    Deadline {
        /// The file.
        name: WalFileName,
        /// How long it was waited for.
        after: Duration,
    },
    /// A bug: the upload panicked. The log says where.
    #[error("the upload of {0} died of an internal error; the log says where")]
    Died(WalFileName),
    /// The agent is stopping.
    #[error("{0} was given up because the agent is stopping; PostgreSQL will ask again")]
    Stopping(WalFileName),
}

impl PushError {
    /// What decisions and metrics are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read { source, .. } => match ErrorClass::of_io(source) {
                // A file that is not there is not an object that is not there.
                ErrorClass::NotFound => ErrorClass::Permanent,
                class => class,
            },
            Self::Control { .. } | Self::Rejected { .. } | Self::Different { .. } | Self::Died(_) => {
                ErrorClass::Permanent
            }
            Self::Repository { source, .. } => source.class(),
            Self::Deadline { .. } => ErrorClass::Transient,
            Self::Stopping(_) => ErrorClass::Cancelled,
        }
    }
}

/// Reads, judges, seals and writes `name` (which lies in `pg_wal`, whose parent is the data directory) into every one of
/// `repositories`. Returns when it is durable in all of them, with the file that it was.
pub async fn archive_file(
    repositories: &[Arc<LazyRepository>],
    pg_wal: &Path,
    name: WalFileName,
    writer: &str,
) -> Result<FileStamp, PushError> {
    let (file, lineage) = open(pg_wal, name).await?;
    let kind =
        accept(name, file.head(), file.bytes(), lineage).map_err(|reason| PushError::Rejected { name, reason })?;
    let key = layout::wal_file(lineage, name);
    // One repository that fails does not keep the file out of the others.
    let outcomes = join_all(repositories.iter().map(async |lazy| {
        let failed = |source| PushError::Repository { name, repository: lazy.name().to_owned(), source };
        let repository = lazy.with_lineage(lineage).await.map_err(failed)?;
        if !repository.identity().lineages.iter().any(|entry| entry.lineage == lineage) {
            let known: Vec<String> =
                repository.identity().lineages.iter().map(|entry| entry.lineage.to_string()).collect();
            let reason = Rejection::UnknownLineage {
                found: lineage,
                repository: lazy.name().to_owned(),
                known: if known.is_empty() { "no cluster yet".to_owned() } else { known.join(", ") },
            };
            return Err(PushError::Rejected { name, reason });
        }
        let (content, times) = file.content();
        let spec = Spec { kind, level: lazy.wal_level(), writer: writer.to_owned() };
        match repository.put_new(&key, spec, content, || times.get()).await.map_err(failed)? {
            PutNew::Created(_) | PutNew::Same => {
                // The disk may have gone away meanwhile and its mount point taken the file: what was written must lie
                // beside the identity.
                if repository.url().starts_with("file:") {
                    repository.confirm_alive().await.map_err(failed)?;
                }
                Ok(())
            }
            PutNew::Different { writer, modified } => {
                Err(PushError::Different { name, repository: lazy.name().to_owned(), writer, modified })
            }
        }
    }))
    .await;
    outcomes.into_iter().collect::<Result<(), PushError>>()?;
    Ok(file.stamp())
}

async fn open(pg_wal: &Path, name: WalFileName) -> Result<(WalFile, Lineage), PushError> {
    let folder = pg_wal.to_path_buf();
    let opened = tokio::task::spawn_blocking(move || {
        let data_directory = folder.parent().unwrap_or(&folder);
        let control = ControlFile::read(data_directory)
            .map_err(|source| PushError::Control { path: data_directory.to_path_buf(), source })?;
        let file = WalFile::open(&folder, name)
            .map_err(|source| PushError::Read { path: folder.join(name.to_string()), source })?;
        Ok((file, control.lineage()))
    });
    opened.await.unwrap_or(Err(PushError::Stopping(name)))
}
