//! Ctrl-C and SIGTERM end work in order.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs `work` to its end; a signal cancels `cancel`, which `work` heeds. A second signal finds the default action gone,
/// so work must end by itself within its own deadlines.
pub(super) async fn cancelled_by_signals<T>(cancel: CancellationToken, work: impl Future<Output = T>) -> T {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return work.await;
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            ended = &mut work => return ended,
            _ = interrupt.recv() => cancel.cancel(),
            _ = terminate.recv() => cancel.cancel(),
        }
    }
}
