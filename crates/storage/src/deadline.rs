//! A deadline on every call: a black hole becomes an error.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::error::shown;
use super::part_size::part_bytes;
use super::time_limit::within;
use super::{
    Creates, Limits, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};

/// A [`Store`] of which every call ends within its time.
#[derive(Debug)]
pub(super) struct WithDeadlines {
    inner: Arc<dyn Store>,
    limits: Limits,
}

impl WithDeadlines {
    pub(super) fn new(inner: Arc<dyn Store>, limits: Limits) -> Self {
        Self { inner, limits }
    }

    fn key(&self, key: &ObjectKey) -> String {
        shown(self.inner.url(), key.as_str())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for WithDeadlines {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn creates(&self) -> Creates {
        self.inner.creates()
    }

    fn can_be_swapped(&self) -> bool {
        self.inner.can_be_swapped()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        let limit = self.limits.attempt_timeout(payload.len());
        within(limit, "write", self.key(key), self.inner.put_new(key, payload)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let limit = self.limits.request_timeout;
        let name = self.key(key);
        let object = within(limit, "read", &name, self.inner.get(key)).await?;
        // Only the wait for the next bytes is timed: a reader may take its time.
        let body = futures::stream::unfold((Some(object.body), name), move |(body, name)| async move {
            let mut body = body?;
            let next = within(limit, "read", &name, async { body.next().await.transpose() }).await;
            match next {
                Ok(Some(bytes)) => Some((Ok(bytes), (Some(body), name))),
                Ok(None) => None,
                Err(error) => Some((Err(error), (None, name))),
            }
        });
        Ok(StoredObject { info: object.info, body: body.boxed() })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let limit = self.limits.attempt_timeout(range.end.saturating_sub(range.start));
        within(limit, "read", self.key(key), self.inner.get_range(key, range)).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        let limit = self.limits.attempt_timeout(range.end.saturating_sub(range.start));
        within(limit, "read", self.key(&object.key), self.inner.get_range_of(object, range)).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let limit = self.limits.attempt_timeout(bytes_max);
        within(limit, "read", self.key(key), self.inner.get_tail(key, bytes_max)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        within(self.limits.request_timeout, "look at", self.key(key), self.inner.head(key)).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let name = folder.map_or_else(|| self.inner.url().to_owned(), |key| self.key(key));
        within(self.limits.request_timeout, "list", name, self.inner.list(folder)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        within(self.limits.request_timeout, "delete", self.key(key), self.inner.delete(key)).await
    }

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        // It looks first.
        let limit = self.limits.request_timeout.saturating_mul(2);
        within(limit, "delete", self.key(&object.key), self.inner.delete_same(object)).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        // It may have to be copied.
        let limit = self.limits.attempt_timeout(self.head(key).await?.size);
        within(limit, "keep", self.key(key), self.inner.keep(key)).await
    }

    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        let url = self.inner.url().to_owned();
        within(self.limits.request_timeout, "look through", url, self.inner.unfinished(age_min, remove)).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        let name = self.key(key);
        let start = self.inner.start_upload(key, expected_bytes);
        let inner = within(self.limits.request_timeout, "write", &name, start).await?;
        let part = self.limits.attempt_timeout(part_bytes(self.limits.part_bytes, expected_bytes));
        // A part is tried again inside, and first waits for a place.
        let part = self.limits.retry_deadline.saturating_mul(2).saturating_add(part);
        Ok(Box::new(UploadWithDeadlines { inner, name, part, limits: self.limits.clone(), written: 0 }))
    }
}

/// The outermost bound of an upload, whose parts have their own.
struct UploadWithDeadlines {
    inner: Box<dyn Upload>,
    name: String,
    /// The longest that one part takes with all its attempts.
    part: Duration,
    limits: Limits,
    written: u64,
}

#[async_trait]
impl Upload for UploadWithDeadlines {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        self.written += length;
        // It may hold several parts, which go one after the other at worst.
        let limit = self.part.saturating_mul(2).saturating_add(self.limits.attempt_timeout(length));
        within(limit, "write", &self.name, self.inner.write(bytes)).await
    }

    async fn finish(self: Box<Self>) -> Result<u64, StoreError> {
        let limit = self.part.saturating_mul(3).saturating_add(self.limits.attempt_timeout(self.written));
        within(limit, "write", &self.name, self.inner.finish()).await
    }

    async fn abort(self: Box<Self>) {
        let Self { inner, name, limits, .. } = *self;
        let abort = async {
            inner.abort().await;
            Ok(())
        };
        if let Err(error) = within(limits.request_timeout, "clean up", &name, abort).await {
            tracing::debug!(%error, "the store may keep parts of an abandoned upload");
        }
    }
}

#[cfg(test)]
mod tests {
    use walward_base::ErrorClass;

    use super::*;
    use crate::fault::{Fault, Faulty, Plan};
    use crate::memory;

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_becomes_a_transient_error() {
        let key = ObjectKey::new("a").unwrap();
        let store = WithDeadlines::new(Faulty::new(memory(), Plan::chance(1, 1, &[Fault::Hang])), Limits::default());
        let errors = [
            store.put_new(&key, vec![1].into()).await.unwrap_err(),
            store.get(&key).await.err().unwrap(),
            store.get_range(&key, 0..1).await.unwrap_err(),
            store.head(&key).await.unwrap_err(),
            store.list(None).await.unwrap_err(),
            store.list(Some(&key)).await.unwrap_err(),
            store.delete(&key).await.unwrap_err(),
            store.start_upload(&key, 1).await.err().unwrap(),
        ];
        for error in errors {
            assert_eq!(error.class, ErrorClass::Transient);
            assert!(error.source.to_string().starts_with("no answer within "), "{}", error.source);
        }
    }

    #[tokio::test]
    async fn a_panic_in_the_code_that_talks_to_the_store_fails_the_call_and_says_so() {
        let died = async { std::panic::resume_unwind(Box::new("no such header".to_owned())) };
        let error = within::<()>(Duration::from_secs(30), "read", "a/b", died).await.unwrap_err();
        assert_eq!((error.class, error.to_string()), (ErrorClass::Permanent, "cannot read a/b".to_owned()));
        let cause = error.source.to_string();
        assert!(cause.contains("(no such header)") && cause.contains("fault of the program"), "{cause}");
    }

    #[tokio::test]
    async fn a_slow_answer_within_the_time_is_an_answer() {
        let limits = Limits { request_timeout: Duration::from_secs(30), ..Limits::default() };
        let late = Plan::chance(1, 1, &[Fault::Delay(Duration::from_millis(20))]);
        let store = WithDeadlines::new(Faulty::new(memory(), late), limits);
        assert_eq!(store.list(None).await.unwrap(), Listing::default());
    }

    #[tokio::test]
    async fn a_slow_reader_is_not_cut_off() {
        let key = ObjectKey::new("a").unwrap();
        let limits = Limits { request_timeout: Duration::from_secs(1), ..Limits::default() };
        let store = WithDeadlines::new(memory(), limits);
        store.put_new(&key, vec![1; 10].into()).await.unwrap();
        let mut body = store.get(&key).await.unwrap().body;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(body.next().await.unwrap().unwrap(), vec![1; 10]);
    }

    #[test]
    fn large_bodies_have_more_time() {
        let limits = Limits::default();
        assert_eq!(limits.attempt_timeout(0), Duration::from_secs(30));
        assert_eq!(limits.attempt_timeout(16 << 20), Duration::from_secs(62));
        assert!(limits.attempt_timeout(u64::MAX) > Duration::from_secs(1 << 40));
    }
}
