//! A store that misbehaves by plan, for tests.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Upload};
use crate::base::ErrorClass;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error, and nothing happened.
    Before(ErrorClass),
    /// It happened, and the answer is an error.
    After(ErrorClass),
    /// The answer comes late.
    Delay(Duration),
    /// The answer never comes.
    Hang,
    /// A body ends, with a transient error, after so many bytes.
    Short(u64),
    /// One bit of the first bytes of a body is another.
    Corrupt,
}

/// Which call gets which fault.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The calls in order; those after the end go well.
    Script(VecDeque<Option<Fault>>),
    /// One call in `one_in` gets one of `faults`, by chance.
    Chance { random: Box<StdRng>, one_in: u32, faults: Vec<Fault> },
}

impl Plan {
    pub(crate) fn script(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::Script(faults.into_iter().collect())
    }

    pub(crate) fn chance(seed: u64, one_in: u32, faults: &[Fault]) -> Self {
        Self::Chance { random: Box::new(StdRng::seed_from_u64(seed)), one_in, faults: faults.to_vec() }
    }

    fn next(&mut self) -> Option<Fault> {
        match self {
            Self::Script(faults) => faults.pop_front().flatten(),
            Self::Chance { random, one_in, faults } => {
                random.random_ratio(1, *one_in).then(|| faults[random.random_range(0..faults.len())])
            }
        }
    }
}

/// A [`Store`] over another whose calls fail by plan. Parts of an upload go by unharmed; its beginning does not.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Store>, plan: Plan) -> Arc<Self> {
        Arc::new(Self { inner, plan: Mutex::new(plan) })
    }

    /// How many calls of a script are still to come.
    pub(crate) fn left(&self) -> usize {
        match &*self.plan.lock().unwrap() {
            Plan::Script(faults) => faults.len(),
            Plan::Chance { .. } => usize::MAX,
        }
    }

    fn next(&self) -> Option<Fault> {
        self.plan.lock().unwrap().next()
    }

    async fn call<T>(
        &self,
        fault: Option<Fault>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let error = |class| StoreError::new(class, "try", "fault", "planned");
        match fault {
            Some(Fault::Before(class)) => return Err(error(class)),
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::After(_) | Fault::Short(_) | Fault::Corrupt) | None => {}
        }
        let answer = call.await?;
        match fault {
            Some(Fault::After(class)) => Err(error(class)),
            _ => Ok(answer),
        }
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Faulty {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn conditional_create(&self) -> bool {
        self.inner.conditional_create()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        self.call(self.next(), self.inner.put_new(key, payload)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let fault = self.next();
        let mut object = self.call(fault, self.inner.get(key)).await?;
        match fault {
            Some(Fault::Short(bytes)) => {
                let all = object.body.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
                let cut = Bytes::from(all).slice(..usize::try_from(bytes.min(object.info.size)).unwrap());
                let error = StoreError::new(ErrorClass::Transient, "read", key.as_str(), "planned");
                object.body = futures::stream::iter([Ok(cut), Err(error)]).boxed();
            }
            Some(Fault::Corrupt) => {
                let mut first = true;
                let flip = move |bytes: Bytes| {
                    if std::mem::take(&mut first) { flipped(&bytes) } else { bytes }
                };
                let mut flip = flip;
                object.body = object.body.map(move |bytes| bytes.map(&mut flip)).boxed();
            }
            _ => {}
        }
        Ok(object)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fault = self.next();
        let bytes = self.call(fault, self.inner.get_range(key, range)).await?;
        match fault {
            Some(Fault::Short(_)) => Err(StoreError::new(ErrorClass::Transient, "read", key.as_str(), "planned")),
            Some(Fault::Corrupt) => Ok(flipped(&bytes)),
            _ => Ok(bytes),
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.call(self.next(), self.inner.head(key)).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        self.call(self.next(), self.inner.list(folder)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.call(self.next(), self.inner.delete(key)).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.call(self.next(), self.inner.start_upload(key, expected_bytes)).await
    }
}
