//! Whoever asks how far the archive carries gets the same answer: over histories, holes and records of gaps by chance, against a model
//! that is slow and plain.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::gap::Gap;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// Segments are numbered below this.
const SEGMENTS: u64 = 12;

/// An archive by chance: what is in it, and where its timelines come from.
#[derive(Debug, Clone)]
struct World {
    histories: Histories,
    held: BTreeSet<(u32, u64)>,
    let_go: Vec<(u32, u64, u64)>,
}

impl World {
    fn inventory(&self) -> Inventory {
        let mut inventory = Inventory::default();
        for (timeline, number) in &self.held {
            inventory.timelines.entry(Timeline(*timeline)).or_default().segments.insert(*number);
        }
        inventory.let_go = self.let_go.iter().map(|(timeline, first, last)| gap(*timeline, *first, *last)).collect();
        inventory
    }

    /// The timeline of the file that holds segment `number` on the way to `timeline`: the newest one that began in it or before.
    fn file(&self, timeline: u32, number: u64) -> u32 {
        let parents = self.histories.get(&Timeline(timeline)).cloned().unwrap_or_default();
        let mut holder = timeline;
        for (parent, switch) in parents.iter().rev() {
            if switch.0 / SIZE.bytes() > number {
                holder = parent.0;
            }
        }
        holder
    }

    /// Whether the archive goes on after segment `number` on the way to `timeline`.
    fn goes_on(&self, timeline: u32, number: u64) -> bool {
        let is_held = |later: &u64| self.held.contains(&(self.file(timeline, *later), *later));
        let was_left = self
            .histories
            .values()
            .flatten()
            .any(|(parent, switch)| parent.0 == timeline && switch.0 / SIZE.bytes() > number);
        (number + 1..SEGMENTS).any(|later| is_held(&later)) || was_left
    }
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::from_number(Timeline(timeline), number, SIZE).expect("a name")
}

fn gap(timeline: u32, first: u64, last: u64) -> Gap {
    Gap {
        format: 1,
        lineage: Lineage { major: 15, system_identifier: 7 },
        first: WalFileName::Segment(name(timeline, first)),
        last: WalFileName::Segment(name(timeline, last)),
        since: Timestamp::UNIX_EPOCH,
        until: Timestamp::UNIX_EPOCH,
        host: "db1".to_owned(),
        queue_limit: 1,
        waiting: 2,
        reason: String::new(),
    }
}

/// Each timeline leaves an earlier one, at or after the place where that began.
fn world() -> impl Strategy<Value = World> {
    let forks = proptest::collection::vec((0usize..4, 0u64..SEGMENTS * 4), 0..4);
    let held = proptest::collection::btree_set((1u32..=5, 0..SEGMENTS), 0..40);
    let let_go = proptest::collection::vec((1u32..=5, 0..SEGMENTS - 1, 0u64..3), 0..3);
    (forks, held, let_go).prop_map(|(forks, held, let_go)| {
        let mut histories = Histories::new();
        for (index, (parent, at)) in forks.into_iter().enumerate() {
            let timeline = Timeline(u32::try_from(index).expect("small") + 2);
            let parent = Timeline(u32::try_from(parent % (index + 1)).expect("small") + 1);
            let mut parents: Vec<(Timeline, Lsn)> = histories.get(&parent).cloned().unwrap_or_default();
            let begin = parents.last().map_or(0, |(_, switch)| switch.0);
            parents.push((parent, Lsn((at * SIZE.bytes() / 4 + 40).max(begin))));
            histories.insert(timeline, parents);
        }
        let known = u32::try_from(histories.len()).expect("few") + 1;
        let held = held.into_iter().filter(|(timeline, _)| *timeline <= known).collect();
        let let_go =
            let_go.into_iter().map(|(timeline, first, more)| (timeline, first, (first + more).min(SEGMENTS - 1)));
        World { histories, held, let_go: let_go.filter(|(timeline, ..)| *timeline <= known).collect() }
    })
}

proptest! {
    /// A restore and `info` (by [`reach`]), `wal gaps` and `check` (by [`holes`]), and fetch (by [`goes_on_after`], for one file of one
    /// timeline) tell the same holes from the same ends.
    #[test]
    fn all_who_ask_how_far_the_archive_carries_agree_with_each_other_and_with_a_plain_model(world in world()) {
        let inventory = world.inventory();
        let holes = holes(&inventory, &world.histories, SIZE);
        let is_in_holes = |timeline: u32, number: u64| {
            holes.iter().any(|hole| {
                let numbers = hole.first.number(SIZE)..=hole.last.number(SIZE);
                hole.first.timeline.0 == timeline && numbers.contains(&Some(number))
            })
        };
        let was_let_go = |timeline: u32, number: u64| inventory.let_go.iter().any(|gap| {
            gap.covers(WalFileName::Segment(name(timeline, number)))
        });
        let by_fetch = |timeline: u32, number: u64| {
            // As `online` asks: which way the server is on is its own to know.
            let way = Way::root(Timeline(timeline), &world.histories);
            goes_on_after(&way, number, SIZE, &inventory).is_some()
        };
        let timelines: Vec<u32> = (1..=u32::try_from(world.histories.len()).expect("few") + 1).collect();
        for timeline in &timelines {
            let way = Way::to(Timeline(*timeline), &world.histories).expect("known");
            for start in (0..SEGMENTS).filter(|start| world.held.contains(&(world.file(*timeline, *start), *start))) {
                let reach = reach(&way, Lsn(start * SIZE.bytes() + 7), SIZE, &inventory);
                let end = (start..=SEGMENTS).find(|number| !world.held.contains(&(world.file(*timeline, *number), *number)));
                let end = end.expect("an end");
                prop_assert_eq!(&reach.present, &(start..end));
                let missing = name(world.file(*timeline, end), end);
                prop_assert_eq!(reach.missing, Some(missing));
                let goes_on = world.goes_on(*timeline, end);
                prop_assert_eq!(reach.goes_on.is_some(), goes_on, "timeline {} after {}", timeline, end);
                if goes_on {
                    let holder = missing.timeline.0;
                    prop_assert!(is_in_holes(holder, end), "{missing} is a hole, and not listed: {holes:?}");
                    prop_assert!(by_fetch(holder, end), "{missing} is a hole, and absent to a fetch");
                }
            }
        }
        // Nothing is called a hole that one of the others takes for the end.
        for timeline in timelines {
            for number in (0..SEGMENTS).filter(|number| is_in_holes(timeline, *number)) {
                prop_assert!(!world.held.contains(&(timeline, number)));
                prop_assert!(by_fetch(timeline, number) || was_let_go(timeline, number), "{}", name(timeline, number));
            }
        }
    }
}
