//! `lease/<work>/<fencing>.json`: who is at work, until when. Nothing is updated in place: taking, renewing and releasing
//! each write the next number, and the highest holds. Lower numbers are removed, the highest never is: so a number, once
//! seen, is never given out again, and whoever comes late with an old one finds a higher beside it.
//!
//! A crash leaves a lease that expires. Clocks: a lease has expired when it has by the time its holder wrote in it and by the
//! store's time of the object, whichever is later.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::{Repository, checked_json, generations, layout};
use crate::base::{ErrorClass, hex};
use crate::storage::{ObjectInfo, Store};

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// Work that only one node may do at a time on one cluster and repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Taking a base backup.
    Backup,
}

impl Work {
    /// The work's name: the lease's folder, and a word for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
        }
    }
}

/// Why a lease is not held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else is at work.
    #[error("{holder} is at work ({}) in {url}, at most until {until} unless it goes on", work.as_str())]
    Held {
        /// At what.
        work: Work,
        /// The repository.
        url: String,
        /// Who, as they call themselves.
        holder: String,
        /// When their lease expires.
        until: Timestamp,
    },
    /// The lease expired, and somebody else took it.
    #[error("the lease on {} in {url} was lost to {holder}", work.as_str())]
    Lost {
        /// On what.
        work: Work,
        /// The repository.
        url: String,
        /// Who has it now.
        holder: String,
    },
    /// The repository failed: whether the lease is held is unknown.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl LeaseError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Held { .. } | Self::Lost { .. } => ErrorClass::Permanent,
            Self::Repo(error) => error.class(),
        }
    }
}

/// A state of a lease as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    fencing: u64,
    work: Work,
    holder: String,
    /// Random: tells the holder's own objects from another's of the same name.
    token: String,
    written: Timestamp,
    expires: Timestamp,
    released: bool,
}

/// Whether somebody may take over from `state`, stored at `modified` by the store's clock: `None`, or until when not.
fn held_until(state: &State, modified: Timestamp, now: Timestamp) -> Option<Timestamp> {
    if state.released {
        return None;
    }
    let length = state.expires.duration_since(state.written);
    let by_store = modified.saturating_add(length).unwrap_or(state.expires);
    let until = state.expires.max(by_store);
    (now < until).then_some(until)
}

/// The right to do some work, until it expires. Not released when dropped: then it expires.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    state: State,
    length: Duration,
}

impl Lease {
    /// Takes the lease on `work` for `length`, unless somebody has it. `holder` is for people: host and process.
    pub async fn take(
        repository: &Repository,
        work: Work,
        holder: &str,
        length: Duration,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let store = repository.store().clone();
        for _ in 0..generations::ATTEMPTS_MAX {
            let newest = newest(&*store, work).await?;
            let fencing = match &newest {
                None => 1,
                Some((state, info)) => {
                    if let Some(until) = held_until(state, info.modified, now) {
                        let (url, holder) = (store.url().to_owned(), state.holder.clone());
                        return Err(LeaseError::Held { work, url, holder, until });
                    }
                    state.fencing.saturating_add(1)
                }
            };
            let state = State {
                format: FORMAT,
                fencing,
                work,
                holder: holder.to_owned(),
                token: hex::encode(&rand::random::<[u8; 16]>()),
                written: now,
                expires: now.saturating_add(length).unwrap_or(Timestamp::MAX),
                released: false,
            };
            if write(&*store, &state).await? {
                return Ok(Self { store, state, length });
            }
        }
        Err(contended(&*store, work).into())
    }

    /// The number that rises with every state of the lease.
    pub fn fencing(&self) -> u64 {
        self.state.fencing
    }

    /// Until when it is held.
    pub fn expires(&self) -> Timestamp {
        self.state.expires
    }

    /// Holds the lease for its whole length from `now` on. An error of the repository leaves it as it was; it may be tried again
    /// until it expires.
    pub async fn renew(&mut self, now: Timestamp) -> Result<(), LeaseError> {
        self.succeed(now, now.saturating_add(self.length).unwrap_or(Timestamp::MAX), false).await
    }

    /// Gives the lease back, so that somebody else may take it at once.
    pub async fn release(mut self, now: Timestamp) -> Result<(), LeaseError> {
        self.succeed(now, now, true).await
    }

    async fn succeed(&mut self, now: Timestamp, expires: Timestamp, released: bool) -> Result<(), LeaseError> {
        for _ in 0..generations::ATTEMPTS_MAX {
            let newest = newest(&*self.store, self.state.work).await?;
            let fencing = match newest {
                // An earlier call of ours may have been stored although its answer was lost.
                Some((state, _)) if state.token == self.state.token => state.fencing,
                Some((state, _)) => return Err(self.lost(state.holder)),
                None => return Err(self.lost("nobody: its objects were removed".to_owned())),
            };
            let next =
                State { fencing: fencing.saturating_add(1), written: now, expires, released, ..self.state.clone() };
            if write(&*self.store, &next).await? {
                self.state = next;
                return Ok(());
            }
        }
        Err(contended(&*self.store, self.state.work).into())
    }

    fn lost(&self, holder: String) -> LeaseError {
        LeaseError::Lost { work: self.state.work, url: self.store.url().to_owned(), holder }
    }
}

fn contended(store: &dyn Store, work: Work) -> RepoError {
    RepoError::Contended { object: generations::shown(store, &layout::leases(work)) }
}

/// The objects of a lease, by number.
async fn states(store: &dyn Store, work: Work) -> Result<Vec<(u64, ObjectInfo)>, RepoError> {
    let listing = store.list(Some(&layout::leases(work))).await?;
    let numbered = listing.objects.into_iter();
    let mut states: Vec<_> =
        numbered.filter_map(|info| Some((layout::parse_fencing(info.key.file_name())?, info))).collect();
    states.sort_by_key(|(fencing, _)| *fencing);
    Ok(states)
}

/// The state that holds.
async fn newest(store: &dyn Store, work: Work) -> Result<Option<(State, ObjectInfo)>, RepoError> {
    for _ in 0..generations::ATTEMPTS_MAX {
        let Some((fencing, info)) = states(store, work).await?.pop() else { return Ok(None) };
        let bytes = match generations::fetch(store, &info.key).await {
            Ok(bytes) => bytes,
            // Its holder wrote the next one since the listing.
            Err(error) if error.class() == ErrorClass::NotFound => continue,
            Err(error) => return Err(error),
        };
        let damaged = |error| RepoError::damaged(&generations::shown(store, &info.key), error);
        let state: State = checked_json::decode(&bytes, FORMAT).map_err(damaged)?;
        if state.fencing != fencing || state.work != work {
            let what = "it is the state of another lease".to_owned();
            return Err(damaged(super::format::FormatError::Text(what)));
        }
        return Ok(Some((state, info)));
    }
    Err(contended(store, work))
}

/// Writes the next state; `false` when somebody else was first. Removes what it takes the place of.
async fn write(store: &dyn Store, state: &State) -> Result<bool, RepoError> {
    let key = layout::lease(state.work, state.fencing);
    let bytes = checked_json::encode(state, None)
        .map_err(|error| RepoError::damaged(&generations::shown(store, &key), error))?;
    if !generations::put(store, &key, &bytes).await? {
        return Ok(false);
    }
    // Whoever was slow between looking and writing may have taken a number that was used and removed.
    let states = states(store, state.work).await?;
    let highest = states.last().is_some_and(|(fencing, _)| *fencing == state.fencing);
    for (fencing, info) in &states {
        let superseded = if highest { *fencing < state.fencing } else { *fencing == state.fencing };
        if superseded && let Err(error) = store.delete(&info.key).await {
            // A bucket that keeps everything keeps these, too; they mean nothing.
            tracing::debug!(object = %info.key, error = %error, "an old state of a lease stays");
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::repo::Encryption;
    use crate::storage::memory;
    use crate::sys::cpu::CpuPool;

    const MINUTE: Duration = Duration::from_mins(1);

    async fn repository() -> Repository {
        let pool = CpuPool::new(1).expect("a thread");
        let made = Repository::create("r", memory(), "main", &Encryption::None, &[], pool, Timestamp::now()).await;
        made.expect("a repository").0
    }

    /// The store's clock is the machine's: so is the test's, ahead of it.
    fn later(minutes: u64) -> Timestamp {
        Timestamp::now().saturating_add(MINUTE * u32::try_from(minutes).expect("few")).expect("in range")
    }

    async fn take(repository: &Repository, holder: &str, now: Timestamp) -> Result<Lease, LeaseError> {
        Lease::take(repository, Work::Backup, holder, MINUTE, now).await
    }

    #[tokio::test]
    async fn one_at_a_time_and_the_next_after_release() {
        let repository = repository().await;
        let lease = take(&repository, "a", later(0)).await.expect("taken");
        let error = take(&repository, "b", later(0)).await.expect_err("held");
        assert!(matches!(&error, LeaseError::Held { holder, .. } if holder == "a"), "{error}");
        lease.release(later(0)).await.expect("released");
        let lease = take(&repository, "b", later(0)).await.expect("taken");
        assert_eq!(lease.fencing(), 3);
    }

    #[tokio::test]
    async fn an_expired_lease_is_taken_over_and_its_holder_learns_it() {
        let repository = repository().await;
        let mut old = take(&repository, "a", later(0)).await.expect("taken");
        assert!(take(&repository, "b", later(0)).await.is_err());
        let new = take(&repository, "b", later(2)).await.expect("expired");
        assert!(new.fencing() > old.fencing());
        assert!(matches!(old.renew(later(0)).await, Err(LeaseError::Lost { holder, .. }) if holder == "b"));
        assert!(matches!(old.release(later(0)).await, Err(LeaseError::Lost { .. })));
    }

    #[tokio::test]
    async fn a_renewed_lease_stays_and_leaves_one_object() {
        let repository = repository().await;
        let mut lease = take(&repository, "a", later(0)).await.expect("taken");
        for minutes in 1..5 {
            lease.renew(later(minutes)).await.expect("renewed");
        }
        assert!(take(&repository, "b", later(4)).await.is_err());
        assert_eq!(lease.fencing(), 5);
        assert_eq!(states(&**repository.store(), Work::Backup).await.expect("listed").len(), 1);
    }

    #[tokio::test]
    async fn a_number_that_was_used_and_removed_is_not_given_out_again() {
        let repository = repository().await;
        let mut lease = take(&repository, "a", later(0)).await.expect("taken");
        let slow = State { token: "x".to_owned(), holder: "slow".to_owned(), ..lease.state.clone() };
        lease.renew(later(0)).await.expect("renewed");
        // "slow" saw no lease before "a" took the first number, and writes only now.
        assert!(!write(&**repository.store(), &slow).await.expect("written"));
        lease.renew(later(0)).await.expect("renewed");
    }

    #[test]
    fn the_later_clock_counts() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let state = State {
            format: FORMAT,
            fencing: 1,
            work: Work::Backup,
            holder: "a".to_owned(),
            token: String::new(),
            written: at(1000),
            expires: at(1060),
            released: false,
        };
        assert_eq!(held_until(&state, at(1000), at(1059)), Some(at(1060)));
        assert_eq!(held_until(&state, at(1000), at(1060)), None);
        // The holder's clock is behind: the store's counts.
        assert_eq!(held_until(&state, at(5000), at(5059)), Some(at(5060)));
        assert_eq!(held_until(&State { released: true, ..state }, at(5000), at(5000)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = checked_json::decode::<State>(&bytes, FORMAT);
        }
    }
}
