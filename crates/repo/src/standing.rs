//! How a repository has answered lately. After failures it is left in peace for a while by whoever can do without it.
//!
//! And two circuit breakers, one for reading and one for writing: a store may still do one of them. While one is open, nobody
//! waits for the repository whose own waiting would do harm: a server that is to stop or to fail over.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use walward_base::ErrorClass;
use walward_base::Locked;

/// How long a repository rests after its first failure; doubled with each further one up to [`REST_MAX`].
const REST_FIRST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_mins(2);

/// One repository's standing, shared by all who use it.
#[derive(Debug, Default)]
pub struct Standing {
    state: Mutex<State>,
    reads: Breaker,
    writes: Breaker,
}

/// Open from a failure until a success, however long that takes.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<Option<String>>);

impl Breaker {
    /// The store failed, or did not answer, because of this. Answers whether that is news.
    pub fn open(&self, why: &str) -> bool {
        self.lock().replace(why.to_owned()).is_none()
    }

    /// The store did what it was asked. Answers whether that is news.
    pub fn close(&self) -> bool {
        self.lock().take().is_some()
    }

    /// Why it is open; `None` when it is not.
    pub fn why(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.locked()
    }
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    rest_until: Option<Instant>,
}

impl Standing {
    /// It did what it was asked, or said clearly that it has no such thing.
    pub fn answered(&self) {
        *self.lock() = State::default();
    }

    /// It failed. Several failures of one moment count as one.
    pub fn failed(&self, class: ErrorClass, now: Instant) {
        if !counts(class) {
            return;
        }
        let mut state = self.lock();
        if state.rest_until.is_none_or(|until| until <= now) {
            state.rest_until = Some(now + rest_after(state.failures));
            state.failures = state.failures.saturating_add(1);
        }
    }

    /// Whether it should not be asked by somebody who can do without it.
    pub fn is_resting(&self, now: Instant) -> bool {
        self.lock().rest_until.is_some_and(|until| until > now)
    }

    /// Whether it can be read from.
    pub fn reads(&self) -> &Breaker {
        &self.reads
    }

    /// Whether it can be written to.
    pub fn writes(&self) -> &Breaker {
        &self.writes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

/// Whether a failure says something about the repository as a whole: damage to one object does not.
fn counts(class: ErrorClass) -> bool {
    match class {
        ErrorClass::Transient | ErrorClass::Permanent | ErrorClass::Denied | ErrorClass::NoSpace => true,
        ErrorClass::NotFound | ErrorClass::Corrupt | ErrorClass::Cancelled => false,
    }
}

/// How long it rests after `failures` earlier ones.
fn rest_after(failures: u32) -> Duration {
    REST_FIRST.saturating_mul(1 << failures.min(16)).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_their_limit_and_end_with_a_success() {
        let standing = Standing::default();
        let mut now = Instant::now();
        let mut rests = Vec::new();
        for _ in 0..9 {
            assert!(!standing.is_resting(now));
            standing.failed(ErrorClass::Transient, now);
            // As many as come at once.
            standing.failed(ErrorClass::Denied, now);
            let begun = now;
            while standing.is_resting(now) {
                now += Duration::from_secs(1);
            }
            rests.push((now - begun).as_secs());
        }
        assert_eq!(rests, [5, 10, 20, 40, 80, 120, 120, 120, 120]);
        standing.failed(ErrorClass::Transient, now);
        standing.answered();
        assert!(!standing.is_resting(now));
        standing.failed(ErrorClass::Transient, now);
        assert!(!standing.is_resting(now + REST_FIRST));
    }

    #[test]
    fn damage_to_one_object_is_no_reason_to_rest() {
        let standing = Standing::default();
        let now = Instant::now();
        for class in [ErrorClass::Corrupt, ErrorClass::NotFound, ErrorClass::Cancelled] {
            standing.failed(class, now);
        }
        assert!(!standing.is_resting(now));
    }
}
