//! A line of the log that strangers can bring about: written once in a while, however often that happens.

use std::sync::Mutex;
use std::time::{Duration, Instant};
use walward_base::Locked;

/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(10);

/// One such line.
#[derive(Debug)]
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Not written yet.
    pub const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether it is to be written `now`, and then how often it was not since the last time.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.locked();
        let (last, kept_back) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            *kept_back = kept_back.saturating_add(1);
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knocks_a_thousand_times_a_second_is_written_of_once_in_ten() {
        let (throttle, begun) = (Throttle::new(), Instant::now());
        let times = (0..20_000).map(|millisecond| begun + Duration::from_millis(millisecond));
        let written: Vec<u64> = times.filter_map(|now| throttle.admit(now)).collect();
        assert_eq!(written, [0, 9_999]);
    }
}
