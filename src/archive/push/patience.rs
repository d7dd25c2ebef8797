//! How long a push waits: for a store that is slow, until the deadline; for one that gives no answer, a moment.
//!
//! PostgreSQL's archiver asks for one file at a time, and a server that is told to stop waits for it, and then for three more tries
//! of the next file (`PgArchiverMainLoop` and `NUM_ARCHIVE_RETRIES`, pgarch.c, 13 to 18). A push that waited for its whole deadline each
//! time would hold a fast shutdown for minutes. So one that has waited for [`FIRST_WAIT`] asks its repositories whether they answer at
//! all, and ends when too few of them do; and while too few can be written to, a push waits for [`FAILING_WAIT`] only. Nothing is given
//! up by that: the upload goes on, and the next push finds what it brought.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use walward_repo::LazyRepository;

/// How long a push waits before the repositories are asked whether they answer.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// How long they may take to answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a push waits while too few repositories can be written to.
const FAILING_WAIT: Duration = Duration::from_secs(1);

/// What a push does that its file has not been decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits for so long, then the repositories are asked whether they answer.
    Wait(Duration),
    /// It waits for so long, then it ends: too few repositories can be written to.
    LastWait(Duration),
    /// It ends: the deadline has passed.
    Late,
}

/// Decides, for a push that began `waited` ago and has until `deadline`, of which `writable` repositories are or may be reached and
/// `needed` have to be. Pure.
pub fn next(waited: Duration, deadline: Duration, writable: usize, needed: usize) -> Next {
    let left = deadline.saturating_sub(waited);
    if left.is_zero() {
        Next::Late
    } else if writable < needed {
        Next::LastWait(FAILING_WAIT.min(left))
    } else {
        Next::Wait(FIRST_WAIT.min(left))
    }
}

/// What became of waiting for an upload.
pub enum Waited<T> {
    /// It came to its end.
    Done(T),
    /// The deadline passed.
    Late,
    /// Too few repositories can be written to.
    Unanswered,
}

/// Waits for `work` as long as there is hope: see [`next`]. `writable` counts the repositories that have the file, or may take it.
pub async fn hope_for<T>(
    mut work: impl Future<Output = T> + Unpin,
    deadline: Duration,
    repositories: &[Arc<LazyRepository>],
    writable: impl Fn() -> usize,
    needed: usize,
) -> Waited<T> {
    let begun = Instant::now();
    loop {
        match next(begun.elapsed(), deadline, writable(), needed) {
            Next::Late => return Waited::Late,
            Next::LastWait(wait) => return timeout(wait, work).await.map_or(Waited::Unanswered, Waited::Done),
            Next::Wait(wait) => {
                if let Ok(done) = timeout(wait, &mut work).await {
                    return Waited::Done(done);
                }
                let left = deadline.saturating_sub(begun.elapsed());
                tokio::select! {
                    biased;
                    done = &mut work => return Waited::Done(done),
                    _ = timeout(left, probe(repositories)) => {}
                }
            }
        }
    }
}

/// Asks every repository whether it answers. One that does not counts as one that cannot be written to, until something was.
async fn probe(repositories: &[Arc<LazyRepository>]) {
    join_all(repositories.iter().map(async |lazy| {
        if let Err(why) = lazy.probe(PROBE_PATIENCE).await {
            lazy.standing().writes().open(&why);
        }
    }))
    .await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_push_waits_beyond_its_deadline_and_none_long_for_stores_that_do_not_answer(
            deadline in 1u64..4000,
            reachable in 0usize..4,
            needed in 1usize..4,
        ) {
            let deadline = Duration::from_secs(deadline);
            let mut waited = Duration::ZERO;
            while let step @ (Next::Wait(wait) | Next::LastWait(wait)) = next(waited, deadline, reachable, needed) {
                waited += wait;
                if matches!(step, Next::LastWait(_)) {
                    break;
                }
            }
            prop_assert!(waited <= deadline);
            if reachable < needed {
                prop_assert!(waited <= FAILING_WAIT);
            } else {
                prop_assert_eq!(waited, deadline);
            }
        }
    }
}
