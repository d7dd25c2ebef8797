//! While a restore reads, it says so in each repository, so that nothing is taken away from under it.
//!
//! That is a courtesy, and no condition: a repository that cannot be written to, as with credentials that only read, or that does not answer,
//! is restored from all the same. What is taken away nevertheless is noticed by whoever reads it. A lease that is lost is logged by its keeper.

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use walward_base::sys;
use walward_repo::Repository;
use walward_repo::lease::{LeaseError, Work};
use walward_repo::leases::{Leases, NotTaken, TERMS, Terms};

/// How long one repository may take to give a lease; a recovery waits for this.
const PATIENCE: Duration = Duration::from_secs(10);

/// The leases of one restore.
pub struct Readers(Vec<Leases>);

impl Readers {
    /// Takes the lease in each of `repositories` that gives it until `cancel` is cancelled; it is renewed when `progress` has moved.
    ///
    /// # Errors
    /// [`RestoreError::Locked`] where work goes on that takes away or moves what is there.
    pub async fn take<'r, P: Send + Sync + 'static>(
        repositories: impl Iterator<Item = &'r Repository>,
        progress: &watch::Receiver<P>,
        cancel: &CancellationToken,
    ) -> Result<Self, RestoreError> {
        let host = sys::host::name();
        let terms = Terms { attempt: PATIENCE, ..TERMS };
        let taken = join_all(repositories.map(async |repository| {
            let mut progress = progress.clone();
            let pulse = move || {
                let moved = progress.has_changed().unwrap_or(false);
                progress.mark_unchanged();
                moved
            };
            let work = (Work::Restore, host.as_str());
            let taking = Leases::take(std::slice::from_ref(repository), work, terms, pulse, cancel);
            (repository.name(), tokio::time::timeout(PATIENCE, taking).await)
        }))
        .await;
        let (mut leases, mut locked) = (Vec::new(), None);
        for (repository, taken) in taken {
            match taken {
                Ok(Ok(taken)) => leases.push(taken),
                Ok(Err(NotTaken { source: LeaseError::Held { work, holder, until, .. }, repository })) => {
                    locked = Some(RestoreError::Locked { repository, work, holder, until });
                }
                Ok(Err(NotTaken { source, .. })) => {
                    let (class, error): (_, &dyn std::error::Error) = (source.class(), &source);
                    tracing::info!(repository, error_class = %class, error, "the restore goes on without a lease");
                }
                Err(_) => tracing::info!(repository, "the restore goes on without a lease: no answer"),
            }
        }
        let readers = Self(leases);
        match locked {
            None => Ok(readers),
            Some(error) => {
                readers.release().await;
                Err(error)
            }
        }
    }

    /// Gives them back, best effort.
    pub async fn release(self) {
        join_all(self.0.into_iter().map(Leases::release)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use walward_base::ErrorClass;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::Encryption;
    use walward_repo::lease::{self, Holder, Lease};
    use walward_storage::Store;
    use walward_storage::fault::{Fault, Faulty, Plan};

    async fn over(name: &str, store: Arc<dyn Store>) -> Repository {
        let (pool, now) = (CpuPool::new(1).expect("a thread"), Timestamp::now());
        let made = Repository::create(name, store, "main", &Encryption::None, &[], pool, now).await;
        made.expect("a repository").0
    }

    #[tokio::test]
    async fn what_takes_away_keeps_a_restore_out_and_waits_for_one_that_reads() {
        let repositories = [over("one", walward_storage::memory()).await, over("two", walward_storage::memory()).await];
        let (_progress, watching) = watch::channel(());
        let never = CancellationToken::new();
        let mover = Holder { name: "a mover".to_owned(), process: None };
        let minute = Duration::from_mins(1);
        let set_aside = async || Lease::take(&repositories[1], Work::SetAside, &mover, minute, Timestamp::now()).await;
        let moving = set_aside().await.expect("nobody reads");
        let locked = Readers::take(repositories.iter(), &watching, &never).await.err();
        assert!(
            matches!(&locked, Some(RestoreError::Locked { repository, work: Work::SetAside, .. }) if repository == "two"),
            "{locked:?}"
        );
        assert_eq!(lease::look(&repositories[0], Work::Restore).await.expect("read"), [], "given back");
        moving.release(Timestamp::now()).await.expect("released");
        let readers = [(); 2].map(|()| Readers::take(repositories.iter(), &watching, &never));
        let [one, two] = readers.map(Box::pin);
        let (one, two) = (one.await.expect("taken"), two.await.expect("two may read"));
        assert!(set_aside().await.is_err());
        one.release().await;
        assert!(set_aside().await.is_err(), "the other one still reads");
        two.release().await;
        set_aside().await.expect("nobody reads any more");
    }

    #[tokio::test]
    async fn a_repository_that_cannot_be_written_to_is_restored_from_without_a_lease() {
        let store = Faulty::new(walward_storage::memory(), Plan::script([]));
        let repository = over("one", Arc::clone(&store) as _).await;
        store.plan(Plan::By(Box::new(|call| (call.verb == "put").then_some(Fault::Before(ErrorClass::Denied)))));
        let (_progress, watching) = watch::channel(());
        let never = CancellationToken::new();
        let readers = Readers::take([&repository].into_iter(), &watching, &never).await.expect("it only reads");
        assert_eq!(lease::look(&repository, Work::Restore).await.expect("read"), []);
        readers.release().await;
    }
}
