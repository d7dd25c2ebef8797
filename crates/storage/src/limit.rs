//! A bound on how many calls and bodies are under way at one store.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::error::shown;
use super::places::Places;
use super::{
    Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};

/// A [`Store`] of which only so many calls run at the same time. A body that is being read holds its place until it ends
/// or is dropped. An upload takes a place for each of its parts, not for itself.
#[derive(Debug)]
pub(super) struct Limited {
    inner: Arc<dyn Store>,
    places: Places,
}

impl Limited {
    pub(super) fn new(inner: Arc<dyn Store>, places: Places) -> Self {
        Self { inner, places }
    }

    async fn place(&self, verb: &'static str, key: &ObjectKey) -> Result<OwnedSemaphorePermit, StoreError> {
        self.places.take(verb, shown(self.inner.url(), key.as_str())).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Limited {
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
        let _place = self.place("write", key).await?;
        self.inner.put_new(key, payload).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let place = self.place("read", key).await?;
        let object = self.inner.get(key).await?;
        let body = futures::stream::unfold(Some((object.body, place)), |state| async move {
            let (mut body, place) = state?;
            match body.next().await {
                Some(Ok(bytes)) => Some((Ok(bytes), Some((body, place)))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        });
        Ok(StoredObject { info: object.info, body: body.boxed() })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _place = self.place("read", key).await?;
        self.inner.get_range(key, range).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _place = self.place("read", &object.key).await?;
        self.inner.get_range_of(object, range).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let _place = self.place("read", key).await?;
        self.inner.get_tail(key, bytes_max).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        let _place = self.place("look at", key).await?;
        self.inner.head(key).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let path = folder.map_or("", ObjectKey::as_str);
        let _place = self.places.take("list", shown(self.inner.url(), path)).await?;
        self.inner.list(folder).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _place = self.place("delete", key).await?;
        self.inner.delete(key).await
    }

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        let _place = self.place("delete", &object.key).await?;
        self.inner.delete_same(object).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _place = self.place("keep", key).await?;
        self.inner.keep(key).await
    }

    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        let _place = self.places.take("look through", shown(self.inner.url(), "")).await?;
        self.inner.unfinished(age_min, remove).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.start_upload(key, expected_bytes).await
    }
}

#[cfg(test)]
mod tests {
    use walward_base::ErrorClass;

    use super::*;
    use crate::{Limits, memory};

    #[tokio::test]
    async fn a_body_holds_its_place_until_it_ends_or_is_dropped() {
        let key = ObjectKey::new("a").unwrap();
        let limits = Limits { concurrency: 1, retry_deadline: Duration::from_millis(30), ..Limits::default() };
        let store = Limited::new(memory(), Places::new(&limits));
        store.put_new(&key, vec![1; 10].into()).await.unwrap();

        let mut object = store.get(&key).await.unwrap();
        let error = store.head(&key).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert!(error.source.to_string().contains("all 1 places"), "{}", error.source);

        while object.body.next().await.is_some() {}
        store.head(&key).await.unwrap();

        drop(store.get(&key).await.unwrap());
        store.head(&key).await.unwrap();
    }
}
