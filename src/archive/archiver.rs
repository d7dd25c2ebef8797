//! One cluster's archiver: answers `push`, and uploads ready files ahead of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::look_ahead::{QUEUE_FILES_MAX, choose, places};
use super::queue_limit::QueueLimit;
use super::source::FileStamp;
use super::upload::{PushError, archive_file};
use crate::base::describe;
use crate::health::ArchiveStats;
use crate::pg::{WalFileName, list_ready};
use crate::repo::LazyRepository;

/// The pause after the first failed look-ahead; doubled each time up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// How an archiver works.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Files uploaded ahead at the same time.
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

/// How a push succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It had been uploaded ahead.
    Ahead,
    /// It was uploaded now, or was on its way.
    Now,
    /// It is in no repository that lacks it: more WAL waited than `archive.queue_limit` allows. The gap is noted durably.
    LetGo,
}

type Outcome = Result<FileStamp, Arc<PushError>>;
type InFlight = Shared<BoxFuture<'static, Outcome>>;

/// One cluster's archiver. Clones share it.
#[derive(Clone)]
pub struct Archiver(Arc<Inner>);

struct Inner {
    cluster: String,
    pg_wal: PathBuf,
    repositories: Vec<Arc<LazyRepository>>,
    options: ArchiveOptions,
    /// MiB of segments that may be on their way at once, over all clusters of the agent.
    memory: Arc<Semaphore>,
    memory_mib: u32,
    stats: Arc<ArchiveStats>,
    tasks: TaskTracker,
    stop: CancellationToken,
    changed: Notify,
    state: Mutex<State>,
    queue_limit: OnceLock<QueueLimit>,
}

#[derive(Default)]
struct State {
    /// Durable, and still marked ready when archive_status was read last.
    durable: HashMap<WalFileName, Durable>,
    in_flight: HashMap<WalFileName, InFlight>,
    /// Ready files of the last listing that were not looked at yet.
    queue: VecDeque<WalFileName>,
    failures: u32,
    paused_until: Option<Instant>,
}

struct Durable {
    stamp: FileStamp,
    /// PostgreSQL asked for it and was told.
    acknowledged: bool,
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
            cluster: cluster.to_owned(),
            pg_wal: data_directory.join("pg_wal"),
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
        }))
    }

    /// Lets WAL go beyond `limit` bytes (see `queue_limit.rs`); `notes` is a folder that outlives the agent. To be called before
    /// the first push.
    pub fn limit_queue(&self, limit: Option<u64>, notes: PathBuf) {
        let inner = &self.0;
        let (cluster, pg_wal, host) = (&inner.cluster, &inner.pg_wal, inner.options.writer.clone());
        inner.queue_limit.get_or_init(|| QueueLimit::new(cluster, limit, pg_wal, notes, host));
    }

    /// Notes of gaps that some repository was not told of yet.
    pub fn unrecorded_gaps(&self) -> u64 {
        self.queue_limit().map_or(0, |limit| limit.notes.count())
    }

    pub(super) fn queue_limit(&self) -> Option<&QueueLimit> {
        self.0.queue_limit.get()
    }

    pub(super) fn repositories(&self) -> &[Arc<LazyRepository>] {
        &self.0.repositories
    }

    /// Where this cluster's WAL lies.
    pub fn pg_wal(&self) -> &Path {
        &self.0.pg_wal
    }

    /// Says that archive_status may have changed.
    pub fn wake(&self) {
        self.0.changed.notify_one();
    }

    /// Answers when `name` is durable in every repository.
    ///
    /// # Errors
    /// See [`PushError`]. After [`PushError::Deadline`] the upload goes on by itself.
    pub async fn push(&self, name: WalFileName) -> Result<Pushed, Arc<PushError>> {
        let begun = Instant::now();
        // Every step within has a deadline but the file system; a hung one must not hold the client for ever.
        let after = self.0.options.deadline.saturating_mul(3);
        let result = match tokio::time::timeout(after, self.push_uncounted(name)).await {
            Ok(result) => result,
            Err(_) => Err(Arc::new(PushError::Deadline { name, after })),
        };
        match &result {
            Ok(Pushed::LetGo) => self.0.stats.let_go(name),
            Ok(how) => {
                self.0.stats.acknowledged(name, *how == Pushed::Ahead);
                debug!(cluster = self.0.cluster, file = %name, ahead = *how == Pushed::Ahead, milliseconds = begun.elapsed().as_millis(), "acknowledged");
            }
            Err(error) => self.0.stats.refused(&describe(error.as_ref()), error.class()),
        }
        self.wake();
        result
    }

    async fn push_uncounted(&self, name: WalFileName) -> Result<Pushed, Arc<PushError>> {
        let path = self.0.pg_wal.join(name.to_string());
        let stamp = tokio::task::spawn_blocking(move || FileStamp::of(&path).map_err(|error| (path, error))).await;
        let stamp = match stamp {
            Ok(Ok(stamp)) => stamp,
            Ok(Err((path, source))) => return Err(Arc::new(PushError::Read { path, source })),
            Err(_) => return Err(Arc::new(PushError::Stopping(name))),
        };
        if self.acknowledge(name, stamp) {
            return Ok(Pushed::Ahead);
        }
        match self.queue_limit() {
            Some(limit) => limit.around(name, self.push_now(name, stamp)).await,
            None => self.push_now(name, stamp).await,
        }
    }

    async fn push_now(&self, name: WalFileName, stamp: FileStamp) -> Result<Pushed, Arc<PushError>> {
        let after = self.0.options.deadline;
        let Ok(outcome) = tokio::time::timeout(after, self.start(name)).await else {
            return Err(Arc::new(PushError::Deadline { name, after }));
        };
        if outcome? == stamp {
            self.acknowledge(name, stamp);
            return Ok(Pushed::Now);
        }
        // What was on its way was an older file of this name. Only what was asked for now may be acknowledged.
        self.state().durable.remove(&name);
        match tokio::time::timeout(after, self.start(name)).await {
            Ok(outcome) => outcome.map(|_| Pushed::Now),
            Err(_) => Err(Arc::new(PushError::Deadline { name, after })),
        }
    }

    /// Archives a file that PostgreSQL no longer asks for.
    pub(super) async fn archive_again(&self, name: WalFileName) -> Result<(), Arc<PushError>> {
        self.start(name).await.map(drop)
    }

    /// Uploads ready files until `closing` is cancelled: woken by [`Archiver::wake`], and by the clock so that a lost event
    /// costs nothing but time.
    pub async fn look_ahead(&self, closing: CancellationToken) {
        let inner = &self.0;
        loop {
            let looked_at_all = self.state().queue.is_empty();
            if looked_at_all {
                self.list().await;
            }
            self.start_ready();
            let wait = self.pause().unwrap_or(inner.options.rescan_interval).min(inner.options.rescan_interval);
            tokio::select! {
                () = closing.cancelled() => return,
                () = inner.changed.notified() => {}
                () = tokio::time::sleep(wait) => self.state().queue.clear(),
            }
        }
    }

    /// Waits until nothing is on its way any more. Call after the stop token was cancelled.
    pub async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Files that are durable before PostgreSQL asked, and files on their way.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let unasked = state.durable.values().filter(|durable| !durable.acknowledged).count();
        (unasked, state.in_flight.len())
    }

    /// Reads archive_status, and forgets what is no longer ready.
    async fn list(&self) {
        let pg_wal = self.0.pg_wal.clone();
        let Ok(listing) = tokio::task::spawn_blocking(move || list_ready(&pg_wal)).await else { return };
        match listing {
            Ok(ready) => {
                self.0.stats.ready_files(ready.len());
                let mut state = self.state();
                if !state.durable.is_empty() {
                    let ready: HashSet<_> = ready.iter().collect();
                    state.durable.retain(|name, _| ready.contains(name));
                }
                state.queue = ready.into_iter().take(QUEUE_FILES_MAX).collect();
            }
            Err(error) => debug!(cluster = self.0.cluster, %error, "cannot list archive_status"),
        }
    }

    fn start_ready(&self) {
        if self.pause().is_some() {
            return;
        }
        let options = &self.0.options;
        let chosen = {
            let mut guard = self.state();
            let state = &mut *guard;
            let unasked = state.durable.values().filter(|durable| !durable.acknowledged).count();
            let places = places(options.workers, options.look_ahead, unasked, state.in_flight.len());
            let known = |name| state.durable.contains_key(&name) || state.in_flight.contains_key(&name);
            choose(&mut state.queue, known, places)
        };
        for name in chosen {
            drop(self.start(name));
        }
    }

    /// Joins the upload of `name` that is on its way, or starts one, which goes on whether or not anybody waits for it.
    fn start(&self, name: WalFileName) -> InFlight {
        let mut state = self.state();
        if let Some(running) = state.in_flight.get(&name) {
            return running.clone();
        }
        let this = self.clone();
        let task = self.0.tasks.spawn(async move {
            // Whatever happens, the name must not stay marked as being on its way.
            let upload = AssertUnwindSafe(this.upload(name)).catch_unwind().await;
            let outcome = upload.unwrap_or_else(|_| Err(Arc::new(PushError::Died(name))));
            this.finished(name, &outcome);
            outcome
        });
        let running = task
            .map(move |joined| joined.unwrap_or_else(|_| Err(Arc::new(PushError::Stopping(name)))))
            .boxed()
            .shared();
        state.in_flight.insert(name, running.clone());
        running
    }

    async fn upload(&self, name: WalFileName) -> Outcome {
        let inner = &self.0;
        let path = inner.pg_wal.join(name.to_string());
        let bytes = tokio::fs::metadata(&path).await.map_or(0, |metadata| metadata.len());
        // Every repository seals a copy for itself.
        let bytes_held = bytes.saturating_mul(inner.repositories.len() as u64);
        let mib = u32::try_from(bytes_held.div_ceil(1 << 20)).unwrap_or(u32::MAX).clamp(1, inner.memory_mib);
        let begun = Instant::now();
        let work = async {
            let _room = inner.memory.acquire_many(mib).await.map_err(|_| PushError::Stopping(name))?;
            archive_file(&inner.repositories, &inner.pg_wal, name, &inner.options.writer).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = inner.stop.cancelled() => Err(PushError::Stopping(name)),
        };
        if outcome.is_ok() {
            inner.stats.uploaded(bytes, begun.elapsed());
        }
        outcome.map_err(Arc::new)
    }

    fn finished(&self, name: WalFileName, outcome: &Outcome) {
        let mut state = self.state();
        state.in_flight.remove(&name);
        match outcome {
            Ok(stamp) => {
                state.durable.insert(name, Durable { stamp: *stamp, acknowledged: false });
                if state.failures > 0 {
                    info!(cluster = self.0.cluster, file = %name, "archiving works again");
                }
                state.failures = 0;
                state.paused_until = None;
            }
            Err(error) => {
                let pause = PAUSE_FIRST.saturating_mul(1 << state.failures.min(10)).min(PAUSE_MAX);
                state.failures = state.failures.saturating_add(1);
                state.paused_until = Some(Instant::now() + pause);
                warn!(cluster = self.0.cluster, file = %name, class = %error.class(), error = describe(error.as_ref()), "cannot archive");
            }
        }
        drop(state);
        self.wake();
    }

    /// Whether this very file is known to be durable; if so, it counts as acknowledged from now on.
    fn acknowledge(&self, name: WalFileName, stamp: FileStamp) -> bool {
        let mut state = self.state();
        match state.durable.get_mut(&name) {
            Some(durable) if durable.stamp == stamp => {
                durable.acknowledged = true;
                true
            }
            _ => false,
        }
    }

    /// How long look-ahead rests after failures; `None` when it does not.
    fn pause(&self) -> Option<Duration> {
        let left = self.state().paused_until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
