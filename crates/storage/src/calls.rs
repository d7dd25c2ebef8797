//! What bounds the single calls of which a long one is made, such as the parts of an upload: the layers see only the whole.

use std::future::Future;

use super::backoff::retried;
use super::places::Places;
use super::time_limit::within;
use super::{Limits, StoreError};

/// What bounds the calls to one store; clones share the places.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) limits: Limits,
    pub(super) places: Places,
}

impl Calls {
    pub(super) fn new(limits: Limits) -> Self {
        Self { places: Places::new(&limits), limits }
    }

    /// As [`Calls::new`]; the places are those of this process at the store with this address.
    pub(super) fn at(address: &str, limits: Limits) -> Self {
        Self { places: Places::at(address, &limits), limits }
    }

    /// One step of a write: tried again, each attempt in a place of its own and within its time.
    pub(super) async fn call<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        bytes: u64,
        name: &str,
        step: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let step = &step;
        retried(&self.limits, name, || async move {
            let _place = self.places.take("write", name).await?;
            within(self.limits.attempt_timeout(bytes), "write", name, step()).await
        })
        .await
    }
}
