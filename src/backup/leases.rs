//! One at a time changes what a repository holds: a backup, and what is like it, holds a lease on each of its repositories.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::report::Progress;
use walward_repo::Repository;
use walward_repo::lease::{LeaseError, Work};
use walward_repo::leases::{Leases, NotTaken, TERMS};

impl From<NotTaken> for BackupError {
    fn from(NotTaken { repository, source }: NotTaken) -> Self {
        match source {
            LeaseError::Held { work, holder, until, .. } => Self::Locked { repository, work, holder, until },
            LeaseError::Lost { .. } => Self::LeaseLost { repository },
            LeaseError::GivenUp => Self::Cancelled,
            LeaseError::Repo(source) => Self::Repository { doing: "take the lease on".to_owned(), repository, source },
        }
    }
}

/// That a lease was lost, if one was.
pub fn lost(leases: &Leases) -> Option<BackupError> {
    leases.lost().map(|repository| BackupError::LeaseLost { repository: repository.to_owned() })
}

/// What shows that a backup goes on: that anything was read or written, or that what is waited for has a deadline of its own.
pub fn pulse(mut progress: watch::Receiver<Progress>) -> impl FnMut() -> bool + Clone + Send + 'static {
    move || {
        let moved = progress.has_changed().unwrap_or(false);
        moved | !progress.borrow_and_update().phase.reads()
    }
}

/// Holds the leases on `kind` in all of `repositories` while `work` goes on, which waits for nothing but repositories, each call of which ends
/// by its deadline. `host` and this process are shown to those who want one meanwhile.
///
/// # Errors
/// [`BackupError::Locked`] when work that excludes it goes on there.
pub async fn with_lease<T, E: From<BackupError>>(
    repositories: &[Repository],
    (kind, host): (Work, &str),
    cancel: &CancellationToken,
    work: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let leases = Leases::take(repositories, (kind, host), TERMS, || true, cancel).await.map_err(BackupError::from)?;
    let done = leases.stop().run_until_cancelled(work()).await.unwrap_or(Err(BackupError::Cancelled.into()));
    let done = done.map_err(|error| lost(&leases).map_or(error, E::from));
    leases.release().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::report::Phase;
    use jiff::Timestamp;

    #[test]
    fn a_backups_lease_is_renewed_by_what_is_read_and_while_a_wait_has_a_deadline_of_its_own() {
        let (progress, watching) = watch::channel(Progress::new(Timestamp::UNIX_EPOCH));
        let mut beats = pulse(watching);
        // The server's checkpoint may take hours, and is waited for within a deadline.
        progress.send_modify(|progress| progress.phase = Phase::Checkpoint);
        assert!(beats() && beats());
        progress.send_modify(|progress| progress.phase = Phase::Copying);
        assert!(beats() && !beats(), "a read hangs");
        progress.send_modify(|progress| progress.content_bytes_done += 1);
        assert!(beats() && !beats());
    }
}
