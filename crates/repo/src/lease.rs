//! `lease/<work>/<fencing>.json`: who is at work, until when. Nothing is updated in place: taking, renewing and releasing
//! each write the next number, and the highest holds. Lower numbers are removed, the highest never is: so a number, once
//! seen, is never given out again, and whoever comes late with an old one finds a higher beside it.
//!
//! Work that several may do at once ([`Work::is_shared`]) has a line of such numbers for each reader, in a folder of its own. A reader removes
//! its line when it ends; one that was ended by others stays until no renewal of it can be under way.
//!
//! What [`Work::excludes`] other kinds of work writes its own lease first, and then looks for theirs: of two that begin at the same time at
//! least one sees the other, and gives its own back. A lease of theirs that has run out is ended by the next number in its line, so that its
//! holder cannot renew it.
//!
//! A crash leaves a lease that runs out, and at worst an empty `clock-` object, which the next holder removes.
//!
//! Clocks: only the store's counts, for both sides. A lease has run out when its newest state is older than its length, by the
//! store's times of that state and of an object that is written to ask ([`age`]). The holder measures its own time from before
//! it wrote, with a clock that nobody sets. So no host's wrong clock holds a lease for longer, or takes one that is held.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::error::RepoError;
pub use super::work::Work;
use super::{Repository, checked_json, generations, layout};
use tokio::time::Instant;
use walward_base::sys::living::Process;
use walward_base::{ErrorClass, hex};
use walward_storage::{ObjectInfo, ObjectKey, Payload, Store};

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// No lease is believed to hold for longer without being renewed.
const LENGTH_MAX: SignedDuration = SignedDuration::from_hours(1);
/// An object that was written to learn the store's time is somebody's for no longer than this.
const CLOCK_KEPT: SignedDuration = SignedDuration::from_mins(10);

/// Who takes a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// For people: host and process.
    pub name: String,
    /// So that another process of the same host sees at once when it is gone.
    pub process: Option<Process>,
}

impl Holder {
    /// This process, on `host`.
    pub fn this(host: &str) -> Self {
        Self { name: format!("{host}, process {}", std::process::id()), process: Process::this() }
    }
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// On what.
    pub work: Work,
    /// Who has it, or had it last.
    pub holder: String,
    /// When its newest state was written, by the store's clock.
    pub written: Timestamp,
    /// Whether it is held.
    pub standing: LeaseState,
    folder: ObjectKey,
}

/// Whether a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It is, for this long unless it is renewed.
    Held(Duration),
    /// It was given back.
    Released,
    /// It was not renewed for its whole length.
    RanOut,
    /// The process that has it was one of this host, and has ended.
    HolderGone,
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
    /// The wish for it ended before it was taken.
    #[error("it was given up before it was taken")]
    GivenUp,
    /// The repository failed: whether the lease is held is unknown.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl LeaseError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Held { .. } | Self::Lost { .. } => ErrorClass::Permanent,
            Self::GivenUp => ErrorClass::Cancelled,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    /// Random: tells the holder's own objects from another's of the same name.
    token: String,
    written: Timestamp,
    expires: Timestamp,
    released: bool,
}

/// What a newest state means. `age` is how old it is by the store's clock; `gone` whether its process is known to have ended.
/// `coarse`: the store keeps whole seconds, so that a state may be younger than it seems.
fn judge(state: &State, age: SignedDuration, coarse: bool, gone: bool) -> LeaseState {
    if state.released {
        return LeaseState::Released;
    }
    if gone {
        return LeaseState::HolderGone;
    }
    let second = if coarse { SignedDuration::from_secs(1) } else { SignedDuration::ZERO };
    let left = state.length().saturating_add(second).saturating_sub(age.max(SignedDuration::ZERO));
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => LeaseState::Held(left),
        _ => LeaseState::RanOut,
    }
}

impl State {
    /// A state of a holder who was none.
    fn new(fencing: u64, work: Work, holder: &Holder, now: Timestamp, length: Duration) -> Self {
        Self {
            format: FORMAT,
            fencing,
            work,
            holder: holder.name.clone(),
            process: holder.process.clone(),
            token: hex::encode(&rand::random::<[u8; 16]>()),
            written: now,
            expires: now.saturating_add(length).unwrap_or(Timestamp::MAX),
            released: false,
        }
    }

    /// For how long it holds: the difference of two times of one clock, which may be wrong. Somebody who can write to the store
    /// may claim any length.
    fn length(&self) -> SignedDuration {
        self.expires.duration_since(self.written).min(LENGTH_MAX)
    }
}

/// How old an object of the lease in `folder` is by the store's own clock: what is written now has the store's time of now.
async fn age(store: &dyn Store, folder: &ObjectKey, info: &ObjectInfo) -> Result<SignedDuration, RepoError> {
    let key = layout::lease_clock(folder);
    store.put_new(&key, Payload::default()).await?;
    let now = store.head(&key).await;
    remove(store, &key).await;
    Ok(now?.modified.duration_since(info.modified))
}

/// Removes what means nothing any more. A bucket that keeps everything keeps it.
async fn remove(store: &dyn Store, key: &ObjectKey) {
    if let Err(error) = store.delete(key).await {
        tracing::debug!(object = %key, error = %error, "an object of a lease that means nothing any more stays");
    }
}

/// Whether `state`, stored in `folder` as `info` says, is held. Writes to the store only where its time decides.
async fn standing(
    store: &dyn Store,
    folder: &ObjectKey,
    (state, info): (&State, &ObjectInfo),
) -> Result<LeaseState, RepoError> {
    let gone = state.process.as_ref().is_some_and(Process::is_gone);
    let age = if state.released || gone { SignedDuration::ZERO } else { age(store, folder, info).await? };
    let coarse = info.modified.subsec_nanosecond() == 0;
    Ok(judge(state, age, coarse, gone))
}

/// The folders of the leases on `work`: one, or one for each reader.
async fn folders(store: &dyn Store, work: Work) -> Result<Vec<ObjectKey>, RepoError> {
    if !work.is_shared() {
        return Ok(vec![layout::leases(work)]);
    }
    let readers = store.list(Some(&layout::leases(work))).await?.folders;
    Ok(readers.iter().filter_map(|reader| layout::leases(work).join(reader).ok()).collect())
}

/// What is known of the leases on `work`: nothing when nobody ever took one, and of readers only what was not given back.
pub async fn look(repository: &Repository, work: Work) -> Result<Vec<Seen>, RepoError> {
    let store = &**repository.store();
    let mut seen = Vec::new();
    for folder in folders(store, work).await? {
        let Some((state, info)) = newest(store, work, &folder).await? else { continue };
        if work.is_shared() && state.released {
            continue;
        }
        let standing = standing(store, &folder, (&state, &info)).await?;
        seen.push(Seen { work, holder: state.holder, written: info.modified, standing, folder });
    }
    Ok(seen)
}

/// Takes a lease away from its holder, who learns of it at the next renewal, and leaves it free. `false` when nobody has it.
pub async fn break_it(repository: &Repository, seen: &Seen, by: &Holder, now: Timestamp) -> Result<bool, LeaseError> {
    let store = &**repository.store();
    for _ in 0..generations::ATTEMPTS_MAX {
        match newest(store, seen.work, &seen.folder).await? {
            Some((state, _)) if !state.released => {
                if end(store, &seen.folder, &state, by, now).await? {
                    return Ok(true);
                }
            }
            _ => return Ok(false),
        }
    }
    Err(contended(store, &seen.folder).into())
}

/// Puts after `state`, the newest in `folder`, that nobody holds the lease; `false` when something else came first.
async fn end(
    store: &dyn Store,
    folder: &ObjectKey,
    state: &State,
    by: &Holder,
    now: Timestamp,
) -> Result<bool, RepoError> {
    let next = State::new(state.fencing.saturating_add(1), state.work, by, now, Duration::ZERO);
    write(store, folder, &State { released: true, ..next }).await
}

/// The newest state in `folder`, of a lease that is not held. `now` is for people.
///
/// # Errors
/// [`LeaseError::Held`] when it is.
async fn unheld(
    store: &dyn Store,
    work: Work,
    folder: &ObjectKey,
    now: Timestamp,
) -> Result<Option<(State, ObjectInfo)>, LeaseError> {
    let Some((state, info)) = newest(store, work, folder).await? else { return Ok(None) };
    let standing = standing(store, folder, (&state, &info)).await?;
    if let LeaseState::Held(left) = standing {
        let (url, holder) = (store.url().to_owned(), state.holder);
        let until = now.saturating_add(left).unwrap_or(Timestamp::MAX);
        return Err(LeaseError::Held { work, url, holder, until });
    }
    if standing != LeaseState::Released {
        tracing::warn!(holder = state.holder, ?standing, "a lease that was not given back is taken over");
    }
    Ok(Some((state, info)))
}

/// The right to do some work, until it expires. Not released when dropped: then it expires.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    folder: ObjectKey,
    state: State,
    length: Duration,
    /// Before the newest state was written.
    renewed: Instant,
}

impl Lease {
    /// Takes the lease on `work` for `length`, unless somebody does what excludes it. `now` is written down for people.
    pub async fn take(
        repository: &Repository,
        work: Work,
        holder: &Holder,
        length: Duration,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let lease = Self::write_first(repository.store(), work, holder, length, now).await?;
        match lease.look_for_others(holder, now).await {
            Ok(()) => Ok(lease),
            Err(error) => {
                lease.give_back(now).await;
                Err(error)
            }
        }
    }

    /// Gives back what is not wanted. Where it cannot be given back now, it runs out.
    async fn give_back(self, now: Timestamp) {
        if let Err(error) = self.release(now).await {
            tracing::warn!(%error, "a lease that was not wanted was not given back");
        }
    }

    async fn write_first(
        store: &Arc<dyn Store>,
        work: Work,
        holder: &Holder,
        length: Duration,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let first = State::new(1, work, holder, now, length);
        let folder = if work.is_shared() { layout::reader_lease(work, &first.token) } else { layout::leases(work) };
        for _ in 0..generations::ATTEMPTS_MAX {
            let newest = unheld(&**store, work, &folder, now).await?;
            let fencing = newest.map_or(1, |(state, _)| state.fencing.saturating_add(1));
            let (state, renewed) = (State { fencing, ..first.clone() }, Instant::now());
            let lease = Self { store: Arc::clone(store), folder: folder.clone(), state, length, renewed };
            match write(&**store, &folder, &lease.state).await {
                Ok(true) => return Ok(lease),
                Ok(false) => {}
                Err(error) => {
                    // It may have been stored although the answer was lost.
                    lease.give_back(now).await;
                    return Err(error.into());
                }
            }
        }
        Err(contended(&**store, &folder).into())
    }

    /// Looks for other work that excludes this, and ends the leases of what has run out.
    async fn look_for_others(&self, holder: &Holder, now: Timestamp) -> Result<(), LeaseError> {
        let store = &*self.store;
        let ours = self.state.work;
        for work in Work::ALL.into_iter().filter(|other| *other != ours && ours.excludes(*other)) {
            for folder in folders(store, work).await? {
                self.make_way(work, &folder, holder, now).await?;
            }
        }
        // After that somebody else may have ended this lease, too.
        if self.has_run_out() { Err(contended(store, &self.folder).into()) } else { Ok(()) }
    }

    /// Makes sure that nobody holds, or can renew, the lease on `work` in `folder`.
    async fn make_way(
        &self,
        work: Work,
        folder: &ObjectKey,
        holder: &Holder,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let store = &*self.store;
        for _ in 0..generations::ATTEMPTS_MAX {
            let Some((state, info)) = unheld(store, work, folder, now).await? else { return Ok(()) };
            if state.released {
                if work.is_shared() && age(store, folder, &info).await? > LENGTH_MAX {
                    remove(store, &info.key).await;
                }
                return Ok(());
            }
            if end(store, folder, &state, holder, now).await? {
                return Ok(());
            }
        }
        Err(contended(store, folder).into())
    }

    /// The number that rises with every state of the lease.
    pub fn fencing(&self) -> u64 {
        self.state.fencing
    }

    /// How long it still holds unless it is renewed.
    pub fn left(&self) -> Duration {
        self.length.saturating_sub(self.renewed.elapsed())
    }

    /// Whether it may be another's by now, because it was not renewed for its whole length.
    pub fn has_run_out(&self) -> bool {
        self.renewed.elapsed() >= self.length
    }

    /// Holds the lease for its whole length from `now` on. An error of the repository leaves it as it was; it may be tried again
    /// until it expires.
    pub async fn renew(&mut self, now: Timestamp) -> Result<(), LeaseError> {
        self.succeed(now, now.saturating_add(self.length).unwrap_or(Timestamp::MAX), false).await
    }

    /// Gives the lease back, so that somebody else may take it at once.
    pub async fn release(mut self, now: Timestamp) -> Result<(), LeaseError> {
        self.succeed(now, now, true).await?;
        if self.state.work.is_shared() {
            // Nobody else takes a number of this line.
            remove(&*self.store, &layout::lease(&self.folder, self.state.fencing)).await;
        }
        Ok(())
    }

    async fn succeed(&mut self, now: Timestamp, expires: Timestamp, released: bool) -> Result<(), LeaseError> {
        for _ in 0..generations::ATTEMPTS_MAX {
            let newest = newest(&*self.store, self.state.work, &self.folder).await?;
            let fencing = match newest {
                // An earlier call of ours may have been stored although its answer was lost.
                Some((state, _)) if state.token == self.state.token => state.fencing,
                Some((state, _)) => return Err(self.lost(state.holder)),
                None => return Err(self.lost("nobody: its objects were removed".to_owned())),
            };
            let next =
                State { fencing: fencing.saturating_add(1), written: now, expires, released, ..self.state.clone() };
            let renewed = Instant::now();
            if write(&*self.store, &self.folder, &next).await? {
                (self.state, self.renewed) = (next, renewed);
                return Ok(());
            }
        }
        Err(contended(&*self.store, &self.folder).into())
    }

    fn lost(&self, holder: String) -> LeaseError {
        LeaseError::Lost { work: self.state.work, url: self.store.url().to_owned(), holder }
    }
}

fn contended(store: &dyn Store, folder: &ObjectKey) -> RepoError {
    RepoError::Contended { object: generations::shown(store, folder) }
}

/// The objects of the lease in `folder`, by number, and what was written to learn the store's time.
async fn objects(
    store: &dyn Store,
    folder: &ObjectKey,
) -> Result<(Vec<(u64, ObjectInfo)>, Vec<ObjectInfo>), RepoError> {
    let listing = store.list(Some(folder)).await?;
    let (clocks, others): (Vec<_>, Vec<_>) =
        listing.objects.into_iter().partition(|info| layout::is_lease_clock(info.key.file_name()));
    let numbered = others.into_iter();
    let mut states: Vec<_> =
        numbered.filter_map(|info| Some((layout::parse_fencing(info.key.file_name())?, info))).collect();
    states.sort_by_key(|(fencing, _)| *fencing);
    Ok((states, clocks))
}

/// The state that holds.
async fn newest(store: &dyn Store, work: Work, folder: &ObjectKey) -> Result<Option<(State, ObjectInfo)>, RepoError> {
    for _ in 0..generations::ATTEMPTS_MAX {
        let Some((fencing, info)) = objects(store, folder).await?.0.pop() else { return Ok(None) };
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
    Err(contended(store, folder))
}

/// Writes the next state; `false` when somebody else was first. Removes what it takes the place of.
async fn write(store: &dyn Store, folder: &ObjectKey, state: &State) -> Result<bool, RepoError> {
    let key = layout::lease(folder, state.fencing);
    let bytes = checked_json::encode(state, None)
        .map_err(|error| RepoError::damaged(&generations::shown(store, &key), error))?;
    if !generations::put(store, &key, &bytes).await? {
        return Ok(false);
    }
    // A writer that was slow between looking and writing may have taken a number that was used and removed.
    let (states, clocks) = objects(store, folder).await?;
    let highest = states.last().is_some_and(|(fencing, _)| *fencing == state.fencing);
    for (fencing, info) in &states {
        let superseded = if highest { *fencing < state.fencing } else { *fencing == state.fencing };
        if superseded {
            remove(store, &info.key).await;
        }
    }
    // What a process left that died while it asked for the time.
    let newest = states.last().map(|(_, info)| info.modified);
    for clock in clocks {
        if newest.is_some_and(|newest| newest.duration_since(clock.modified) > CLOCK_KEPT) {
            remove(store, &clock.key).await;
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Encryption;
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::fault::{Fault, Faulty, Plan};
    use walward_storage::memory;

    const MINUTE: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(400);

    async fn repository() -> Repository {
        let pool = CpuPool::new(1).expect("a thread");
        let made = Repository::create("r", memory(), "main", &Encryption::None, &[], pool, Timestamp::now()).await;
        made.expect("a repository").0
    }

    fn named(name: &str) -> Holder {
        Holder { name: name.to_owned(), process: None }
    }

    /// A moment that only a wrong clock has.
    fn wrong(hours: i64) -> Timestamp {
        Timestamp::now().saturating_add(SignedDuration::from_hours(hours)).expect("in range")
    }

    async fn take(repository: &Repository, holder: &str, length: Duration) -> Result<Lease, LeaseError> {
        Lease::take(repository, Work::Backup, &named(holder), length, Timestamp::now()).await
    }

    async fn seen(repository: &Repository, work: Work) -> Seen {
        look(repository, work).await.expect("read").pop().expect("a lease")
    }

    async fn do_work(repository: &Repository, work: Work, holder: &str, length: Duration) -> Result<Lease, LeaseError> {
        Lease::take(repository, work, &named(holder), length, Timestamp::now()).await
    }

    #[tokio::test]
    async fn of_all_pairs_of_works_those_that_exclude_each_other_are_not_held_together() {
        for first in Work::ALL {
            for second in Work::ALL {
                let repository = repository().await;
                let held = do_work(&repository, first, "a", MINUTE).await.expect("taken");
                let other = do_work(&repository, second, "b", MINUTE).await;
                assert_eq!(other.is_err(), first.excludes(second), "{first:?}, then {second:?}");
                match other {
                    Ok(other) => other.release(Timestamp::now()).await.expect("released"),
                    Err(LeaseError::Held { work, holder, .. }) => assert_eq!((work, holder.as_str()), (first, "a")),
                    Err(other) => panic!("{other}"),
                }
                held.release(Timestamp::now()).await.expect("released");
                do_work(&repository, second, "b", MINUTE).await.expect("free");
            }
        }
    }

    #[tokio::test]
    async fn of_works_that_exclude_each_other_and_begin_at_once_no_two_are_held() {
        let mut held = 0;
        let works = [Work::Backup, Work::Expire, Work::SetAside, Work::Restore];
        for (seed, first) in (0..60u64).zip(works.into_iter().cycle()) {
            let inner = memory();
            let pool = CpuPool::new(1).expect("a thread");
            let none = Encryption::None;
            let made = Repository::create("r", Arc::clone(&inner), "main", &none, &[], pool.clone(), Timestamp::now());
            made.await.expect("a repository");
            let open = async |number: u64| {
                let mut calls = number + 2 * seed;
                // Each call takes another while, so that the two meet at every step.
                let plan = Plan::By(Box::new(move |_| {
                    calls = calls.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    Some(Fault::Delay(Duration::from_millis(calls >> 61)))
                }));
                let store = Faulty::new(Arc::clone(&inner), Plan::script([]));
                let repository =
                    Repository::open("r", Arc::clone(&store) as _, &none, pool.clone()).await.expect("opens");
                store.plan(plan);
                repository
            };
            let (one, two) = (open(0).await, open(1).await);
            let second = Work::Repair;
            let both = tokio::join!(do_work(&one, first, "a", MINUTE), do_work(&two, second, "b", MINUTE));
            assert!(both.0.is_err() || both.1.is_err(), "{seed}: {first:?}, {second:?}");
            held += u64::from(both.0.is_ok() || both.1.is_ok());
        }
        assert!(held > 0);
    }

    #[tokio::test]
    async fn readers_hold_together_are_told_apart_and_leave_nothing() {
        let repository = repository().await;
        let one = do_work(&repository, Work::Restore, "a", MINUTE).await.expect("taken");
        let mut two = do_work(&repository, Work::Restore, "b", MINUTE).await.expect("taken");
        two.renew(Timestamp::now()).await.expect("renewed");
        let mut readers = look(&repository, Work::Restore).await.expect("read");
        readers.sort_by(|one, other| one.holder.cmp(&other.holder));
        assert_eq!(readers.iter().map(|seen| seen.holder.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(break_it(&repository, &readers[1], &named("a person"), Timestamp::now()).await.expect("broken"));
        assert!(matches!(two.renew(Timestamp::now()).await, Err(LeaseError::Lost { .. })));
        assert!(do_work(&repository, Work::SetAside, "c", MINUTE).await.is_err(), "the first still reads");
        one.release(Timestamp::now()).await.expect("released");
        assert_eq!(look(&repository, Work::Restore).await.expect("read"), []);
        do_work(&repository, Work::SetAside, "c", MINUTE).await.expect("nobody reads any more");
    }

    #[tokio::test]
    async fn work_whose_lease_ran_out_cannot_renew_it_once_other_work_has_begun() {
        for first in [Work::Backup, Work::Restore] {
            let repository = repository().await;
            let mut old = do_work(&repository, first, "a", SHORT).await.expect("taken");
            assert!(do_work(&repository, Work::SetAside, "b", MINUTE).await.is_err());
            tokio::time::sleep(SHORT * 2).await;
            do_work(&repository, Work::SetAside, "b", MINUTE).await.expect("it ran out");
            let lost = old.renew(Timestamp::now()).await;
            assert!(matches!(&lost, Err(LeaseError::Lost { holder, .. }) if holder == "b"), "{first:?}: {lost:?}");
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_the_next_after_release() {
        let repository = repository().await;
        let lease = take(&repository, "a", MINUTE).await.expect("taken");
        let error = take(&repository, "b", MINUTE).await.expect_err("held");
        assert!(matches!(&error, LeaseError::Held { holder, .. } if holder == "a"), "{error}");
        lease.release(Timestamp::now()).await.expect("released");
        let lease = take(&repository, "b", MINUTE).await.expect("taken");
        assert_eq!(lease.fencing(), 3);
    }

    #[tokio::test]
    async fn a_lease_that_ran_out_is_taken_over_and_its_holder_learns_it() {
        let repository = repository().await;
        let mut old = take(&repository, "a", SHORT).await.expect("taken");
        assert!(take(&repository, "b", MINUTE).await.is_err() && !old.has_run_out());
        tokio::time::sleep(SHORT * 2).await;
        assert!(old.has_run_out());
        let new = take(&repository, "b", MINUTE).await.expect("ran out");
        assert!(new.fencing() > old.fencing());
        assert!(matches!(old.renew(Timestamp::now()).await, Err(LeaseError::Lost { holder, .. }) if holder == "b"));
        assert!(matches!(old.release(Timestamp::now()).await, Err(LeaseError::Lost { .. })));
    }

    #[tokio::test]
    async fn no_hosts_clock_holds_a_lease_for_longer_or_takes_one_that_is_held() {
        for hours in [-24 * 365, -1, 1, 24 * 365] {
            // The holder's clock is wrong.
            let ours = repository().await;
            Lease::take(&ours, Work::Backup, &named("a"), SHORT, wrong(hours)).await.expect("taken");
            assert!(matches!(take(&ours, "b", MINUTE).await, Err(LeaseError::Held { .. })), "{hours}");
            tokio::time::sleep(SHORT * 2).await;
            take(&ours, "b", MINUTE).await.expect("ran out");
            // The clock of who wants it is.
            let error = Lease::take(&ours, Work::Backup, &named("c"), MINUTE, wrong(hours)).await.expect_err("held");
            assert!(matches!(&error, LeaseError::Held { holder, .. } if holder == "b"), "{hours}: {error}");
        }
    }

    #[tokio::test]
    async fn a_holder_of_this_host_that_has_ended_holds_nothing() {
        let repository = repository().await;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        let holder = Holder { name: "a".to_owned(), process: Process::of(child.id()) };
        assert!(holder.process.is_some());
        Lease::take(&repository, Work::Backup, &holder, MINUTE, Timestamp::now()).await.expect("taken");
        assert!(take(&repository, "b", MINUTE).await.is_err());
        child.kill().and_then(|()| child.wait()).expect("ended");
        let seen = seen(&repository, Work::Backup).await;
        assert_eq!((seen.holder.as_str(), seen.standing), ("a", LeaseState::HolderGone));
        take(&repository, "b", MINUTE).await.expect("free");
    }

    #[tokio::test]
    async fn a_broken_lease_is_free_and_its_holder_learns_it() {
        let repository = repository().await;
        let by = named("a person");
        assert_eq!(look(&repository, Work::Backup).await.expect("read"), []);
        let mut lease = take(&repository, "a", MINUTE).await.expect("taken");
        let seen = seen(&repository, Work::Backup).await;
        assert!(matches!(seen.standing, LeaseState::Held(left) if left <= MINUTE), "{seen:?}");
        assert!(break_it(&repository, &seen, &by, Timestamp::now()).await.expect("broken"));
        assert!(!break_it(&repository, &seen, &by, Timestamp::now()).await.expect("nothing to break"));
        let lost = lease.renew(Timestamp::now()).await;
        assert!(matches!(&lost, Err(LeaseError::Lost { holder, .. }) if holder == "a person"), "{lost:?}");
        take(&repository, "b", MINUTE).await.expect("free");
    }

    #[tokio::test]
    async fn a_renewed_lease_stays_and_leaves_one_object() {
        let repository = repository().await;
        let mut lease = take(&repository, "a", SHORT).await.expect("taken");
        for _ in 1..5 {
            tokio::time::sleep(SHORT / 2).await;
            lease.renew(Timestamp::now()).await.expect("renewed");
        }
        assert!(take(&repository, "b", MINUTE).await.is_err());
        assert_eq!(lease.fencing(), 5);
        let (states, clocks) = objects(&**repository.store(), &layout::leases(Work::Backup)).await.expect("listed");
        assert_eq!((states.len(), clocks.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_number_that_was_used_and_removed_is_not_given_out_again() {
        let repository = repository().await;
        let mut lease = take(&repository, "a", MINUTE).await.expect("taken");
        let slow = State { token: "x".to_owned(), holder: "slow".to_owned(), ..lease.state.clone() };
        lease.renew(Timestamp::now()).await.expect("renewed");
        // "slow" saw no lease before "a" took the first number, and writes only now.
        assert!(!write(&**repository.store(), &lease.folder, &slow).await.expect("written"));
        lease.renew(Timestamp::now()).await.expect("renewed");
    }

    #[test]
    fn only_the_stores_clock_counts_and_a_second_more_where_it_keeps_no_fractions() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let age = SignedDuration::from_secs;
        let state = State::new(1, Work::Backup, &named("a"), at(1_000_000_000), MINUTE);
        let held = |seconds| LeaseState::Held(Duration::from_secs(seconds));
        assert_eq!(judge(&state, age(0), false, false), held(60));
        assert_eq!(judge(&state, age(59), false, false), held(1));
        assert_eq!(judge(&state, age(60), false, false), LeaseState::RanOut);
        assert_eq!(judge(&state, age(60), true, false), held(1));
        assert_eq!(judge(&state, age(61), true, false), LeaseState::RanOut);
        // A store whose machines do not agree.
        assert_eq!(judge(&state, age(-100), false, false), held(60));
        assert_eq!(judge(&state, age(0), false, true), LeaseState::HolderGone);
        let forged = State::new(1, Work::Backup, &named("a"), at(1_000_000_000), MINUTE * 60 * 24 * 365);
        assert_eq!(judge(&forged, age(0), false, false), held(3_600));
        assert_eq!(judge(&State { released: true, ..state }, age(0), false, false), LeaseState::Released);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = checked_json::decode::<State>(&bytes, FORMAT);
        }
    }
}
