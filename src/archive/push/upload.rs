//! One file of pg_wal into every repository, in one pass.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::{BoxStream, FuturesUnordered};
use tokio::time::Instant;
use tracing::warn;

use super::chain::ChainOfLife;
use super::error::PushError;
use super::policy::CopyState;
use super::second_partial::{self, Held};
use super::source::{FactsHandle, FileStamp, WalFile};
use crate::archive::accept::{Rejection, accept};
use walward_base::{ErrorClass, describe};
use walward_pg::{ControlFile, Lineage, WalFileName};
use walward_repo::format::{Kind, Spec};
use walward_repo::several::{self, SealTarget, Sealed};
use walward_repo::{LazyRepository, PutNew, RepoError, Repository, layout};
use walward_storage::ObjectKey;

/// How long the repositories that are open wait for one that is being opened.
const OPEN_PATIENCE: Duration = Duration::from_millis(500);
/// How long an archived file may still take on its way to further repositories before it is owed to them.
pub const LEFTOVER_PATIENCE: Duration = Duration::from_secs(20);

/// The name of a repository that cannot be written to, and why.
pub(super) fn why_unwritable(lazy: &LazyRepository) -> Option<(String, String)> {
    Some((lazy.name().to_owned(), lazy.standing().writes().why()?))
}

/// What a repository's result means for the policy.
pub fn answer_of(result: &Result<(), PushError>) -> CopyState {
    match result {
        Ok(()) => CopyState::Durable,
        Err(PushError::Different { .. } | PushError::Beyond { .. }) => CopyState::Different,
        Err(_) => CopyState::Failed,
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

/// The file that is sent.
#[derive(Debug)]
pub struct Origin<'f> {
    /// Where it lies; the parent is the data directory.
    pub pg_wal: &'f Path,
    /// Its name.
    pub name: WalFileName,
    /// Which file it is, where that is known.
    pub stamp: Option<FileStamp>,
    /// What is known of the server's files before it.
    pub chain: ChainOfLife,
}

impl<'f> Origin<'f> {
    /// A file for a process of its own, which remembers nothing.
    pub fn alone(pg_wal: &'f Path, name: WalFileName) -> Self {
        Self { pg_wal, name, stamp: None, chain: ChainOfLife::default() }
    }
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
    Origin { pg_wal, name, stamp: known, chain }: Origin<'_>,
    writer: &str,
    listeners: Listeners<'_>,
) -> Result<FileStamp, PushError> {
    let (file, lineage) = open(pg_wal, name).await?;
    if known.is_some_and(|known| known != file.stamp()) {
        return Err(PushError::Replaced(name));
    }
    let kind =
        accept(name, file.head(), file.bytes(), lineage).map_err(|reason| PushError::Rejected { name, reason })?;
    let sending = Sending { file: &file, chain, lineage, kind, writer, listeners };
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
    chain: ChainOfLife,
    lineage: Lineage,
    kind: Kind,
    writer: &'f str,
    listeners: Listeners<'f>,
}

impl Sending<'_> {
    fn report(&self, at: usize, lazy: &LazyRepository, result: Result<(), PushError>) {
        match &result {
            Ok(()) | Err(PushError::Different { .. } | PushError::Beyond { .. }) => {
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

    /// The file's content, and what there is to be known of it.
    fn observed(&self) -> (BoxStream<'static, io::Result<Bytes>>, FactsHandle) {
        let chain = self.chain.clone();
        self.file.observed(move |pg_wal, segment, size| chain.before(pg_wal, segment, size))
    }

    /// Reads the file once and writes it to all of `ready`, each at its own pace.
    async fn pass(&self, ready: Vec<(usize, &LazyRepository, Repository)>) -> Result<(), PushError> {
        let reading = self.chain.reading(self.file.name());
        let (content, facts) = self.observed();
        let targets: Vec<_> =
            ready.iter().map(|(_, lazy, repository)| SealTarget { repository, level: lazy.wal_level() }).collect();
        let key = &layout::wal_file(self.lineage, self.file.name());
        let sealed = several::seal(&targets, key, self.kind, self.writer, content, || facts.get()).await;
        let sealed = sealed.map_err(|error| match error {
            RepoError::Content { source, .. } => PushError::Read { path: self.file.path().to_path_buf(), source },
            _ => PushError::Died(self.file.name()),
        })?;
        if let Some(sealed) = sealed.first() {
            reading.done(sealed.content_digest());
        }
        drop(reading);
        (self.listeners.sealed)(ready.len(), sealed.iter().map(Sealed::stored_bytes).sum());
        let name = self.file.name();
        join_all(ready.iter().zip(sealed).map(|((at, lazy, repository), sealed)| async move {
            let put = match repository.put_sealed(sealed).await {
                Err(error) if error.is_newer_key() => self.under_newer_key(lazy, key).await,
                other => other,
            };
            let result = match put {
                Ok(PutNew::Created(_) | PutNew::Same) => Ok(()),
                Ok(PutNew::Different { writer, modified }) => self.differs(lazy.name(), writer, modified).await,
                Err(source) => Err(PushError::Repository { name, repository: lazy.name().to_owned(), source }),
            };
            self.report(*at, lazy, result);
        }))
        .await;
        Ok(())
    }
}

impl Sending<'_> {
    /// What a repository's other content under the name means.
    async fn differs(&self, repository: &str, writer: String, modified: jiff::Timestamp) -> Result<(), PushError> {
        let (name, repository) = (self.file.name(), repository.to_owned());
        if let (WalFileName::Partial(segment), Some(pg_wal)) = (name, self.file.path().parent().map(Path::to_path_buf))
        {
            let look = tokio::task::spawn_blocking(move || second_partial::look(&pg_wal, segment));
            let held = look.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
            match held.map_err(|source| PushError::Read { path: self.file.path().to_path_buf(), source })? {
                Held::InOwnTimeline => {
                    warn!(
                        segment = %name, repository, holder = writer,
                        "another server was promoted in this segment before and has archived what it had received of it; that stays, and \
                         all that this server had received is in its own timeline"
                    );
                    return Ok(());
                }
                Held::Beyond(from) => return Err(PushError::Beyond { name, repository, writer, from }),
                Held::Unknown => {}
            }
        }
        Err(PushError::Different { name, lineage: self.lineage, repository, writer, modified })
    }

    /// Another server has written it under a master key that came after this repository was opened: the keys are read again.
    async fn under_newer_key(&self, lazy: &LazyRepository, key: &ObjectKey) -> Result<PutNew, RepoError> {
        let repository = lazy.reopen().await?;
        let spec = Spec { kind: self.kind, level: lazy.wal_level(), writer: self.writer.to_owned() };
        let (content, facts) = self.observed();
        repository.put_new(key, spec, content, || facts.get()).await
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
