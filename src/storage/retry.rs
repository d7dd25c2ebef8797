//! Trying again what may heal: exponential back-off with full jitter, for [`ErrorClass::Transient`] alone.

use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::error::shown;
use super::{
    Body, Cause, Limits, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Upload,
};
use crate::base::ErrorClass;

/// The rest of a broken body is fetched in ranges of this many bytes.
const PIECE_BYTES: u64 = 4 << 20;

/// The longest pause before attempt `attempt + 2`, counted from 0.
fn backoff_bound(limits: &Limits, attempt: u32) -> Duration {
    let factor = 2u32.checked_pow(attempt).unwrap_or(u32::MAX);
    limits.retry_first_backoff.saturating_mul(factor).min(limits.retry_max_backoff)
}

/// Calls `attempt` until it answers something else than [`ErrorClass::Transient`], or until there is no time left for
/// another one. The last error is the answer then.
pub(super) async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
    limits: &Limits,
    what: impl Display,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let deadline = Instant::now() + limits.retry_deadline;
    let mut failed = 0u32;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if !error.class.is_worth_retrying() => return Err(error),
            Err(error) => error,
        };
        let pause = backoff_bound(limits, failed).mul_f64(rand::random::<f64>());
        failed += 1;
        let cause = error.source.to_string();
        if Instant::now() + pause >= deadline {
            tracing::debug!(%what, failed, cause, "giving up");
            return Err(StoreError {
                source: Box::new(Cause(format!("{cause} (attempt {failed}, the last within the retry deadline)"))),
                ..error
            });
        }
        tracing::debug!(%what, failed, cause, pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
    }
}

/// A [`Store`] that tries again. A body that breaks is continued where it broke off.
///
/// [`Store::put_new`] whose first answer was lost can say [`Put::Exists`] of our own object.
#[derive(Debug)]
pub(super) struct Retrying {
    inner: Arc<dyn Store>,
    limits: Limits,
}

impl Retrying {
    pub(super) fn new(inner: Arc<dyn Store>, limits: Limits) -> Self {
        Self { inner, limits }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Retrying {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn conditional_create(&self) -> bool {
        self.inner.conditional_create()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        retried(&self.limits, key, || self.inner.put_new(key, payload.clone())).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let object = retried(&self.limits, key, || self.inner.get(key)).await?;
        let rest = Rest {
            inner: Arc::clone(&self.inner),
            limits: self.limits.clone(),
            info: object.info.clone(),
            offset: 0,
            from: From::Body(object.body),
        };
        let body = futures::stream::unfold(rest, |mut rest| async move { rest.next().await.map(|item| (item, rest)) });
        Ok(StoredObject { info: object.info, body: body.boxed() })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        retried(&self.limits, key, || self.inner.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        retried(&self.limits, key, || self.inner.head(key)).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let what = folder.map_or(self.inner.url(), ObjectKey::as_str);
        retried(&self.limits, what, || self.inner.list(folder)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        retried(&self.limits, key, || self.inner.delete(key)).await
    }

    /// Only the beginning is tried again here; parts are, where they are sent.
    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        retried(&self.limits, key, || self.inner.start_upload(key, expected_bytes)).await
    }
}

/// What is still to be read of an object.
struct Rest {
    inner: Arc<dyn Store>,
    limits: Limits,
    info: ObjectInfo,
    offset: u64,
    from: From,
}

enum From {
    /// The body as it came.
    Body(Body),
    /// It broke; whether the object is still what it was is not known yet.
    Broken,
    /// Ranges of the same object.
    Ranges,
    /// Nowhere: an error was reported.
    End,
}

impl Rest {
    async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        loop {
            match &mut self.from {
                From::Body(body) => match body.next().await {
                    Some(Ok(bytes)) => {
                        self.offset += bytes.len() as u64;
                        return Some(Ok(bytes));
                    }
                    Some(Err(error)) if error.class.is_worth_retrying() => {
                        let cause = error.source.to_string();
                        tracing::debug!(key = %self.info.key, offset = self.offset, cause, "continuing a broken body");
                        self.from = From::Broken;
                    }
                    end => return end,
                },
                From::Broken => {
                    let head = retried(&self.limits, &self.info.key, || self.inner.head(&self.info.key)).await;
                    let error = match head {
                        Ok(now) if now.size == self.info.size => {
                            self.from = From::Ranges;
                            continue;
                        }
                        Ok(now) => StoreError::new(
                            ErrorClass::Corrupt,
                            "read",
                            shown(self.inner.url(), self.info.key.as_str()),
                            format!("it had {} bytes and has {} now: somebody replaced it", self.info.size, now.size),
                        ),
                        Err(error) => error,
                    };
                    self.from = From::End;
                    return Some(Err(error));
                }
                From::Ranges if self.offset >= self.info.size => return None,
                From::Ranges => {
                    let range = self.offset..self.info.size.min(self.offset.saturating_add(PIECE_BYTES));
                    let key = &self.info.key;
                    let read = retried(&self.limits, key, || self.inner.get_range(key, range.clone())).await;
                    match &read {
                        Ok(bytes) => self.offset += bytes.len() as u64,
                        Err(_) => self.from = From::End,
                    }
                    return Some(read);
                }
                From::End => return None,
            }
        }
    }
}
