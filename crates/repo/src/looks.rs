//! Whether a repository is still the one that was opened, seen while it is written to.
//!
//! A bucket that was emptied, or an empty mount point, takes objects as well as a repository does, and nobody could read what was sealed
//! for the keys that went. So no write counts before the identity was seen by a look that began after the write did; on a store that can
//! be swapped ([`walward_storage::Store::can_be_swapped`]), after it had ended.
//!
//! One look serves every write that waits for it, so that a backlog costs about one small request a round trip: at most one is under way,
//! and who comes while it is shares the next one. What it asks for is the first generation of the identity, which is never removed and
//! says all that does not change; only when that is not what it was, the newest one is looked for. A look that is given up half-way serves
//! nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::error::RepoError;
use super::identity::{self, Identity};
use walward_base::ErrorClass;
use walward_storage::Store;

/// The looks at one open repository; its clones share them.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How many have begun.
    begun: AtomicU64,
    last: Mutex<Last>,
    gone: AtomicBool,
}

/// The last look that ended.
#[derive(Debug)]
struct Last {
    number: u64,
    seen: Result<(), Arc<RepoError>>,
}

impl Default for Last {
    fn default() -> Self {
        Self { number: 0, seen: Ok(()) }
    }
}

impl Looks {
    /// That the repository opened as `opened` is there, by a look that begins after this call.
    pub(super) async fn see(&self, store: &dyn Store, opened: &Identity) -> Result<(), RepoError> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.number <= before {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let seen = look(store, opened).await;
            self.note(&seen);
            *last = Last { number, seen: seen.map_err(Arc::new) };
        }
        last.seen.as_ref().copied().map_err(|error| RepoError::again(store.url(), error))
    }

    /// Remembers whether the repository was seen to be another one, or none.
    pub(super) fn note<T>(&self, seen: &Result<T, RepoError>) {
        let gone = seen.as_ref().is_err_and(RepoError::is_gone);
        if gone || seen.is_ok() {
            self.gone.store(gone, Ordering::SeqCst);
        }
    }

    /// Whether it was seen last that the repository is another one, or none.
    pub(super) fn found_it_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

async fn look(store: &dyn Store, opened: &Identity) -> Result<(), RepoError> {
    match identity::first(store).await {
        Ok(first) if first.is_of(opened) => return Ok(()),
        Ok(_) => {}
        Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {}
        Err(error) => return Err(error),
    }
    identity::load_again(store, opened).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures::future::join_all;
    use jiff::Timestamp;

    use super::*;
    use walward_storage::fault::{Fault, Faulty, Plan};
    use walward_storage::memory;

    async fn made(inner: &Arc<dyn Store>) -> Identity {
        let identity = Identity::new("main", None, Timestamp::UNIX_EPOCH);
        assert!(identity::put(&**inner, 1, &identity).await.expect("put"));
        identity
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_serves_all_who_came_before_it_began_and_nobody_who_came_later() {
        let inner = memory();
        let identity = made(&inner).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let slow = Plan::By(Box::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Fault::Delay(Duration::from_secs(1)))
        }));
        let store = Faulty::new(inner.clone(), slow);
        let looks = Looks::default();
        let one = looks.see(&*store, &identity);
        let others = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // The first look may have read the identity before this.
            inner.delete(&super::super::layout::identity(1)).await.expect("deleted");
            join_all((0..10).map(|_| looks.see(&*store, &identity))).await
        };
        let (_, others) = futures::join!(one, others);
        assert!(others.iter().all(|seen| matches!(seen, Err(RepoError::NoRepository { .. }))), "{others:?}");
        assert!(looks.found_it_gone());
        // The first one's, the next one's, and a listing for a clear answer of either.
        assert!(asked.load(Ordering::SeqCst) <= 4, "{asked:?}");
    }

    #[tokio::test]
    async fn a_look_that_is_given_up_serves_nobody_and_one_that_fails_leaves_open_what_is_there() {
        let inner = memory();
        let identity = made(&inner).await;
        let faults = [Some(Fault::Hang), Some(Fault::Before(ErrorClass::Transient))];
        let store = Faulty::new(inner, Plan::script(faults));
        let looks = Looks::default();
        assert!(futures::FutureExt::now_or_never(looks.see(&*store, &identity)).is_none());
        let error = looks.see(&*store, &identity).await.expect_err("the store fails");
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(!looks.found_it_gone());
        looks.see(&*store, &identity).await.expect("it is there");
    }
}
