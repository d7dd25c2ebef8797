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
mod tests;
