//! How far one file is on its way to a server: told by who brings it, read by who waits for it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;
use walward_base::Locked;

/// How far a retrieval is, for who waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    moved: Mutex<Option<Instant>>,
    segment_bytes: AtomicU64,
    /// The number of the repository that is being asked, plus one; 0 before that.
    turn: AtomicUsize,
    /// Not the repository is waited for now, but the file system that the file is written to.
    is_here: AtomicBool,
    is_urgent: bool,
}

impl Progress {
    /// Of something that PostgreSQL waits for, or not yet.
    pub fn of(is_urgent: bool) -> Self {
        Self { is_urgent, ..Self::default() }
    }

    /// Whether PostgreSQL waits for it.
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Does `step` of the file system that the file is written to.
    pub async fn here<T>(&self, step: impl Future<Output = T>) -> T {
        self.is_here.store(true, Ordering::Relaxed);
        let done = step.await;
        self.is_here.store(false, Ordering::Relaxed);
        done
    }

    /// Whether it waits for the file system that it is written to: no repository is to blame.
    pub fn is_here(&self) -> bool {
        self.is_here.load(Ordering::Relaxed)
    }

    /// Bytes of the file have come.
    pub fn moved(&self) {
        *self.moved.locked() = Some(Instant::now());
    }

    /// When bytes of it came last.
    pub fn last(&self) -> Option<Instant> {
        *self.moved.locked()
    }

    /// The file has at most so many bytes.
    pub fn expect(&self, bytes: u64) {
        self.segment_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The most bytes that it has; 0 before that is known.
    pub fn bytes_max(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// The number of the repository that is being asked; `None` before the first is.
    pub fn turn(&self) -> Option<usize> {
        self.turn.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Repository `number` is asked now.
    pub fn turn_of(&self, number: usize) {
        *self.moved.locked() = None;
        self.is_here.store(false, Ordering::Relaxed);
        self.turn.store(number.saturating_add(1), Ordering::Relaxed);
    }
}
