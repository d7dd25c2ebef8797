//! Small histories that are told, and large ones by chance.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::tests::{backup as backup_of, lineage, request};
use super::*;
use crate::catalogue::{
    BackupMoment, Decision, Life, Lives, SeveralLines, decide, that_differ, to_compare, ways, ways_without_backup,
};

/// What was done on one timeline.
#[derive(Debug, Clone, Copy)]
struct Event {
    timeline: u32,
    /// Where its record begins.
    at: u64,
    /// Seconds.
    time: i64,
    backup: bool,
}

/// Everything that was done in a cluster and in copies of it that archived beside it.
#[derive(Debug, Default)]
struct World {
    histories: Histories,
    events: Vec<Event>,
    /// When each timeline came into being.
    born: BTreeMap<u32, i64>,
    /// The clock, seconds.
    now: i64,
    /// Positions of the cluster, and of a copy.
    position: u64,
    timeline: u32,
    /// What the cluster held at each moment: positions and timelines of its transactions.
    truth: Vec<(i64, Vec<(u32, u64)>)>,
}

const STEP: u64 = 10;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

impl World {
    fn new() -> Self {
        let mut world = Self { timeline: 1, position: 1000, now: 100, ..Self::default() };
        // From which everything can be restored.
        world.backup();
        world
    }

    fn tick(&mut self) {
        self.now += 10;
    }

    fn way(&self, timeline: u32) -> Way {
        Way::to(Timeline(timeline), &self.histories).expect("known")
    }

    fn add(&mut self, timeline: u32, at: u64, backup: bool) {
        self.tick();
        self.events.push(Event { timeline, at, time: self.now, backup });
    }

    fn commit(&mut self) {
        self.add(self.timeline, self.position, false);
        self.position += STEP;
        self.note();
    }

    fn backup(&mut self) {
        self.add(self.timeline, self.position, true);
        self.position += STEP;
        self.note();
    }

    fn note(&mut self) {
        let held = self.held(&self.way(self.timeline), i64::MAX);
        self.truth.push((self.now, held));
    }

    /// The transactions on `way` before the first that ended after `until`.
    fn held(&self, way: &Way, until: i64) -> Vec<(u32, u64)> {
        let mut on: Vec<&Event> = self.events.iter().filter(|event| !event.backup && holds(way, event)).collect();
        on.sort_by_key(|event| event.at);
        on.iter().take_while(|event| event.time <= until).map(|event| (event.timeline, event.at)).collect()
    }

    /// A new timeline that leaves the cluster's `back` records before its end.
    fn branch(&mut self, back: u64) -> u32 {
        self.tick();
        let new = self.born.keys().last().copied().unwrap_or(1) + 1;
        let way = self.way(self.timeline);
        let fork = self.position.saturating_sub(back * STEP).max(1000 + STEP);
        let mut parents: Vec<(Timeline, Lsn)> = Vec::new();
        for span in way.spans() {
            let end = span.end.map_or(fork, |end| end.0.min(fork));
            parents.push((span.timeline, Lsn(end)));
            if span.end.is_none_or(|end| end.0 >= fork) {
                break;
            }
        }
        self.histories.insert(Timeline(new), parents);
        self.born.insert(new, self.now);
        new
    }

    /// The cluster goes on from a point `back` records before its end, on a new timeline.
    fn go_on_from(&mut self, back: u64) {
        let new = self.branch(back);
        self.position = self.way(new).target_begin().0;
        self.timeline = new;
        self.note();
    }

    /// A copy of the cluster lives for a while, and archives into its repository.
    fn copy(&mut self, back: u64, commits: u32, backup: bool) {
        let new = self.branch(back);
        let mut at = self.way(new).target_begin().0;
        for number in 0..=commits {
            if number < commits || backup {
                self.add(new, at, number == commits);
                at += STEP;
            }
        }
    }

    /// An old primary, whose timeline the cluster left `back` switches ago, is started again and writes where it had stopped.
    fn revive(&mut self, back: usize, commits: u32) {
        let way = self.way(self.timeline);
        let Some(left) = way.spans().iter().rev().skip(1).nth(back) else { return };
        let (timeline, fork) = (left.timeline.0, left.end.expect("it was left").0);
        let own = self.events.iter().filter(|event| event.timeline == timeline);
        let mut at = own.map(|event| event.at + STEP).max().unwrap_or(fork).max(fork);
        for _ in 0..commits {
            self.add(timeline, at, false);
            at += STEP;
        }
    }

    fn lines(&self) -> (Vec<Way>, Lives) {
        self.compared(std::iter::once(1).chain(self.born.keys().copied()).map(|timeline| self.way(timeline)).collect())
    }

    fn compared(&self, ways: Vec<Way>) -> (Vec<Way>, Lives) {
        let lines = that_differ(ways, |timeline, at| {
            self.events.iter().any(|event| event.timeline == timeline.0 && event.at >= at.0)
        });
        let compared =
            to_compare(&lines).into_iter().map(|(way, at)| ((way.target(), at), self.life(way, at))).collect();
        (lines, compared)
    }

    fn life(&self, way: &Way, at: Lsn) -> Life {
        let own: Vec<&Event> = self.events.iter().filter(|event| holds(way, event) && event.at >= at.0).collect();
        let micros = |event: &&&Event| event.time * 1_000_000;
        let commits = || own.iter().filter(|event| !event.backup);
        let backups = || own.iter().filter(|event| event.backup).map(|event| event.time);
        let moment = |time: i64| BackupMoment { stopped: second(time), label: format!("backup-{time}") };
        let begun = way.spans().iter().find(|span| span.begin == at && at > Lsn(0));
        let history = begun.and_then(|span| self.born.get(&span.timeline.0));
        Life {
            commits: commits().map(|event| micros(&event)).min().zip(commits().map(|event| micros(&event)).max()),
            backups: backups().min().map(moment).zip(backups().max().map(moment)),
            born: history.copied().into_iter().chain(own.iter().map(|event| event.time)).min().map(second),
            arrived: own.iter().map(|event| event.time).max().map(second),
            end: Lsn(own.iter().map(|event| event.at + STEP).max().unwrap_or(0)),
            writer: Some(format!("host{}", way.target())),
            lacks_backup: false,
        }
    }

    /// What a restore of the last `kept` backups would do: which line it takes, and from which backup.
    fn restored_from(&self, kept: usize, target: Target) -> Result<Choice, Refusal> {
        let mut world = Self { histories: self.histories.clone(), born: self.born.clone(), ..Self::default() };
        let older = self.events.iter().filter(|event| event.backup).count().saturating_sub(kept);
        let mut gone = 0;
        world.events = self.events.clone();
        world.events.retain(|event| {
            gone += usize::from(event.backup);
            !event.backup || gone > older
        });
        let made = world.events.iter().filter(|event| event.backup);
        let backups: Vec<BackupFacts> = made
            .map(|event| backup_of(lineage(), event.timeline, event.at, event.at + STEP - 1, event.time - 1))
            .collect();
        let request = request(target);
        let own = eligible(&backups, lineage(), &request)?;
        let mut leading = ways(&own, &world.histories);
        let has_wal = |way: &Way| world.events.iter().any(|event| event.timeline == way.target().0);
        leading.extend(ways_without_backup(&own, &world.histories).into_iter().filter(has_wal));
        let (lines, mut compared) = world.compared(leading);
        for ((timeline, _), life) in &mut compared {
            let way = world.way(timeline.0);
            life.lacks_backup =
                !backups.iter().any(|backup| way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn));
        }
        let line =
            decide(&lines, &compared, &request.target, None).map_err(Refusal::SeveralLines)?.expect("a line").way;
        let settled = Settled { line: Some(&line), ..Settled::default() };
        choose(&backups, lineage(), &world.histories, &request, &settled)
    }

    fn decide(&self, target: &Target) -> Result<Decision, Box<SeveralLines>> {
        let (lines, compared) = self.lines();
        decide(&lines, &compared, target, None).map(|decision| decision.expect("a line"))
    }

    /// The timeline that `target` leads to; 0 when it is refused.
    fn leads_to(&self, target: &Target) -> u32 {
        self.decide(target).map_or(0, |decision| decision.way.target().0)
    }
}

fn holds(way: &Way, event: &Event) -> bool {
    way.holds(Timeline(event.timeline), Lsn(event.at))
}

fn at(time: i64) -> Target {
    Target::Time(second(time))
}

#[test]
fn the_end_is_that_of_the_line_with_the_newest_backup_and_the_last_transaction() {
    let mut world = World::new();
    (0..4).for_each(|_| world.commit());
    // A test of a restore, which archives.
    world.copy(2, 3, false);
    world.commit();
    let refusal = world.decide(&Target::Latest).expect_err("both have transactions of the same time").to_string();
    for told in ["--timeline 1 or --timeline 2", "left timeline 1 at", "archived by host2", "1970-01-01 00:02"] {
        assert!(refusal.contains(told), "no {told:?} in {refusal}");
    }
    world.backup();
    world.commit();
    let decided = world.decide(&Target::Latest).expect("the newest backup and the last transaction are on timeline 1");
    assert_eq!(decided.way.target(), Timeline(1));
    assert!(decided.remarks.iter().any(|remark| remark.contains("timeline 2")), "{:?}", decided.remarks);
    // A backup of the copy makes it doubtful again.
    world.copy(1, 2, true);
    world.commit();
    assert_eq!(world.leads_to(&Target::Latest), 0);
}

#[test]
fn a_line_is_followed_to_where_the_cluster_went() {
    let mut world = World::new();
    (0..4).for_each(|_| world.commit());
    world.go_on_from(0);
    assert_eq!(world.leads_to(&Target::Latest), 2);
    world.commit();
    // Two transactions were lost in the fail-over.
    world.go_on_from(2);
    world.commit();
    let decided = world.decide(&Target::Latest).expect("one after the other");
    assert_eq!((decided.way.target(), decided.remarks.len()), (Timeline(3), 0));
    assert_eq!(world.leads_to(&at(world.now)), 3);
}

#[test]
fn a_later_moment_of_a_timeline_that_was_left_is_not_taken_for_its_successors() {
    let mut world = World::new();
    (0..8).for_each(|_| world.commit());
    let (early, late) = (world.now - 60, world.now - 10);
    let bad = world.now;
    world.go_on_from(6);
    world.commit();
    world.commit();
    // Before the fork it is the same on both.
    assert_ne!(world.leads_to(&at(early)), 0);
    // The first timeline had rows then that the second never had.
    let refusal = world.decide(&at(late)).expect_err("two can be meant").to_string();
    assert!(refusal.contains("timeline 1") && refusal.contains("timeline 2"), "{refusal}");
    assert_eq!(world.leads_to(&at(bad + 5)), 0);
    assert_eq!(world.leads_to(&at(world.now - 5)), 2);
    // A position that both have.
    assert_eq!(world.leads_to(&Target::Lsn(Lsn(world.position - STEP))), 0);
    assert_eq!(world.leads_to(&Target::Lsn(world.way(2).target_begin())), 2);
    assert_eq!(world.leads_to(&Target::Latest), 2);
}

#[test]
fn no_line_is_taken_for_its_end_while_a_newer_backup_lies_on_another() {
    let mut world = World::new();
    (0..4).for_each(|_| world.commit());
    world.backup();
    world.go_on_from(4);
    world.commit();
    for target in [Target::Latest, Target::Immediate] {
        assert_eq!(world.leads_to(&target), 0, "{target}");
    }
    world.backup();
    for target in [Target::Latest, Target::Immediate] {
        assert_eq!(world.leads_to(&target), 2, "{target}");
    }
}

#[test]
fn a_cluster_that_went_where_no_backup_leads_is_not_left_in_silence() {
    let mut world = World::new();
    (0..3).for_each(|_| world.commit());
    world.backup();
    // Promoted was a server that had not replayed the backup to its end.
    world.go_on_from(1);
    world.commit();
    let later = world.now;
    world.commit();
    let refusal = world.restored_from(1, Target::Latest).expect_err("the cluster went on").to_string();
    for told in
        ["timeline 2 (left timeline 1 at", "no backup to start from leads to it", "say which with --timeline 1;"]
    {
        assert!(refusal.contains(told), "no {told:?} in {refusal}");
    }
    // A moment that only the new timeline had.
    assert!(world.restored_from(1, at(later)).is_err());
    // An older backup leads there: both can be had.
    let refusal = world.restored_from(2, Target::Latest).expect_err("the newest backup is elsewhere").to_string();
    assert!(refusal.contains("--timeline 2 or --timeline 1") && !refusal.contains("no backup"), "{refusal}");
    world.backup();
    let choice = world.restored_from(1, Target::Latest).expect("the newest backup is on the cluster's line");
    assert_eq!(choice.way.target(), Timeline(2));
}

#[test]
fn an_old_primary_that_is_started_again_does_not_take_the_clusters_place() {
    // Whether the new primary has done something by then, or nothing yet; rows of the old one may have been lost.
    for (commits, lost) in [(3, 0), (0, 0), (3, 2), (0, 2)] {
        let mut world = World::new();
        (0..4).for_each(|_| world.commit());
        world.go_on_from(lost);
        (0..commits).for_each(|_| world.commit());
        let before = world.now;
        world.revive(0, 2);
        for target in [Target::Latest, at(world.now)] {
            let refusal = world.decide(&target).expect_err("two can be meant").to_string();
            assert!(refusal.contains("--timeline 1 or --timeline 2"), "{commits} {lost} {target}: {refusal}");
        }
        // By what the archive holds the cluster may have been on timeline 1, with a copy. While neither has done anything, both are one.
        assert_eq!(world.leads_to(&at(before)) == 0, commits + lost > 0, "{commits} {lost}");
        // A backup and a transaction say where it is.
        world.backup();
        world.commit();
        assert_eq!(world.leads_to(&Target::Latest), 2, "{commits} {lost}");
        world.revive(0, 1);
        assert_eq!(world.leads_to(&Target::Latest), 0, "{commits} {lost}");
    }
}

#[test]
fn a_cluster_whose_copy_has_fallen_silent_is_found_by_its_next_backup() {
    let mut world = World::new();
    (0..4).for_each(|_| world.commit());
    // From before the copy, after the place where it parted.
    world.backup();
    world.copy(3, 2, false);
    world.commit();
    assert_eq!(world.leads_to(&Target::Latest), 0);
    world.backup();
    world.commit();
    let decided = world.decide(&Target::Latest).expect("the newest backup and the last transaction are on timeline 1");
    assert_eq!(decided.way.target(), Timeline(1));
    assert!(decided.remarks.iter().any(|remark| remark.contains("timeline 2")), "{:?}", decided.remarks);
}

#[test]
fn a_transaction_or_restore_point_is_taken_from_the_line_that_has_it() {
    let mut world = World::new();
    (0..6).for_each(|_| world.commit());
    world.go_on_from(3);
    world.commit();
    let (lines, compared) = world.lines();
    let fork = world.way(2).target_begin().0;
    let leads_to = |records: &[(u32, u64)], whole: bool| {
        let records = records.iter().map(|(timeline, at)| (Timeline(*timeline), Lsn(*at))).collect();
        let sought = Sought { records, whole };
        decide(&lines, &compared, &Target::Name("x".to_owned()), Some(&sought))
            .map_or(0, |found| found.expect("a line").way.target().0)
    };
    assert_eq!(leads_to(&[(1, fork - 1)], true), 2);
    assert_eq!(leads_to(&[(2, fork)], true), 2);
    assert_eq!(leads_to(&[(1, fork + 5)], true), 0);
    assert_eq!(leads_to(&[(1, fork + 5), (2, fork + 5)], true), 0);
    assert_eq!(leads_to(&[], true), 2);
    // Not all was looked through: it may be on the other.
    assert_eq!(leads_to(&[], false), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Commit,
    Backup,
    GoOnFrom(u64),
    Copy(u64, u32, bool),
    Revive(usize, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Commit),
        2 => Just(Step::Backup),
        2 => (0u64..8).prop_map(Step::GoOnFrom),
        2 => (0u64..12, 0u32..5, any::<bool>()).prop_map(|(back, commits, backup)| Step::Copy(back, commits, backup)),
        2 => (0usize..3, 1u32..4).prop_map(|(back, commits)| Step::Revive(back, commits)),
    ];
    prop::collection::vec(step, 0..40)
}

fn lived(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        match step {
            Step::Commit => world.commit(),
            Step::Backup => world.backup(),
            Step::GoOnFrom(back) => {
                world.go_on_from(*back);
            }
            Step::Copy(back, commits, backup) => {
                world.copy(*back, *commits, *backup);
                // A cluster that does nothing after a copy began cannot be told from one that went on as the copy.
                world.commit();
            }
            Step::Revive(back, commits) => world.revive(*back, *commits),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_restored_is_what_the_cluster_held_or_nothing(steps in steps(), part in 0i64..1000) {
        let world = lived(&steps);
        let time = 100 + (world.now - 100) * part / 1000;
        let held_at = |time: i64| {
            world.truth.iter().rev().find(|(noted, _)| *noted <= time).map(|(_, held)| held.clone()).unwrap_or_default()
        };
        if let Ok(decision) = world.decide(&Target::Latest) {
            prop_assert_eq!(world.held(&decision.way, i64::MAX), held_at(world.now));
        }
        if let Ok(decision) = world.decide(&at(time)) {
            prop_assert_eq!(world.held(&decision.way, time), held_at(time), "at {}", time);
        }
    }

    #[test]
    fn no_restore_to_the_end_skips_a_line_with_later_transactions(steps in steps(), kept in 1usize..4) {
        let world = lived(&steps);
        if let Ok(choice) = world.restored_from(kept, Target::Latest) {
            let last = world.events.iter().filter(|event| holds(&choice.way, event)).map(|event| event.time).max();
            for event in world.events.iter().filter(|event| !event.backup) {
                prop_assert!(Some(event.time) <= last, "timeline {} is skipped", event.timeline);
            }
        }
    }

    #[test]
    fn a_cluster_with_a_backup_and_a_transaction_since_is_restored_without_a_question(steps in steps()) {
        let mut world = lived(&steps);
        world.backup();
        world.commit();
        for target in [Target::Latest, Target::Immediate, at(world.now)] {
            let decision = world.decide(&target);
            let timeline = decision.map(|decision| decision.way.target().0);
            prop_assert_eq!(timeline, Ok(world.timeline), "{}", target);
        }
        let choice = world.restored_from(1, Target::Latest);
        prop_assert_eq!(choice.map(|choice| choice.way.target().0), Ok(world.timeline));
    }

    #[test]
    fn without_a_copy_or_a_step_back_there_is_no_question(
        steps in prop::collection::vec(prop_oneof![3 => Just(Step::Commit), 1 => Just(Step::Backup), 1 => Just(Step::GoOnFrom(0))], 0..30),
        part in 0i64..1000,
    ) {
        let world = lived(&steps);
        let time = 100 + (world.now - 100) * part / 1000;
        for target in [Target::Latest, Target::Immediate, at(time), Target::Lsn(Lsn(1000 + part.unsigned_abs()))] {
            prop_assert!(world.decide(&target).is_ok(), "{}", target);
        }
    }
}
