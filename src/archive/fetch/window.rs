//! How many segments to hold ready in front of a recovery. Pure.

use std::time::Duration;

/// How fast things went, as running averages that follow the last handful of segments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// From our answer to PostgreSQL's next request: the time it replays one segment.
    replay: Option<f64>,
    /// From the start of a download to the verified file.
    download: Option<f64>,
}

/// Weight of the newest measurement.
const WEIGHT: f64 = 0.25;
/// The window before anything was measured.
const FIRST: usize = 4;

impl Pace {
    /// Nothing measured yet.
    pub const NEW: Self = Self { replay: None, download: None };

    /// PostgreSQL asked again after this time.
    pub fn replayed(&mut self, took: Duration) {
        self.replay = Some(average(self.replay, took.as_secs_f64()));
    }

    /// A segment was downloaded in this time.
    pub fn downloaded(&mut self, took: Duration) {
        self.download = Some(average(self.download, took.as_secs_f64()));
    }

    /// How many segments to have ready or on their way: as many as are replayed while one is downloaded, and two more
    /// against unevenness; at least two, at most `most`.
    pub fn window(&self, most: usize) -> usize {
        let wanted = match (self.replay, self.download) {
            (Some(replay), Some(download)) => {
                let ratio = (download / replay.max(0.001)).ceil().clamp(0.0, 10_000.0);
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let segments = ratio as usize;
                segments + 2
            }
            _ => FIRST,
        };
        wanted.max(2).min(most)
    }
}

fn average(before: Option<f64>, new: f64) -> f64 {
    before.map_or(new, |before| before + WEIGHT * (new - before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slow_store_makes_it_grow_and_a_slow_replay_makes_it_shrink() {
        let mut pace = Pace::NEW;
        for _ in 0..20 {
            pace.replayed(Duration::from_millis(20));
            pace.downloaded(Duration::from_millis(400));
        }
        assert_eq!(pace.window(64), 22);
        for _ in 0..40 {
            pace.replayed(Duration::from_secs(2));
        }
        assert_eq!(pace.window(64), 3);
    }

    proptest! {
        #[test]
        fn it_never_leaves_its_bounds(replays: Vec<u32>, downloads: Vec<u32>, most in 0usize..1000) {
            let mut pace = Pace::NEW;
            for ms in replays {
                pace.replayed(Duration::from_millis(u64::from(ms)));
            }
            for ms in downloads {
                pace.downloaded(Duration::from_millis(u64::from(ms)));
            }
            prop_assert!(pace.window(most) <= most);
        }
    }
}
