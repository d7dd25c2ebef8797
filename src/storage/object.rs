//! A store over the `object_store` crate: S3, Google, Azure, memory.
//!
//! Its own retries are off ([`super::retry`] does that, for every store alike), and its errors are judged by
//! [`super::classify`].
//!
//! A crash leaves at most the parts of an unfinished multipart upload, which are not an object (a lifecycle rule of the
//! bucket removes them), and what [`super::create`] says.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::sync::OnceCell;

use super::classify::{Verdict, judge};
use super::create;
use super::error::shown;
use super::upload::{MultipartUpload, Parts};
use super::{
    Calls, Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};
use crate::base::ErrorClass;

/// What this file needs of a client: whole objects and parts.
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
    calls: Calls,
    /// Whether the store keeps writers of one name apart; empty until it was tried.
    pub(super) creates: OnceCell<Creates>,
}

impl ObjectStoreBacked {
    /// The store behind `client`, under `prefix`, known as `url`. The parts of its uploads are made under `calls`.
    pub(super) fn new(client: Box<dyn Client>, url: String, prefix: Path, calls: Calls) -> Self {
        Self(Arc::new(Inner { client, url, prefix, calls, creates: OnceCell::new() }))
    }

    /// As [`ObjectStoreBacked::new`], for a client of which it is known what it does.
    pub(super) fn known(client: Box<dyn Client>, url: String, prefix: Path, calls: Calls, creates: Creates) -> Self {
        Self(Arc::new(Inner { client, url, prefix, calls, creates: OnceCell::new_with(Some(creates)) }))
    }

    pub(super) fn path(&self, key: &ObjectKey) -> Path {
        key.as_str().split('/').fold(self.0.prefix.clone(), Path::join)
    }

    fn failed(&self, verb: &'static str, path: &str, verdict: Verdict) -> StoreError {
        StoreError::new(verdict.class, verb, shown(&self.0.url, path), verdict.cause)
    }

    fn error(&self, verb: &'static str, key: &ObjectKey, error: &object_store::Error) -> StoreError {
        self.failed(verb, key.as_str(), judge(error))
    }

    fn write_error(&self, key: &ObjectKey, error: &object_store::Error) -> StoreError {
        self.failed_write(key, judge(error))
    }

    /// Where "not found" cannot be about the object: it is about the bucket or the upload.
    pub(super) fn failed_write(&self, key: &ObjectKey, mut verdict: Verdict) -> StoreError {
        if verdict.class == ErrorClass::NotFound {
            verdict.class = ErrorClass::Permanent;
        }
        self.failed("write", key.as_str(), verdict)
    }

    fn info(&self, key: ObjectKey, meta: &ObjectMeta) -> Result<ObjectInfo, StoreError> {
        let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).map_err(|_| {
            let cause = "its modification time is out of range";
            StoreError::new(ErrorClass::Permanent, "look at", shown(&self.0.url, key.as_str()), cause)
        })?;
        Ok(ObjectInfo { key, size: meta.size, modified })
    }

    pub(super) async fn put(&self, path: &Path, payload: &Payload, mode: PutMode) -> object_store::Result<()> {
        let payload: PutPayload = payload.0.iter().cloned().collect();
        let options = PutOptions { mode, ..PutOptions::default() };
        self.0.client.put_opts(path, payload, options).await.map(|_| ())
    }

    pub(super) async fn head_path(&self, path: &Path) -> Result<ObjectMeta, Verdict> {
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

/// How many bytes `range` has, if it lies within an object of `size` bytes.
pub(super) fn length_within(range: &Range<u64>, size: u64) -> Result<usize, String> {
    let outside = || format!("bytes {} to {} were asked for, but it has {size}", range.start, range.end);
    if range.end > size {
        return Err(outside());
    }
    range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok()).ok_or_else(outside)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for ObjectStoreBacked {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn creates(&self) -> Creates {
        self.0.creates.get().copied().unwrap_or(Creates::Untried)
    }

    fn can_be_swapped(&self) -> bool {
        false
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        self.create(key, &payload).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let result = self.0.client.get(&self.path(key)).await.map_err(|error| self.error("read", key, &error))?;
        let info = self.info(key.clone(), &result.meta)?;
        let state = (self.clone(), key.clone(), Some(result.into_stream()), info.size);
        let body = futures::stream::unfold(state, |(store, key, stream, left)| async move {
            let mut stream = stream?;
            let off = |cause: String| {
                StoreError::new(ErrorClass::Transient, "read", shown(&store.0.url, key.as_str()), cause)
            };
            match stream.next().await {
                Some(Ok(bytes)) => {
                    let Some(left) = left.checked_sub(bytes.len() as u64) else {
                        let error = off("the store sent more than it had announced".to_owned());
                        return Some((Err(error), (store, key, None, left)));
                    };
                    Some((Ok(bytes), (store, key, Some(stream), left)))
                }
                Some(Err(error)) => {
                    let error = store.error("read", &key, &error);
                    Some((Err(error), (store, key, None, left)))
                }
                None if left == 0 => None,
                None => {
                    let error = off(format!("the answer broke off {left} bytes before its end"));
                    Some((Err(error), (store, key, None, left)))
                }
            }
        });
        Ok(StoredObject { info, body: body.boxed() })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let outside =
            |cause: String| StoreError::new(ErrorClass::Corrupt, "read", shown(&self.0.url, key.as_str()), cause);
        if range.start >= range.end {
            // Stores refuse an empty range; whether it lies within the object is known without reading.
            let size = self.head(key).await?.size;
            length_within(&range, size).map_err(outside)?;
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let result = match self.0.client.get_opts(&path, options).await {
            Ok(result) => result,
            Err(error) => {
                let verdict = judge(&error);
                // Stores word a range outside of the object differently; the object's size settles it.
                if verdict.class == ErrorClass::Permanent
                    && let Ok(meta) = self.head_path(&path).await
                {
                    length_within(&range, meta.size).map_err(outside)?;
                }
                return Err(self.failed("read", key.as_str(), verdict));
            }
        };
        let length = length_within(&range, result.meta.size).map_err(outside)?;
        let bytes = result.bytes().await.map_err(|error| self.error("read", key, &error))?;
        if bytes.len() == length {
            return Ok(bytes);
        }
        let cause = format!("{length} bytes were asked for and {} came", bytes.len());
        Err(StoreError::new(ErrorClass::Transient, "read", shown(&self.0.url, key.as_str()), cause))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        let meta = self.head_path(&self.path(key)).await;
        let meta = meta.map_err(|verdict| self.failed("look at", key.as_str(), verdict))?;
        self.info(key.clone(), &meta)
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let path = folder.map_or_else(|| self.0.prefix.clone(), |key| self.path(key));
        let result = self.0.client.list_with_delimiter(Some(&path)).await.map_err(|error| {
            let mut verdict = judge(&error);
            if verdict.class == ErrorClass::NotFound {
                verdict.class = ErrorClass::Permanent;
            }
            self.failed("list", folder.map_or("", ObjectKey::as_str), verdict)
        })?;
        // A name that is no key was not written by us; a temporary one is no object.
        let key = |path: &Path| {
            let name = path.filename().filter(|name| !create::is_temporary(name))?;
            match folder {
                Some(folder) => folder.join(name).ok(),
                None => ObjectKey::new(name).ok(),
            }
        };
        let mut listing = Listing::default();
        listing.folders.extend(result.common_prefixes.iter().filter_map(key).map(|key| key.file_name().to_owned()));
        for meta in &result.objects {
            if let Some(key) = key(&meta.location) {
                listing.objects.push(self.info(key, meta)?);
            }
        }
        listing.folders.sort_unstable();
        listing.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listing)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = self.path(key);
        let Err(error) = self.0.client.delete(&path).await else { return Ok(()) };
        let verdict = judge(&error);
        match verdict.class {
            // Azure deletes in batches, whose lines do not say whether the object or its container is missing.
            ErrorClass::NotFound if verdict.status.is_none() => match self.head_path(&path).await {
                Err(verdict) if verdict.class == ErrorClass::NotFound => Ok(()),
                Err(verdict) => Err(self.failed("delete", key.as_str(), verdict)),
                Ok(_) => Err(self.failed("delete", key.as_str(), Verdict::contradiction())),
            },
            ErrorClass::NotFound => Ok(()),
            _ => Err(self.failed("delete", key.as_str(), verdict)),
        }
    }

    async fn keep(&self, _key: &ObjectKey) -> Result<(), StoreError> {
        Ok(())
    }

    async fn unfinished(&self, _age_min: Duration, _remove: bool) -> Result<Unfinished, StoreError> {
        Ok(Unfinished::default())
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        let calls = self.0.calls.clone();
        Ok(Box::new(MultipartUpload::new(Arc::new(self.clone()), key.clone(), calls, expected_bytes)))
    }
}

#[async_trait]
impl Parts for ObjectStoreBacked {
    fn store_url(&self) -> &str {
        &self.0.url
    }

    async fn put_whole(&self, key: &ObjectKey, payload: Payload) -> Result<(), StoreError> {
        self.put(&self.path(key), &payload, PutMode::Overwrite).await.map_err(|error| self.write_error(key, &error))
    }

    async fn begin(&self, key: &ObjectKey) -> Result<String, StoreError> {
        self.0.client.create_multipart(&self.path(key)).await.map_err(|error| self.write_error(key, &error))
    }

    async fn put_part(&self, key: &ObjectKey, id: &str, number: usize, payload: Payload) -> Result<String, StoreError> {
        let payload: PutPayload = payload.0.into_iter().collect();
        let part = self.0.client.put_part(&self.path(key), &id.to_owned(), number, payload).await;
        part.map(|part| part.content_id).map_err(|error| self.write_error(key, &error))
    }

    async fn complete(&self, key: &ObjectKey, id: &str, parts: &[String], bytes: u64) -> Result<(), StoreError> {
        let path = self.path(key);
        let parts = parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
        let Err(error) = self.0.client.complete_multipart(&path, &id.to_owned(), parts).await else { return Ok(()) };
        // After an attempt whose answer was lost the upload is gone and the object is there.
        if judge(&error).says_no_such_upload()
            && let Ok(meta) = self.head_path(&path).await
            && meta.size == bytes
        {
            return Ok(());
        }
        Err(self.write_error(key, &error))
    }

    async fn abort(&self, key: &ObjectKey, id: &str) -> Result<(), StoreError> {
        let abort = self.0.client.abort_multipart(&self.path(key), &id.to_owned()).await;
        abort.map_err(|error| self.write_error(key, &error))
    }
}
