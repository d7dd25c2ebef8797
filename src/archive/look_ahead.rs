//! Which ready files to upload before PostgreSQL asks for them. Pure.

use std::collections::VecDeque;

use crate::pg::WalFileName;

/// How many files of a listing are remembered: with a hundred thousand waiting, archive_status is read once for so many.
pub const QUEUE_FILES_MAX: usize = 1024;

/// Takes the next files to start off `queue` (ready files in the archiver's order): those that are not `known` (durable
/// already, or on their way), at most `places`. Known ones in front of them are dropped on the way.
pub fn choose(
    queue: &mut VecDeque<WalFileName>,
    known: impl Fn(WalFileName) -> bool,
    places: usize,
) -> Vec<WalFileName> {
    let mut chosen = Vec::new();
    while chosen.len() < places {
        let Some(name) = queue.pop_front() else { break };
        if !known(name) {
            chosen.push(name);
        }
    }
    chosen
}

/// How many more uploads may start: limited by the workers (`reading` is read and sealed now, or waits for its turn), and by how
/// far the repositories may run ahead of what PostgreSQL has asked for (`ahead` is on its way, or durable and not asked for).
pub fn places(workers: usize, look_ahead: usize, reading: usize, ahead: usize) -> usize {
    workers.saturating_sub(reading).min(look_ahead.saturating_sub(ahead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SegmentName, Timeline};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn name(number: u32) -> WalFileName {
        WalFileName::Segment(SegmentName { timeline: Timeline(1), log: 0, segment: number })
    }

    proptest! {
        #[test]
        fn every_unknown_file_is_chosen_once_and_in_order(count in 0u32..100, known: HashSet<u8>, places in 1usize..10) {
            let known: HashSet<_> = known.into_iter().map(|n| name(u32::from(n))).collect();
            let ready: Vec<_> = (0..count).map(name).collect();
            let mut queue: VecDeque<_> = ready.iter().copied().collect();
            let mut all = Vec::new();
            loop {
                let chosen = choose(&mut queue, |file| known.contains(&file), places);
                if chosen.is_empty() { break }
                prop_assert!(chosen.len() <= places);
                all.extend(chosen);
            }
            let expected: Vec<_> = ready.into_iter().filter(|file| !known.contains(file)).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn the_repositories_never_run_further_ahead_than_allowed(
            workers in 0usize..10, look_ahead in 0usize..100, reading in 0usize..12, ahead in 0usize..120,
        ) {
            let places = places(workers, look_ahead, reading, ahead);
            prop_assert!(places == 0 || ahead + places <= look_ahead);
            prop_assert!(places == 0 || reading + places <= workers);
        }
    }
}
