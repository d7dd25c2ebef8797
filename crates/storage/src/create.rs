//! Creating where nothing is, on stores that may not do so themselves.
//!
//! A store's success is no proof: Garage 2.5 accepts `If-None-Match: *` and overwrites, s3s-fs looks and then writes, so that
//! several writers at once win, Swift's S3 interface answers 501. So the first write of a handle tries it: [`RACERS`]
//! creates of one temporary name at the same moment, of which a sound store lets exactly one succeed. (Whether a store
//! races can only be found out by chance: with s3s-fs four handles of five do.)
//!
//! Where the store does not keep writers apart, a create looks, writes, lets the writers of the same moment finish, and
//! reads back what lies there. Who comes later finds the object; of those that write at the same time only the one whose
//! bytes are there in the end is told that it created the object. What that cannot promise: a writer that looked before
//! another had written, and whose own bytes become visible only after the other has read back (a stall between the two, or
//! a request that the store carries out after it was given up), replaces an object that was acknowledged.
//!
//! A crash while it is tried leaves one object of a few bytes with a name of [`is_temporary`], which no listing shows.

use std::time::Duration;

use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use tokio::time::Instant;

use super::classify::{Classified, judge};
use super::client::{ENDS_BYTES, ObjectStoreBacked, tail};
use super::creates::Creates;
use super::{ObjectKey, Payload, Put, StoreError};
use walward_base::ErrorClass;

/// How many creates of one name are tried at once.
const RACERS: u8 = 8;
/// The pause before what was written is read back, as a multiple of what look and write took, and its bounds.
const SETTLE_FACTOR: u32 = 2;
const SETTLE_MIN: Duration = Duration::from_millis(100);
const SETTLE_MAX: Duration = Duration::from_secs(10);

const TEMPORARY: &str = ".walward-";

/// Whether a name is one that [`ObjectStoreBacked`] made for itself.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// What the answers to creates of one name at the same moment tell. `None`: nothing.
fn judge_race(created: usize, refused: usize, unsupported: usize) -> Option<Creates> {
    match (created, refused) {
        (0, _) if unsupported > 0 => Some(Creates::Unsupported),
        (1, 1..) => Some(Creates::Once),
        (2.., 0) => Some(Creates::Overwrites),
        (2.., 1..) => Some(Creates::Races),
        _ => None,
    }
}

impl ObjectStoreBacked {
    /// Whether the store keeps writers apart; tried when it is first asked, and remembered.
    async fn learned(&self, key: &ObjectKey) -> Result<Creates, StoreError> {
        let creates = self.0.creates.get_or_try_init(|| self.learn(key)).await?;
        Ok(*creates)
    }

    async fn learn(&self, key: &ObjectKey) -> Result<Creates, StoreError> {
        let path = self.0.prefix.clone().join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()));
        let attempt = async |writer: u8| {
            let payload = Payload::from(vec![writer]);
            self.send(&path, &payload, PutMode::Create).await
        };
        let answers = join_all((0..RACERS).map(&attempt)).await;
        let count = |which: &dyn Fn(&Classified) -> bool| {
            answers.iter().filter(|answer| answer.as_ref().err().is_some_and(which)).count()
        };
        let created = answers.iter().filter(|answer| answer.is_ok()).count();
        // A conflict with a write that is under way is a refusal, too.
        let refused = |verdict: &Classified| verdict.says_exists() || verdict.status == Some(409);
        let mut told = judge_race(created, count(&refused), count(&Classified::says_unsupported));
        if told == Some(Creates::Overwrites) && attempt(RACERS).await.is_err_and(|verdict| refused(&verdict)) {
            told = Some(Creates::Races);
        }
        if created > 0 {
            // Whatever answers everything with success has won every race, and has nothing.
            let read = async { self.0.client.get(&path).await?.bytes().await };
            match read.await.map_err(|error| judge(&error)) {
                Ok(bytes) if matches!(*bytes, [0..=RACERS]) => {}
                Ok(_) => return Err(self.failed_write(key, Classified::unproven("what is there is something else"))),
                Err(verdict) if verdict.class == ErrorClass::NotFound => {
                    return Err(self.failed_write(key, Classified::unproven("nothing is there")));
                }
                Err(verdict) => return Err(self.failed_write(key, verdict)),
            }
            if let Err(error) = self.0.client.delete(&path).await {
                let cause = judge(&error).cause;
                tracing::debug!(store = self.0.url, object = %path, cause, "a temporary object stays");
            }
        }
        if let Some(creates) = told {
            if creates.is_unsafe() {
                tracing::warn!(
                    store = self.0.url,
                    "the store {}: looking before writing and reading back after, which does not keep writers apart in every case; let only one server archive each timeline",
                    creates.words()
                );
            }
            return Ok(creates);
        }
        let failure = answers.into_iter().filter_map(Result::err).find(|verdict| !refused(verdict));
        let undecided =
            || Classified::new(ErrorClass::Transient, "of several writers at once none was told that it wrote");
        Err(self.failed_write(key, failure.unwrap_or_else(undecided)))
    }

    /// As [`super::Store::put_new`].
    pub(super) async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<Put, StoreError> {
        let path = self.path(key);
        if self.learned(key).await?.is_unsafe() {
            return self.create_and_look(key, &path, payload).await;
        }
        let Err(verdict) = self.put(&path, payload, PutMode::Create).await else { return Ok(Put::Created) };
        if verdict.says_exists() { Ok(Put::Exists) } else { Err(self.failed_write(key, verdict)) }
    }

    async fn create_and_look(&self, key: &ObjectKey, path: &Path, payload: &Payload) -> Result<Put, StoreError> {
        let began = Instant::now();
        match self.head_path(path).await {
            Ok(_) => return Ok(Put::Exists),
            Err(verdict) if verdict.class == ErrorClass::NotFound => {}
            Err(verdict) => return Err(self.failed_write(key, verdict)),
        }
        let sent = self.send(path, payload, PutMode::Overwrite).await;
        sent.map_err(|verdict| self.failed_write(key, verdict))?;
        tokio::time::sleep((began.elapsed() * SETTLE_FACTOR).clamp(SETTLE_MIN, SETTLE_MAX)).await;
        match self.holds(path, payload).await {
            Ok(true) => Ok(Put::Created),
            Ok(false) => {
                tracing::warn!(
                    object = super::error::shown(&self.0.url, key.as_str()),
                    "another writer wrote this name at the same moment; what it wrote is there"
                );
                Ok(Put::Exists)
            }
            Err(verdict) if verdict.class == ErrorClass::NotFound => {
                let cause = "it was written and is not there: somebody removes objects";
                Err(self.failed_write(key, Classified::new(ErrorClass::Transient, cause)))
            }
            Err(verdict) => Err(self.failed_write(key, verdict)),
        }
    }

    /// Whether what lies at `path` is `payload`: its length and its ends are.
    async fn holds(&self, path: &Path, payload: &Payload) -> Result<bool, Classified> {
        let size = payload.len();
        Ok(self.ends_so(path, size, &tail(payload)).await?
            && self.has(path, 0, &payload.slice(0, ENDS_BYTES.min(size))).await?)
    }
}
