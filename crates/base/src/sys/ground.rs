//! Work in a file system that may hang: a mount whose server is gone, a disk that does not answer.
//!
//! A call that hangs in the kernel cannot be given up: its thread stays until the file system answers or the process ends. So such work
//! has threads of its own, as many as [`THREADS_MAX`] in the whole process, whatever hangs and however often it is tried, and
//! the runtime's are not touched. Each call is a step with a deadline ([`Steps::at`]). Whoever waits for the work is told what hangs when
//! the deadline is over, and goes on; the step stays listed until it is answered, so that nobody begins the same again.
//!
//! What looks at a folder by itself, again and again, needs no deadline: nobody waits for it. It is bounded as well ([`Ground::look`]), for each
//! folder, because a configuration that is read again begins every look anew while those of the one before still hang. Who waits for such a look
//! and does without it when it hangs gives it a deadline ([`Ground::look_at`]): such as a spool, which files can bypass.
//!
//! Only steps are timed. Work that waits for something else between two of them, such as a slow upload, may do so for as long as it likes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::Locked;
use crate::format_duration;

/// Threads for such work in this process. Work waits for a place while they are taken.
pub const THREADS_MAX: usize = 128;
/// Looks at one ground at the same time ([`Ground::look`]).
pub const LOOKS_MAX: usize = 8;
/// How often running work is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a step may take that was under way when the work was cancelled.
const GRACE: Duration = Duration::from_secs(3);
/// A step that takes longer is said to hang, by [`Ground::hanging`].
const SLOW: Duration = Duration::from_secs(30);

/// A step that takes longer is said to hang, by [`Ground::hangs`]: where it was given up, and where it was not.
const MOMENT: Duration = Duration::from_secs(1);
const BUSY_MAX: Duration = Duration::from_secs(5);

/// By the path: however many handles there are, one place is one ground.
static GROUNDS: Shared<Ground> = Shared::new();
/// The places of [`THREADS_MAX`].
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(THREADS_MAX)));

/// A folder and all that lies in it: a data directory.
#[derive(Debug)]
pub struct Ground {
    threads: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    at_work: Mutex<BTreeMap<u64, Arc<Steps>>>,
}

/// A step that has not been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// What is being read.
    pub path: PathBuf,
    /// For how long.
    pub waited: Duration,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a read of {} has not been answered for {}", self.path.display(), format_duration(self.waited))
    }
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// A step took longer than it may.
    Hangs(Unanswered),
    /// No thread came free for as long: all of them are with file systems that do not answer.
    NoThread,
    /// The work was cancelled.
    Cancelled,
    /// The thread panicked or could not be started.
    Died,
}

/// Where the work is.
#[derive(Debug, Default)]
pub struct Steps {
    now: Mutex<Option<(PathBuf, Instant)>>,
    given_up: AtomicBool,
}

impl Steps {
    /// Does `call`, which asks the file system for what lies at `path`, as one step.
    pub fn at<T>(&self, path: &Path, call: impl FnOnce() -> T) -> T {
        *self.lock() = Some((path.to_owned(), Instant::now()));
        let answer = call();
        *self.lock() = None;
        answer
    }

    /// Whether nobody waits for the work any more.
    pub fn are_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn unanswered(&self) -> Option<Unanswered> {
        self.lock().as_ref().map(|(path, since)| Unanswered { path: path.clone(), waited: since.elapsed() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(PathBuf, Instant)>> {
        self.now.locked()
    }
}

impl Ground {
    /// The ground at `path`. Nothing is touched.
    pub fn of(path: &Path) -> Arc<Self> {
        GROUNDS.get(path.display().to_string(), || Self::new(Arc::clone(&THREADS)))
    }

    fn new(threads: Arc<Semaphore>) -> Self {
        Self { threads, looks: Arc::new(Semaphore::new(LOOKS_MAX)), at_work: Mutex::default() }
    }

    /// Steps that hang now, the longest first: those that nobody waits for any more, and others that take unusually long.
    pub fn hanging(&self) -> Vec<Unanswered> {
        self.unanswered(|steps, step| steps.are_given_up() || step.waited >= SLOW)
    }

    /// The longest step that nobody waits for any more: new work would hang, too.
    pub fn given_up(&self) -> Option<Unanswered> {
        self.unanswered(|steps, _| steps.are_given_up()).into_iter().next()
    }

    /// The longest step that takes longer than a sound disk, or was given up and takes longer than a moment: who can do without this ground does
    /// not ask anything more of it before that is answered.
    pub fn hangs(&self) -> Option<Unanswered> {
        let is_long = |steps: &Steps, step: &Unanswered| {
            step.waited >= BUSY_MAX || (steps.are_given_up() && step.waited >= MOMENT)
        };
        self.unanswered(is_long).into_iter().next()
    }

    fn unanswered(&self, which: impl Fn(&Steps, &Unanswered) -> bool) -> Vec<Unanswered> {
        let mut found: Vec<_> =
            self.lock().values().filter_map(|steps| steps.unanswered().filter(|step| which(steps, step))).collect();
        found.sort_by_key(|step| std::cmp::Reverse(step.waited));
        found
    }

    /// Does `work` on a thread of its own, each step of it within `limit`. Cancelled or dropped, it is not waited for beyond the step
    /// that it is at: `work` looks at [`Steps::are_given_up`], or at `cancel`, after each.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        cancel: &CancellationToken,
        work: impl FnOnce(&Steps) -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let place = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(NotDone::Cancelled),
            place = tokio::time::timeout(limit, Arc::clone(&self.threads).acquire_owned()) => match place {
                Ok(place) => place.map_err(|_| NotDone::Died)?,
                Err(_) => return Err(NotDone::NoThread),
            },
        };
        let waiting = Waiting { steps: Arc::default(), answered: false };
        let at_work = self.begin(Arc::clone(&waiting.steps), place);
        let (sender, mut answer) = oneshot::channel();
        let thread = std::thread::Builder::new().name("walward-ground".to_owned()).spawn(move || {
            let value = work(&at_work.steps);
            drop(at_work);
            let _ = sender.send(value);
        });
        if thread.is_err() {
            return Err(NotDone::Died);
        }
        waiting.until(&mut answer, limit, cancel).await
    }

    /// Does `look`, which blocks, on one of the runtime's threads for that. No more than [`LOOKS_MAX`] are at one ground, whoever began
    /// them: the others wait until the file system answers. Dropped, it is not waited for, and its place stays taken until it is answered.
    /// `None`: it panicked.
    pub async fn look<T: Send + 'static>(self: &Arc<Self>, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.looks).acquire_owned().await.ok()?;
        // With the ground: made anew, it would have all its places.
        let ground = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || (look(), place, ground)).await;
        looked.ok().map(|(found, ..)| found)
    }

    /// As [`Ground::look`], at `path` and within `limit`, the wait for a place counted. What is not answered then stays listed until it is, and what
    /// had not begun is not done. `look` asks [`Steps::are_given_up`] where it must undo what came too late.
    ///
    /// # Errors
    /// See [`NotDone`]; it is not cancelled.
    pub async fn look_at<T: Send + 'static>(
        self: &Arc<Self>,
        path: &Path,
        limit: Duration,
        look: impl FnOnce(&Steps) -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let until = tokio::time::Instant::now() + limit;
        let place = timeout_at(until, Arc::clone(&self.looks).acquire_owned()).await;
        let place = place.map_err(|_| NotDone::NoThread)?.map_err(|_| NotDone::Died)?;
        let mut waiting = Waiting { steps: Arc::default(), answered: false };
        let at_work = self.begin(Arc::clone(&waiting.steps), place);
        let path = path.to_owned();
        let look = move || {
            let steps = &at_work.steps;
            (!steps.are_given_up()).then(|| steps.at(&path, || look(steps)))
        };
        let Ok(looked) = timeout_at(until, tokio::task::spawn_blocking(look)).await else {
            return Err(waiting.steps.unanswered().map_or(NotDone::NoThread, NotDone::Hangs));
        };
        waiting.answered = true;
        looked.ok().flatten().ok_or(NotDone::Died)
    }

    /// Does `job` at `path`, which nobody waits for, as [`Ground::look`] does; here and now where there is no runtime.
    pub fn later(self: &Arc<Self>, path: &Path, job: impl FnOnce() + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else { return job() };
        let (ground, path, handle) = (Arc::clone(self), path.to_owned(), runtime.clone());
        let begin = move |place| {
            let at_work = ground.begin(Arc::default(), place);
            drop(handle.spawn_blocking(move || at_work.steps.at(&path, job)));
        };
        if let Ok(place) = Arc::clone(&self.looks).try_acquire_owned() {
            begin(place);
        } else {
            let place = Arc::clone(&self.looks).acquire_owned();
            drop(runtime.spawn(async move { place.await.map(begin) }));
        }
    }

    /// Waits until all looks that were begun, and all that was left for later, are done; for `limit` at most.
    pub async fn settled(&self, limit: Duration) {
        let places = u32::try_from(LOOKS_MAX).unwrap_or(u32::MAX);
        drop(tokio::time::timeout(limit, self.looks.acquire_many(places)).await);
    }

    /// What `look` says about `path`, on a thread of its own within `limit`, for who has no runtime that waits. Blocking. What is not answered then
    /// stays listed, and is not asked again until it is: `None` at once. Also `None` when all threads are taken, or this one panicked.
    pub fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        path: &Path,
        limit: Duration,
        look: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Option<T> {
        let is_asked = |steps: &Steps, step: &Unanswered| steps.are_given_up() && step.path == path;
        if !self.unanswered(is_asked).is_empty() {
            return None;
        }
        let place = Arc::clone(&self.threads).try_acquire_owned().ok()?;
        let mut waiting = Waiting { steps: Arc::default(), answered: false };
        let at_work = self.begin(Arc::clone(&waiting.steps), place);
        let (sender, answer) = mpsc::sync_channel(1);
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("walward-ground".to_owned()).spawn(move || {
            let value = at_work.steps.at(&path, || look(&path));
            drop(at_work);
            let _ = sender.send(value);
        });
        thread.ok()?;
        let answer = answer.recv_timeout(limit).ok();
        waiting.answered = answer.is_some();
        answer
    }

    fn begin(self: &Arc<Self>, steps: Arc<Steps>, place: OwnedSemaphorePermit) -> AtWork {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&steps));
        AtWork { ground: Arc::clone(self), number, steps, _place: place }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Steps>>> {
        self.at_work.locked()
    }
}

/// A thread at work; the thread has it.
struct AtWork {
    ground: Arc<Ground>,
    number: u64,
    steps: Arc<Steps>,
    _place: OwnedSemaphorePermit,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.ground.lock().remove(&self.number);
    }
}

/// Who waits for the work. Dropped before the answer came, the work is given up.
struct Waiting {
    steps: Arc<Steps>,
    answered: bool,
}

impl Waiting {
    async fn until<T>(
        mut self,
        answer: &mut oneshot::Receiver<T>,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<T, NotDone> {
        let mut cancelled: Option<Instant> = None;
        loop {
            if let Ok(answer) = tokio::time::timeout(LOOK_INTERVAL, &mut *answer).await {
                self.answered = true;
                return answer.map_err(|_| NotDone::Died);
            }
            if cancel.is_cancelled() {
                cancelled.get_or_insert_with(Instant::now);
            }
            let Some(step) = self.steps.unanswered() else { continue };
            if step.waited >= limit {
                return Err(NotDone::Hangs(step));
            }
            if cancelled.is_some_and(|at| at.elapsed().min(step.waited) >= GRACE) {
                return Err(NotDone::Cancelled);
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.steps.given_up.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_mins(10);

    fn never() -> CancellationToken {
        CancellationToken::new()
    }

    /// A file that is not answered until the sender is dropped.
    fn hung() -> (SyncSender<()>, Receiver<()>) {
        sync_channel(1)
    }

    /// Waits until nothing of the ground is at work any more.
    async fn quiet(ground: &Ground) {
        while !ground.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn what_hangs_is_named_and_stays_listed_until_it_is_answered() {
        let ground = Ground::of(Path::new("/ground/named"));
        assert_eq!(ground.work(LIMIT, &never(), |steps| steps.at(Path::new("/fine"), || 7)).await, Ok(7));
        assert_eq!(ground.given_up(), None);
        let (release, held) = hung();
        let work = move |steps: &Steps| steps.at(Path::new("/hung"), || held.recv().is_ok());
        match ground.work(LIMIT, &never(), work).await {
            Err(NotDone::Hangs(step)) => assert!(step.path == Path::new("/hung") && step.waited >= LIMIT, "{step:?}"),
            other => panic!("{other:?}"),
        }
        // Whoever has another handle sees it, too.
        let again = Ground::of(Path::new("/ground/named"));
        assert_eq!(again.given_up().map(|step| step.path), Some(PathBuf::from("/hung")));
        assert_eq!(again.hanging().len(), 1);
        drop(release);
        quiet(&ground).await;
        assert!(again.given_up().is_none() && again.hanging().is_empty());
    }

    #[test]
    fn what_is_asked_and_hangs_is_listed_and_not_asked_again_until_it_is_answered() {
        let ground = Ground::of(Path::new("/ground/asked"));
        assert_eq!(ground.ask(Path::new("/fine"), LONG, Path::to_owned), Some(PathBuf::from("/fine")));
        let (release, held) = hung();
        assert_eq!(ground.ask(Path::new("/hung"), LIMIT, move |_| held.recv().is_ok()), None);
        assert_eq!(ground.given_up().map(|step| step.path), Some(PathBuf::from("/hung")));
        assert_eq!(ground.ask(Path::new("/hung"), LONG, |_| true), None, "it would hang, too");
        assert_eq!(ground.ask(Path::new("/fine"), LONG, |_| true), Some(true), "another file may answer");
        assert_eq!(ground.lock().len(), 1);
        drop(release);
        while !ground.lock().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ground.ask(Path::new("/hung"), LONG, |_| true), Some(true));
    }

    #[tokio::test]
    async fn waiting_for_something_else_between_two_steps_is_no_hang() {
        let ground = Ground::of(Path::new("/ground/between"));
        let work = |steps: &Steps| {
            steps.at(Path::new("/one"), || ());
            std::thread::sleep(LIMIT * 3);
            steps.at(Path::new("/two"), || ());
        };
        assert_eq!(ground.work(LIMIT, &never(), work).await, Ok(()));
    }

    #[tokio::test]
    async fn cancelled_or_dropped_work_is_not_waited_for_and_is_told() {
        let ground = Ground::of(Path::new("/ground/cancelled"));
        let cancel = never();
        let (release, held) = hung();
        let (told, tell) = hung();
        let work = ground.work(LONG, &cancel, move |steps| {
            steps.at(Path::new("/hung"), || held.recv().is_ok());
            if steps.are_given_up() {
                let _ = told.send(());
            }
        });
        let later = async {
            tokio::time::sleep(LIMIT).await;
            cancel.cancel();
        };
        assert_eq!(tokio::join!(work, later).0, Err(NotDone::Cancelled));
        assert!(ground.given_up().is_some());
        drop(release);
        tokio::task::spawn_blocking(move || tell.recv().unwrap()).await.unwrap();

        let (release, held) = hung();
        let never = never();
        let dropped = ground.work(LONG, &never, move |steps| steps.at(Path::new("/dropped"), || held.recv().is_ok()));
        assert!(tokio::time::timeout(LIMIT, dropped).await.is_err());
        assert_eq!(ground.given_up().map(|step| step.path), Some(PathBuf::from("/dropped")));
        drop(release);
        quiet(&ground).await;
    }

    #[tokio::test]
    async fn no_more_threads_are_lost_than_there_are_however_often_it_is_tried() {
        let grounds = [(); 2].map(|()| Arc::new(Ground::new(Arc::new(Semaphore::new(3)))));
        let other = Arc::new(Ground::new(Arc::clone(&grounds[0].threads)));
        let (release, held) = hung();
        let held = Arc::new(Mutex::new(held));
        let mut ends = Vec::new();
        for _ in 0..5 {
            let held = Arc::clone(&held);
            let work = move |steps: &Steps| {
                let answer = || held.locked().recv().is_ok();
                steps.at(Path::new("/hung"), answer)
            };
            ends.push(grounds[0].work(LIMIT, &never(), work).await);
        }
        assert!(ends[..3].iter().all(|end| matches!(end, Err(NotDone::Hangs(_)))), "{ends:?}");
        assert_eq!(ends[3..], [Err(NotDone::NoThread), Err(NotDone::NoThread)]);
        assert_eq!((grounds[0].hanging().len(), grounds[0].lock().len()), (3, 3));
        // All grounds of a process have the same threads.
        assert_eq!(other.work(LIMIT, &never(), |_| ()).await, Err(NotDone::NoThread));
        assert_eq!(grounds[1].work(LIMIT, &never(), |_| ()).await, Ok(()));
        drop(release);
        quiet(&grounds[0]).await;
        assert_eq!(other.work(LONG, &never(), |_| ()).await, Ok(()));
    }

    #[tokio::test]
    async fn looks_that_hang_take_a_bounded_number_of_threads_however_often_they_are_begun_anew() {
        let path = Path::new("/ground/looks");
        let (release, held) = hung();
        let held = Arc::new(Mutex::new(held));
        let begun = Arc::new(AtomicU64::new(0));
        for _ in 0..LOOKS_MAX * 3 {
            let (held, begun) = (Arc::clone(&held), Arc::clone(&begun));
            let ground = Ground::of(path);
            let look = ground.look(move || {
                begun.fetch_add(1, Ordering::Relaxed);
                held.locked().recv().is_ok()
            });
            // Nobody waits any more, and nobody else has the ground.
            assert!(tokio::time::timeout(Duration::from_millis(50), look).await.is_err());
        }
        assert_eq!(begun.load(Ordering::Relaxed), LOOKS_MAX as u64);
        // Another ground has places of its own.
        assert_eq!(Ground::of(Path::new("/ground/sound")).look(|| 7).await, Some(7));
        drop(release);
        assert_eq!(Ground::of(path).look(|| 7).await, Some(7));
        assert_eq!(Ground::of(path).look(|| -> u32 { std::panic::resume_unwind(Box::new("a panic")) }).await, None);
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up_in_time_and_listed_and_what_comes_too_late_can_be_undone() {
        let path = Path::new("/ground/bounded");
        let ground = Ground::of(path);
        assert_eq!(ground.look_at(path, LONG, |_| 7).await, Ok(7));
        let (release, held) = hung();
        let (told, tell) = hung();
        let look = move |steps: &Steps| {
            let _ = held.recv();
            if steps.are_given_up() {
                let _ = told.send(());
            }
        };
        let hangs = ground.look_at(path, LIMIT, look).await;
        assert!(matches!(&hangs, Err(NotDone::Hangs(step)) if step.path == path), "{hangs:?}");
        assert!(ground.given_up().is_some_and(|step| step.waited >= LIMIT));
        // The places are bounded, and so is the wait for one.
        let held: Vec<_> = (1..LOOKS_MAX).map(|_| ground.looks.try_acquire().unwrap()).collect();
        assert_eq!(ground.look_at(path, LIMIT, |_| 7).await, Err(NotDone::NoThread));
        drop(held);
        ground.settled(LIMIT).await;
        assert!(ground.given_up().is_some(), "nobody waits for it for ever");
        drop(release);
        ground.settled(LONG).await;
        assert!(ground.given_up().is_none() && tell.try_recv().is_ok());
        let panicked = ground.look_at::<u32>(path, LONG, |_| std::panic::resume_unwind(Box::new("a panic"))).await;
        assert_eq!((panicked, ground.lock().len()), (Err(NotDone::Died), 0));
    }

    #[tokio::test]
    async fn what_is_left_for_later_holds_nobody_and_is_done_in_the_end() {
        let ground = Ground::of(Path::new("/ground/later"));
        let (release, held) = hung();
        let held = Arc::new(Mutex::new(held));
        let done = Arc::new(AtomicU64::new(0));
        for _ in 0..LOOKS_MAX * 2 {
            let (held, done) = (Arc::clone(&held), Arc::clone(&done));
            ground.later(Path::new("/ground/later/file"), move || {
                let _ = held.locked().recv();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!((done.load(Ordering::Relaxed), ground.looks.available_permits()), (0, 0));
        while ground.hangs().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(ground.given_up().is_none(), "nobody ever waited for it");
        drop(release);
        while done.load(Ordering::Relaxed) < LOOKS_MAX as u64 * 2 {
            ground.settled(LONG).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_and_leaves_nothing_behind() {
        let ground = Ground::of(Path::new("/ground/panic"));
        let work = |steps: &Steps| steps.at(Path::new("/x"), || std::panic::resume_unwind(Box::new("a panic")));
        assert_eq!(ground.work::<()>(LONG, &never(), work).await, Err(NotDone::Died));
        quiet(&ground).await;
    }
}
