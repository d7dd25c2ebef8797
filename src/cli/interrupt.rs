//! Ctrl-C and SIGTERM end work in order, and end it.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use crate::outcome::Exit;

/// How long work that was cancelled may take to end in order. A file system that hangs, or a store, must not hold a process that is told
/// to end, which systemd kills after 90 s by default.
const END_TIME_MAX: Duration = Duration::from_secs(25);

/// Runs `work` to its end; a signal cancels `cancel`, which `work` heeds. A second signal finds the default action gone, so work
/// that has not ended in order after [`END_TIME_MAX`] is left where it is.
pub(super) async fn cancelled_by_signals<T, E: Into<Failure>>(
    cancel: CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    ended_by_signals(cancel, END_TIME_MAX, work).await
}

async fn ended_by_signals<T, E: Into<Failure>>(
    cancel: CancellationToken,
    time_max: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return work.await.map_err(Into::into);
    };
    tokio::pin!(work);
    let too_long = async {
        cancel.cancelled().await;
        tokio::time::sleep(time_max).await;
    };
    tokio::pin!(too_long);
    loop {
        tokio::select! {
            ended = &mut work => return ended.map_err(Into::into),
            _ = interrupt.recv() => cancel.cancel(),
            _ = terminate.recv() => cancel.cancel(),
            () = &mut too_long => {
                let text = format!("interrupted; what was under way did not end in order within {} s", time_max.as_secs());
                return Err(Failure::new(Exit::Interrupted, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_ends_work_that_hangs() {
        let hung = std::future::pending::<Result<(), Failure>>();
        let work = ended_by_signals(CancellationToken::new(), Duration::from_millis(50), hung);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The handler is there: this process goes on.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        };
        let both = async { tokio::join!(work, kill).0 };
        let failure = tokio::time::timeout(Duration::from_mins(1), both).await.unwrap().unwrap_err();
        assert_eq!(failure.exit, Exit::Interrupted);
    }

    #[tokio::test]
    async fn work_that_ends_in_order_says_how() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let work = async { Err::<(), _>(Failure::new(Exit::Locked, "said by the work")) };
        let failure = cancelled_by_signals(cancel, work).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Locked);
    }
}
