//! One cluster's WAL for servers in recovery: answered from a spool that is filled ahead of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug};

use super::fetch::{AtHole, FetchError, Retrieved, retrieve_noting};
use super::spool::{Place, Spool};
use super::window::Pace;
use crate::base::{ErrorClass, describe, trace};
use crate::health::FetchStats;
use crate::pg::{Lineage, SegmentName, SegmentSize, TimelineHistory, WalFileName};
use crate::repo::LazyRepository;

/// What waits in the spool for nobody is removed after this time.
const IDLE_MAX: Duration = Duration::from_mins(10);
/// How long a prefetch that met the archive's end is not tried again.
const END_REMEMBERED: Duration = Duration::from_secs(5);
/// A longer pause between two requests is not replay time: the server was paused, or it is a standby that is up to date.
const REPLAY_MAX: Duration = Duration::from_mins(1);

/// How fetching works.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How long a request tries before it fails.
    pub deadline: Duration,
    /// Prefetched segments that are downloaded at the same time.
    pub workers: usize,
}

/// What became of a request that found out.
#[derive(Debug)]
pub enum Fetched {
    /// A verified file. It is removed when the place is dropped, unless it was moved.
    File(Arc<Place>),
    /// No repository has it.
    Absent,
}

/// What became of a prefetch: a file, or nothing to be had for whatever reason. The request then finds out itself.
type Prefetched = Shared<BoxFuture<'static, Option<Arc<Place>>>>;
type Wanted = (Option<Lineage>, WalFileName);

/// One cluster's fetcher. Clones share it.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

struct Inner {
    /// What every line of the log is written in.
    span: Span,
    repositories: Vec<Arc<LazyRepository>>,
    options: FetchOptions,
    spool: Spool,
    downloads: Arc<Semaphore>,
    stats: Arc<FetchStats>,
    stop: CancellationToken,
    state: Mutex<State>,
}

struct State {
    prefetched: HashMap<Wanted, (Prefetched, Instant)>,
    pace: Pace,
    last_answer: Option<Instant>,
    history: Option<TimelineHistory>,
    end: Option<(Wanted, Instant)>,
}

impl Fetcher {
    /// A fetcher with an empty spool of at most `spool_bytes_max` in `spool_folder`. Blocking.
    pub fn new(
        cluster: &str,
        repositories: Vec<Arc<LazyRepository>>,
        options: FetchOptions,
        (spool_folder, spool_bytes_max): (&Path, u64),
        stats: Arc<FetchStats>,
        stop: CancellationToken,
    ) -> std::io::Result<Self> {
        let spool = Spool::open(spool_folder, spool_bytes_max)?;
        let downloads = Arc::new(Semaphore::new(options.workers.max(1)));
        Ok(Self(Arc::new(Inner {
            span: trace::of_cluster(cluster),
            repositories,
            options,
            spool,
            downloads,
            stats,
            stop,
            state: Mutex::new(State {
                prefetched: HashMap::new(),
                pace: Pace::NEW,
                last_answer: None,
                history: None,
                end: None,
            }),
        })))
    }

    /// Provides `name` for a server of `lineage` (`None`: not known, the repository's newest).
    pub async fn fetch(
        &self,
        lineage: Option<Lineage>,
        name: WalFileName,
        at_hole: AtHole,
    ) -> Result<Fetched, FetchError> {
        self.asked();
        let outcome = tokio::select! {
            outcome = self.fetch_uncounted(lineage, name, at_hole).instrument(self.0.span.clone()) => outcome,
            () = self.0.stop.cancelled() => Err(FetchError::Stopping(name)),
        };
        match &outcome {
            Ok(Fetched::File(place)) => {
                self.0.stats.served(name);
                self.learn(name, place.path()).await;
            }
            Ok(Fetched::Absent) => self.0.stats.absent(),
            Err(error) => self.0.stats.failed(&describe(error), error.class()),
        }
        self.state().last_answer = Some(Instant::now());
        outcome
    }

    async fn fetch_uncounted(
        &self,
        lineage: Option<Lineage>,
        name: WalFileName,
        at_hole: AtHole,
    ) -> Result<Fetched, FetchError> {
        let waiting = self.state().prefetched.remove(&(lineage, name));
        // What comes next is on its way while this one is being waited for.
        let segment_size = self.segment_size(lineage).await;
        if let (WalFileName::Segment(segment), Some(size)) = (name, segment_size) {
            self.prefetch(lineage, segment, size);
        }
        if let Some((prefetched, _)) = waiting
            && let Some(place) = prefetched.await
            && tokio::fs::try_exists(place.path()).await.unwrap_or(false)
        {
            self.0.stats.prefetched();
            return Ok(Fetched::File(place));
        }
        let bytes = segment_size.map_or(0, SegmentSize::bytes);
        let Some(place) = self.0.spool.place(&name.to_string(), bytes, true) else {
            return Err(FetchError::Stopping(name));
        };
        let begun = Instant::now();
        let until = (self.0.options.deadline, at_hole);
        match self.retrieve(lineage, name, place.path(), until).await? {
            Retrieved::File { .. } => {
                self.state().pace.downloaded(begun.elapsed());
                Ok(Fetched::File(Arc::new(place)))
            }
            Retrieved::Absent => Ok(Fetched::Absent),
        }
    }

    /// Brings a file from the first repository that can give it, and counts what the others could not.
    async fn retrieve(
        &self,
        lineage: Option<Lineage>,
        name: WalFileName,
        path: &Path,
        until: (Duration, AtHole),
    ) -> Result<Retrieved, FetchError> {
        let mut passed_over = Vec::new();
        let retrieved = retrieve_noting(&self.0.repositories, lineage, name, path, until, &mut passed_over).await?;
        if let (Retrieved::File { .. }, Some(first)) = (&retrieved, passed_over.first()) {
            let damaged = passed_over.iter().any(|failure| failure.class == ErrorClass::Corrupt);
            self.0.stats.fell_back(&first.text, damaged);
        }
        Ok(retrieved)
    }

    /// Removes from the spool what nobody came for. Call now and then.
    pub fn sweep(&self) {
        self.state().prefetched.retain(|_, (_, since)| since.elapsed() < IDLE_MAX);
    }

    /// Segments prefetched or on their way, bytes of the spool in use, and its bound.
    pub fn counts(&self) -> (usize, u64, u64) {
        (self.state().prefetched.len(), self.0.spool.bytes(), self.0.spool.bytes_max())
    }

    fn asked(&self) {
        let mut state = self.state();
        if let Some(replay) = state.last_answer.map(|last| last.elapsed()).filter(|time| *time < REPLAY_MAX) {
            state.pace.replayed(replay);
        }
    }

    /// Starts what PostgreSQL will want after `segment`.
    fn prefetch(&self, lineage: Option<Lineage>, segment: SegmentName, size: SegmentSize) {
        let most = usize::try_from(self.0.spool.bytes_max() / size.bytes()).unwrap_or(usize::MAX);
        let mut state = self.state();
        let window = state.pace.window(most.saturating_sub(1));
        for name in following(segment, size, state.history.as_ref(), window) {
            let wanted = (lineage, WalFileName::Segment(name));
            if state.end.is_some_and(|(end, when)| end == wanted && when.elapsed() < END_REMEMBERED) {
                break;
            }
            if state.prefetched.contains_key(&wanted) {
                continue;
            }
            let Some(place) = self.0.spool.place(&name.to_string(), size.bytes(), false) else { break };
            let task = tokio::spawn(self.clone().download(wanted, place).in_current_span());
            let prefetched = task.map(|joined| joined.ok().flatten()).boxed().shared();
            state.prefetched.insert(wanted, (prefetched, Instant::now()));
        }
    }

    async fn download(self, wanted: Wanted, place: Place) -> Option<Arc<Place>> {
        let inner = &self.0;
        let (lineage, name) = wanted;
        let _permit = inner.downloads.acquire().await.ok()?;
        if inner.stop.is_cancelled() {
            return None;
        }
        let begun = Instant::now();
        // One round over the repositories: whoever waits for the file tries longer, and says what failed.
        match self.retrieve(lineage, name, place.path(), (Duration::ZERO, AtHole::Tell)).await {
            Ok(Retrieved::File { .. }) => {
                self.state().pace.downloaded(begun.elapsed());
                Some(Arc::new(place))
            }
            Ok(Retrieved::Absent) => {
                let mut state = self.state();
                state.prefetched.remove(&wanted);
                state.end = Some((wanted, Instant::now()));
                None
            }
            Err(error) => {
                debug!(segment = %name, error_class = %error.class(), error = describe(&error), "prefetch failed");
                self.state().prefetched.remove(&wanted);
                None
            }
        }
    }

    /// Remembers the newest timeline history that went to the server: it says where recovery will change timelines.
    async fn learn(&self, name: WalFileName, path: &Path) {
        let WalFileName::History(timeline) = name else { return };
        let Ok(text) = tokio::fs::read_to_string(path).await else { return };
        if let Ok(history) = TimelineHistory::parse(timeline, &text) {
            let mut state = self.state();
            if state.history.as_ref().is_none_or(|known| known.timeline < timeline) {
                state.history = Some(history);
            }
        }
    }

    async fn segment_size(&self, lineage: Option<Lineage>) -> Option<SegmentSize> {
        for lazy in &self.0.repositories {
            let Ok(repository) = lazy.get().await else { continue };
            let mut known = repository.identity().lineages.iter().rev();
            if let Some(entry) = known.find(|entry| lineage.is_none_or(|lineage| entry.lineage == lineage)) {
                return Some(entry.segment_bytes);
            }
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `count` segments that recovery reads after `segment`, on the timelines that `history` tells, as long as it is about
/// the timeline that is being read.
fn following(
    segment: SegmentName,
    size: SegmentSize,
    history: Option<&TimelineHistory>,
    count: usize,
) -> Vec<SegmentName> {
    let Some(number) = segment.number(size) else { return Vec::new() };
    let on_the_way = history.filter(|history| history.required_timeline_for_segment(number, size) == segment.timeline);
    (1..=count as u64)
        .map_while(|step| {
            let number = number.checked_add(step)?;
            let timeline =
                on_the_way.map_or(segment.timeline, |history| history.required_timeline_for_segment(number, size));
            SegmentName::from_number(timeline, number, size)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{Lsn, Timeline};

    fn name(text: &str) -> SegmentName {
        text.parse().expect("a name")
    }

    #[test]
    fn prefetch_follows_the_history_over_a_timeline_switch() {
        let size = SegmentSize::DEFAULT;
        let history =
            TimelineHistory { parents: vec![(Timeline(1), Lsn(0x0510_0000))], ..TimelineHistory::root(Timeline(2)) };
        let next = following(name("000000010000000000000003"), size, Some(&history), 3);
        assert_eq!(
            next,
            [name("000000010000000000000004"), name("000000020000000000000005"), name("000000020000000000000006")]
        );
        // A recovery that stays on timeline 1 behind the switch is not on this history's way.
        let next = following(name("000000010000000000000007"), size, Some(&history), 1);
        assert_eq!(next, [name("000000010000000000000008")]);
    }
}
