//! One object from one repository to another: read and verified, and sealed anew, because its frames are bound to the
//! repository that they were made for.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::error::RepoError;
use super::format::{Spec, Summary};
use super::repository::{ObjectSummary, PutNew, Repository};
use walward_base::ErrorClass;
use walward_base::Locked;
use walward_storage::ObjectKey;

/// Which side a transfer failed at.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It could not be read, or is not what was written.
    #[error("cannot read it from repository {repository:?}")]
    From {
        /// The repository's name.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// It could not be written.
    #[error("cannot write it to repository {repository:?}")]
    To {
        /// The repository's name.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
}

impl TransferError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::From { source, .. } | Self::To { source, .. } => source.class(),
        }
    }
}

/// Copies a WAL file under a name that must be new in `to`, or hold the same content. Nothing is written before all of it was
/// verified. Memory: its stored bytes. The name of the host that wrote it first goes with it.
pub async fn copy_new(
    from: &Repository,
    to: &Repository,
    level: i32,
    key: &ObjectKey,
) -> Result<PutNew, TransferError> {
    let source = Source::open(from, key).await?;
    let (spec, facts) = (source.spec(level), source.summary.facts.clone());
    let put = to.put_new(key, spec, source.content, || facts).await;
    put.map_err(|error| verdict(from, to, &source.failure, error))
}

/// Copies an object of a backup, under a name that only one writer can choose: what lies there is replaced. Memory: a few parts.
pub async fn copy_over(
    from: &Repository,
    to: &Repository,
    level: i32,
    key: &ObjectKey,
) -> Result<Summary, TransferError> {
    let source = Source::open(from, key).await?;
    let (spec, expected) = (source.spec(level), source.summary.summary.stored_bytes);
    let uploaded = to.upload(key, spec, source.content, expected).await;
    uploaded.map_err(|error| verdict(from, to, &source.failure, error))
}

/// Whether `to` has an object under `key` with the content that `from` has there, sealed under the master key that is used now; then
/// what its trailer says. No content is read.
pub async fn same_content(
    from: &Repository,
    to: &Repository,
    key: &ObjectKey,
) -> Result<Option<Summary>, TransferError> {
    let theirs = match to.read_summary(key).await {
        Ok(theirs) => theirs,
        // Not there, or half of something: in either case it is written.
        Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => return Ok(None),
        Err(source) => return Err(TransferError::To { repository: to.name().to_owned(), source }),
    };
    let ours = from.read_summary(key).await.map_err(|source| failed_at(from, source))?;
    let active = to.keyring().map(|ring| *ring.active().id());
    Ok((theirs.key_id == active && is_same(&ours, &theirs)).then_some(theirs.summary))
}

/// What two repositories have under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// The same content.
    Same,
    /// Two contents: who wrote each, and when by its store's clock.
    Different {
        /// In the first.
        here: (String, Timestamp),
        /// In the second.
        there: (String, Timestamp),
    },
    /// One of them has nothing under the name any more.
    Gone,
}

/// Compares what two repositories have under `key`, by what the trailers say: no content is read.
pub async fn compare(here: &Repository, there: &Repository, key: &ObjectKey) -> Result<Compared, TransferError> {
    let (ours, theirs) = futures::join!(here.read_summary(key), there.read_summary(key));
    let is_gone = |error: &RepoError| error.class() == ErrorClass::NotFound;
    if ours.as_ref().is_err_and(is_gone) || theirs.as_ref().is_err_and(is_gone) {
        return Ok(Compared::Gone);
    }
    let ours = ours.map_err(|source| failed_at(here, source))?;
    let theirs = theirs.map_err(|source| TransferError::To { repository: there.name().to_owned(), source })?;
    Ok(if is_same(&ours, &theirs) {
        Compared::Same
    } else {
        Compared::Different { here: (ours.writer, ours.modified), there: (theirs.writer, theirs.modified) }
    })
}

fn is_same(ours: &ObjectSummary, theirs: &ObjectSummary) -> bool {
    ours.kind == theirs.kind
        && ours.summary.content_bytes == theirs.summary.content_bytes
        && ours.summary.content_digest == theirs.summary.content_digest
}

fn failed_at(from: &Repository, source: RepoError) -> TransferError {
    TransferError::From { repository: from.name().to_owned(), source }
}

/// An object as it arrives, its failure kept for the side that it belongs to.
struct Source {
    summary: ObjectSummary,
    content: BoxStream<'static, std::io::Result<Bytes>>,
    failure: Arc<Mutex<Option<RepoError>>>,
}

impl Source {
    async fn open(from: &Repository, key: &ObjectKey) -> Result<Self, TransferError> {
        let failed = |source| TransferError::From { repository: from.name().to_owned(), source };
        let summary = from.read_summary(key).await.map_err(failed)?;
        let opened = from.read(key).await.map_err(failed)?;
        let failure: Arc<Mutex<Option<RepoError>>> = Arc::default();
        let noted = Arc::clone(&failure);
        let content = opened.content.map(move |chunk| {
            chunk.map_err(|error| {
                noted.locked().get_or_insert(error);
                std::io::Error::other("the object that is copied cannot be read")
            })
        });
        Ok(Self { summary, content: content.boxed(), failure })
    }

    fn spec(&self, level: i32) -> Spec {
        Spec { kind: self.summary.kind, level, writer: self.summary.writer.clone() }
    }
}

fn verdict(from: &Repository, to: &Repository, failure: &Mutex<Option<RepoError>>, error: RepoError) -> TransferError {
    match failure.locked().take() {
        Some(source) => TransferError::From { repository: from.name().to_owned(), source },
        None => TransferError::To { repository: to.name().to_owned(), source: error },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::stream;

    use super::*;
    use crate::Encryption;
    use crate::facts::Facts;
    use crate::format::Kind;
    use crate::keys::KeySource;
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::fault::{Fault, Faulty, Plan};
    use walward_storage::{Store, memory};

    async fn repository(name: &str, store: Arc<dyn Store>, encrypted: bool) -> Repository {
        let encryption = if encrypted {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(crate::keys::key_file_text().as_bytes()).expect("written");
            Encryption::Key(KeySource::KeyFile(file.into_temp_path().keep().expect("kept")))
        } else {
            Encryption::None
        };
        let (pool, now) = (CpuPool::new(1).expect("a thread"), jiff::Timestamp::UNIX_EPOCH);
        let created = Repository::create(name, store, "main", &encryption, &[], pool, now).await;
        let created = created.expect("a repository").0;
        if let Encryption::Key(KeySource::KeyFile(path)) = encryption {
            std::fs::remove_file(path).expect("removed");
        }
        created
    }

    fn key() -> ObjectKey {
        ObjectKey::new("wal/x").expect("a key")
    }

    async fn put(repository: &Repository, content: &[u8]) {
        let spec = Spec { kind: Kind::Segment, level: 1, writer: "db1".to_owned() };
        let content = stream::iter([Ok(Bytes::copy_from_slice(content))]).boxed();
        repository.put_new(&key(), spec, content, || Some(Facts::of_times(3, 4))).await.expect("put");
    }

    #[tokio::test]
    async fn what_is_copied_is_the_same_under_another_key() {
        let content = vec![7; 2_000_000];
        for (sealed_from, sealed_to) in [(false, false), (false, true), (true, false), (true, true)] {
            let from = repository("from", memory(), sealed_from).await;
            let to = repository("to", memory(), sealed_to).await;
            put(&from, &content).await;
            assert_eq!(same_content(&from, &to, &key()).await.expect("asked"), None);
            assert!(matches!(copy_new(&from, &to, 3, &key()).await, Ok(PutNew::Created(_))));
            assert!(matches!(copy_new(&from, &to, 3, &key()).await, Ok(PutNew::Same)));
            let found = to.read_summary(&key()).await.expect("there");
            assert_eq!((found.writer.as_str(), &found.facts), ("db1", &Some(Facts::of_times(3, 4))));
            let read = to.read(&key()).await.expect("read").into_bytes(&key(), usize::MAX).await;
            assert!(read.expect("whole") == content);
            assert_eq!(same_content(&from, &to, &key()).await.expect("asked"), Some(found.summary));
            for (here, there) in [(&from, &to), (&to, &from)] {
                assert_eq!(compare(here, there, &key()).await.expect("asked"), Compared::Same);
            }
        }
    }

    #[tokio::test]
    async fn other_content_is_told_and_left_alone() {
        let (from, to) = (repository("from", memory(), false).await, repository("to", memory(), true).await);
        put(&from, b"one").await;
        put(&to, b"two").await;
        assert!(matches!(copy_new(&from, &to, 1, &key()).await, Ok(PutNew::Different { .. })));
        assert_eq!(same_content(&from, &to, &key()).await.expect("asked"), None);
        for (here, there) in [(&from, &to), (&to, &from)] {
            let compared = compare(here, there, &key()).await.expect("asked");
            assert!(matches!(&compared, Compared::Different { here, .. } if here.0 == "db1"), "{compared:?}");
        }
        let gone = repository("third", memory(), true).await;
        assert_eq!(compare(&from, &gone, &key()).await.expect("asked"), Compared::Gone);
    }

    #[tokio::test]
    async fn contents_under_two_keys_are_compared_without_reading_them() {
        let (here, there) = (Faulty::new(memory(), Plan::script([])), Faulty::new(memory(), Plan::script([])));
        let from = repository("from", Arc::clone(&here) as Arc<dyn Store>, true).await;
        let to = repository("to", Arc::clone(&there) as Arc<dyn Store>, true).await;
        put(&from, &vec![7; 5_000_000]).await;
        put(&to, &vec![7; 5_000_000]).await;
        for faulty in [&here, &there] {
            let refused = Some(Fault::Before(ErrorClass::Denied));
            faulty.plan(Plan::By(Box::new(move |call| if call.verb == "get" { refused } else { None })));
        }
        assert_eq!(compare(&from, &to, &key()).await.expect("asked"), Compared::Same);
        assert!(same_content(&from, &to, &key()).await.expect("asked").is_some());
    }

    #[tokio::test]
    async fn what_is_damaged_at_its_origin_is_not_spread() {
        let inner = memory();
        let noise = |at: u32| at.wrapping_mul(2_654_435_761).rotate_left(at % 31).to_be_bytes()[1];
        let content: Vec<u8> = (0..2_000_000).map(noise).collect();
        put(&repository("from", Arc::clone(&inner), false).await, &content).await;
        let faulty = Faulty::new(inner, Plan::script([]));
        let store = Arc::clone(&faulty) as Arc<dyn Store>;
        let from = Repository::open("from", store, &Encryption::None, CpuPool::new(1).expect("a thread"));
        let from = from.await.expect("opened");
        let to = repository("to", memory(), false).await;
        // The summary is one call; then the body is cut.
        faulty.plan(Plan::script([None, Some(Fault::Short(100_000))]));
        let error = copy_new(&from, &to, 1, &key()).await.expect_err("cut");
        assert!(matches!(error, TransferError::From { .. }), "{error:?}");
        assert!(!to.exists(&key()).await.expect("asked"));
    }
}
