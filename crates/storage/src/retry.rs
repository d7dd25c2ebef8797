//! Trying again what may heal, as [`super::backoff`] says.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::retried;
use super::{
    Body, Creates, Limits, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished,
    Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

/// The rest of a broken body is fetched in ranges of this many bytes.
const PIECE_BYTES: u64 = 4 << 20;

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

    fn creates(&self) -> Creates {
        self.inner.creates()
    }

    fn can_be_swapped(&self) -> bool {
        self.inner.can_be_swapped()
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

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        retried(&self.limits, &object.key, || self.inner.get_range_of(object, range.clone())).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        retried(&self.limits, key, || self.inner.get_tail(key, bytes_max)).await
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

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        retried(&self.limits, &object.key, || self.inner.delete_same(object)).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        retried(&self.limits, key, || self.inner.keep(key)).await
    }

    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        retried(&self.limits, self.inner.url(), || self.inner.unfinished(age_min, remove)).await
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
    /// Ranges of the same object: another one that took its name is never mixed with it.
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
                        tracing::debug!(object = %self.info.key, offset = self.offset, cause, "continuing a broken body");
                        self.from = From::Ranges;
                    }
                    end => return end,
                },
                From::Ranges if self.offset >= self.info.size => return None,
                From::Ranges => {
                    let range = self.offset..self.info.size.min(self.offset.saturating_add(PIECE_BYTES));
                    let (inner, info) = (&self.inner, &self.info);
                    let read = retried(&self.limits, &info.key, || inner.get_range_of(info, range.clone())).await;
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

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use tokio::time::Instant;

    use super::*;
    use crate::fault::{Fault, Faulty, Plan};
    use crate::{StoreOptions, create_root, memory, open, patience};
    use walward_base::ErrorClass;

    const TRANSIENT: Fault = Fault::Before(ErrorClass::Transient);

    fn key() -> ObjectKey {
        ObjectKey::new("a/b").unwrap()
    }

    fn limits() -> Limits {
        Limits {
            retry_deadline: Duration::from_secs(30),
            retry_first_backoff: Duration::from_millis(1),
            retry_max_backoff: Duration::from_millis(4),
            ..Limits::default()
        }
    }

    async fn store_of(bytes: &Bytes, plan: Plan) -> (Retrying, Arc<Faulty>) {
        let inner = memory();
        inner.put_new(&key(), bytes.clone().into()).await.unwrap();
        let faulty = Faulty::new(inner, plan);
        (Retrying::new(Arc::<Faulty>::clone(&faulty), limits()), faulty)
    }

    async fn read(store: &Retrying) -> Result<Vec<u8>, StoreError> {
        let chunks: Vec<Bytes> = store.get(&key()).await?.body.try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn what_heals_succeeds() {
        let (store, faulty) = store_of(&Bytes::from_static(b"x"), Plan::script([Some(TRANSIENT); 5])).await;
        assert_eq!(store.head(&key()).await.unwrap().size, 1);
        assert_eq!(faulty.left(), 0);
    }

    #[tokio::test]
    async fn what_does_not_heal_is_reported_after_the_deadline_with_its_class() {
        let faulty = Faulty::new(memory(), Plan::chance(1, 1, &[TRANSIENT]));
        let store = Retrying::new(faulty, Limits { retry_deadline: Duration::from_millis(100), ..limits() });
        let began = std::time::Instant::now();
        let error = store.list(None).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert!(error.source.to_string().starts_with("planned (attempt "), "{}", error.source);
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_again_after_its_caller_has_stopped_waiting() {
        let faulty = Faulty::new(memory(), Plan::chance(1, 1, &[TRANSIENT]));
        let store = Retrying::new(faulty, Limits { retry_deadline: Duration::from_mins(1), ..limits() });
        let began = Instant::now();
        let until = began + Duration::from_secs(2);
        let error = patience::patient_until(until, store.list(None)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert!(began.elapsed() <= Duration::from_secs(2));
        // A bound within a bound is the nearer of them.
        let hour = began + Duration::from_hours(1);
        let within = patience::patient_until(until, patience::patient_until(hour, store.list(None)));
        within.await.unwrap_err();
        assert!(began.elapsed() <= Duration::from_secs(2));
    }

    #[tokio::test]
    async fn every_other_class_is_reported_at_once() {
        use ErrorClass::{Cancelled, Corrupt, Denied, NoSpace, NotFound, Permanent};
        for class in [NotFound, Permanent, Corrupt, Denied, Cancelled, NoSpace] {
            let (store, faulty) = store_of(&Bytes::new(), Plan::script([Some(Fault::Before(class)), None])).await;
            assert_eq!(store.head(&key()).await.unwrap_err().class, class);
            assert_eq!(faulty.left(), 1);
        }
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_says_that_the_object_is_there() {
        let faulty = Faulty::new(memory(), Plan::script([Some(Fault::After(ErrorClass::Transient))]));
        let store = Retrying::new(faulty, limits());
        assert_eq!(store.put_new(&key(), vec![7].into()).await.unwrap(), Put::Exists);
        assert_eq!(read(&store).await.unwrap(), [7]);
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_continued_without_a_gap_or_a_repetition() {
        let bytes: Bytes = (0..10_000_000u32).flat_map(u32::to_le_bytes).take(9_000_001).collect();
        for cut in [0, 1, 4_999_999, 9_000_001] {
            let plan = Plan::script([Some(Fault::Short(cut)), Some(TRANSIENT), None, Some(TRANSIENT)]);
            let (store, faulty) = store_of(&bytes, plan).await;
            assert!(read(&store).await.unwrap() == bytes, "cut at {cut}");
            assert!(faulty.left() <= 1 || cut == bytes.len() as u64);
        }
    }

    /// Bytes that differ everywhere, so that a piece in the wrong place or of another object shows.
    fn pattern(length: u32) -> Bytes {
        (0..length).map(|n| u8::try_from(n.wrapping_mul(0x9E37_79B9) >> 24).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_broken_body_of_an_object_that_was_replaced_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(format!("file://{}", folder.path().display()));
        create_root(&options, "main").unwrap();
        let bytes = pattern(100_000);
        let others = [Bytes::from_static(b"another"), bytes.iter().map(|byte| !byte).collect::<Bytes>()];
        for (inner, other) in
            others.into_iter().flat_map(|other| [(memory(), other.clone()), (open(&options, "main").unwrap(), other)])
        {
            let url = inner.url().to_owned();
            inner.delete(&key()).await.unwrap();
            inner.put_new(&key(), bytes.clone().into()).await.unwrap();
            let faulty = Faulty::new(inner, Plan::script([Some(Fault::Short(40_000))]));
            let store = Retrying::new(Arc::<Faulty>::clone(&faulty), limits());
            let object = store.get(&key()).await.unwrap();
            // A file is told by its time, which moves in steps.
            tokio::time::sleep(Duration::from_millis(30)).await;
            faulty.delete(&key()).await.unwrap();
            faulty.put_new(&key(), other.clone().into()).await.unwrap();
            let read = object.body.try_collect::<Vec<_>>().await;
            assert_eq!(read.unwrap_err().class, ErrorClass::Corrupt, "{} bytes at {url}", other.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_whose_answer_was_lost_does_not_take_what_was_written_under_the_name_since() {
        let payload = |text: &'static [u8]| Bytes::from_static(text).into();
        let inner = memory();
        inner.put_new(&key(), payload(b"theirs")).await.unwrap();
        let theirs = inner.head(&key()).await.unwrap();
        let lost = Faulty::new(Arc::clone(&inner), Plan::script([Some(Fault::After(ErrorClass::Transient))]));
        let store = Retrying::new(lost, limits());
        let taken = async {
            while inner.head(&key()).await.is_ok() {
                tokio::task::yield_now().await;
            }
            inner.put_new(&key(), payload(b"the kept server's")).await.unwrap();
        };
        let (removed, ()) = tokio::join!(store.delete_same(&theirs), taken);
        assert!(!removed.unwrap(), "another one has the name");
        let (_, bytes) = inner.get_tail(&key(), 100).await.unwrap();
        assert_eq!(bytes, b"the kept server's"[..]);
    }

    #[tokio::test]
    async fn whatever_fails_transiently_by_chance_ends_in_the_right_bytes() {
        let bytes = pattern(100_000);
        let faults = [TRANSIENT, Fault::Short(777), Fault::After(ErrorClass::Transient)];
        for seed in 0..50 {
            let (store, _) = store_of(&bytes, Plan::chance(seed, 3, &faults)).await;
            assert!(read(&store).await.unwrap() == bytes, "seed {seed}");
        }
    }
}
