//! One step at a time with a client of the `object_store` crate: to write, to look, to compare what is there. What a store does is made
//! of these steps by [`super::create`] and [`super::object`].

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, PutResult,
};
use tokio::sync::OnceCell;

use super::calls::Calls;
use super::classify::{Classified, judge};
use super::error::shown;
use super::proof::{INLINE_BYTES_MAX, Receipt};
use super::{Creates, ObjectInfo, ObjectKey, Payload, StoreError};
use walward_base::ErrorClass;

/// Of a long object so many bytes at each end are compared, besides its length: there the repository's objects hold what
/// is their writer's alone, and the digest of their content.
pub(super) const ENDS_BYTES: u64 = 32 << 10;

/// What a store needs of a client: whole objects and parts.
pub(super) trait Client: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Client for T {}

/// A [`Store`] over a client of `object_store`; clones share it.
#[derive(Debug, Clone)]
pub(super) struct ObjectStoreBacked(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) client: Box<dyn Client>,
    pub(super) url: String,
    /// In front of every key.
    pub(super) prefix: Path,
    /// Said with each write.
    pub(super) attributes: Attributes,
    pub(super) calls: Calls,
    /// Whether the store keeps writers of one name apart; empty until it was tried.
    pub(super) creates: OnceCell<Creates>,
}

impl ObjectStoreBacked {
    /// The store behind `client`, under `prefix`, known as `url`, whose objects get the storage class `class`. The parts of its
    /// uploads are made under `calls`.
    pub(super) fn new(client: Box<dyn Client>, url: String, prefix: Path, class: Option<String>, calls: Calls) -> Self {
        let attributes = class.into_iter().map(|class| (Attribute::StorageClass, class)).collect();
        Self(Arc::new(Inner { client, url, prefix, attributes, calls, creates: OnceCell::new() }))
    }

    /// As [`ObjectStoreBacked::new`], for a client of which it is known what it does.
    pub(super) fn known(client: Box<dyn Client>, url: String, prefix: Path, calls: Calls, creates: Creates) -> Self {
        let (attributes, creates) = (Attributes::new(), OnceCell::new_with(Some(creates)));
        Self(Arc::new(Inner { client, url, prefix, attributes, calls, creates }))
    }

    pub(super) fn path(&self, key: &ObjectKey) -> Path {
        key.as_str().split('/').fold(self.0.prefix.clone(), Path::join)
    }

    pub(super) fn failed(&self, verb: &'static str, path: &str, verdict: Classified) -> StoreError {
        StoreError::new(verdict.class, verb, shown(&self.0.url, path), verdict.cause)
    }

    pub(super) fn error(&self, verb: &'static str, key: &ObjectKey, error: &object_store::Error) -> StoreError {
        self.failed(verb, key.as_str(), judge(error))
    }

    pub(super) fn write_error(&self, key: &ObjectKey, error: &object_store::Error) -> StoreError {
        self.failed_write(key, judge(error))
    }

    /// Where "not found" cannot be about the object: it is about the bucket or the upload.
    pub(super) fn failed_write(&self, key: &ObjectKey, mut verdict: Classified) -> StoreError {
        if verdict.class == ErrorClass::NotFound {
            verdict.class = ErrorClass::Permanent;
        }
        self.failed("write", key.as_str(), verdict)
    }

    pub(super) fn info(&self, key: ObjectKey, meta: &ObjectMeta) -> Result<ObjectInfo, StoreError> {
        let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).map_err(|_| {
            let cause = "its modification time is out of range";
            StoreError::new(ErrorClass::Permanent, "look at", shown(&self.0.url, key.as_str()), cause)
        })?;
        Ok(ObjectInfo { key, size: meta.size, modified, tag: meta.e_tag.clone() })
    }

    /// Writes. The answer says what the server said; that it was the store, and has the bytes, is not known by it.
    pub(super) async fn send(&self, path: &Path, payload: &Payload, mode: PutMode) -> Result<WriteAnswer, Classified> {
        let payload: PutPayload = payload.0.iter().cloned().collect();
        let options = PutOptions { mode, attributes: self.0.attributes.clone(), ..PutOptions::default() };
        let sent = self.0.client.put_opts(path, payload, options).await;
        sent.map(|result| WriteAnswer::of(&result)).map_err(|error| judge(&error))
    }

    /// Writes, and knows by the answer or by looking that the bytes are there.
    pub(super) async fn put(&self, path: &Path, payload: &Payload, mode: PutMode) -> Result<(), Classified> {
        let answer = self.send(path, payload, mode).await?;
        if answer.proves(payload).await {
            return Ok(());
        }
        self.must_hold(path, payload.len(), &tail(payload)).await
    }

    /// Whether an object of `size` bytes that ends with `tail` lies at `path`.
    pub(super) async fn ends_so(&self, path: &Path, size: u64, tail: &Bytes) -> Result<bool, Classified> {
        Ok(self.head_path(path).await?.size == size
            && self.has(path, size - (tail.len() as u64).min(size), tail).await?)
    }

    /// Whether the bytes of the object at `path` from `start` on are `bytes`.
    pub(super) async fn has(&self, path: &Path, start: u64, bytes: &Bytes) -> Result<bool, Classified> {
        if bytes.is_empty() {
            return Ok(true);
        }
        let range = Some(GetRange::Bounded(start..start + bytes.len() as u64));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = async { self.0.client.get_opts(path, options).await?.bytes().await };
        Ok(found.await.map_err(|error| judge(&error))? == *bytes)
    }

    /// That what was written is there, where the answer to the write did not prove it.
    pub(super) async fn must_hold(&self, path: &Path, size: u64, tail: &Bytes) -> Result<(), Classified> {
        match self.ends_so(path, size, tail).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Classified::unproven("what is there is something else")),
            Err(verdict) if verdict.class == ErrorClass::NotFound => Err(Classified::unproven("nothing is there")),
            Err(verdict) => Err(verdict),
        }
    }

    pub(super) async fn head_path(&self, path: &Path) -> Result<ObjectMeta, Classified> {
        let verdict = match self.0.client.head(path).await {
            Ok(meta) => return Ok(meta),
            Err(error) => judge(&error),
        };
        if !verdict.is_bare_not_found() {
            return Err(verdict);
        }
        // A HEAD is refused without saying whether the object or the bucket is missing; a GET says it.
        match self.0.client.get_opts(path, GetOptions::default()).await {
            Ok(result) => Ok(result.meta),
            Err(error) => Err(judge(&error)),
        }
    }
}

/// What a server said to a write.
pub(super) enum WriteAnswer {
    /// There is no server: it is done.
    Done,
    /// It said that it is done.
    Said(Receipt),
}

impl WriteAnswer {
    pub(super) fn of(result: &PutResult) -> Self {
        result.extensions.get::<Receipt>().map_or(Self::Done, |receipt| Self::Said(receipt.clone()))
    }

    /// Whether the answer is proof that the store has `payload`.
    async fn proves(self, payload: &Payload) -> bool {
        match self {
            Self::Done => true,
            Self::Said(receipt) if !receipt.may_prove() => false,
            Self::Said(receipt) if payload.len() <= INLINE_BYTES_MAX => receipt.proves(payload),
            Self::Said(receipt) => {
                let payload = payload.clone();
                tokio::task::spawn_blocking(move || receipt.proves(&payload)).await.unwrap_or(false)
            }
        }
    }
}

/// The last bytes of `payload`, [`ENDS_BYTES`] at most, copied.
pub(super) fn tail(payload: &Payload) -> Bytes {
    payload.slice(payload.len().saturating_sub(ENDS_BYTES), payload.len())
}
