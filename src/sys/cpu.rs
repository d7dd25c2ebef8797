//! Threads for work that computes (zstd, AES, digests, page checksums), fed by one bounded queue.
//!
//! tokio's threads do I/O; whatever takes longer than some ten microseconds of CPU goes through here.

/// A handle to the pool; clones share it. The threads end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct CpuPool {}

/// The job panicked or the pool is gone. The job's effect is unknown; its value is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread died while computing")]
pub struct WorkerDied;

impl CpuPool {
    /// A pool of `threads` threads (at least one). At most `2 * threads` jobs wait; [`CpuPool::run`] waits for a place.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let _ = threads;
        todo!()
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        todo!()
    }

    /// Runs `job` on a pool thread and answers what it returned. A panic in the job is caught and reported, and the
    /// thread goes on. Dropping the future does not stop a job that began.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkerDied> {
        let _ = job;
        todo!()
    }
}
