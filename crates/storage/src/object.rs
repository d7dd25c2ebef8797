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
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutPayload};

use super::classify::{Classified, judge};
use super::client::{ObjectStoreBacked, WriteAnswer};
use super::create;
use super::error::shown;
use super::store::{REPLACED, length_within, look_and_delete};
use super::upload::{MultipartUpload, Parts};
use super::{
    Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};
use walward_base::ErrorClass;

impl ObjectStoreBacked {
    /// Bytes of the object `key`; of no other than `of`, when that is given.
    async fn range(&self, key: &ObjectKey, range: Range<u64>, of: Option<&ObjectInfo>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let corrupt =
            |cause: String| StoreError::new(ErrorClass::Corrupt, "read", shown(&self.0.url, key.as_str()), cause);
        if range.start >= range.end {
            // Stores refuse an empty range; whether it lies within the object is known without reading.
            let size = self.head(key).await?.size;
            length_within(&range, size).map_err(corrupt)?;
            return Ok(Bytes::new());
        }
        // A weak tag never matches (RFC 9110, 13.1.1).
        let if_match = of.and_then(|of| of.tag.clone()).filter(|tag| !tag.starts_with("W/"));
        let asked = if_match.is_some();
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), if_match, ..GetOptions::default() };
        let result = match self.0.client.get_opts(&path, options).await {
            Ok(result) => result,
            Err(error) => {
                let verdict = judge(&error);
                if asked && verdict.status == Some(412) {
                    return Err(corrupt(REPLACED.to_owned()));
                }
                // Stores word a range outside of the object differently; the object's size settles it.
                if verdict.class == ErrorClass::Permanent
                    && let Ok(meta) = self.head_path(&path).await
                {
                    length_within(&range, meta.size).map_err(corrupt)?;
                }
                return Err(self.failed("read", key.as_str(), verdict));
            }
        };
        if let Some(of) = of
            && !self.info(key.clone(), &result.meta)?.is_same(of)
        {
            return Err(corrupt(REPLACED.to_owned()));
        }
        let length = length_within(&range, result.meta.size).map_err(corrupt)?;
        let bytes = result.bytes().await.map_err(|error| self.error("read", key, &error))?;
        if bytes.len() == length {
            return Ok(bytes);
        }
        let cause = format!("{length} bytes were asked for and {} came", bytes.len());
        Err(StoreError::new(ErrorClass::Transient, "read", shown(&self.0.url, key.as_str()), cause))
    }
}

/// Whether `found` is directly in `folder`, or is `folder`: consoles mark a folder with an object of its name.
fn lies_in(found: &Path, folder: &Path) -> bool {
    found.prefix_match(folder).is_some_and(|below| below.count() <= 1)
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
        self.range(key, range, None).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.range(&object.key, range, Some(object)).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let options = GetOptions { range: Some(GetRange::Suffix(bytes_max)), ..GetOptions::default() };
        let result = match self.0.client.get_opts(&self.path(key), options).await {
            Ok(result) => result,
            Err(error) => {
                let verdict = judge(&error);
                if verdict.class != ErrorClass::Permanent {
                    return Err(self.failed("read", key.as_str(), verdict));
                }
                // Azure cannot be asked so, and no store for the end of an empty object.
                let info = self.head(key).await?;
                let range = info.size.saturating_sub(bytes_max)..info.size;
                let bytes = self.range(key, range, Some(&info)).await?;
                return Ok((info, bytes));
            }
        };
        let info = self.info(key.clone(), &result.meta)?;
        let expected = info.size.min(bytes_max);
        let bytes = result.bytes().await.map_err(|error| self.error("read", key, &error))?;
        if bytes.len() as u64 == expected {
            return Ok((info, bytes));
        }
        let cause = format!("{expected} bytes were asked for and {} came", bytes.len());
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
        let key = |found: &Path| {
            let name = found.filename().filter(|name| *found != path && !create::is_temporary(name))?;
            match folder {
                Some(folder) => folder.join(name).ok(),
                None => ObjectKey::new(name).ok(),
            }
        };
        let objects = result.objects.iter().map(|meta| &meta.location);
        if let Some(other) = objects.chain(&result.common_prefixes).find(|found| !lies_in(found, &path)) {
            let cause = format!(
                "the answer lists {other}, which lies elsewhere: it is the answer to another request; check endpoint, and what stands in between (a proxy, a cache)"
            );
            let verdict = Classified::new(ErrorClass::Transient, cause);
            return Err(self.failed("list", folder.map_or("", ObjectKey::as_str), verdict));
        }
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

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        look_and_delete(self, object).await
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
                Ok(_) => Err(self.failed("delete", key.as_str(), Classified::contradiction())),
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
        let put = self.put(&self.path(key), &payload, PutMode::Overwrite).await;
        put.map_err(|verdict| self.failed_write(key, verdict))
    }

    async fn begin(&self, key: &ObjectKey) -> Result<String, StoreError> {
        let (path, attributes) = (self.path(key), self.0.attributes.clone());
        let begun = if attributes.is_empty() {
            self.0.client.create_multipart(&path).await
        } else {
            let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
            self.0.client.create_multipart_opts(&path, options).await
        };
        begun.map_err(|error| self.write_error(key, &error))
    }

    async fn put_part(&self, key: &ObjectKey, id: &str, number: usize, payload: Payload) -> Result<String, StoreError> {
        let payload: PutPayload = payload.0.into_iter().collect();
        let part = self.0.client.put_part(&self.path(key), &id.to_owned(), number, payload).await;
        part.map(|part| part.content_id).map_err(|error| self.write_error(key, &error))
    }

    async fn complete(
        &self,
        key: &ObjectKey,
        id: &str,
        parts: &[String],
        bytes: u64,
        tail: &Bytes,
    ) -> Result<(), StoreError> {
        let path = self.path(key);
        let parts = parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
        match self.0.client.complete_multipart(&path, &id.to_owned(), parts).await {
            // The store compares what it has of each part with what it was told; that it was the store, the object shows.
            Ok(result) => match WriteAnswer::of(&result) {
                WriteAnswer::Done => Ok(()),
                WriteAnswer::Said(_) => {
                    self.must_hold(&path, bytes, tail).await.map_err(|verdict| self.failed_write(key, verdict))
                }
            },
            // After an attempt whose answer was lost the upload is gone and the object is there.
            Err(error) if judge(&error).says_no_such_upload() && self.ends_so(&path, bytes, tail).await == Ok(true) => {
                Ok(())
            }
            Err(error) => Err(self.write_error(key, &error)),
        }
    }

    async fn abort(&self, key: &ObjectKey, id: &str) -> Result<(), StoreError> {
        let abort = self.0.client.abort_multipart(&self.path(key), &id.to_owned()).await;
        abort.map_err(|error| self.write_error(key, &error))
    }
}
