//! One cluster's WAL for servers in recovery: answered from a spool that is filled ahead of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, warn};

use super::early_end::still_holds;
use super::given::{self, Given};
use super::lookout::Lookout;
use super::one_file::{AtHole, FetchError, Retrieved, Want};
use super::progress::Progress;
use super::retrieve::{Patience, retrieve_noting, share};
use super::seam;
use super::spool::{Place, Spool};
use super::spot::Spot;
use super::window::Pace;
use crate::archive::accept::SMALL_FILE_BYTES_MAX;
use crate::health::FetchStats;
use walward_base::Locked;
use walward_base::sys::ground::Unanswered;
use walward_base::{ErrorClass, describe, format_duration, trace};
use walward_pg::{Lineage, SegmentName, SegmentSize, ServerLife, TimelineHistory, WalFileName};
use walward_repo::LazyRepository;
use walward_repo::facts::Link;

/// What waits in the spool for nobody is removed after this time.
const IDLE_MAX: Duration = Duration::from_mins(10);
/// How long a prefetch that met the archive's end is not tried again.
const END_REMEMBERED: Duration = Duration::from_secs(5);
/// A longer pause between two requests is not replay time: the server was paused, or it is a standby that is up to date.
const REPLAY_MAX: Duration = Duration::from_mins(1);
/// How long a standby is held up by a file of which no byte comes. With what the client and PostgreSQL need, less than two seconds.
const STANDBY_PATIENCE: Duration = Duration::from_millis(1500);
/// A download of which no byte came for so long is begun anew when its repository answers again.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// How long nothing is prefetched after the spool had no room for the file that was asked for.
const NO_PREFETCH: Duration = Duration::from_mins(1);
/// How often a file that cannot be written here is tried again.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// How fetching works.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How long a request tries before it fails.
    pub deadline: Duration,
    /// Whether a segment that does not continue what the same recovery was given before it is refused; else that is only logged.
    pub refuse_seams: bool,
    /// Prefetched segments that are downloaded at the same time.
    pub workers: usize,
}

/// Who asks, and so what an answer does to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A recovery that ends where it is told that the archive does: it is never told so early.
    OneShot,
    /// One with a target, which it does not end before: a hole is told at once.
    Target,
    /// A standby, which asks again: what cannot be had now is told at once.
    Standby,
}

/// What became of a request that found out.
#[derive(Debug)]
pub enum Fetched {
    /// A verified file. It is removed when the place is dropped, unless it was moved.
    File(Arc<Place>),
    /// No repository has it.
    Absent,
}

/// What became of a download.
#[derive(Debug, Clone)]
enum Brought {
    File(Arc<Place>),
    Absent,
    Failed(Arc<FetchError>),
}

/// A download in a task of its own, which goes on whether or not anybody waits for it.
#[derive(Clone)]
struct Download {
    outcome: SharedFuture<BoxFuture<'static, Brought>>,
    progress: Arc<Progress>,
    since: Instant,
    task: AbortHandle,
}

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
    lookout: Lookout,
    state: Mutex<State>,
    given: Given,
}

struct State {
    prefetched: HashMap<Wanted, Download>,
    pace: Pace,
    last_answer: Option<Instant>,
    history: Option<TimelineHistory>,
    end: Option<(Wanted, Instant)>,
    /// When the spool had no room for what was asked for.
    no_room: Option<Instant>,
    /// How often what is known of the archive was let go of. What was begun before that says nothing of the archive as it is.
    forgotten: u64,
}

impl Fetcher {
    /// A fetcher that fills `spool`.
    pub fn new(
        cluster: &str,
        repositories: Vec<Arc<LazyRepository>>,
        options: FetchOptions,
        spool: Spool,
        stats: Arc<FetchStats>,
        stop: CancellationToken,
    ) -> Self {
        let downloads = Arc::new(Semaphore::new(options.workers.max(1)));
        let lookout = Lookout::new(repositories.len(), stop.clone());
        let given = Given::of(spool.of_the_cluster());
        Self(Arc::new(Inner {
            span: trace::of_cluster(cluster),
            repositories,
            options,
            spool,
            downloads,
            stats,
            stop,
            lookout,
            given,
            state: Mutex::new(State {
                prefetched: HashMap::new(),
                pace: Pace::NEW,
                last_answer: None,
                history: None,
                end: None,
                no_room: None,
                forgotten: 0,
            }),
        }))
    }

    /// Provides what is wanted. `beside`: a place on the server's own disk that may be written when the spool has no room.
    pub async fn fetch(&self, want: Want, asker: Asker, beside: Option<Spot>) -> Result<Fetched, FetchError> {
        let forgotten = self.asked();
        let name = want.name;
        // Read meanwhile: a standby is answered in time also where that disk is slow.
        let reading = tokio::spawn(given::life_at(want.pg_wal.clone()));
        let work = async {
            let at_hole = match asker {
                Asker::OneShot => Some(AtHole::Wait),
                Asker::Target => Some(AtHole::Tell),
                Asker::Standby => None,
            };
            let fetched = match at_hole {
                Some(at_hole) => self.fetch_patiently(&want, at_hole, beside).await?,
                None => self.fetch_now(want.clone(), beside).await?,
            };
            let life = reading.await.ok().flatten();
            match &fetched {
                Fetched::File(place) => self.continues(&want, life, place).await?,
                Fetched::Absent if at_hole.is_some() => self.last_is_there(&want, life).await?,
                Fetched::Absent => {}
            }
            Ok((fetched, life))
        };
        let outcome = tokio::select! {
            outcome = work.instrument(self.0.span.clone()) => outcome,
            () = self.0.stop.cancelled() => Err(FetchError::Stopping(name)),
        };
        match &outcome {
            Ok((Fetched::File(place), life)) => {
                self.0.stats.served(name);
                self.gave(&want, *life, place.link(), forgotten);
                self.learn(name, place, forgotten).await;
            }
            Ok((Fetched::Absent, _)) => self.0.stats.absent(),
            Err(error) => self.0.stats.failed(&describe(error), error.class()),
        }
        self.state().last_answer = Some(Instant::now());
        outcome.map(|(fetched, _)| fetched)
    }

    /// For a recovery that must know: until the deadline.
    async fn fetch_patiently(&self, want: &Want, at_hole: AtHole, beside: Option<Spot>) -> Result<Fetched, FetchError> {
        let until = Instant::now() + self.0.options.deadline;
        let under_way = self.state().prefetched.remove(&(want.lineage, want.name));
        // One that waits for its turn after others would wait for those that hang, too.
        let (under_way, waits) = match under_way {
            Some(download) if download.progress.turn().is_none() => (None, Some(download)),
            other => (other, None),
        };
        if let Some(waits) = waits {
            waits.task.abort();
        }
        // It has its place before anything else takes it.
        let place = under_way.is_none().then(|| self.place(want));
        // What comes next is on its way while this one is being waited for.
        let known = self.prefetch(want).await;
        if let Some(download) = under_way {
            // Each repository has its share of the time after it, when its own does not answer.
            let until = share(until, self.0.repositories.len() + 1);
            let brought = wait_for(&download, until, STANDBY_PATIENCE).await;
            if let Some(Brought::File(place)) = brought
                && place.is_for(beside.as_ref().map(Spot::path))
                && is_there(&place).await
            {
                self.0.stats.prefetched();
                return Ok(Fetched::File(place));
            }
            download.task.abort();
        }
        let place = place.unwrap_or_else(|| self.place(want));
        let progress = Progress::default();
        let retrieved = self.bring(want, place, beside, (Patience::Until(until), at_hole), &progress).await;
        if !known {
            // The repository is open only now.
            self.prefetch(want).await;
        }
        Ok(retrieved?.map_or(Fetched::Absent, |place| Fetched::File(Arc::new(place))))
    }

    /// That what this recovery was given last is still there, when it is remembered: else the archive's end is not believed.
    async fn last_is_there(&self, want: &Want, life: Option<ServerLife>) -> Result<(), FetchError> {
        let Some((last, _)) = self.0.given.last(want, life) else { return Ok(()) };
        let until = Instant::now() + self.0.options.deadline;
        walward_storage::patient_until(until, still_holds(&self.0.repositories, &last, want)).await
    }

    /// That what was fetched continues what the recovery has before it.
    async fn continues(&self, want: &Want, life: Option<ServerLife>, place: &Place) -> Result<(), FetchError> {
        let Some(link) = place.link() else { return Ok(()) };
        let before = self.0.given.seam(want, life, link, self.segment_size(want.lineage)).await;
        if let Some(seam) = seam::told(want.name, before, self.0.options.refuse_seams)? {
            warn!(segment = %want.name, error = describe(&seam), "it is given all the same (fetch.refuse_seams = false)");
        }
        Ok(())
    }

    /// For a standby: what can be had now. What comes too late for it goes on, and is there when it asks again.
    async fn fetch_now(&self, want: Want, beside: Option<Spot>) -> Result<Fetched, FetchError> {
        let (begun, name, wanted) = (Instant::now(), want.name, (want.lineage, want.name));
        let not_now = |why| Err(FetchError::NotNow { name, why });
        let own = beside.as_ref().map(|spot| spot.path().to_path_buf());
        self.0.lookout.a_standby_asks();
        let under_way = self.state().prefetched.get(&wanted).cloned();
        // One that waits for its turn after others would keep the standby waiting, too.
        let under_way = under_way.filter(|download| download.progress.turn().is_some());
        let away = self.0.lookout.all_away(&self.0.repositories);
        // One that hangs since before the repository was heard of again is not waited for.
        let hangs = |download: &Download| download.progress.last().is_none() && download.since.elapsed() > HANGS_AFTER;
        let under_way = under_way.filter(|download| away.is_some() || !hangs(download));
        let was_under_way = under_way.is_some();
        let download = match (under_way, &away) {
            (Some(download), _) => download,
            (None, Some(why)) => return not_now(why.clone()),
            (None, None) => self.start(want.clone(), self.place(&want), beside, true),
        };
        self.prefetch(&want).await;
        let patience = if away.is_some() { Duration::ZERO } else { STANDBY_PATIENCE };
        let Some(brought) = wait_for(&download, begun + patience, STANDBY_PATIENCE).await else {
            if download.progress.is_here() {
                return not_now("the file system that it is written to does not answer".to_owned());
            }
            let silent = download.progress.turn().and_then(|number| Some((number, self.0.repositories.get(number)?)));
            let Some((number, repository)) = silent else { return not_now("its turn did not come".to_owned()) };
            let why = format!(
                "repository {:?} gave no byte of it within {}",
                repository.name(),
                format_duration(STANDBY_PATIENCE)
            );
            if repository.standing().reads().open(&why) {
                warn!(segment = %name, repository = repository.name(), "the repository does not answer a standby, which goes on without it until it does");
            }
            self.0.lookout.look_after(number, repository);
            return not_now(why);
        };
        self.state().prefetched.remove(&wanted);
        match brought {
            Brought::File(place) if !place.is_for(own.as_deref()) => {
                not_now("it was brought beside the destination of another server".to_owned())
            }
            Brought::File(place) if is_there(&place).await => {
                if was_under_way {
                    self.0.stats.prefetched();
                } else {
                    self.prefetch(&want).await;
                }
                Ok(Fetched::File(place))
            }
            Brought::File(place) => {
                not_now(format!("{} is gone from the spool, or that does not answer", place.path().display()))
            }
            Brought::Absent => Ok(Fetched::Absent),
            Brought::Failed(error) => {
                self.0.lookout.look_after_all(&self.0.repositories);
                not_now(describe(error.as_ref()))
            }
        }
    }

    /// A place for the file that PostgreSQL waits for.
    fn place(&self, want: &Want) -> Place {
        let bytes = self.segment_size(want.lineage).map_or(0, SegmentSize::bytes);
        self.0.spool.place(&want.name.to_string(), bytes)
    }

    /// Brings a file to `place`, or, when the spool has no room for it, to `beside`; `None` when there is none.
    async fn bring(
        &self,
        want: &Want,
        mut place: Place,
        mut beside: Option<Spot>,
        (patience, at_hole): (Patience, AtHole),
        progress: &Progress,
    ) -> Result<Option<Place>, FetchError> {
        let begun = Instant::now();
        let mut tries = 0u32;
        loop {
            progress.here(place.enter()).await;
            // A file system that hangs takes no file, and none of those that were prefetched has to give way.
            if self.0.spool.hangs().is_some()
                && let Some(spot) = beside.take_if(|_| place.is_in_spool())
            {
                place = Place::beside(spot);
            }
            let error = match self.retrieve(want, place.spot(), (patience, at_hole), progress).await {
                Ok(Retrieved::File { link, .. }) => {
                    place.brought(link);
                    self.state().pace.downloaded(begun.elapsed());
                    return Ok(Some(place));
                }
                Ok(Retrieved::Absent) => return Ok(None),
                Err(error @ FetchError::Write { .. }) => error,
                Err(error) => return Err(error),
            };
            // The trouble is here. What was brought ahead gives way, and a spool that was removed is made anew.
            tries += 1;
            match (tries, beside.take(), patience) {
                (1, kept, _) => {
                    beside = kept;
                    warn!(segment = %want.name, error = describe(&error), "the spool cannot take the file that is asked for; what was prefetched gives way");
                    self.give_way().await;
                    place = self.place(want);
                }
                (_, Some(spot), _) => place = Place::beside(spot),
                (_, None, Patience::Until(until)) if Instant::now() + ROOM_PAUSE < until => {
                    tokio::time::sleep(ROOM_PAUSE).await;
                    self.give_way().await;
                    place = self.place(want);
                }
                _ => return Err(error),
            }
        }
    }

    /// Brings a file from the first repository that can give it, and counts what the others could not.
    async fn retrieve(
        &self,
        want: &Want,
        spot: &Spot,
        patience: (Patience, AtHole),
        progress: &Progress,
    ) -> Result<Retrieved, FetchError> {
        let mut passed_over = Vec::new();
        let retrieved = retrieve_noting(&self.0.repositories, want, spot, patience, progress, &mut passed_over).await?;
        if let (Retrieved::File { .. }, Some(first)) = (&retrieved, passed_over.first()) {
            let damaged = passed_over.iter().any(|failure| failure.class == ErrorClass::Corrupt);
            self.0.stats.fell_back(&first.text, damaged);
        }
        Ok(retrieved)
    }

    /// Removes from the spool what nobody came for. Call now and then.
    pub fn sweep(&self) {
        self.state().prefetched.retain(|_, download| download.since.elapsed() < IDLE_MAX);
    }

    /// Lets go of what was given, learnt and brought ahead: the archive was changed by hand, and they may be another life's.
    pub fn forget(&self) {
        let ahead: Vec<Download> = {
            let mut state = self.state();
            state.forgotten += 1;
            (state.history, state.end) = (None, None);
            self.0.given.forget();
            state.prefetched.drain().map(|(_, download)| download).collect()
        };
        // What is waited for goes on, for that request alone.
        for download in ahead.into_iter().filter(|download| !download.progress.is_urgent()) {
            download.task.abort();
        }
    }

    /// Ends with the process: see [`Spool::end`].
    pub async fn end(&self) {
        self.0.spool.end().await;
    }

    /// What of the spool does not answer: see [`Spool::hangs`].
    pub fn hangs(&self) -> Option<Unanswered> {
        self.0.spool.hangs()
    }

    /// Segments prefetched or on their way, bytes of the spool in use, and its bound.
    pub fn counts(&self) -> (usize, u64, u64) {
        (self.state().prefetched.len(), self.0.spool.bytes(), self.0.spool.bytes_max())
    }

    /// How often the archive was forgotten until now.
    fn asked(&self) -> u64 {
        let mut state = self.state();
        if let Some(replay) = state.last_answer.map(|last| last.elapsed()).filter(|time| *time < REPLAY_MAX) {
            state.pace.replayed(replay);
        }
        state.forgotten
    }

    /// Remembers what was given last, unless the archive was `forgotten` since it was asked for.
    fn gave(&self, want: &Want, life: Option<ServerLife>, link: Option<Link>, forgotten: u64) {
        let state = self.state();
        if state.forgotten == forgotten {
            self.0.given.remember(want, life, link);
        }
    }

    /// Everything that is not asked for yet leaves the spool, and nothing more is brought ahead for a while.
    async fn give_way(&self) {
        let gone: Vec<Download> = {
            let mut state = self.state();
            state.no_room = Some(Instant::now());
            state.prefetched.extract_if(|_, download| !download.progress.is_urgent()).map(|(_, gone)| gone).collect()
        };
        for download in gone {
            download.task.abort();
        }
        self.0.spool.settled().await;
    }

    /// Starts what PostgreSQL will want after what is wanted. Answers whether the size of segments is known, which it takes.
    async fn prefetch(&self, want: &Want) -> bool {
        let Some(size) = self.segment_size(want.lineage) else { return false };
        let WalFileName::Segment(segment) = want.name else { return true };
        if self.0.lookout.all_away(&self.0.repositories).is_some() {
            return true;
        }
        let most = usize::try_from(self.0.spool.bytes_max() / size.bytes()).unwrap_or(usize::MAX);
        let (window, history) = {
            let state = self.state();
            if state.no_room.is_some_and(|since| since.elapsed() < NO_PREFETCH) {
                return true;
            }
            (state.pace.window(most.saturating_sub(1)), state.history.clone())
        };
        for name in following(segment, size, history.as_ref(), window) {
            let wanted = (want.lineage, WalFileName::Segment(name));
            {
                let state = self.state();
                if state.end.is_some_and(|(end, when)| end == wanted && when.elapsed() < END_REMEMBERED) {
                    break;
                }
                if state.prefetched.contains_key(&wanted) {
                    continue;
                }
            }
            let Some(place) = self.0.spool.place_ahead(&name.to_string(), size.bytes()).await else { break };
            self.start(Want { name: wanted.1, ..want.clone() }, place, None, false);
        }
        true
    }

    /// Downloads in a task of its own. `is_urgent`: PostgreSQL waits for it.
    fn start(&self, want: Want, place: Place, beside: Option<Spot>, is_urgent: bool) -> Download {
        let wanted = (want.lineage, want.name);
        let progress = Arc::new(Progress::of(is_urgent));
        let task = tokio::spawn(self.clone().download(want, place, beside, Arc::clone(&progress)).in_current_span());
        let (abort, name) = (task.abort_handle(), wanted.1);
        let ended = move |joined: Result<Brought, _>| {
            joined.unwrap_or_else(|_| Brought::Failed(Arc::new(FetchError::Stopping(name))))
        };
        let outcome = task.map(ended).boxed().shared();
        let download = Download { outcome, progress, since: Instant::now(), task: abort };
        if let Some(before) = self.state().prefetched.insert(wanted, download.clone()) {
            before.task.abort();
        }
        download
    }

    async fn download(self, want: Want, place: Place, beside: Option<Spot>, progress: Arc<Progress>) -> Brought {
        let inner = &self.0;
        let wanted = (want.lineage, want.name);
        let forgotten = self.state().forgotten;
        let _permit = if progress.is_urgent() { None } else { inner.downloads.acquire().await.ok() };
        if inner.stop.is_cancelled() {
            return Brought::Failed(Arc::new(FetchError::Stopping(want.name)));
        }
        // One round over the repositories: whoever waits for the file tries longer, and says what failed.
        let brought = if progress.is_urgent() {
            let patience = Patience::Soon(Instant::now() + STANDBY_PATIENCE);
            self.bring(&want, place, beside, (patience, AtHole::Tell), &progress).await
        } else {
            let begun = Instant::now();
            let patience = (Patience::OneRound, AtHole::Tell);
            self.retrieve(&want, place.spot(), patience, &progress).await.map(|retrieved| match retrieved {
                Retrieved::File { link, .. } => {
                    place.brought(link);
                    self.state().pace.downloaded(begun.elapsed());
                    Some(place)
                }
                Retrieved::Absent => None,
            })
        };
        let error = match brought {
            Ok(Some(place)) => return Brought::File(Arc::new(place)),
            Ok(None) => None,
            Err(error) => {
                debug!(segment = %want.name, error_class = %error.class(), error = describe(&error), "a download failed");
                Some(error)
            }
        };
        let mut state = self.state();
        // What takes its place meanwhile is another's.
        if state.prefetched.get(&wanted).is_some_and(|download| Arc::ptr_eq(&download.progress, &progress)) {
            state.prefetched.remove(&wanted);
        }
        match error {
            None => {
                if state.forgotten == forgotten {
                    state.end = Some((wanted, Instant::now()));
                }
                Brought::Absent
            }
            Some(error) => Brought::Failed(Arc::new(error)),
        }
    }

    /// Remembers the newest timeline history that went to the server: it says where recovery will change timelines.
    async fn learn(&self, name: WalFileName, place: &Arc<Place>, forgotten: u64) {
        let WalFileName::History(timeline) = name else { return };
        let Ok(Ok(text)) = place.ask(|place| place.read(SMALL_FILE_BYTES_MAX)).await else { return };
        if let Ok(history) = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)) {
            let mut state = self.state();
            let is_newer = state.history.as_ref().is_none_or(|known| known.timeline < timeline);
            if is_newer && state.forgotten == forgotten {
                state.history = Some(history);
            }
        }
    }

    /// As the repositories that are open have it: none is opened for it.
    fn segment_size(&self, lineage: Option<Lineage>) -> Option<SegmentSize> {
        self.0.repositories.iter().find_map(|lazy| {
            let repository = lazy.get_open()?;
            let identity = repository.identity();
            let entry = lineage.map_or(identity.current(), |lineage| identity.find(lineage))?;
            Some(entry.segment_bytes)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.locked()
    }
}

/// Whether a file of the spool is still there.
async fn is_there(place: &Arc<Place>) -> bool {
    place.ask(Place::is_there).await.unwrap_or(false)
}

/// The outcome of a download: as soon as it is there, at `until`, or, while its bytes come, as soon as none came for `silence`.
async fn wait_for(download: &Download, until: Instant, silence: Duration) -> Option<Brought> {
    loop {
        let limit = download.progress.last().map_or(until, |last| until.max(last + silence));
        match timeout_at(limit, download.outcome.clone()).await {
            Ok(brought) => return Some(brought),
            Err(_) if download.progress.last().is_some_and(|last| last + silence > Instant::now()) => {}
            Err(_) => return None,
        }
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
    use walward_pg::{Lsn, Timeline};

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
        // A recovery that stays on timeline 1 after the switch is not on this history's way.
        let next = following(name("000000010000000000000007"), size, Some(&history), 1);
        assert_eq!(next, [name("000000010000000000000008")]);
    }
}
