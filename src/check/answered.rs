//! A look at a file system that may hang.

use std::time::Duration;

/// How long a file system may take to say what is asked of it.
pub(crate) const FILE_SYSTEM_DEADLINE: Duration = Duration::from_secs(10);

/// What `work` finds out, which blocks in a file system; `None` when that has not answered within `deadline`: a mount whose
/// server is gone holds whoever looks at it, and a check must say so instead of hanging with it.
pub(crate) async fn answered<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_system_that_hangs_does_not_hold_the_check() {
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let begun = std::time::Instant::now();
        let found = answered(Duration::from_millis(50), move || held.recv().is_ok()).await;
        assert_eq!(found, None);
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(release);
        assert_eq!(answered(Duration::from_secs(10), || 7).await, Some(7));
    }
}
