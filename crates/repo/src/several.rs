//! One content into several repositories: read once, digested once, compressed once a level, and sealed for each with its
//! own key. The frames of an object are bound to its repository by key and salt, so that nothing sealed is ever copied.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::error::RepoError;
use super::facts::Facts;
use super::format::{FormatError, Kind, Object, Sealer, Spec, Summary};
use super::repository::{PutNew, Repository};
pub use super::sealed::Sealed;
use walward_base::Locked;
use walward_storage::{ObjectKey, Payload, Upload};

/// Pieces of about a frame that wait for each upload; plain ones of one level share their memory.
const PIECES_WAITING_MAX: usize = 2;

/// A repository that a content goes to.
#[derive(Debug, Clone, Copy)]
pub struct SealTarget<'r> {
    /// The repository.
    pub repository: &'r Repository,
    /// zstd's level there.
    pub level: i32,
}

/// Seals `content` for every one of `targets`, in their order. Memory: the stored bytes, of plain objects once a level.
/// `facts` is asked when `content` has ended.
///
/// # Errors
/// What fails here (the content cannot be read, a thread dies) fails for all of them; no store is asked for anything.
pub async fn seal(
    targets: &[SealTarget<'_>],
    key: &ObjectKey,
    kind: Kind,
    writer: &str,
    content: BoxStream<'_, std::io::Result<Bytes>>,
    facts: impl FnOnce() -> Option<Facts> + Send,
) -> Result<Vec<Sealed>, RepoError> {
    let Some(mut sealer) = sealer(targets, key, kind, writer, content, facts) else { return Ok(Vec::new()) };
    let mut payloads = vec![Vec::new(); targets.len()];
    while let Some(pieces) = sealer.next().await? {
        for (payload, piece) in payloads.iter_mut().zip(pieces) {
            payload.push(piece);
        }
    }
    let summaries = sealer.summaries().unwrap_or_default().into_iter();
    let objects = payloads.into_iter().zip(summaries).map(|(payload, summary)| Sealed {
        key: key.clone(),
        kind,
        payload: Payload(payload),
        summary,
    });
    Ok(objects.collect())
}

/// Seals `content` and uploads it in parts to every one of `targets`, under a name that only this writer can choose. All go at
/// the pace of the slowest. Memory: a few parts for each.
///
/// # Errors
/// The first failure, and which of the targets it was at; then the object is nowhere, as far as the stores let us remove
/// what was sent.
pub async fn upload(
    targets: &[SealTarget<'_>],
    key: &ObjectKey,
    kind: Kind,
    writer: &str,
    content: BoxStream<'_, std::io::Result<Bytes>>,
    expected_bytes: u64,
) -> Result<Vec<Summary>, (usize, RepoError)> {
    let Some(mut sealer) = sealer(targets, key, kind, writer, content, || None) else { return Ok(Vec::new()) };
    // What failed first is the cause; what fails after it only follows.
    let failure = Mutex::new(None);
    let fail = &|at: usize, error: RepoError| {
        failure.locked().get_or_insert((at, error));
    };
    let (senders, receivers): (Vec<_>, Vec<_>) = targets.iter().map(|_| mpsc::channel(PIECES_WAITING_MAX)).unzip();
    let produce = async move {
        // The queues close with their producer, so that nobody waits for what will not come.
        let senders = senders;
        loop {
            match sealer.next().await {
                Ok(Some(pieces)) => {
                    let sent =
                        join_all(senders.iter().zip(pieces).map(|(sender, piece)| sender.send(Part::Piece(piece))));
                    if sent.await.iter().any(Result::is_err) {
                        break None;
                    }
                }
                Ok(None) => {
                    join_all(senders.iter().map(|sender| sender.send(Part::End))).await;
                    break sealer.summaries();
                }
                Err(error) => {
                    fail(0, error);
                    break None;
                }
            }
        }
    };
    let consume = join_all(targets.iter().zip(receivers).enumerate().map(|(at, (target, receiver))| async move {
        match consume(target.repository, key, receiver, expected_bytes).await {
            Ok(finished) => finished,
            Err(error) => {
                fail(at, error);
                None
            }
        }
    }));
    let (summaries, stored) = join(produce, consume).await;
    if let Some(failure) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(failure);
    }
    let summaries = summaries.unwrap_or_default();
    for (at, target) in targets.iter().enumerate() {
        let expected = summaries.get(at).map(|summary| summary.stored_bytes);
        let found = stored.get(at).copied().flatten();
        if expected.is_none() || expected != found {
            let what = format!("{} bytes were stored of {}", found.unwrap_or(0), expected.unwrap_or(0));
            return Err((at, RepoError::damaged(&target.repository.shown(key), FormatError::Text(what))));
        }
    }
    Ok(summaries)
}

impl Repository {
    /// Seals `content` for this repository alone and writes it under a name that must be new, or hold the same content. Memory: the stored bytes. For WAL.
    ///
    /// `facts` is asked once, when `content` has ended: it answers what was seen in the content of a segment as it went by. `|| None`
    /// when nothing is known, and for all that is no segment.
    pub async fn put_new(
        &self,
        key: &ObjectKey,
        spec: Spec,
        content: BoxStream<'_, std::io::Result<Bytes>>,
        facts: impl FnOnce() -> Option<Facts> + Send,
    ) -> Result<PutNew, RepoError> {
        let target = SealTarget { repository: self, level: spec.level };
        let sealed = seal(&[target], key, spec.kind, &spec.writer, content, facts).await?;
        match sealed.into_iter().next() {
            Some(sealed) => self.put_sealed(sealed).await,
            None => Err(self.worker_died(key)),
        }
    }

    /// Seals `content` for this repository alone and uploads it in parts under a name that only this writer can choose. Memory: a few parts. For packs and manifests.
    pub async fn upload(
        &self,
        key: &ObjectKey,
        spec: Spec,
        content: BoxStream<'_, std::io::Result<Bytes>>,
        expected_bytes: u64,
    ) -> Result<Summary, RepoError> {
        let target = SealTarget { repository: self, level: spec.level };
        let uploaded = upload(&[target], key, spec.kind, &spec.writer, content, expected_bytes).await;
        match uploaded {
            Ok(summaries) => summaries.into_iter().next().ok_or_else(|| self.worker_died(key)),
            Err((_, error)) => Err(error),
        }
    }
}

enum Part {
    Piece(Bytes),
    End,
}

/// One upload. `None`: it was given up because another one failed.
async fn consume(
    repository: &Repository,
    key: &ObjectKey,
    mut parts: mpsc::Receiver<Part>,
    expected_bytes: u64,
) -> Result<Option<u64>, RepoError> {
    let mut upload: Box<dyn Upload> = repository.store().start_upload(key, expected_bytes).await?;
    loop {
        match parts.recv().await {
            Some(Part::Piece(bytes)) => {
                if let Err(error) = upload.write(bytes).await {
                    parts.close();
                    upload.abort().await;
                    return Err(error.into());
                }
            }
            Some(Part::End) => {
                let stored = upload.finish().await?;
                repository.see().await?;
                return Ok(Some(stored));
            }
            None => {
                upload.abort().await;
                return Ok(None);
            }
        }
    }
}

/// `None` when there are no targets.
fn sealer<'a, F: FnOnce() -> Option<Facts>>(
    targets: &[SealTarget<'_>],
    key: &ObjectKey,
    kind: Kind,
    writer: &str,
    content: BoxStream<'a, std::io::Result<Bytes>>,
    facts: F,
) -> Option<Sealer<'a, F>> {
    let first = targets.first()?;
    let objects = targets.iter().map(|target| Object {
        path: key.as_str(),
        spec: Spec { kind, level: target.level, writer: writer.to_owned() },
        protection: target.repository.keyring().map(|ring| (ring.active(), rand::random())),
    });
    let (shown, pool) = (first.repository.shown(key), first.repository.pool().clone());
    Some(Sealer::new(shown, objects.collect(), pool, content, facts))
}

#[cfg(test)]
mod tests;
