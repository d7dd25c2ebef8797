//! Trying again what may heal: exponential back-off with full jitter, for [`walward_base::ErrorClass::Transient`] alone.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::error::Cause;
use super::{Limits, StoreError, patience};

/// The longest pause before attempt `attempt + 2`, counted from 0.
fn backoff_bound(limits: &Limits, attempt: u32) -> Duration {
    let factor = 2u32.checked_pow(attempt).unwrap_or(u32::MAX);
    limits.retry_first_backoff.saturating_mul(factor).min(limits.retry_max_backoff)
}

/// Calls `attempt` until it answers something else than [`walward_base::ErrorClass::Transient`], or until there is no time left for
/// another one, by the store's limits or by its caller's. The last error is the answer then.
pub(super) async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
    limits: &Limits,
    what: impl Display,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let deadline = Instant::now() + limits.retry_deadline;
    let deadline = patience::here().map_or(deadline, |until| until.min(deadline));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound() {
        let limits = Limits::default();
        let bounds: Vec<_> = (0..8).map(|attempt| backoff_bound(&limits, attempt).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff_bound(&limits, u32::MAX).as_millis(), 5_000);
    }
}
