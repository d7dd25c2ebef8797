//! The leases that one work holds on several repositories, renewed while it goes on.
//!
//! Time alone renews nothing: work that hangs would keep all others away for ever. What renews a lease is that something was read or
//! written since, as the work's pulse says.
//!
//! A task of its own takes each lease, renews it, and gives it back. So it is given back also when the caller gives up, at whatever point: a
//! call to the store that is under way is waited for, because what becomes of one that is dropped nobody knows.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
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

/// Leases on one or several repositories. Dropped without [`Leases::release`], they are given back all the same, and nobody waits for that.
#[derive(Debug)]
pub struct Leases {
    /// One task a repository, as long as the lease is wanted.
    keepers: Vec<(String, JoinHandle<()>)>,
    wanted: DropGuard,
    stop: CancellationToken,
    lost: Arc<OnceLock<String>>,
    attempt: Duration,
}

impl Leases {
    /// Takes the lease on `work` in every repository. `pulse` says whether something was read or written since it was asked last.
    ///
    /// # Errors
    /// Somebody else has one, a repository fails, or `cancel` was cancelled; those already taken are given back.
    pub async fn take(
        repositories: &[Repository],
        (work, host): (Work, &str),
        terms: Terms,
        pulse: impl FnMut() -> bool + Clone + Send + 'static,
        cancel: &CancellationToken,
    ) -> Result<Self, NotTaken> {
        let done = CancellationToken::new();
        let mut leases = Self {
            keepers: Vec::new(),
            wanted: done.clone().drop_guard(),
            stop: cancel.child_token(),
            lost: Arc::default(),
            attempt: terms.attempt,
        };
        let holder = Holder::this(host);
        for repository in repositories {
            let name = repository.name().to_owned();
            let (lost, stop) = (Arc::clone(&leases.lost), leases.stop.clone());
            let keeper = Keeper { terms, name: name.clone(), pulse: pulse.clone(), lost, stop, done: done.clone() };
            let (taken, answer) = oneshot::channel();
            let (repository, holder) = (repository.clone(), holder.clone());
            let task = async move {
                let lease = Lease::take(&repository, work, &holder, terms.length, Timestamp::now()).await;
                // Whether the caller still listens is no matter: when it does not, the lease is not wanted.
                match lease {
                    Ok(lease) => {
                        let _ = taken.send(Ok(()));
                        keeper.keep(lease).await;
                    }
                    Err(error) => {
                        let _ = taken.send(Err(error));
                    }
                }
            };
            leases.keepers.push((name.clone(), tokio::spawn(task.in_current_span())));
            let source = match cancel.run_until_cancelled(answer).await {
                Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(source))) => source,
                Some(Err(_)) | None => LeaseError::GivenUp,
            };
            leases.release().await;
            return Err(NotTaken { repository: name, source });
        }
        Ok(leases)
    }

    /// Cancelled when the token that was handed in is, and when a lease is lost.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The repository of which the lease was lost, if one was.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Gives all leases back, best effort: one that cannot be given back runs out.
    pub async fn release(self) {
        let Self { keepers, wanted, attempt, .. } = self;
        drop(wanted);
        let deadline = Instant::now() + attempt;
        for (repository, keeper) in keepers {
            if tokio::time::timeout_at(deadline, keeper).await.is_err() {
                tracing::warn!(
                    repository,
                    "the lease was not given back in time; it is as soon as the store answers, or runs out"
                );
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
    done: CancellationToken,
}

impl<P: FnMut() -> bool> Keeper<P> {
    /// Renews until `done`; then gives the lease back, unless it was lost.
    async fn keep(mut self, mut lease: Lease) {
        let mut pause = self.terms.renewal;
        let mut beaten = false;
        // That it runs out is noticed when it does: from that moment on somebody else may begin.
        while self.done.run_until_cancelled(tokio::time::sleep(pause.min(lease.left()))).await.is_some() {
            beaten |= (self.pulse)();
            if !beaten {
                pause = self.terms.again;
                if lease.has_run_out() {
                    tracing::error!(repository = self.name, "the lease ran out: nothing was read or written");
                    return self.lose();
                }
                continue;
            }
            let attempt = self.terms.attempt.min(lease.left());
            let error = match tokio::time::timeout(attempt, lease.renew(Timestamp::now())).await {
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
        let (repository, attempt) = (self.name, self.terms.attempt);
        match tokio::time::timeout(attempt, lease.release(Timestamp::now())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let (class, error): (_, &dyn std::error::Error) = (error.class(), &error);
                tracing::warn!(repository, error_class = %class, error, "the lease was not given back, and runs out");
            }
            Err(_) => tracing::warn!(repository, "the lease was not given back in time, and runs out"),
        }
    }

    fn give_up(self, error: &LeaseError) {
        let (class, error): (_, &dyn std::error::Error) = (error.class(), error);
        tracing::error!(repository = self.name, error_class = %class, error, "the lease was lost");
        self.lose();
    }

    fn lose(self) {
        // Another one may have been lost before; one is enough to say.
        let _ = self.lost.set(self.name);
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encryption, lease};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use walward_base::ErrorClass;
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::Store;
    use walward_storage::fault::{Fault, Faulty, Plan};

    const SHORT: Terms = Terms {
        length: Duration::from_millis(1500),
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
        cancel: &CancellationToken,
    ) -> Result<Leases, NotTaken> {
        Leases::take(repositories, (Work::Backup, host), terms, || true, cancel).await
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
        assert!(first.lost().is_none() && !first.stop().is_cancelled());
        first.release().await;
    }

    #[tokio::test]
    async fn a_lease_is_renewed_by_what_is_read_and_not_by_time() {
        let repository = [repository("a").await];
        let beats = Arc::new(AtomicBool::new(true));
        let (never, pulse) = (CancellationToken::new(), Arc::clone(&beats));
        let pulse = move || pulse.swap(false, Ordering::Relaxed);
        let first = Leases::take(&repository, (Work::Backup, "db1"), SHORT, pulse, &never).await.expect("it does");
        let stop = first.stop();
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
        let leases = take(&repository, "db1", SHORT, &CancellationToken::new()).await.expect("it does");
        let store = repository[0].store();
        let folder = crate::layout::leases(Work::Backup);
        for object in store.list(Some(&folder)).await.expect("it does").objects {
            store.delete(&object.key).await.expect("it does");
        }
        tokio::time::timeout(Duration::from_secs(5), leases.stop().cancelled()).await.expect("it does");
        assert_eq!(leases.lost(), Some("a"));
        leases.release().await;
    }

    #[tokio::test]
    async fn a_lease_that_a_hanging_store_does_not_renew_is_lost_when_it_ends_and_not_later() {
        let (store, repository) = slow("slow").await;
        let leases = take(&[repository], "db1", TERMS, &CancellationToken::new()).await.expect("it does");
        store.plan(Plan::By(Box::new(|_| Some(Fault::Hang))));
        tokio::time::pause();
        let begun = Instant::now();
        leases.stop().cancelled().await;
        assert!(begun.elapsed() < TERMS.length + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(leases.lost(), Some("slow"));
    }

    /// A repository that is slow by plan, and whether a lease of it is held.
    async fn slow(name: &str) -> (Arc<Faulty>, Repository) {
        let store = Faulty::new(walward_storage::memory(), Plan::script([]));
        let pool = CpuPool::new(1).expect("a thread");
        let made =
            Repository::create(name, Arc::clone(&store) as _, "main", &Encryption::None, &[], pool, Timestamp::now());
        let made = made.await.expect("it does").0;
        (store, made)
    }

    async fn is_held(repository: &Repository) -> bool {
        let seen = lease::look(repository, Work::Backup).await.expect("it does");
        seen.iter().any(|seen| matches!(seen.standing, lease::LeaseState::Held(_)))
    }

    /// The `at`-th call of the work gets `fault`.
    fn only(at: usize, fault: Fault, calls: &Arc<AtomicUsize>) -> Plan {
        calls.store(0, Ordering::Relaxed);
        let calls = Arc::clone(calls);
        Plan::By(Box::new(move |_| (calls.fetch_add(1, Ordering::Relaxed) == at).then_some(fault)))
    }

    /// How the caller gives up.
    #[derive(Debug, Clone, Copy)]
    enum End {
        Cancelled,
        Dropped,
    }

    #[tokio::test]
    async fn leases_whose_taking_is_given_up_at_any_call_are_given_back() {
        let (free, (store, slow)) = (repository("free").await, slow("slow").await);
        let both = [free.clone(), slow.clone()];
        let calls = Arc::new(AtomicUsize::new(0));
        let (late, soon) = (Duration::from_secs(3), Duration::from_secs(1));
        tokio::time::pause();
        for end in [End::Cancelled, End::Dropped] {
            for fault in [Fault::Delay(late), Fault::Late(late)] {
                let mut given_up = 0;
                for at in 0.. {
                    store.plan(only(at, fault, &calls));
                    let cancel = CancellationToken::new();
                    let mut taking = Box::pin(take(&both, "db1", TERMS, &cancel));
                    if let Ok(taken) = tokio::time::timeout(soon, &mut taking).await {
                        taken.expect("nothing was slow").release().await;
                        break;
                    }
                    given_up += 1;
                    match end {
                        End::Cancelled => {
                            cancel.cancel();
                            let error = taking.await.expect_err("cancelled");
                            assert!(matches!(error.source, LeaseError::GivenUp), "{error:?}");
                        }
                        End::Dropped => {
                            drop(taking);
                            tokio::time::sleep(late).await;
                        }
                    }
                    for repository in &both {
                        assert!(!is_held(repository).await, "{end:?} {fault:?} at call {at}: {}", repository.name());
                    }
                }
                assert!(given_up >= 5, "{given_up} calls");
            }
        }
    }

    #[tokio::test]
    async fn a_lease_that_was_written_although_the_answer_was_lost_is_given_back() {
        let (store, repository) = slow("slow").await;
        let repository = [repository];
        let calls = Arc::new(AtomicUsize::new(0));
        let mut failed = 0;
        for at in 0.. {
            store.plan(only(at, Fault::After(ErrorClass::Transient), &calls));
            match take(&repository, "db1", TERMS, &CancellationToken::new()).await {
                Err(_) => {
                    failed += 1;
                    assert!(!is_held(&repository[0]).await, "failed at call {at}");
                }
                Ok(taken) => {
                    let taking = calls.load(Ordering::Relaxed);
                    store.plan(Plan::script([]));
                    taken.release().await;
                    if taking <= at {
                        break;
                    }
                }
            }
        }
        assert!(failed >= 3, "{failed} calls");
    }

    #[tokio::test]
    async fn leases_that_are_dropped_are_given_back() {
        let repository = [repository("a").await];
        let leases = take(&repository, "db1", TERMS, &CancellationToken::new()).await.expect("it does");
        assert!(is_held(&repository[0]).await);
        drop(leases);
        let free = async {
            while is_held(&repository[0]).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), free).await.expect("given back");
    }
}
