//! How fast a backup reads, at most: all of its readers together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use walward_base::Locked;

/// How long a reader sleeps before it looks whether the work was given up.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// A limit for readers, or none.
#[derive(Debug, Default)]
pub struct Pace(Option<Limit>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    /// When the next read may begin; none before the first.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Of so many bytes per second; none: as fast as it goes.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|bytes_per_second| Limit { bytes_per_second, next: Mutex::new(None) }))
    }

    /// Waits until `bytes` may be read, or the work is given up. Blocking.
    pub fn wait(&self, bytes: u64, cancel: &CancellationToken) {
        let Some(limit) = &self.0 else { return };
        let begin = limit.begin(bytes, Instant::now());
        while let Some(left) = begin.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if cancel.is_cancelled() {
                return;
            }
            std::thread::sleep(left.min(SLEEP_MAX));
        }
    }
}

impl Limit {
    /// When `bytes` may be read that are asked for `now`. Time in which nobody read is not made up for.
    fn begin(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.locked();
        let begin = next.map_or(now, |next| next.max(now));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        *next = Some(begin + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_readers_together_keep_to_the_limit_and_do_not_catch_up() {
        let limit = Limit { bytes_per_second: 1000, next: Mutex::new(None) };
        let begun = Instant::now();
        let after = |milliseconds| begun + Duration::from_millis(milliseconds);
        assert_eq!(limit.begin(500, begun), begun, "the first one does not wait");
        assert_eq!(limit.begin(2000, begun), after(500));
        assert_eq!(limit.begin(1, after(100)), after(2500));
        assert_eq!(limit.begin(500, after(9000)), after(9000), "nobody read meanwhile");
        assert_eq!(limit.begin(1, after(9000)), after(9500));
    }

    #[test]
    fn who_is_given_up_does_not_wait_and_neither_does_who_has_no_limit() {
        let cancel = CancellationToken::new();
        Pace::default().wait(u64::MAX, &cancel);
        let pace = Pace::new(Some(1));
        pace.wait(u64::MAX / 2, &cancel);
        cancel.cancel();
        pace.wait(1, &cancel);
    }
}
