//! One cluster's archiver: answers `push`, and uploads ready files ahead of it.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, debug, info, warn};

use super::chain::Chain;
use super::delivery::{Delivery, Outcome};
use super::done_list::DoneList;
use super::error::PushError;
use super::lead::Refusal;
use super::memory::Memory;
use super::policy::{self, Acknowledge, CopyFacts, CopyState, Decision};
use super::source::{FileStamp, FileVisit};
use super::state::{InFlight, State, Why};
use super::upload::{LEFTOVER_PATIENCE, Listeners, Origin, send};
use crate::archive::agree::Parting;
use crate::archive::let_go::limiter::QueueLimit;
use crate::health::{ArchiveStats, DebtFacts, RepositoryStats};
use walward_base::Locked;
use walward_base::{describe, trace};
use walward_pg::WalFileName;
use walward_repo::LazyRepository;

/// Archived files that are still on their way to further repositories, at most; what comes on top is owed to them.
const LEFTOVERS_MAX: usize = 2;

/// How an archiver works.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// In how many repositories a file must be durable before PostgreSQL is told so.
    pub acknowledge: Acknowledge,
    /// Files read and sealed ahead at the same time. Of those that are sealed a few more are on their way (see `look_ahead.rs`).
    pub workers: usize,
    /// How many files in front of what PostgreSQL asked for last may be uploaded.
    pub look_ahead: usize,
    /// How long a push may take before it is answered with a failure (the upload goes on).
    pub deadline: Duration,
    /// How often archive_status is read when no event came.
    pub rescan_interval: Duration,
    /// This host's name, stored with every object.
    pub writer: String,
}

/// One cluster's archiver. Clones share it.
#[derive(Clone)]
pub struct Archiver(pub(super) Arc<Inner>);

pub(super) struct Inner {
    /// What every line of the log is written in.
    span: Span,
    pg_wal: PathBuf,
    repositories: Vec<Arc<LazyRepository>>,
    pub(super) options: ArchiveOptions,
    /// MiB of segments that may be on their way at once, over all clusters of the agent.
    memory: Arc<Semaphore>,
    memory_mib: u32,
    pub(super) stats: Arc<ArchiveStats>,
    /// What is known of each repository, in their order.
    repository_stats: Vec<RepositoryStats>,
    /// Places for archived files that are still on their way to further repositories.
    leftovers: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
    pub(super) changed: Notify,
    state: Mutex<State>,
    queue_limit: OnceLock<QueueLimit>,
    pub(super) done: DoneList,
    chain: Chain,
}

impl Archiver {
    /// An archiver for the cluster in `data_directory`. `memory` counts MiB and is shared by all clusters of the agent;
    /// `memory_mib` is its size. Nothing runs until [`Archiver::look_ahead`].
    pub fn new(
        cluster: &str,
        data_directory: &Path,
        repositories: Vec<Arc<LazyRepository>>,
        options: ArchiveOptions,
        (memory, memory_mib): (Arc<Semaphore>, u32),
        stats: Arc<ArchiveStats>,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            span: trace::of_cluster(cluster),
            pg_wal: data_directory.join("pg_wal"),
            repository_stats: repositories.iter().map(|_| RepositoryStats::default()).collect(),
            leftovers: Semaphore::new(LEFTOVERS_MAX),
            repositories,
            options,
            memory,
            memory_mib,
            stats,
            tasks: TaskTracker::new(),
            stop,
            changed: Notify::new(),
            state: Mutex::default(),
            queue_limit: OnceLock::new(),
            done: DoneList::default(),
            chain: Chain::default(),
        }))
    }

    /// Lets WAL go beyond `limit` bytes (see `queue_limit.rs`); `notes` is a folder that outlives the agent. To be called before
    /// the first push.
    pub fn limit_queue(&self, limit: Option<u64>, notes: PathBuf) {
        let inner = &self.0;
        let host = inner.options.writer.clone();
        inner.queue_limit.get_or_init(|| QueueLimit::new(limit, &inner.pg_wal, notes, host));
    }

    /// Notes of gaps that some repository was not told of yet.
    pub fn unrecorded_gaps(&self) -> u64 {
        self.queue_limit().map_or(0, |limit| limit.notes.count())
    }

    /// Notes of gaps that cannot be read, so that no repository will be told of these gaps.
    pub fn unreadable_gaps(&self) -> u64 {
        self.queue_limit().map_or(0, |limit| limit.notes.unreadable())
    }

    pub(in crate::archive) fn queue_limit(&self) -> Option<&QueueLimit> {
        self.0.queue_limit.get()
    }

    pub(in crate::archive) fn repositories(&self) -> &[Arc<LazyRepository>] {
        &self.0.repositories
    }

    pub(super) fn path(&self, name: WalFileName) -> PathBuf {
        self.0.pg_wal.join(name.to_string())
    }

    /// Where this cluster's WAL lies.
    pub fn pg_wal(&self) -> &Path {
        &self.0.pg_wal
    }

    /// The cluster's data directory.
    pub fn data_directory(&self) -> &Path {
        self.0.pg_wal.parent().unwrap_or(&self.0.pg_wal)
    }

    /// Says that archive_status may have changed.
    pub fn wake(&self) {
        self.0.changed.notify_one();
    }

    /// What is to be known of the file of this name in pg_wal, for [`Archiver::push`]. Blocking.
    pub fn find(&self, name: WalFileName) -> FileVisit {
        FileVisit::look(&self.0.pg_wal, name)
    }

    /// Archives a file that PostgreSQL no longer asks for.
    pub(in crate::archive) async fn archive_again(&self, name: WalFileName) -> Result<(), Arc<PushError>> {
        self.start(name, Why::Asked).await.map(drop)
    }

    /// Waits until nothing is on its way any more. Call after the stop token was cancelled.
    pub async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Files that are durable before PostgreSQL asked, and files on their way.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.unasked(self.needed()), state.in_flight.len())
    }

    /// What is written to the log about the cluster, also by others, is written in it.
    pub fn span(&self) -> Span {
        self.0.span.clone()
    }

    /// What is known of each of them.
    pub(in crate::archive) fn stats(&self) -> &[RepositoryStats] {
        &self.0.repository_stats
    }

    /// Memory for `bytes`, if nobody else wants it.
    pub(in crate::archive) fn try_room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.0.memory).try_acquire_many_owned(self.mib(bytes))
    }

    /// Memory for `bytes` in MiB, as far as there is so much.
    fn mib(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).clamp(1, self.0.memory_mib)
    }

    /// What is owed to each repository, and what contradicts it, in their order.
    pub fn repository_facts(&self) -> Vec<DebtFacts> {
        self.0.repository_stats.iter().map(RepositoryStats::facts).collect()
    }

    /// Joins the upload of `name` that is on its way, or starts one, which goes on whether or not anybody waits for it.
    pub(super) fn start(&self, name: WalFileName, why: Why) -> InFlight {
        let mut state = self.state();
        if let Some((running, _)) = state.in_flight.get(&name) {
            return running.clone();
        }
        let (decide, decision) = oneshot::channel();
        let delivery = Arc::new(Delivery::new(self.needed(), state.forgotten, decide));
        let (this, followed) = (self.clone(), Arc::clone(&delivery));
        let deliver = async move {
            // Whatever happens, the name must not stay marked as being on its way.
            let delivered = AssertUnwindSafe(this.deliver(name, why, &delivery)).catch_unwind().await;
            let error = match delivered {
                Ok(Ok(())) => PushError::Stopping(name),
                Ok(Err(error)) => error,
                Err(_) => PushError::Died(name),
            };
            if delivery.is_decided() {
                this.leave(name, &delivery);
            } else {
                this.decided(name, &delivery, Err(Arc::new(error)));
            }
            this.state().lagging.retain(|(_, lagging)| !Arc::ptr_eq(lagging, &delivery));
        };
        self.0.tasks.spawn(deliver.in_current_span());
        let running = decision
            .map(move |decided| decided.unwrap_or_else(|_| Err(Arc::new(PushError::Stopping(name)))))
            .boxed()
            .shared();
        state.in_flight.insert(name, (running.clone(), followed));
        running
    }

    /// Sends the file to the repositories that lack it. Decides as soon as the policy allows; the others have a while longer.
    async fn deliver(&self, name: WalFileName, why: Why, delivery: &Delivery) -> Result<(), PushError> {
        let inner = &self.0;
        let begun = Instant::now();
        let this = self.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || this.find(name)).await else {
            return Err(PushError::Stopping(name));
        };
        let stamp = found.file.map_err(|source| PushError::Read { path: self.path(name), source })?;
        // Another server's data directory may have taken the place of the one that asked.
        if why == Why::Ahead && !self.state().lead.is_of(found.life) {
            return Err(PushError::Replaced(name));
        }
        delivery.of(found.life, found.marked);
        Box::pin(self.first_look(name, found.life)).await?;
        Box::pin(self.last_look(name)).await?;
        let mut answers = policy::begin(&self.places(name, stamp), self.needed());
        let mut chosen: Vec<usize> =
            answers.iter().enumerate().filter(|(_, answer)| **answer == CopyState::Waiting).map(|(at, _)| at).collect();
        for (silent, error) in Box::pin(self.hold_against_own(name, &chosen)).await? {
            chosen.retain(|at| *at != silent);
            answers.get_mut(silent).into_iter().for_each(|answer| *answer = CopyState::LeftOut);
            if policy::asked(&answers) < self.needed() {
                return Err(error);
            }
        }
        Box::pin(self.still_refused(name, &chosen)).await?;
        if delivery.begin(Some(stamp), answers) == Decision::Archived {
            self.decided(name, delivery, Ok(stamp));
            return Ok(());
        }
        // Plain copies of one level share their memory; they are counted as if they did not.
        let mib = self.mib(stamp.bytes().saturating_mul(chosen.len() as u64));
        let report = |stamp, at, result| self.answered(name, delivery, stamp, at, result, begun);
        let work = async {
            let room = Arc::clone(&inner.memory).acquire_many_owned(mib).await;
            let room = Memory::new(room.map_err(|_| PushError::Stopping(name))?, stamp.bytes(), chosen.len());
            let sealed = |copies, stored_bytes| {
                room.sealed(copies, stored_bytes);
                delivery.sealed(stored_bytes);
                self.wake();
            };
            let listeners = Listeners { sealed: &sealed, answered: &report };
            let chain = inner.chain.of(found.life);
            let file = Origin { pg_wal: &inner.pg_wal, name, stamp: Some(stamp), chain };
            let sending = send(&inner.repositories, &chosen, file, &inner.options.writer, listeners);
            tokio::select! {
                outcome = sending => outcome.map(|_| ()),
                () = self.patience(delivery, &room, chosen.len()) => Ok(()),
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = inner.stop.cancelled() => Err(PushError::Stopping(name)),
        }
    }

    /// What is known of every repository before `name` is sent.
    fn places(&self, name: WalFileName, stamp: FileStamp) -> Vec<CopyFacts> {
        let mut state = self.state();
        if state.stored.get(&name).is_some_and(|stored| stored.stamp != stamp) {
            state.stored.remove(&name);
        }
        let stored = state.stored.get(&name);
        let now = Instant::now();
        let place = |(at, lazy): (usize, &Arc<LazyRepository>)| CopyFacts {
            durable: stored.is_some_and(|stored| stored.places.contains(&at)),
            resting: lazy.standing().is_resting(now),
            uncompared: state.uncompared.contains(&at)
                || state.unjudged.contains(&at)
                || state.may_differ(at, name, now),
            missed: state.uncompared.contains(&at),
        };
        self.0.repositories.iter().enumerate().map(place).collect()
    }

    /// Ends when an archived file has had its time to reach the other repositories. `room` holds the memory of `copies`.
    async fn patience(&self, delivery: &Delivery, room: &Memory, copies: usize) {
        delivery.until_decided().await;
        room.arrived(delivery.waiting().len(), copies);
        if let Ok(_place) = self.0.leftovers.try_acquire() {
            tokio::time::sleep(LEFTOVER_PATIENCE).await;
        }
    }

    /// Takes the answer of one repository.
    fn answered(
        &self,
        name: WalFileName,
        delivery: &Delivery,
        stamp: FileStamp,
        at: usize,
        result: Result<(), PushError>,
        begun: Instant,
    ) {
        let inner = &self.0;
        // A person has changed the archive since: what was found there before is not remembered.
        let is_outdated = self.state().forgotten != delivery.forgotten;
        match &result {
            _ if is_outdated => {}
            Ok(()) => {
                let mut state = self.state();
                let stored = state.stored_as(name, stamp);
                stored.places.insert(at);
                stored.different.remove(&at);
                state.holds(delivery.whose().0, name, at);
            }
            Err(error) => {
                let text = describe(error);
                if matches!(error, PushError::Repository { source, .. } if source.is_gone()) {
                    self.state().lost(at);
                }
                if let Some(stats) = inner.repository_stats.get(at) {
                    match error {
                        PushError::Different { lineage, writer, modified, .. } => {
                            let of_whom = (*lineage, writer.clone(), *modified);
                            self.state().stored_as(name, stamp).different.insert(at, of_whom);
                            stats.contradicted(&text);
                        }
                        PushError::Beyond { .. } => stats.contradicted(&text),
                        _ => stats.failed(&text),
                    }
                }
                // The decision is logged by itself; what comes after it would be heard by nobody.
                if delivery.is_decided() {
                    self.differs_late(name, at, error);
                    let (repository, class) = (error.repository(), error.class());
                    warn!(segment = %name, repository, error_class = %class, error = text, "cannot archive");
                }
            }
        }
        // The repositories that had the file before have another one than this.
        let result = if delivery.is_of(stamp) { result } else { result.and(Err(PushError::Replaced(name))) };
        if let Some(outcome) = delivery.answered(stamp, at, result) {
            if outcome.is_ok() {
                inner.stats.uploaded(stamp.bytes(), begun.elapsed());
            }
            self.decided(name, delivery, outcome);
        }
    }

    /// Notes what was decided, and tells whoever waits.
    fn decided(&self, name: WalFileName, delivery: &Delivery, outcome: Outcome) {
        if let (Err(error), (life, true)) = (&outcome, delivery.whose())
            && error.is_refusal()
            && self.state().forgotten == delivery.forgotten
        {
            let other_content = matches!(**error, PushError::Different { .. });
            self.state().lead.refuse(life, name, Refusal { why: describe(error.as_ref()), other_content });
        }
        self.finished(name, &outcome);
        delivery.decide(outcome);
    }

    /// Repository `at`, which was not waited for, has other content under the name of an archived file: those that have the file and this one
    /// contradict each other, as a comparison would find.
    fn differs_late(&self, name: WalFileName, at: usize, error: &PushError) {
        let PushError::Different { lineage, .. } = error else { return };
        let mut state = self.state();
        let has = state.stored.get(&name).and_then(|stored| stored.places.first().copied());
        // Where none has the file, all that have the name may have the same.
        let Some(has) = has else { return };
        let parting = Parting { first: name, why: describe(error) };
        state.parted.push(((has.min(at), has.max(at)), *lineage, parting));
    }

    /// An archived file is not sent any further: whoever lacks it is owed it.
    fn leave(&self, name: WalFileName, delivery: &Delivery) {
        for at in delivery.owed() {
            if let (Some(stats), Some(lazy)) = (self.0.repository_stats.get(at), self.0.repositories.get(at)) {
                stats.owes(&name);
                let mut state = self.state();
                state.uncompared.insert(at);
                state.unproven.insert(at);
                debug!(segment = %name, repository = lazy.name(), "owed");
            }
        }
    }

    /// In how many repositories a file must be.
    pub(super) fn needed(&self) -> usize {
        self.0.options.acknowledge.needed(self.0.repositories.len())
    }

    fn finished(&self, name: WalFileName, outcome: &Outcome) {
        let mut state = self.state();
        let delivery = state.in_flight.remove(&name).map(|(_, delivery)| delivery);
        if let Some(delivery) = delivery.filter(|delivery| outcome.is_ok() && !delivery.waiting().is_empty()) {
            state.lagging.push((name, delivery));
        }
        match outcome {
            Ok(_) => {
                state.lead.settled(name);
                if state.failures > 0 {
                    info!(segment = %name, "archiving works again");
                }
                state.failures = 0;
                state.paused_until = None;
                if let Some(limit) = self.queue_limit() {
                    limit.worked();
                }
            }
            Err(error) => {
                state.rest();
                let (repository, class) = (error.repository(), error.class());
                warn!(segment = %name, repository, error_class = %class, error = describe(error.as_ref()), "cannot archive");
            }
        }
        drop(state);
        self.wake();
    }

    /// How long look-ahead rests after failures; `None` when it does not.
    pub(super) fn pause(&self) -> Option<Duration> {
        let left = self.state().paused_until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    pub(in crate::archive) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.locked()
    }
}
