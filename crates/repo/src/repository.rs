//! One cluster's repository at one store, opened: identity known, keys unwrapped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::error::RepoError;
use super::facts::{Facts, Link};
use super::format::{Chunk, ContentDigest, DigestChain, FormatError, Kind, Opener, Summary, TAIL_BYTES, Tail};
use super::identity::{self, Identity};
use super::keys::{KeyError, KeySlots, KeySource, Keyring, OpenKeys, RecoveryKey, RootId, Secret};
use super::looks::Looks;
use super::sealed::Sealed;
use super::{generations, layout};
use walward_base::sys::cpu::CpuPool;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, SegmentSize};
use walward_storage::{ObjectInfo, ObjectKey, Put, Store, StoreError};

/// A write that took longer than this is looked after a second time.
const LOOK_HOLDS: Duration = Duration::from_secs(10);

/// How the objects of a repository are protected, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all; readable with `zstd -d`.
    None,
    /// Sealed under a master key that this source unwraps.
    Key(KeySource),
}

/// What became of a write under a name that may exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutNew {
    /// New, and durable.
    Created(Summary),
    /// The same content was there already, and is durable.
    Same,
    /// Other content is there. It was left as it was.
    Different {
        /// Who wrote what is there.
        writer: String,
        /// When, by the store's clock.
        modified: Timestamp,
    },
}

/// An object being read: verified content, in order. The stream ends without an error only when everything (every frame,
/// trailer, seek table, length) was verified.
pub struct OpenedObject {
    /// What the object is.
    pub kind: Kind,
    /// The host that wrote it.
    pub writer: String,
    /// Its length as stored, bytes.
    pub stored_bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    /// What it is and what it continues: known when the content has ended.
    pub link: Arc<OnceLock<Link>>,
    /// Chunks of at most [`super::format::FRAME_BYTES`].
    pub content: BoxStream<'static, Result<Chunk, RepoError>>,
}

impl OpenedObject {
    /// The whole content, when it is at most `bytes_max` long; longer content is an error of class Corrupt. For small files.
    pub async fn into_bytes(mut self, object: &ObjectKey, bytes_max: usize) -> Result<Bytes, RepoError> {
        let mut content = bytes::BytesMut::new();
        while let Some(chunk) = self.content.next().await {
            content.extend_from_slice(&chunk?);
            if content.len() > bytes_max {
                let error = FormatError::Text(format!("its content is longer than {bytes_max} bytes"));
                return Err(RepoError::damaged(object.as_str(), error));
            }
        }
        Ok(content.freeze())
    }
}

/// What is known of a stored object without reading its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSummary {
    /// What the object is.
    pub kind: Kind,
    /// The host that wrote it.
    pub writer: String,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    /// What its trailer says.
    pub summary: Summary,
    /// The master key that it is sealed under; none when plain.
    pub key_id: Option<[u8; 16]>,
    /// What its writer knew of it, when it is a segment; `None`: nothing is known.
    pub facts: Option<Facts>,
}

/// One cluster's repository at one store. Clones share everything.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    store: Arc<dyn Store>,
    identity: Identity,
    keyring: Option<Keyring>,
    pool: CpuPool,
    looks: Arc<Looks>,
    /// An object was met under a master key that came after this repository was opened.
    has_older_keys: Arc<AtomicBool>,
}

impl Repository {
    /// Makes a repository for a cluster where there is none; with encryption, also the recovery key, to be shown once.
    ///
    /// `extra` secrets get slots besides the configured one. Keys are written before the identity, under a name that only this call can
    /// choose: until the identity is there, there is no repository, and a call that was cut short can be made again. Of several calls at
    /// once the one makes the repository whose identity becomes generation 1; the others are told [`RepoError::AlreadyThere`], and
    /// leave nothing that could be taken for the repository's. After any other error the repository may have been made all the same.
    pub async fn create(
        name: &str,
        store: Arc<dyn Store>,
        cluster_name: &str,
        encryption: &Encryption,
        extra: &[KeySource],
        pool: CpuPool,
        now: Timestamp,
    ) -> Result<(Self, Option<RecoveryKey>), RepoError> {
        let there = |cluster_id| RepoError::AlreadyThere { url: store.url().to_owned(), cluster_id };
        if let Some((_, identity)) = identity::load(&*store).await? {
            return Err(there(identity.cluster_id));
        }
        let (keys, recovery) = match encryption {
            Encryption::None => (None, None),
            Encryption::Key(source) => {
                let mut secrets = Vec::new();
                for source in std::iter::once(source).chain(extra) {
                    secrets.push(Secret::read(source).await?);
                }
                let (mut keys, recovery) = OpenKeys::create(secrets, now).await?;
                keys.store(&*store).await?;
                (Some(keys), Some(recovery))
            }
        };
        let identity = Identity::new(cluster_name, keys.as_ref().map(OpenKeys::root), now);
        if !identity::put(&*store, 1, &identity).await? {
            if let Some(keys) = keys
                && let Err(error) = keys.discard(&*store).await
            {
                // They open nothing, and `check` names them.
                tracing::warn!(store = store.url(), error = describe(&error), "key slots that open nothing stay");
            }
            let other = identity::load(&*store).await?.map(|(_, other)| other.cluster_id);
            return Err(there(other.unwrap_or_default()));
        }
        let keyring = keys.as_ref().map(|keys| keys.keyring().clone());
        Ok((Self::found(name, store, (identity, keyring), pool), recovery))
    }

    /// Opens what is there. `store` is rooted at the cluster's folder (`<url>/<cluster>`); `name` is the repository's name in the configuration.
    pub async fn open(
        name: &str,
        store: Arc<dyn Store>,
        encryption: &Encryption,
        pool: CpuPool,
    ) -> Result<Self, RepoError> {
        let url = || store.url().to_owned();
        let (_, identity) = identity::load(&*store).await?.ok_or_else(|| RepoError::NoRepository { url: url() })?;
        let keyring = match (identity.root, encryption) {
            (None, Encryption::None) => None,
            (Some(root), Encryption::Key(source)) => {
                Some(Self::open_keys_of(&*store, root, source).await?.keyring().clone())
            }
            (Some(_), Encryption::None) => return Err(RepoError::KeyNeeded { url: url() }),
            (None, Encryption::Key(_)) => return Err(RepoError::NotEncrypted { url: url() }),
        };
        Ok(Self::found(name, store, (identity, keyring), pool))
    }

    fn found(
        name: &str,
        store: Arc<dyn Store>,
        (identity, keyring): (Identity, Option<Keyring>),
        pool: CpuPool,
    ) -> Self {
        let (looks, has_older_keys) = (Arc::default(), Arc::default());
        Self { name: name.to_owned(), store, identity, keyring, pool, looks, has_older_keys }
    }

    async fn open_keys_of(store: &dyn Store, root: RootId, source: &KeySource) -> Result<OpenKeys, RepoError> {
        let secret = Secret::read(source).await?;
        let KeySlots { newest, foreign } = KeySlots::load(store, root).await?;
        for key in &foreign {
            tracing::warn!(
                object = generations::shown(store, key),
                "passed over: key slots of another root key than the repository's, left by a setup that did not finish"
            );
        }
        let file = newest.ok_or_else(|| KeyError::Tampered {
            object: generations::shown(store, &layout::all_keys()),
            what: "there are none of the root key that the repository's identity names",
        })?;
        Ok(file.open_with(secret).await?)
    }

    /// Opens the key slots for changing them.
    pub async fn open_keys(&self, source: &KeySource) -> Result<OpenKeys, RepoError> {
        let root = self.identity.root.ok_or_else(|| RepoError::NotEncrypted { url: self.url().to_owned() })?;
        Self::open_keys_of(&*self.store, root, source).await
    }

    /// Stores changed key slots, if this is still the repository that was opened.
    pub async fn store_keys(&self, keys: &mut OpenKeys) -> Result<(), RepoError> {
        self.confirm_alive().await?;
        keys.store(&*self.store).await?;
        self.see().await
    }

    /// Key slots in the repository's folder whose root key is not its own: left by setups that did not finish. They open nothing.
    pub async fn foreign_keys(&self) -> Result<Vec<ObjectKey>, RepoError> {
        KeySlots::foreign(&*self.store, self.identity.root).await
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store's URL without secrets, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// The cluster's identity as it was when the repository was opened.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the objects lie.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The master keys, when the repository is encrypted.
    pub fn keyring(&self) -> Option<&Keyring> {
        self.keyring.as_ref()
    }

    /// An object's name with the store's URL in front, for messages.
    pub fn shown(&self, key: &ObjectKey) -> String {
        generations::shown(&*self.store, key)
    }

    /// Adds a lineage to the cluster's identity, unless it is there. The first segment of a new system identifier or major
    /// version may only be archived after this, which is for a person (or `setup`) to decide.
    pub async fn add_lineage(
        &mut self,
        lineage: Lineage,
        segment_bytes: SegmentSize,
        now: Timestamp,
    ) -> Result<(), RepoError> {
        self.identity = identity::add_lineage(&*self.store, &self.identity, lineage, segment_bytes, now).await?;
        Ok(())
    }

    /// When the repository was told of each of its lineages, by the store's clock.
    pub async fn told(&self) -> Result<Vec<(Lineage, Timestamp)>, RepoError> {
        identity::told(&*self.store).await
    }

    /// Tells the repository of the lineages that `from` knows, when the two are of one cluster.
    ///
    /// # Errors
    /// [`RepoError::OtherCluster`] when they are not.
    pub async fn join_lineages(&mut self, from: &Self) -> Result<(), RepoError> {
        let shown = |repository: &Self| {
            let lineages = repository.identity.lineages.iter().map(|entry| entry.lineage.to_string());
            format!("{} (of {})", repository.url(), lineages.collect::<Vec<_>>().join(", "))
        };
        match identity::join(&*self.store, &self.identity, &from.identity.lineages).await? {
            Some(identity) => {
                self.identity = identity;
                Ok(())
            }
            None => Err(RepoError::OtherCluster { from: shown(from), to: shown(self) }),
        }
    }

    /// Reads the identity again: fails when this is not the repository that was opened any more. To be asked before
    /// "the repository has no such file" is believed: an unmounted disk or a replaced bucket is empty, too.
    pub async fn confirm_alive(&self) -> Result<(), RepoError> {
        let found = identity::load_again(&*self.store, &self.identity).await.map(|_| ());
        self.looks.note(&found);
        found
    }

    /// As [`Repository::confirm_alive`], by a look that begins after this call and that others share: to be asked about a write, before it
    /// counts.
    pub(super) async fn see(&self) -> Result<(), RepoError> {
        // Seldom more than a wait for another one's, and a part of every write.
        Box::pin(self.looks.see(&*self.store, &self.identity)).await
    }

    /// Whether it was seen last that this is not the repository that was opened any more. It must be opened anew then.
    pub fn is_gone(&self) -> bool {
        self.looks.found_it_gone()
    }

    /// Whether it must be opened anew: it [is gone](Self::is_gone), or an object was met under a master key that it does not know.
    pub fn is_outdated(&self) -> bool {
        self.is_gone() || self.has_older_keys.load(Ordering::Relaxed)
    }

    fn noting_its_key<T>(&self, opened: Result<T, RepoError>) -> Result<T, RepoError> {
        if opened.as_ref().is_err_and(RepoError::is_newer_key) {
            self.has_older_keys.store(true, Ordering::Relaxed);
        }
        opened
    }

    /// Writes a small object that says what it is itself, under a name that must be new; `false` when another's is there.
    pub(super) async fn put_small(&self, key: &ObjectKey, bytes: &Bytes) -> Result<bool, RepoError> {
        let is_ours = generations::put(&*self.store, key, bytes).await?;
        self.see().await?;
        Ok(is_ours)
    }

    /// Whether there is an object of this name. `false` only when the store said so.
    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, RepoError> {
        match self.store.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.class == ErrorClass::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an object that was sealed for this repository, under a name that must be new, or hold the same content.
    ///
    /// # Errors
    /// Also, and whatever was written, when the repository was not seen to be there since the write began.
    pub async fn put_sealed(&self, sealed: Sealed) -> Result<PutNew, RepoError> {
        // A disk that comes back between the two would lend its identity to what was written below its empty mount point.
        if self.store.can_be_swapped() {
            let put = self.put_or_compare(sealed).await?;
            self.see().await?;
            return Ok(put);
        }
        let begun = Instant::now();
        let (put, ()) = tokio::try_join!(self.put_or_compare(sealed), self.see())?;
        // It was slow, or tried again, and may have landed long after the look.
        if begun.elapsed() > LOOK_HOLDS {
            self.see().await?;
        }
        Ok(put)
    }

    async fn put_or_compare(&self, Sealed { key, kind, payload, summary }: Sealed) -> Result<PutNew, RepoError> {
        Ok(match self.store.put_new(&key, payload).await? {
            Put::Created => PutNew::Created(summary),
            Put::Exists => self.compare(&key, kind, &summary).await.map_err(|source| {
                RepoError::ExistingUnreadable { object: self.shown(&key), source: Box::new(source) }
            })?,
        })
    }

    /// Whether what is under `key` has the content that `ours` describes.
    async fn compare(&self, key: &ObjectKey, kind: Kind, ours: &Summary) -> Result<PutNew, RepoError> {
        let theirs = self.read_summary(key).await?;
        let same = theirs.kind == kind
            && theirs.summary.content_bytes == ours.content_bytes
            && theirs.summary.content_digest == ours.content_digest;
        Ok(if same { PutNew::Same } else { PutNew::Different { writer: theirs.writer, modified: theirs.modified } })
    }

    /// Whether the object under `key` has the content that `content` gives, `bytes` bytes of it. By the trailer's digest: the object's own
    /// content is not read.
    pub async fn has_content(
        &self,
        key: &ObjectKey,
        bytes: u64,
        mut content: BoxStream<'_, std::io::Result<Bytes>>,
    ) -> Result<bool, RepoError> {
        let theirs = self.read_summary(key).await?;
        if theirs.summary.content_bytes != bytes {
            return Ok(false);
        }
        let died = |source| RepoError::Worker { object: self.shown(key), source };
        let mut digest = DigestChain::new(ContentDigest::new());
        while let Some(chunk) = content.next().await {
            digest.push(chunk.map_err(|source| RepoError::Content { object: self.shown(key), source })?);
            digest.turn(&self.pool).await.map_err(died)?;
        }
        Ok(digest.finish(&self.pool).await.map_err(died)?.finish() == theirs.summary.content_digest)
    }

    /// Reads an object.
    pub async fn read(&self, key: &ObjectKey) -> Result<OpenedObject, RepoError> {
        let object = self.store.get(key).await?;
        let opener =
            Opener::new(self.shown(key), key.as_str(), self.keyring.as_ref(), self.pool.clone(), object.body).await;
        let opener = self.noting_its_key(opener)?;
        let header = opener.header();
        let link = Arc::new(OnceLock::new());
        let known = Arc::clone(&link);
        Ok(OpenedObject {
            link,
            kind: header.kind,
            writer: header.writer.clone(),
            stored_bytes: object.info.size,
            modified: object.info.modified,
            content: stream::try_unfold((opener, known), |(mut opener, known)| async move {
                let chunk = opener.next().await?;
                if let (None, Some(link)) = (&chunk, opener.link()) {
                    let _ = known.set(link);
                }
                Ok(chunk.map(|chunk| (chunk, (opener, known))))
            })
            .boxed(),
        })
    }

    /// Reads what an object's header, facts and trailer say, without its content: one small request. Proves that its end is there and
    /// authentic, not that the content is.
    pub async fn read_summary(&self, key: &ObjectKey) -> Result<ObjectSummary, RepoError> {
        let (tail, info, end) = self.tail(key).await?;
        let tail = Arc::new(tail);
        let facts = match tail.facts() {
            None => None,
            Some(range) => {
                // What was read is the end of the object, and as a rule the facts lie in it.
                let read_from = info.size.saturating_sub(end.len() as u64);
                let place = |at: u64| at.checked_sub(read_from).and_then(|at| usize::try_from(at).ok());
                let stored = match (place(range.start), place(range.end)) {
                    (Some(start), Some(to)) if to <= end.len() => end.slice(start..to),
                    _ => self.range_of(&info, range).await?,
                };
                let shared = Arc::clone(&tail);
                let opened = self.pool.start(move || shared.open_facts(&stored)).await;
                let opened = opened.map_err(|source| RepoError::Worker { object: self.shown(key), source })?;
                opened.map_err(|error| RepoError::damaged(&self.shown(key), error))?
            }
        };
        Ok(ObjectSummary {
            kind: tail.header.kind,
            writer: tail.header.writer.clone(),
            modified: info.modified,
            summary: tail.summary.clone(),
            key_id: tail.header.sealed.as_ref().map(|sealed| sealed.key_id),
            facts,
        })
    }

    /// Reads an object's end, and which object it is of; with the bytes at its end that were read.
    pub(super) async fn tail(&self, key: &ObjectKey) -> Result<(Tail, ObjectInfo, Bytes), RepoError> {
        let damaged = |error| RepoError::damaged(&self.shown(key), error);
        let (info, tail) = self.store.get_tail(key, TAIL_BYTES).await?;
        let needed = Tail::length(&tail).map_err(damaged)?;
        let Some(start) = info.size.checked_sub(needed) else {
            return Err(damaged(FormatError::SeekTable("it is longer than the object")));
        };
        let end = if needed > tail.len() as u64 { self.range_of(&info, start..info.size).await? } else { tail };
        let unneeded = end.len().saturating_sub(usize::try_from(needed).unwrap_or(usize::MAX));
        let tail = end.slice(unneeded..);
        let tail = Tail::parse(&tail, info.size, self.keyring.as_ref(), key.as_str(), &self.shown(key));
        let tail = self.noting_its_key(tail)?;
        Ok((tail, info, end))
    }

    /// Bytes of this very object.
    pub(super) async fn range_of(&self, info: &ObjectInfo, range: std::ops::Range<u64>) -> Result<Bytes, RepoError> {
        let asked = range.end - range.start;
        let bytes = self.store.get_range_of(info, range).await?;
        if bytes.len() as u64 == asked {
            Ok(bytes)
        } else {
            let source = format!("{} bytes came of {asked}", bytes.len()).into();
            Err(StoreError { class: ErrorClass::Transient, verb: "read", key: self.shown(&info.key), source }.into())
        }
    }

    /// The threads that compute for it.
    pub(super) fn pool(&self) -> &CpuPool {
        &self.pool
    }

    pub(super) fn worker_died(&self, key: &ObjectKey) -> RepoError {
        RepoError::Worker { object: self.shown(key), source: walward_base::sys::cpu::WorkerDied }
    }
}

#[cfg(test)]
mod tests;
