//! The places at a store: how many calls of this process are under way there.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Limits, StoreError};
use walward_base::sys::shared::Shared;
use walward_base::{ErrorClass, format_duration};

/// The places at one store; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    concurrency: usize,
    wait_max: Duration,
}

/// By the store's address: however many handles there are, a store has no more calls of this process under way.
static PLACES: Shared<Semaphore> = Shared::new();

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let concurrency = limits.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(concurrency)), concurrency, wait_max: limits.retry_deadline }
    }

    /// The process's places at the store with this address.
    pub(super) fn at(address: &str, limits: &Limits) -> Self {
        let places = Self::new(limits);
        let name = format!("{address} {}", places.concurrency);
        Self { free: PLACES.get(name, || Semaphore::new(places.concurrency)), ..places }
    }

    /// Waits for a place, which is free again when the answer is dropped.
    pub(super) async fn take(&self, verb: &'static str, key: impl Display) -> Result<OwnedSemaphorePermit, StoreError> {
        let wait = tokio::time::timeout(self.wait_max, Arc::clone(&self.free).acquire_owned());
        if let Ok(Ok(place)) = wait.await {
            return Ok(place);
        }
        let (all, time) = (self.concurrency, format_duration(self.wait_max));
        let cause = format!("all {all} places at this store were taken for {time}");
        Err(StoreError::new(ErrorClass::Transient, verb, key.to_string(), cause))
    }
}
