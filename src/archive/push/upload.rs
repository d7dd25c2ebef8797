//! One file of pg_wal into every repository, in one pass.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::policy::Answer;
use super::source::{FileStamp, WalFile};
use crate::archive::accept::{Rejection, accept};
use walward_base::{ErrorClass, describe};
use walward_pg::{ControlError, ControlFile, Lineage, WalFileName};
use walward_repo::format::{Kind, Spec};
use walward_repo::several::{self, SealTarget, Sealed};
use walward_repo::{LazyRepository, PutNew, RepoError, Repository, layout};
use walward_storage::ObjectKey;

/// How long the repositories that are open wait for one that is being opened.
const OPEN_PATIENCE: Duration = Duration::from_millis(500);
/// How long an archived file may still take on its way to further repositories before it is owed to them.
pub const LEFTOVER_PATIENCE: Duration = Duration::from_secs(20);

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
            Self::Repository { repository, .. } | Self::Different { repository, .. } => Some(repository),
            _ => None,
        }
    }

    /// What decisions and metrics are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read { source, .. } => match ErrorClass::of_io(source) {
                // A file that is not there is not an object that is not there.
                ErrorClass::NotFound => ErrorClass::Permanent,
                class => class,
            },
            Self::Control { .. }
            | Self::Rejected { .. }
            | Self::Different { .. }
            | Self::Follows { .. }
            | Self::Died(_) => ErrorClass::Permanent,
            Self::Repository { source, .. } => source.class(),
            Self::Deadline { .. } | Self::Unanswered { .. } | Self::NoAnswer { .. } | Self::Replaced(_) => {
                ErrorClass::Transient
            }
            Self::Stopping(_) => ErrorClass::Cancelled,
        }
    }
}

impl PushError {
    /// Whether a store that fails, or is away, kept the file from being archived.
    pub(in crate::archive) fn is_the_stores(&self) -> bool {
        match self {
            Self::Repository { source, .. } => source.is_the_stores(),
            Self::Deadline { .. } | Self::Unanswered { .. } => true,
            Self::Read { .. }
            | Self::Control { .. }
            | Self::Rejected { .. }
            | Self::Different { .. }
            | Self::Follows { .. }
            | Self::NoAnswer { .. }
            | Self::Replaced(_)
            | Self::Died(_)
            | Self::Stopping(_) => false,
        }
    }

    /// Whether trying again changes nothing before a person has put something right: the file is none, or another one has its name.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Different { .. } | Self::Follows { .. })
    }
}

/// The name of a repository that cannot be written to, and why.
pub(super) fn why_unwritable(lazy: &LazyRepository) -> Option<(String, String)> {
    Some((lazy.name().to_owned(), lazy.standing().writes().why()?))
}

/// What a repository's result means for the policy.
pub fn answer_of(result: &Result<(), PushError>) -> Answer {
    match result {
        Ok(()) => Answer::Durable,
        Err(PushError::Different { .. }) => Answer::Different,
        Err(_) => Answer::Failed,
    }
}

/// Who hears how a file fares on its way.
#[derive(Clone, Copy)]
pub struct Listeners<'f> {
    /// For how many repositories it is sealed now, so that it is read no more for them, and how many bytes that made in all.
    pub sealed: &'f (dyn Fn(usize, u64) + Sync),
    /// What became of it in one of them: once for each.
    pub answered: &'f (dyn Fn(FileStamp, usize, Result<(), PushError>) + Sync),
}

/// Sends one file to those of `repositories` that `chosen` numbers: read, digested and compressed once for all that are open.
/// Returns when all have answered. Where the file that is to be sent is known, another one under its name is not.
///
/// A repository that takes longer than [`OPEN_PATIENCE`] to open does not hold the others up: it gets a reading of its own.
///
/// # Errors
/// The file itself: it cannot be read, or is not acceptable. Then nothing was written that is not whole.
pub async fn send(
    repositories: &[Arc<LazyRepository>],
    chosen: &[usize],
    (pg_wal, name, known): (&Path, WalFileName, Option<FileStamp>),
    writer: &str,
    listeners: Listeners<'_>,
) -> Result<FileStamp, PushError> {
    let (file, lineage) = open(pg_wal, name).await?;
    if known.is_some_and(|known| known != file.stamp()) {
        return Err(PushError::Replaced(name));
    }
    let kind =
        accept(name, file.head(), file.bytes(), lineage).map_err(|reason| PushError::Rejected { name, reason })?;
    let sending = Sending { file: &file, lineage, kind, writer, listeners };
    let mut opening: FuturesUnordered<_> = chosen
        .iter()
        .filter_map(|at| Some((*at, repositories.get(*at)?)))
        .map(|(at, lazy)| async move { (at, lazy, open_repository(lazy, name, lineage).await) })
        .collect();
    let mut ready = Vec::new();
    let patience = tokio::time::sleep(OPEN_PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            biased;
            opened = opening.next() => match opened {
                Some((at, lazy, Ok(repository))) => ready.push((at, &**lazy, repository)),
                Some((at, lazy, Err(error))) => sending.report(at, lazy, Err(error)),
                None => break,
            },
            () = &mut patience, if !ready.is_empty() => break,
        }
    }
    let late = async {
        while let Some((at, lazy, opened)) = opening.next().await {
            match opened {
                Ok(repository) => sending.pass(vec![(at, &**lazy, repository)]).await?,
                Err(error) => sending.report(at, lazy, Err(error)),
            }
        }
        Ok(())
    };
    tokio::try_join!(sending.pass(ready), late)?;
    Ok(file.stamp())
}

/// One file on its way.
struct Sending<'f> {
    file: &'f WalFile,
    lineage: Lineage,
    kind: Kind,
    writer: &'f str,
    listeners: Listeners<'f>,
}

impl Sending<'_> {
    fn report(&self, at: usize, lazy: &LazyRepository, result: Result<(), PushError>) {
        match &result {
            Ok(()) | Err(PushError::Different { .. }) => {
                lazy.standing().answered();
                lazy.standing().writes().close();
            }
            Err(error) => {
                lazy.standing().failed(error.class(), Instant::now());
                // What a person has to put right fails at once, and holds nobody.
                if error.class() == ErrorClass::Transient {
                    lazy.standing().writes().open(&describe(error));
                } else {
                    lazy.standing().writes().close();
                }
            }
        }
        (self.listeners.answered)(self.file.stamp(), at, result);
    }

    /// Reads the file once and writes it to all of `ready`, each at its own pace.
    async fn pass(&self, ready: Vec<(usize, &LazyRepository, Repository)>) -> Result<(), PushError> {
        let (content, times) = self.file.content();
        let targets: Vec<_> =
            ready.iter().map(|(_, lazy, repository)| SealTarget { repository, level: lazy.wal_level() }).collect();
        let key = &layout::wal_file(self.lineage, self.file.name());
        let sealed = several::seal(&targets, key, self.kind, self.writer, content, || times.get()).await;
        let sealed = sealed.map_err(|error| match error {
            RepoError::Content { source, .. } => PushError::Read { path: self.file.path().to_path_buf(), source },
            _ => PushError::Died(self.file.name()),
        })?;
        (self.listeners.sealed)(ready.len(), sealed.iter().map(Sealed::stored_bytes).sum());
        let name = self.file.name();
        join_all(ready.iter().zip(sealed).map(|((at, lazy, repository), sealed)| async move {
            let put = match repository.put_sealed(sealed).await {
                Err(error) if error.is_newer_key() => self.under_newer_key(lazy, key).await,
                other => other,
            };
            let result = match put {
                Ok(PutNew::Created(_) | PutNew::Same) => Ok(()),
                Ok(PutNew::Different { writer, modified }) => {
                    Err(PushError::Different { name, repository: lazy.name().to_owned(), writer, modified })
                }
                Err(source) => Err(PushError::Repository { name, repository: lazy.name().to_owned(), source }),
            };
            self.report(*at, lazy, result);
        }))
        .await;
        Ok(())
    }
}

impl Sending<'_> {
    /// Another server has written it under a master key that came after this repository was opened: the keys are read again.
    async fn under_newer_key(&self, lazy: &LazyRepository, key: &ObjectKey) -> Result<PutNew, RepoError> {
        let repository = lazy.reopen().await?;
        let spec = Spec { kind: self.kind, level: lazy.wal_level(), writer: self.writer.to_owned() };
        let (content, times) = self.file.content();
        repository.put_new(key, spec, content, || times.get()).await
    }
}

/// The open repository, when it knows the lineage.
async fn open_repository(lazy: &LazyRepository, name: WalFileName, lineage: Lineage) -> Result<Repository, PushError> {
    let failed = |source| PushError::Repository { name, repository: lazy.name().to_owned(), source };
    let repository = lazy.with_lineage(lineage).await.map_err(failed)?;
    if repository.identity().find(lineage).is_some() {
        return Ok(repository);
    }
    let known: Vec<String> = repository.identity().lineages.iter().map(|entry| entry.lineage.to_string()).collect();
    let reason = Rejection::UnknownLineage {
        found: lineage,
        repository: lazy.name().to_owned(),
        known: if known.is_empty() { "no cluster yet".to_owned() } else { known.join(", ") },
    };
    Err(PushError::Rejected { name, reason })
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
