//! Threads for work that computes (zstd, AES, digests, page checksums), fed by one bounded queue.
//!
//! tokio's threads do I/O; whatever takes longer than some ten microseconds of CPU goes through here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the pool; clones share it. The threads end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct CpuPool {
    threads: usize,
    /// One permit for every job that waits or runs. The queue has as many places, so handing over never blocks.
    places: Arc<Semaphore>,
    /// None: jobs run on the caller's thread.
    queue: Option<Sender<Job>>,
}

/// The job panicked or the pool is gone. The job's effect is unknown; its value is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread died while computing")]
pub struct WorkerDied;

impl CpuPool {
    /// A pool of `threads` threads (at least one). At most `2 * threads` jobs wait; [`CpuPool::run`] waits for a place.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let places_max = threads.saturating_mul(3);
        let (queue, jobs) = crossbeam_channel::bounded::<Job>(places_max);
        for number in 0..threads {
            let jobs: Receiver<Job> = jobs.clone();
            std::thread::Builder::new().name(format!("walward-cpu-{number}")).spawn(move || {
                for job in jobs {
                    job();
                }
            })?;
        }
        Ok(Self { threads, places: Arc::new(Semaphore::new(places_max)), queue: Some(queue) })
    }

    /// No threads: a job runs where it is asked for, before anything else does. For tests that must run alike each time.
    #[doc(hidden)]
    pub fn on_the_caller() -> Self {
        Self { threads: 1, places: Arc::new(Semaphore::new(1)), queue: None }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job` on a pool thread and answers what it returned. A panic in the job is caught and reported, and the
    /// thread goes on. Dropping the future does not stop a job that began; one that still waits is not begun.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkerDied> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| WorkerDied)?;
        let (answer, answered) = oneshot::channel();
        let work: Job = Box::new(move || {
            let _place = place;
            if answer.is_closed() {
                return;
            }
            // The job owns what it touches: a panic drops it all, nothing half-changed is seen afterwards.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = answer.send(value);
            }
        });
        match &self.queue {
            Some(queue) => queue.try_send(work).map_err(|_| WorkerDied)?,
            None => work(),
        }
        answered.await.map_err(|_| WorkerDied)
    }

    /// As [`CpuPool::run`], and the job goes on while nobody polls what is returned. For whoever has several jobs under way and
    /// looks at one of them at a time: a place that is held by a future that nobody polls is lost to everybody else, for as
    /// long as a slow store takes. Within a runtime only.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, WorkerDied>> + Send + 'static {
        let pool = self.clone();
        let running = AbortOnDropHandle::new(tokio::spawn(async move { pool.run(job).await }));
        async move { running.await.unwrap_or(Err(WorkerDied)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_job_runs_on_a_named_thread_and_answers() {
        let pool = CpuPool::new(2).unwrap();
        let name = pool.run(|| std::thread::current().name().map(str::to_owned)).await.unwrap();
        assert!(name.unwrap().starts_with("walward-cpu-"));
        assert_eq!(pool.threads(), 2);
        assert_eq!(CpuPool::new(0).unwrap().threads(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_the_thread_goes_on() {
        let pool = CpuPool::new(1).unwrap();
        assert_eq!(pool.run(|| std::panic::resume_unwind(Box::new("boom"))).await, Err::<(), _>(WorkerDied));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn many_more_jobs_than_places_all_finish_and_never_more_run_than_threads() {
        let pool = CpuPool::new(2).unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        let jobs = (0..200usize).map(|number| {
            let running = Arc::clone(&running);
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::sleep(Duration::from_micros(50));
                    running.fetch_sub(1, Ordering::SeqCst);
                    (number, now)
                })
                .await
            }
        });
        for (expected, result) in futures::future::join_all(jobs).await.into_iter().enumerate() {
            let (number, most) = result.unwrap();
            assert_eq!(number, expected);
            assert!(most <= 2);
        }
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_any_more_is_not_begun() {
        let pool = CpuPool::new(1).unwrap();
        let (release, held) = crossbeam_channel::bounded::<()>(1);
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || held.recv()).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let began = Arc::new(AtomicUsize::new(0));
        let second = tokio::time::timeout(Duration::from_millis(20), {
            let began = Arc::clone(&began);
            pool.run(move || began.fetch_add(1, Ordering::SeqCst))
        });
        assert!(second.await.is_err());
        release.send(()).unwrap();
        first.await.unwrap().unwrap().unwrap();
        assert_eq!(pool.run(|| 1).await, Ok(1));
        assert_eq!(began.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn jobs_that_nobody_looks_at_take_no_place_from_the_others() {
        let pool = CpuPool::new(1).unwrap();
        let ignored: Vec<_> = (0..20).map(|number| pool.start(move || number)).collect();
        // They were all begun; none was polled.
        for number in 0..20 {
            assert_eq!(pool.run(move || number).await, Ok(number));
        }
        assert_eq!(futures::future::join_all(ignored).await, (0..20).map(Ok).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_threads_end_with_the_last_handle() {
        let pool = CpuPool::new(1).unwrap();
        let alive = Arc::new(());
        let witness = Arc::downgrade(&alive);
        // Kept in thread-local storage, which is dropped only when the thread ends.
        thread_local!(static KEPT: std::cell::RefCell<Option<Arc<()>>> = const { std::cell::RefCell::new(None) });
        pool.run(move || KEPT.with(|kept| *kept.borrow_mut() = Some(alive))).await.unwrap();
        assert!(witness.upgrade().is_some());
        drop(pool);
        for _ in 0..500 {
            if witness.upgrade().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the thread still runs");
    }
}
