//! One call to a store, ended within its time.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use super::StoreError;
use walward_base::sys::panics;
use walward_base::{ErrorClass, format_duration};

/// Waits for `call` for no longer than `limit`; then it is [`ErrorClass::Transient`], and whether it had an effect is unknown.
pub(super) async fn within<T>(
    limit: Duration,
    verb: &'static str,
    key: impl Display,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        // A fault of the library, or ours, and of one call: it takes no task with it, and does not pass for anything else.
        Ok(Err(panic)) => {
            let cause = format!(
                "the code that talks to the store failed ({}): this is a fault of the program; check the repository's table, and report it",
                panics::message(&*panic)
            );
            Err(StoreError::new(ErrorClass::Permanent, verb, key.to_string(), cause))
        }
        Err(_) => {
            let cause = format!("no answer within {}", format_duration(limit));
            Err(StoreError::new(ErrorClass::Transient, verb, key.to_string(), cause))
        }
    }
}
