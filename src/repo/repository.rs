//! One cluster's repository at one store, opened: identity known, keys unwrapped.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::format::{Chunk, Spec, Summary};
use super::identity::Identity;
use super::keys::{KeySource, Keyring};
use crate::base::ErrorClass;
use crate::storage::{ObjectKey, Store};
use crate::sys::cpu::CpuPool;

/// How the objects of a repository are protected, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all; readable with `zstd -d`.
    None,
    /// Sealed under a master key that this source unwraps.
    Key(KeySource),
}

/// What failed at a repository. Every variant has a class.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::storage::StoreError),
}

impl RepoError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        todo!()
    }
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
        modified: jiff::Timestamp,
    },
}

/// An object being read: verified content, in order. The stream ends without an error only when everything (every frame,
/// trailer, seek table, length) was verified.
pub struct OpenedObject {
    /// Chunks of at most [`super::format::FRAME_BYTES`].
    pub content: BoxStream<'static, Result<Chunk, RepoError>>,
}

/// One cluster's repository at one store. Clones share everything.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    store: Arc<dyn Store>,
    identity: Identity,
    keyring: Option<Keyring>,
    pool: CpuPool,
}

impl Repository {
    /// Opens what is there. `store` is rooted at the cluster's folder (`<url>/<cluster>`); `name` is the repository's name in the configuration.
    pub async fn open(
        name: &str,
        store: Arc<dyn Store>,
        encryption: &Encryption,
        pool: CpuPool,
    ) -> Result<Self, RepoError> {
        let _ = (name, store, encryption, pool);
        todo!()
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

    /// Reads the identity again: fails when this is not the repository that was opened any more. To be asked before
    /// "the repository has no such file" is believed: an unmounted disk or a replaced bucket is empty, too.
    pub async fn confirm_alive(&self) -> Result<(), RepoError> {
        todo!()
    }

    /// Whether there is an object of this name. `false` only when the store said so.
    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, RepoError> {
        let _ = key;
        todo!()
    }

    /// Seals `content` and writes it under a name that must be new, or hold the same content. Memory: the stored bytes. For WAL.
    ///
    /// `commit_times` is asked once, when `content` has ended: it answers what [`Summary::commit_times`] will hold, for
    /// whoever parsed the content as it went by. `|| None` otherwise.
    pub async fn put_new(
        &self,
        key: &ObjectKey,
        spec: Spec,
        content: BoxStream<'_, std::io::Result<Bytes>>,
        commit_times: impl FnOnce() -> Option<(i64, i64)> + Send,
    ) -> Result<PutNew, RepoError> {
        let _ = (key, spec, content, commit_times, &self.keyring, &self.pool);
        todo!()
    }

    /// Seals `content` and uploads it in parts under a name that only this writer can choose. Memory: a few parts. For packs and manifests.
    pub async fn upload(
        &self,
        key: &ObjectKey,
        spec: Spec,
        content: BoxStream<'_, std::io::Result<Bytes>>,
        expected_bytes: u64,
    ) -> Result<Summary, RepoError> {
        let _ = (key, spec, content, expected_bytes);
        todo!()
    }

    /// Reads an object.
    pub async fn read(&self, key: &ObjectKey) -> Result<OpenedObject, RepoError> {
        let _ = key;
        todo!()
    }
}
