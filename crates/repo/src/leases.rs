//! The leases that one work holds on several repositories, renewed while it goes on.
//!
//! Time alone renews nothing: work that hangs would keep all others away for ever. What renews a lease is that something was read or
//! written since, as the work's pulse says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::lease::{Holder, Lease, LeaseError, Work};
use super::repository::Repository;

/// How the leases are held.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// For how long they are taken: so long a crashed holder keeps others away.
    pub length: Duration,
    /// How often they are renewed.
    pub renewal: Duration,
    /// How soon a renewal that failed is tried again.
    pub again: Duration,
    /// How long one attempt to renew or to give back may take.
    pub attempt: Duration,
}

/// Three renewals may fail before a lease runs out.
pub const TERMS: Terms = Terms {
    length: Duration::from_mins(4),
    renewal: Duration::from_mins(1),
    again: Duration::from_secs(10),
    attempt: Duration::from_secs(30),
};

impl Terms {
    /// For work that may wait for `read_deadline` for one read, and then says what hangs: the lease must last for that.
    pub fn of(read_deadline: Duration) -> Self {
        Self { length: TERMS.length.max(read_deadline.saturating_add(TERMS.renewal)), ..TERMS }
    }
}

/// Why the leases were not taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot take the lease on repository {repository}")]
pub struct NotTaken {
    /// The repository's name.
    pub repository: String,
    /// What stands in the way there.
    pub source: LeaseError,
}

/// Leases on one or several repositories. Dropped without [`Leases::release`], they are no longer renewed and run out.
pub struct Leases {
    /// One task a repository; it gives the lease back as long as it holds it.
    keepers: JoinSet<Option<(String, Lease)>>,
    done: CancellationToken,
    lost: Arc<OnceLock<String>>,
    attempt: Duration,
}

impl Leases {
    /// Takes the lease on `work` in every repository. When one is lost later, `stop` is cancelled. `pulse` says whether something was read or
    /// written since it was asked last.
    ///
    /// # Errors
    /// Somebody else has one, or a repository fails; those already taken are given back.
    pub async fn take(
        repositories: &[Repository],
        (work, host): (Work, &str),
        terms: Terms,
        pulse: impl FnMut() -> bool + Clone + Send + 'static,
        stop: CancellationToken,
    ) -> Result<Self, NotTaken> {
        let attempt = terms.attempt;
        let mut leases =
            Self { keepers: JoinSet::new(), done: CancellationToken::new(), lost: Arc::default(), attempt };
        let holder = Holder::this(host);
        for repository in repositories {
            let name = repository.name().to_owned();
            match Lease::take(repository, work, &holder, terms.length, Timestamp::now()).await {
                Ok(lease) => {
                    let (pulse, lost) = (pulse.clone(), Arc::clone(&leases.lost));
                    let keeper = Keeper { terms, name, pulse, lost, stop: stop.clone() };
                    leases.keepers.spawn(keeper.keep(lease, leases.done.clone()).in_current_span());
                }
                Err(source) => {
                    leases.release().await;
                    return Err(NotTaken { repository: name, source });
                }
            }
        }
        Ok(leases)
    }

    /// The repository of which the lease was lost, if one was.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Gives all leases back, best effort: one that cannot be given back runs out.
    pub async fn release(mut self) {
        self.done.cancel();
        while let Some(kept) = self.keepers.join_next().await {
            let Ok(Some((repository, lease))) = kept else { continue };
            match tokio::time::timeout(self.attempt, lease.release(Timestamp::now())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let (class, error): (_, &dyn std::error::Error) = (error.class(), &error);
                    tracing::warn!(repository, error_class = %class, error, "the lease was not given back, and runs out");
                }
                Err(_) => tracing::warn!(repository, "the lease was not given back in time, and runs out"),
            }
        }
    }
}

struct Keeper<P> {
    terms: Terms,
    name: String,
    pulse: P,
    lost: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl<P: FnMut() -> bool> Keeper<P> {
    /// Renews until `done`; then gives the lease back. `None` when it was lost.
    async fn keep(mut self, mut lease: Lease, done: CancellationToken) -> Option<(String, Lease)> {
        let mut pause = self.terms.renewal;
        let mut beaten = false;
        while done.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            beaten |= (self.pulse)();
            if !beaten {
                pause = self.terms.again;
                if lease.has_run_out() {
                    tracing::error!(repository = self.name, "the lease ran out: nothing was read or written");
                    return self.lose();
                }
                continue;
            }
            let error = match tokio::time::timeout(self.terms.attempt, lease.renew(Timestamp::now())).await {
                Ok(Ok(())) => {
                    pause = self.terms.renewal;
                    beaten = false;
                    continue;
                }
                Ok(Err(error @ LeaseError::Repo(_))) => Some(error),
                Ok(Err(error)) => return self.give_up(&error),
                Err(_) => None,
            };
            pause = self.terms.again;
            match error {
                // From the moment that it runs out somebody else may begin.
                Some(error) if lease.has_run_out() => return self.give_up(&error),
                Some(error) => {
                    let (class, error): (_, &dyn std::error::Error) = (error.class(), &error);
                    tracing::warn!(repository = self.name, error_class = %class, error, "the lease was not renewed yet");
                }
                None if lease.has_run_out() => {
                    tracing::error!(repository = self.name, "the lease ran out: the store does not answer");
                    return self.lose();
                }
                None => tracing::warn!(repository = self.name, "the lease was not renewed yet: no answer"),
            }
        }
        Some((self.name, lease))
    }

    fn give_up(self, error: &LeaseError) -> Option<(String, Lease)> {
        let (class, error): (_, &dyn std::error::Error) = (error.class(), error);
        tracing::error!(repository = self.name, error_class = %class, error, "the lease was lost");
        self.lose()
    }

    fn lose(self) -> Option<(String, Lease)> {
        // Another one may have been lost before; one is enough to say.
        let _ = self.lost.set(self.name);
        self.stop.cancel();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encryption;
    use std::sync::atomic::{AtomicBool, Ordering};
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::Store;

    const SHORT: Terms = Terms {
        length: Duration::from_millis(400),
        renewal: Duration::from_millis(50),
        again: Duration::from_millis(50),
        attempt: Duration::from_secs(5),
    };

    async fn repository(name: &str) -> Repository {
        let (store, pool): (Arc<dyn Store>, _) = (walward_storage::memory(), CpuPool::new(1).expect("it does"));
        let made = Repository::create(name, store, "main", &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH).await;
        made.expect("it does").0
    }

    async fn take(
        repositories: &[Repository],
        host: &str,
        terms: Terms,
        stop: &CancellationToken,
    ) -> Result<Leases, NotTaken> {
        Leases::take(repositories, (Work::Backup, host), terms, || true, stop.clone()).await
    }

    #[tokio::test]
    async fn a_second_backup_is_refused_while_the_first_runs_and_gives_back_what_it_took() {
        let (ours, shared) = (repository("ours").await, repository("shared").await);
        let never = CancellationToken::new();
        let first = take(std::slice::from_ref(&shared), "db1", TERMS, &never).await.expect("it does");
        let second = take(&[ours.clone(), shared.clone()], "db2", TERMS, &never).await;
        match second.err() {
            Some(NotTaken { repository, source: LeaseError::Held { holder, .. } }) => {
                assert!(repository == "shared" && holder.starts_with("db1, process "), "{holder}");
            }
            other => panic!("{other:?}"),
        }
        take(&[ours], "db3", TERMS, &never).await.expect("it does");
        first.release().await;
        take(&[shared], "db2", TERMS, &never).await.expect("it does");
    }

    #[tokio::test]
    async fn a_lease_is_held_for_longer_than_its_length() {
        let repository = [repository("a").await];
        let stop = CancellationToken::new();
        let first = take(&repository, "db1", SHORT, &stop).await.expect("it does");
        tokio::time::sleep(SHORT.length * 3).await;
        assert!(take(&repository, "db2", SHORT, &stop).await.is_err());
        assert!(first.lost().is_none() && !stop.is_cancelled());
        first.release().await;
    }

    #[tokio::test]
    async fn a_lease_is_renewed_by_what_is_read_and_not_by_time() {
        let repository = [repository("a").await];
        let beats = Arc::new(AtomicBool::new(true));
        let (stop, pulse) = (CancellationToken::new(), Arc::clone(&beats));
        let pulse = move || pulse.swap(false, Ordering::Relaxed);
        let first =
            Leases::take(&repository, (Work::Backup, "db1"), SHORT, pulse, stop.clone()).await.expect("it does");
        let second = async || take(&repository, "db2", SHORT, &CancellationToken::new()).await;
        for _ in 0..10 {
            tokio::time::sleep(SHORT.length / 4).await;
            beats.store(true, Ordering::Relaxed);
        }
        assert!(second().await.is_err() && !stop.is_cancelled());
        // A read hangs.
        tokio::time::timeout(Duration::from_mins(1), stop.cancelled()).await.expect("it does");
        assert_eq!(first.lost(), Some("a"));
        second().await.expect("it does");
        first.release().await;
    }

    #[test]
    fn a_lease_lasts_until_a_read_that_hangs_was_given_up() {
        for minutes in [0, 1, 3, 30] {
            let deadline = Duration::from_mins(minutes);
            assert!(Terms::of(deadline).length >= deadline + TERMS.renewal);
        }
        assert_eq!(Terms::of(Duration::from_mins(3)).length, TERMS.length);
    }

    #[tokio::test]
    async fn a_lease_that_is_lost_stops_the_work() {
        let repository = [repository("a").await];
        let stop = CancellationToken::new();
        let leases = take(&repository, "db1", SHORT, &stop).await.expect("it does");
        let store = repository[0].store();
        let folder = crate::layout::leases(Work::Backup);
        for object in store.list(Some(&folder)).await.expect("it does").objects {
            store.delete(&object.key).await.expect("it does");
        }
        tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await.expect("it does");
        assert_eq!(leases.lost(), Some("a"));
        leases.release().await;
    }
}
