//! One backup at a time of a cluster, over all of its nodes: a lease on every repository, renewed while the backup goes on.
//!
//! Time alone renews nothing: a backup that hangs would keep all others away for ever. What renews a lease is that something was read or
//! written since ([`Pulse`]).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::error::BackupError;
use super::report::Progress;
use walward_repo::Repository;
use walward_repo::lease::{Holder, Lease, LeaseError, Work};

/// How the leases are held.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// For how long they are taken: so long a crashed backup keeps others away.
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

/// What shows that the work goes on.
#[derive(Debug, Clone)]
pub enum Pulse {
    /// A backup's progress: it beats when anything was read or written, and while what is waited for has a deadline of its own.
    Progress(watch::Receiver<Progress>),
    /// Nothing is waited for but repositories, each call of which ends by its deadline.
    Calls,
}

impl Pulse {
    /// Whether it has beaten since it was asked last.
    fn has_beaten(&mut self) -> bool {
        match self {
            Self::Progress(progress) => {
                let moved = progress.has_changed().unwrap_or(false);
                moved | !progress.borrow_and_update().phase.reads()
            }
            Self::Calls => true,
        }
    }
}

/// The leases on all repositories of a backup. Dropped without [`Leases::release`], they are no longer renewed and run out.
pub struct Leases {
    /// One task a repository; it gives the lease back as long as it holds it.
    keepers: JoinSet<Option<(String, Lease)>>,
    done: CancellationToken,
    lost: Arc<OnceLock<String>>,
    attempt: Duration,
}

impl Leases {
    /// Takes the lease on every repository. When one is lost later, `stop` is cancelled.
    ///
    /// # Errors
    /// [`BackupError::Locked`] when somebody else has one; those already taken are given back.
    pub async fn take(
        repositories: &[Repository],
        host: &str,
        terms: Terms,
        pulse: Pulse,
        stop: CancellationToken,
    ) -> Result<Self, BackupError> {
        let attempt = terms.attempt;
        let mut leases =
            Self { keepers: JoinSet::new(), done: CancellationToken::new(), lost: Arc::default(), attempt };
        let holder = Holder::this(host);
        for repository in repositories {
            let name = repository.name().to_owned();
            match Lease::take(repository, Work::Backup, &holder, terms.length, Timestamp::now()).await {
                Ok(lease) => {
                    let (pulse, lost) = (pulse.clone(), Arc::clone(&leases.lost));
                    let keeper = Keeper { terms, name, pulse, lost, stop: stop.clone() };
                    leases.keepers.spawn(keeper.keep(lease, leases.done.clone()).in_current_span());
                }
                Err(error) => {
                    leases.release().await;
                    return Err(refusal(name, error));
                }
            }
        }
        Ok(leases)
    }

    /// That a lease was lost, if one was.
    pub fn lost(&self) -> Option<BackupError> {
        self.lost.get().map(|repository| BackupError::LeaseLost { repository: repository.clone() })
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

fn refusal(repository: String, error: LeaseError) -> BackupError {
    match error {
        LeaseError::Held { holder, until, .. } => BackupError::Locked { repository, holder, until },
        LeaseError::Lost { .. } => BackupError::LeaseLost { repository },
        LeaseError::Repo(source) => {
            BackupError::Repository { doing: "take the lease on".to_owned(), repository, source }
        }
    }
}

struct Keeper {
    terms: Terms,
    name: String,
    pulse: Pulse,
    lost: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl Keeper {
    /// Renews until `done`; then gives the lease back. `None` when it was lost.
    async fn keep(mut self, mut lease: Lease, done: CancellationToken) -> Option<(String, Lease)> {
        let mut pause = self.terms.renewal;
        let mut beaten = false;
        while done.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            beaten |= self.pulse.has_beaten();
            if !beaten {
                pause = self.terms.again;
                if lease.has_run_out() {
                    tracing::error!(repository = self.name, "the backup's lease ran out: nothing was read or written");
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
                    tracing::warn!(repository = self.name, error_class = %class, error, "the backup's lease was not renewed yet");
                }
                None if lease.has_run_out() => {
                    tracing::error!(repository = self.name, "the backup's lease ran out: the store does not answer");
                    return self.lose();
                }
                None => tracing::warn!(repository = self.name, "the backup's lease was not renewed yet: no answer"),
            }
        }
        Some((self.name, lease))
    }

    fn give_up(self, error: &LeaseError) -> Option<(String, Lease)> {
        let (class, error): (_, &dyn std::error::Error) = (error.class(), error);
        tracing::error!(repository = self.name, error_class = %class, error, "the backup's lease was lost");
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
    use crate::backup::report::Phase;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::Encryption;
    use walward_storage::Store;

    const SHORT: Terms = Terms {
        length: Duration::from_millis(400),
        renewal: Duration::from_millis(50),
        again: Duration::from_millis(50),
        attempt: Duration::from_secs(5),
    };

    async fn repository(name: &str) -> Repository {
        let (store, pool): (Arc<dyn Store>, _) = (walward_storage::memory(), CpuPool::new(1).unwrap());
        let made = Repository::create(name, store, "main", &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH).await;
        made.unwrap().0
    }

    #[tokio::test]
    async fn a_second_backup_is_refused_while_the_first_runs_and_gives_back_what_it_took() {
        let (ours, shared) = (repository("ours").await, repository("shared").await);
        let first = Leases::take(std::slice::from_ref(&shared), "db1", TERMS, Pulse::Calls, CancellationToken::new())
            .await
            .unwrap();
        let second =
            Leases::take(&[ours.clone(), shared.clone()], "db2", TERMS, Pulse::Calls, CancellationToken::new()).await;
        match second.err() {
            Some(BackupError::Locked { repository, holder, .. }) => {
                assert!(repository == "shared" && holder.starts_with("db1, process "), "{holder}");
            }
            other => panic!("{other:?}"),
        }
        Leases::take(&[ours], "db3", TERMS, Pulse::Calls, CancellationToken::new()).await.unwrap();
        first.release().await;
        Leases::take(&[shared], "db2", TERMS, Pulse::Calls, CancellationToken::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_lease_is_held_for_longer_than_its_length() {
        let repository = [repository("a").await];
        let stop = CancellationToken::new();
        let first = Leases::take(&repository, "db1", SHORT, Pulse::Calls, stop.clone()).await.unwrap();
        tokio::time::sleep(SHORT.length * 3).await;
        assert!(Leases::take(&repository, "db2", SHORT, Pulse::Calls, stop.clone()).await.is_err());
        assert!(first.lost().is_none() && !stop.is_cancelled());
        first.release().await;
    }

    #[tokio::test]
    async fn a_lease_is_renewed_by_what_is_read_and_not_by_time() {
        let repository = [repository("a").await];
        let (progress, watching) = watch::channel(Progress::new(Timestamp::UNIX_EPOCH));
        let read = |phase| progress.send_modify(|progress| (progress.phase, progress.content_bytes_done) = (phase, 1));
        let (stop, pulse) = (CancellationToken::new(), Pulse::Progress(watching));
        let first = Leases::take(&repository, "db1", SHORT, pulse, stop.clone()).await.unwrap();
        let second = async || Leases::take(&repository, "db2", SHORT, Pulse::Calls, CancellationToken::new()).await;
        // The server's checkpoint may take hours, and is waited for within a deadline.
        read(Phase::Checkpoint);
        tokio::time::sleep(SHORT.length * 3).await;
        assert!(second().await.is_err());
        for _ in 0..10 {
            tokio::time::sleep(SHORT.length / 4).await;
            read(Phase::Copying);
        }
        assert!(second().await.is_err() && !stop.is_cancelled());
        // A read hangs.
        tokio::time::timeout(Duration::from_mins(1), stop.cancelled()).await.unwrap();
        assert!(matches!(first.lost(), Some(BackupError::LeaseLost { .. })));
        second().await.unwrap();
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
    async fn a_lease_that_is_lost_stops_the_backup() {
        let repository = [repository("a").await];
        let stop = CancellationToken::new();
        let leases = Leases::take(&repository, "db1", SHORT, Pulse::Calls, stop.clone()).await.unwrap();
        let store = repository[0].store();
        let folder = walward_repo::layout::leases(Work::Backup);
        for object in store.list(Some(&folder)).await.unwrap().objects {
            store.delete(&object.key).await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await.unwrap();
        assert!(matches!(leases.lost(), Some(BackupError::LeaseLost { repository }) if repository == "a"));
        leases.release().await;
    }
}
