//! How long the caller of a store waits, where that is shorter than the store's own limits say. Known to the task, so that nothing
//! between the two has to hand it on.

use tokio::time::Instant;

tokio::task_local! {
    static UNTIL: Instant;
}

/// Does `work`, in which no call to a store is tried again after `until`: so that its caller still hears what failed. An attempt
/// that hangs is not ended by this.
pub async fn patient_until<F: Future>(until: Instant, work: F) -> F::Output {
    let until = here().map_or(until, |outer| outer.min(until));
    UNTIL.scope(until, work).await
}

/// Does `work` under the bound of whoever calls this, in whatever task it will run.
pub fn as_patient_as_here<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let until = here();
    async move {
        match until {
            Some(until) => UNTIL.scope(until, work).await,
            None => work.await,
        }
    }
}

/// The bound of the running task.
pub(super) fn here() -> Option<Instant> {
    UNTIL.try_with(|until| *until).ok()
}
