//! A store that misbehaves by plan, for tests: those beside the code, and the faults by seed (`tests/sim`).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};
use walward_base::ErrorClass;
use walward_base::Locked;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing happened.
    Before(ErrorClass),
    /// It happened, and the answer is an error.
    After(ErrorClass),
    /// It happens late.
    Delay(Duration),
    /// It happened, and the answer comes late.
    Late(Duration),
    /// The answer never comes.
    Hang,
    /// A body ends, with a transient error, after so many bytes.
    Short(u64),
    /// One bit of the first bytes of a body is another.
    Corrupt,
    /// A list is the one that was given the last time, whatever happened since.
    Stale,
}

/// A call that may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `put`, `get`, `range`, `head`, `list`, `delete` or `upload`.
    pub verb: &'static str,
    /// The object or folder; the root is empty.
    pub key: &'a str,
}

/// Which call gets which fault.
pub enum Plan {
    /// The calls in order; those after the end go well.
    Script(VecDeque<Option<Fault>>),
    /// One call in `one_in` gets one of `faults`, by chance.
    Chance {
        /// Where chance comes from.
        random: Box<StdRng>,
        /// At least 1.
        one_in: u32,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// Whatever this says of each call.
    By(Box<dyn FnMut(Call<'_>) -> Option<Fault> + Send>),
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Script(_) => "Script",
            Self::Chance { .. } => "Chance",
            Self::By(_) => "By",
        })
    }
}

impl Plan {
    /// The calls in order; those after the end go well.
    pub fn script(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::Script(faults.into_iter().collect())
    }

    /// One call in `one_in` gets one of `faults`, as `seed` wants it.
    pub fn chance(seed: u64, one_in: u32, faults: &[Fault]) -> Self {
        Self::Chance { random: Box::new(StdRng::seed_from_u64(seed)), one_in, faults: faults.to_vec() }
    }

    fn next(&mut self, call: Call<'_>) -> Option<Fault> {
        match self {
            Self::Script(faults) => faults.pop_front().flatten(),
            Self::Chance { random, one_in, faults } => {
                if !random.random_ratio(1, *one_in) {
                    return None;
                }
                let chosen = random.random_range(0..faults.len());
                faults.get(chosen).copied()
            }
            Self::By(decide) => decide(call),
        }
    }
}

/// A [`Store`] over another whose calls fail by plan. Parts of an upload go by unharmed; its beginning does not.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
    /// The last list of each folder.
    lists: Mutex<HashMap<String, Listing>>,
}

impl Faulty {
    /// `inner`, failing by `plan`.
    pub fn new(inner: Arc<dyn Store>, plan: Plan) -> Arc<Self> {
        Arc::new(Self { inner, plan: Mutex::new(plan), lists: Mutex::default() })
    }

    /// Another plan from now on.
    pub fn plan(&self, plan: Plan) {
        *self.plan.locked() = plan;
    }

    /// How many calls of a script are still to come.
    pub fn left(&self) -> usize {
        match &*self.plan.locked() {
            Plan::Script(faults) => faults.len(),
            Plan::Chance { .. } | Plan::By(_) => usize::MAX,
        }
    }

    fn next(&self, verb: &'static str, key: &str) -> Option<Fault> {
        self.plan.locked().next(Call { verb, key })
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
            Some(Fault::After(_) | Fault::Late(_) | Fault::Short(_) | Fault::Corrupt | Fault::Stale) | None => {}
        }
        let answer = call.await?;
        match fault {
            Some(Fault::After(class)) => Err(error(class)),
            Some(Fault::Late(time)) => {
                tokio::time::sleep(time).await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}

impl Faulty {
    async fn range(
        &self,
        key: &ObjectKey,
        read: impl Future<Output = Result<Bytes, StoreError>>,
    ) -> Result<Bytes, StoreError> {
        let fault = self.next("range", key.as_str());
        let bytes = self.call(fault, read).await?;
        match fault {
            Some(Fault::Short(_)) => Err(StoreError::new(ErrorClass::Transient, "read", key.as_str(), "planned")),
            Some(Fault::Corrupt) => Ok(flipped(&bytes)),
            _ => Ok(bytes),
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

    fn creates(&self) -> Creates {
        self.inner.creates()
    }

    fn can_be_swapped(&self) -> bool {
        self.inner.can_be_swapped()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        self.call(self.next("put", key.as_str()), self.inner.put_new(key, payload)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let fault = self.next("get", key.as_str());
        let mut object = self.call(fault, self.inner.get(key)).await?;
        match fault {
            Some(Fault::Short(bytes)) => {
                let all = object.body.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
                let cut = Bytes::from(all).slice(..usize::try_from(bytes.min(object.info.size)).unwrap_or(0));
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
        self.range(key, self.inner.get_range(key, range)).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.range(&object.key, self.inner.get_range_of(object, range)).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let mut info = None;
        let read = async {
            let (found, bytes) = self.inner.get_tail(key, bytes_max).await?;
            info = Some(found);
            Ok(bytes)
        };
        let bytes = self.range(key, read).await?;
        info.map(|info| (info, bytes))
            .ok_or_else(|| StoreError::new(ErrorClass::Permanent, "read", key.as_str(), "it was not read"))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.call(self.next("head", key.as_str()), self.inner.head(key)).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let name = folder.map_or("", ObjectKey::as_str);
        let fault = self.next("list", name);
        let now = self.call(fault, self.inner.list(folder)).await?;
        let mut lists = self.lists.locked();
        if fault == Some(Fault::Stale)
            && let Some(before) = lists.get(name)
        {
            return Ok(before.clone());
        }
        lists.insert(name.to_owned(), now.clone());
        Ok(now)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.call(self.next("delete", key.as_str()), self.inner.delete(key)).await
    }

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        self.call(self.next("delete", object.key.as_str()), self.inner.delete_same(object)).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.call(self.next("keep", key.as_str()), self.inner.keep(key)).await
    }

    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        self.call(self.next("unfinished", ""), self.inner.unfinished(age_min, remove)).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.call(self.next("upload", key.as_str()), self.inner.start_upload(key, expected_bytes)).await
    }
}
