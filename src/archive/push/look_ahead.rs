//! Which ready files to upload before PostgreSQL asks for them. Pure.

use std::collections::VecDeque;

use walward_pg::WalFileName;

/// How many files of a listing are remembered: with a hundred thousand waiting, archive_status is read once for so many.
pub const QUEUE_FILES_MAX: usize = 1024;

/// What is known of a ready file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyState {
    /// It is durable already, or on its way.
    Known,
    /// It is not in the lead (see `lead.rs`), and nothing after it is.
    Beyond,
    /// Nobody looked lately whether the archive has its name.
    Unlisted,
    /// Every repository has its name: to send it is to compare it, and writes nothing.
    There,
    /// Some have its name, and it is written to the others.
    Partly,
    /// The archive does not have its name.
    New,
}

/// What to do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Files to start, in order.
    pub start: Vec<WalFileName>,
    /// A file of the folder that is to be listed before it is gone on.
    pub list: Option<WalFileName>,
}

/// Takes the next files to start off `queue` (ready files in the archiver's order), at most `places`; known ones in front of
/// them are dropped on the way.
///
/// A name that the archive has may have other content there. Nothing new is written after it before that is settled: `unsettled` says
/// that such a file is on its way.
pub fn choose(
    queue: &mut VecDeque<WalFileName>,
    judge: impl Fn(WalFileName) -> ReadyState,
    mut unsettled: bool,
    places: usize,
) -> Chosen {
    let mut chosen = Chosen::default();
    while chosen.start.len() < places {
        let Some(name) = queue.front().copied() else { break };
        match judge(name) {
            ReadyState::Known => {}
            ReadyState::There => {
                unsettled = true;
                chosen.start.push(name);
            }
            ReadyState::New if !unsettled => chosen.start.push(name),
            ReadyState::Partly if !unsettled => {
                unsettled = true;
                chosen.start.push(name);
            }
            ReadyState::New | ReadyState::Partly | ReadyState::Beyond => break,
            ReadyState::Unlisted => {
                chosen.list = Some(name);
                break;
            }
        }
        queue.pop_front();
    }
    chosen
}

/// So many files may be on their way, however few are read at once.
const UNDER_WAY_MIN: usize = 4;
/// Sealed files that may be on their way besides: more than a round trip to a far store needs, and fewer than the requests that a
/// store takes at once (`limits.concurrency`), which backups and recoveries want, too.
const SEALED_MAX: usize = 8;
/// With so many sealed bytes on their way it is not the round trip that is waited for. A request's time grows with its own
/// bytes (`limits.request_timeout`), and a slow link is shared by all.
const SEALED_BYTES_MAX: u64 = 16 << 20;

/// What is on its way.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnderWay {
    /// Files that are read and sealed now, or wait for it.
    pub reading: usize,
    /// Files that are sealed, and sent.
    pub sealed: usize,
    /// Bytes of these.
    pub sealed_bytes: u64,
    /// The last that was decided failed.
    pub failing: bool,
}

/// How many more files may be started: limited by the workers, who read, by what is on its way, and by how far the repositories may
/// run ahead of what PostgreSQL has asked for (`unasked` is durable and not asked for).
pub fn places(workers: usize, look_ahead: usize, unasked: usize, under_way: UnderWay) -> usize {
    let UnderWay { reading, sealed, sealed_bytes, failing } = under_way;
    let all = reading.saturating_add(sealed);
    let few = workers.max(UNDER_WAY_MIN);
    let most = if failing || sealed_bytes >= SEALED_BYTES_MAX { few } else { few.saturating_add(SEALED_MAX) };
    let ahead = look_ahead.saturating_sub(unasked.saturating_add(all));
    workers.saturating_sub(reading).min(most.saturating_sub(all)).min(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use walward_pg::{SegmentName, Timeline};

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
                let judge = |file| if known.contains(&file) { ReadyState::Known } else { ReadyState::New };
                let chosen = choose(&mut queue, judge, false, places).start;
                if chosen.is_empty() { break }
                prop_assert!(chosen.len() <= places);
                all.extend(chosen);
            }
            let expected: Vec<_> = ready.into_iter().filter(|file| !known.contains(file)).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn nothing_new_is_written_after_a_name_that_is_there_and_not_settled_or_that_nobody_looked_for(
            standings in proptest::collection::vec(0u8..6, 0..30), unsettled: bool, places in 0usize..40,
        ) {
            let of = |number: usize| match standings[number] {
                0 => ReadyState::Known,
                1 => ReadyState::There,
                2 => ReadyState::Unlisted,
                3 => ReadyState::Beyond,
                4 => ReadyState::Partly,
                _ => ReadyState::New,
            };
            let number = |file: WalFileName| match file {
                WalFileName::Segment(segment) => segment.segment as usize,
                _ => usize::MAX,
            };
            let mut queue: VecDeque<_> = (0u32..).zip(&standings).map(|(number, _)| name(number)).collect();
            let chosen = choose(&mut queue, |file| of(number(file)), unsettled, places);
            prop_assert!(chosen.start.len() <= places && chosen.start.is_sorted());
            let has_name = |file: &WalFileName| matches!(of(number(*file)), ReadyState::There | ReadyState::Partly);
            let there = chosen.start.iter().position(has_name);
            for (at, file) in chosen.start.iter().enumerate() {
                match of(number(*file)) {
                    ReadyState::New => prop_assert!(!unsettled && there.is_none_or(|there| at < there)),
                    ReadyState::Partly => prop_assert!(!unsettled && there.is_none_or(|there| at <= there)),
                    other => prop_assert_eq!(other, ReadyState::There),
                }
                let stopped = |before: usize| matches!(of(before), ReadyState::Unlisted | ReadyState::Beyond);
                prop_assert!(!(0..number(*file)).any(stopped));
            }
            if let Some(wanted) = chosen.list {
                prop_assert_eq!(of(number(wanted)), ReadyState::Unlisted);
                prop_assert_eq!(queue.front(), Some(&wanted), "it is looked at again");
            }
        }

        #[test]
        fn the_repositories_never_run_further_ahead_than_allowed(
            workers in 0usize..10, look_ahead in 0usize..100, unasked in 0usize..120, reading in 0usize..12,
            sealed in 0usize..20, sealed_bytes in 0..2 * SEALED_BYTES_MAX, failing: bool,
        ) {
            let places = places(workers, look_ahead, unasked, UnderWay { reading, sealed, sealed_bytes, failing });
            let all = reading + sealed + places;
            prop_assert!(places == 0 || unasked + all <= look_ahead);
            prop_assert!(places == 0 || reading + places <= workers);
            prop_assert!(places == 0 || all <= workers.max(UNDER_WAY_MIN) + SEALED_MAX);
            let many = !failing && sealed_bytes < SEALED_BYTES_MAX;
            prop_assert!(places == 0 || many || all <= workers.max(UNDER_WAY_MIN));
        }
    }
}
