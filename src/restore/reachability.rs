//! Whether the target can be reached with the WAL that is there, and which part of it that takes.
//!
//! Holes after the target do not matter. What cannot be known ahead becomes a warning, never a silent assumption.

use jiff::Timestamp;

use super::choose::Choice;
use super::refusal::{LetGo, Refusal};
use super::request::RestoreRequest;
use crate::catalogue::{
    Inventory, LastCommit, Reach, Target, WalNeed, first_passing, format_microseconds, last_commit, reach,
    segment_before,
};
use walward_pg::{Lsn, Mark, SegmentName, WalFileName};
use walward_repo::gap::Gap;

/// The WAL of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The segments that recovery reads; none when a standby gets them elsewhere.
    pub wal: Option<WalNeed>,
    /// Where recovery stops instead of at the target's time, when no transaction ended after that: a record that is later than the
    /// time. The server itself would refuse to end recovery ("recovery ended before configured recovery target was reached").
    pub stop: Option<Mark>,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

/// In how many segments, from the last one back, a record is looked for that is later than a target time.
const SEGMENTS_WITH_MARKS: u64 = 4;

/// Checks that the WAL from the start of `choice`'s backup to the target is in `inventory`. `read` answers the first and
/// last commit time in a segment, `marks` the last moment that another record of it tells.
pub async fn route<E, F, R, G, S>(
    choice: &Choice,
    request: &RestoreRequest,
    inventory: &Inventory,
    read: F,
    marks: G,
) -> Result<Route, E>
where
    E: From<Refusal>,
    F: Fn(SegmentName) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
    G: Fn(SegmentName) -> S,
    S: Future<Output = Result<Option<Mark>, E>>,
{
    let survey = Survey::new(choice, request, inventory, read);
    let present = survey.reach.present.clone();
    let consistent = segment_before(choice.backup.stop_lsn, choice.backup.segment_bytes);
    let mut warnings = Vec::new();
    if present.end <= consistent {
        let missing = survey.reach.missing;
        if let Some(missing) = missing {
            if !request.standby || request.primary_conninfo.is_none() {
                let refusal = Refusal::BackupWithoutWal { label: choice.backup.label.to_string(), missing };
                return Err(survey.explained(refusal).into());
            }
            warnings
                .push(format!("segment {missing} is not in the archive; the standby depends on its primary for it"));
        }
        return Ok(Route { wal: survey.need(present.end), stop: None, warnings });
    }
    let mut stop = None;
    let last = match &request.target {
        Target::Immediate => consistent,
        Target::Lsn(lsn) => {
            let number = lsn.segment_number(choice.backup.segment_bytes);
            if number >= present.end {
                return Err(survey.beyond().await?.into());
            }
            number.max(consistent)
        }
        Target::Time(time) => match survey.segment_of(*time, &mut warnings).await? {
            Some(number) => number.max(consistent),
            // Nothing was done after that moment, which is proven by a record that is later.
            None => match survey.later_mark(*time, &marks).await? {
                Some((number, mark)) => {
                    stop = Some(mark);
                    number.max(consistent)
                }
                None => return Err(survey.beyond().await?.into()),
            },
        },
        Target::Latest => {
            if survey.is_cut_short() {
                let refusal = survey.beyond().await?;
                if !request.standby {
                    return Err(refusal.into());
                }
                warnings.push(format!("the standby will have to get WAL from its primary: {refusal}"));
            }
            present.end.saturating_sub(1)
        }
        Target::Xid(_) | Target::Name(_) if choice.position.is_some() => {
            let number = choice.position.map_or(0, |at| at.segment_number(choice.backup.segment_bytes));
            if number >= present.end {
                return Err(survey.beyond().await?.into());
            }
            number.max(consistent)
        }
        Target::Xid(_) | Target::Name(_) => {
            warnings.push(format!(
                "whether {} lies in the archive, and after the end of the backup, cannot be checked ahead; if it does not, \
                 the server will stop with \"recovery ended before configured recovery target was reached\"",
                request.target
            ));
            if survey.is_cut_short() {
                warnings.push(format!("if the target lies after it, recovery will fail: {}", survey.beyond().await?));
            }
            present.end.saturating_sub(1)
        }
    };
    if let Some(missing) =
        survey.reach.missing.filter(|_| survey.reach.partial && last.checked_add(1) == Some(present.end))
    {
        warnings.push(format!(
            "{missing}.partial is in the archive, and is not replayed unless it is asked for (--use-partial)"
        ));
    }
    Ok(Route { wal: survey.need(last + 1), stop, warnings })
}

struct Survey<'a, F> {
    choice: &'a Choice,
    request: &'a RestoreRequest,
    reach: Reach,
    /// Why the first segment that is missing is.
    let_go: Option<&'a Gap>,
    read: F,
}

impl<'a, F> Survey<'a, F> {
    fn new(choice: &'a Choice, request: &'a RestoreRequest, inventory: &'a Inventory, read: F) -> Self {
        let reach = reach(&choice.way, choice.backup.start_lsn, choice.backup.segment_bytes, inventory);
        let missing = reach.missing.map(WalFileName::Segment);
        let let_go = inventory.let_go.iter().find(|gap| missing.is_some_and(|name| gap.covers(name)));
        Self { choice, request, reach, let_go, read }
    }

    /// The refusal, with its reason where WAL was let go.
    fn explained(&self, refusal: Refusal) -> Refusal {
        match self.let_go {
            None => refusal,
            Some(gap) => Refusal::LetGo(Box::new(LetGo { gap: gap.clone(), later: Vec::new(), refusal })),
        }
    }

    fn need(&self, end: u64) -> Option<WalNeed> {
        WalNeed::new(&self.choice.way, &(self.reach.present.start..end), self.choice.backup.segment_bytes)
    }

    /// Whether the WAL ends before it should: at a hole, at what was let go, or before the target timeline begins.
    fn is_cut_short(&self) -> bool {
        if self.let_go.is_some() {
            return true;
        }
        let begin = self.choice.way.target_begin().segment_number(self.choice.backup.segment_bytes);
        self.reach.goes_on.is_some() || (self.reach.present.end <= begin && self.choice.way.spans().len() > 1)
    }

    /// The position after the last segment that is there.
    fn end(&self) -> Lsn {
        Lsn(self.reach.present.end.saturating_mul(self.choice.backup.segment_bytes.bytes()))
    }

    async fn read_number<E, R>(&self, number: u64) -> Result<Option<(i64, i64)>, E>
    where
        F: Fn(SegmentName) -> R,
        R: Future<Output = Result<Option<(i64, i64)>, E>>,
    {
        match self.choice.way.segment(number, self.choice.backup.segment_bytes) {
            Some(name) => (self.read)(name).await,
            None => Ok(None),
        }
    }

    /// The segment in which recovery to `time` ends; `None` when no transaction ended after it.
    async fn segment_of<E, R>(&self, time: Timestamp, warnings: &mut Vec<String>) -> Result<Option<u64>, E>
    where
        F: Fn(SegmentName) -> R,
        R: Future<Output = Result<Option<(i64, i64)>, E>>,
    {
        let target = time.as_microsecond();
        // Recovery stops before the first commit that is later than the target, or not earlier when it is exclusive
        // (recoveryStopsBefore, xlogrecovery.c): there must be such a commit, or the server refuses to end recovery.
        let passes = |time| if self.request.exclusive { time >= target } else { time > target };
        let read = |number| self.read_number(number);
        let present = self.reach.present.clone();
        match last_commit(present.clone(), &read).await? {
            LastCommit::At(number, last) if passes(last) => {
                first_passing(present, number, passes, &read).await.map(Some)
            }
            LastCommit::At(..) | LastCommit::Never => Ok(None),
            LastCommit::NotFound => {
                warnings.push(
                    "no transaction ended in the last segments of the archive, so that whether the target time is reached \
                     could not be checked ahead"
                        .to_owned(),
                );
                Ok(Some(present.end.saturating_sub(1)))
            }
        }
    }

    /// A record that is not earlier than `time`, and its segment, when one of the last segments that are there has one.
    async fn later_mark<E, G, S>(&self, time: Timestamp, marks: &G) -> Result<Option<(u64, Mark)>, E>
    where
        G: Fn(SegmentName) -> S,
        S: Future<Output = Result<Option<Mark>, E>>,
    {
        let size = self.choice.backup.segment_bytes;
        for number in self.reach.present.clone().rev().take(usize::try_from(SEGMENTS_WITH_MARKS).unwrap_or(1)) {
            let Some(name) = self.choice.way.segment(number, size) else { continue };
            let later = |mark: &Mark| mark.time >= time.as_microsecond() && mark.lsn >= self.choice.backup.stop_lsn;
            if let Some(mark) = marks(name).await?.filter(later) {
                return Ok(Some((number, mark)));
            }
        }
        Ok(None)
    }

    /// Why the target, which lies after the WAL that is there, cannot be reached.
    async fn beyond<E, R>(&self) -> Result<Refusal, E>
    where
        F: Fn(SegmentName) -> R,
        R: Future<Output = Result<Option<(i64, i64)>, E>>,
    {
        Ok(self.explained(self.end_of_wal().await?))
    }

    async fn end_of_wal<E, R>(&self) -> Result<Refusal, E>
    where
        F: Fn(SegmentName) -> R,
        R: Future<Output = Result<Option<(i64, i64)>, E>>,
    {
        let size = self.choice.backup.segment_bytes;
        let last = match last_commit(self.reach.present.clone(), &|number| self.read_number(number)).await? {
            LastCommit::At(_, time) => format!("the last transaction ended at {}", format_microseconds(time)),
            LastCommit::Never | LastCommit::NotFound => "no transaction ended in it".to_owned(),
        };
        let until = format!("{} ({last})", self.end());
        let Some(missing) = self.reach.missing else {
            return Ok(Refusal::TooLate { target: self.request.target.to_string(), end: until });
        };
        if let Some(next) = self.reach.goes_on {
            return Ok(Refusal::Hole { missing, next, until });
        }
        let spans = self.choice.way.spans();
        let begins = spans.windows(2).find_map(|pair| match pair {
            [parent, child] if child.begin.segment_number(size) == self.reach.present.end => Some((parent, child)),
            _ => None,
        });
        Ok(match begins {
            Some((parent, child)) => Refusal::TimelineWithoutWal {
                timeline: child.timeline,
                begin: child.begin,
                missing,
                parent: parent.timeline,
                until,
            },
            None => Refusal::TooLate {
                target: self.request.target.to_string(),
                end: match &self.request.target {
                    Target::Time(_) => format!("{last}, and the WAL ends at {}", self.end()),
                    _ => format!("the WAL ends at {until}"),
                },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Histories, Way};
    use crate::restore::choose::tests::{backup, lineage, request};
    use walward_pg::{SegmentSize, Timeline};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    #[derive(Debug, PartialEq)]
    enum Error {
        Refused(Refusal),
    }

    impl From<Refusal> for Error {
        fn from(refusal: Refusal) -> Self {
            Self::Refused(refusal)
        }
    }

    impl From<Infallible> for Error {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    /// A backup in segments 2 and 3 of timeline 1, which was left in the middle of segment 6 for timeline 2.
    fn choice(timeline: u32) -> Choice {
        let mut histories = Histories::new();
        histories.insert(Timeline(2), vec![(Timeline(1), Lsn(6 * SIZE.bytes() + 77))]);
        Choice {
            backup: backup(lineage(), 1, 2 * SIZE.bytes() + 40, 3 * SIZE.bytes() + 80, 0),
            way: Way::to(Timeline(timeline), &histories).expect("known"),
            position: None,
            reason: String::new(),
        }
    }

    fn inventory(segments: impl IntoIterator<Item = (u32, u64)>) -> Inventory {
        let name = |(timeline, number)| SegmentName::from_number(Timeline(timeline), number, SIZE).expect("a name");
        let mut inventory = Inventory::default();
        inventory.add(segments.into_iter().map(|segment| WalFileName::Segment(name(segment))), SIZE);
        inventory
    }

    /// Segment n ends with a commit at second n.
    fn run(choice: &Choice, request: &RestoreRequest, segments: &[(u32, u64)]) -> Result<Route, Error> {
        run_with(choice, request, segments, None)
    }

    /// As [`run`], with `mark` in the last segment.
    fn run_with(
        choice: &Choice,
        request: &RestoreRequest,
        segments: &[(u32, u64)],
        mark: Option<Mark>,
    ) -> Result<Route, Error> {
        let inventory = inventory(segments.iter().copied());
        let times: BTreeMap<SegmentName, i64> = segments
            .iter()
            .filter_map(|(timeline, number)| {
                let name = SegmentName::from_number(Timeline(*timeline), *number, SIZE)?;
                Some((name, i64::try_from(*number).ok()? * 1_000_000))
            })
            .collect();
        let newest = times.keys().next_back().copied();
        let read = |name| {
            let time = times.get(&name).copied();
            async move { Ok::<_, Error>(time.map(|time| (time, time))) }
        };
        let marks = |name| async move { Ok::<_, Error>(mark.filter(|_| Some(name) == newest)) };
        block_on(route(choice, request, &inventory, read, marks))
    }

    fn second(second: i64) -> Target {
        Target::Time(Timestamp::from_second(second).expect("in range"))
    }

    fn last(route: &Route) -> String {
        route.wal.as_ref().map(|wal| wal.last.to_string()).unwrap_or_default()
    }

    const BOTH: [(u32, u64); 7] = [(1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)];

    #[test]
    fn everything_up_to_the_target_is_needed_and_no_more() {
        let (one, two) = (choice(1), choice(2));
        for (target, choice, wanted) in [
            (Target::Immediate, &two, "000000010000000000000003"),
            (Target::Latest, &two, "000000020000000000000008"),
            (Target::Lsn(Lsn(6 * SIZE.bytes() + 5)), &two, "000000020000000000000006"),
            (second(4), &two, "000000010000000000000005"),
            (second(7), &two, "000000020000000000000008"),
            (Target::Latest, &one, "000000010000000000000005"),
        ] {
            let route = run(choice, &request(target.clone()), &BOTH).expect("reachable");
            assert_eq!(last(&route), wanted, "{target}");
            assert_eq!(route.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn a_time_after_the_last_commit_is_refused_and_told() {
        let refusal = run(&choice(2), &request(second(8)), &BOTH).expect_err("too late");
        let Error::Refused(refusal) = refusal;
        assert!(matches!(refusal, Refusal::TooLate { .. }));
        assert!(refusal.to_string().contains("1970-01-01 00:00:08+00"), "{refusal}");
        // An exclusive target stops before that very commit.
        let exclusive = RestoreRequest { exclusive: true, ..request(second(8)) };
        assert!(run(&choice(2), &exclusive, &BOTH).is_ok());
    }

    #[test]
    fn a_time_after_the_last_transaction_of_a_quiet_server_is_reached_when_a_later_record_is_there() {
        let mark = |time: i64| Some(Mark { time: time * 1_000_000, lsn: Lsn(8 * SIZE.bytes() + 500) });
        let reached = |target, mark| run_with(&choice(2), &request(second(target)), &BOTH, mark);
        let route = reached(20, mark(21)).expect("a checkpoint is later");
        assert_eq!((route.stop, last(&route).as_str()), (mark(21), "000000020000000000000008"));
        let refusal = reached(22, mark(21)).expect_err("nothing is later");
        let Error::Refused(refusal) = refusal;
        assert!(refusal.to_string().contains("check --switch-wal"), "{refusal}");
        // Where a transaction is later, it is stopped at that as ever.
        assert_eq!(reached(5, mark(21)).expect("reachable").stop, None);
    }

    #[test]
    fn a_hole_matters_only_before_the_target() {
        let holed: Vec<_> = BOTH.into_iter().filter(|segment| *segment != (2, 7)).collect();
        for (target, refused) in [
            (Target::Immediate, false),
            (second(5), false),
            (second(6), true),
            (Target::Lsn(Lsn(6 * SIZE.bytes() + 9)), false),
            (Target::Lsn(Lsn(7 * SIZE.bytes())), true),
            (Target::Latest, true),
        ] {
            match run(&choice(2), &request(target.clone()), &holed) {
                Ok(_) => assert!(!refused, "{target}"),
                Err(Error::Refused(refusal)) => {
                    assert!(refused, "{target}: {refusal}");
                    let text = refusal.to_string();
                    assert!(text.contains("000000020000000000000007") && text.contains("00:00:06+00"), "{text}");
                }
            }
        }
        let named = run(&choice(2), &request(Target::Name("before".to_owned())), &holed).expect("cannot be known");
        assert_eq!(named.warnings.len(), 2);
    }

    #[test]
    fn a_timeline_that_was_left_behind_its_last_segment_has_a_hole_and_no_end() {
        // Timeline 2 left timeline 1 in segment 6, so that 5 was written; nothing was archived after 4.
        let refusal = run(&choice(1), &request(Target::Latest), &BOTH[..3]).expect_err("a hole");
        let Error::Refused(refusal) = refusal;
        assert!(matches!(refusal, Refusal::Hole { .. }), "{refusal}");
        let text = refusal.to_string();
        assert!(text.contains("000000010000000000000005") && text.contains("000000020000000000000006"), "{text}");
        assert!(run(&choice(1), &request(second(3)), &BOTH[..3]).is_ok());
        // Up to the segment of the switch there is nothing to miss.
        assert!(run(&choice(1), &request(Target::Latest), &BOTH[..4]).is_ok());
    }

    #[test]
    fn wal_that_was_let_go_is_the_reason_also_at_the_end_of_the_archive() {
        let name =
            |number: u64| WalFileName::Segment(SegmentName::from_number(Timeline(1), number, SIZE).expect("a name"));
        let gap = Gap {
            format: 1,
            lineage: lineage(),
            first: name(4),
            last: name(5),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
            host: "db1".to_owned(),
            queue_limit: 1,
            waiting: 2,
            reason: "gone".to_owned(),
        };
        let none = |_| async { Ok::<_, Error>(None) };
        let unmarked = |_| async { Ok::<_, Error>(None) };
        for (held, target, refused) in [
            (vec![2, 3, 6], Target::Latest, true),
            (vec![2, 3], Target::Latest, true),
            (vec![2, 3], Target::Lsn(Lsn(5 * SIZE.bytes())), true),
            (vec![2, 3], Target::Immediate, false),
            // Archived after all.
            (vec![2, 3, 4, 5], Target::Latest, false),
        ] {
            let held_there = inventory(held.iter().map(|number| (1, *number)));
            let inventory = Inventory { let_go: vec![gap.clone()], ..held_there };
            match block_on(route(&choice(1), &request(target.clone()), &inventory, none, unmarked)) {
                Ok(_) => assert!(!refused, "{target} with {held:?}"),
                Err(Error::Refused(refusal)) => {
                    assert!(refused && matches!(refusal, Refusal::LetGo(_)), "{target} with {held:?}: {refusal}");
                    assert!(refusal.to_string().contains("db1") && refusal.to_string().contains("queue_limit"));
                }
            }
        }
    }

    #[test]
    fn a_timeline_without_wal_is_not_taken_for_its_parent() {
        let parent_only = &BOTH[..4];
        let refusal = run(&choice(2), &request(Target::Latest), parent_only).expect_err("no WAL of timeline 2");
        assert!(matches!(refusal, Error::Refused(Refusal::TimelineWithoutWal { timeline: Timeline(2), .. })));
        let standby = RestoreRequest { standby: true, ..request(Target::Latest) };
        assert_eq!(run(&choice(2), &standby, parent_only).expect("a standby waits").warnings.len(), 1);
    }

    #[test]
    fn a_backup_whose_own_wal_is_missing_is_refused() {
        let refusal = run(&choice(2), &request(Target::Immediate), &[(1, 2)]).expect_err("not consistent");
        assert!(matches!(refusal, Error::Refused(Refusal::BackupWithoutWal { .. })));
        let standby = RestoreRequest {
            standby: true,
            primary_conninfo: Some("host=primary".to_owned()),
            ..request(Target::Latest)
        };
        assert_eq!(run(&choice(2), &standby, &[(1, 2)]).expect("from the primary").warnings.len(), 1);
    }

    proptest! {
        /// Whatever is accepted is there in full, and whatever is refused is not.
        #[test]
        fn a_route_never_leads_through_a_hole(
            held in proptest::collection::btree_set((1u32..=2, 0u64..12), 0..24),
            lsn in (3 * SIZE.bytes() + 80)..(12 * SIZE.bytes()),
        ) {
            let held: Vec<_> = held.into_iter().collect();
            let choice = choice(2);
            let name = |number| choice.way.segment(number, SIZE).expect("in range");
            let there = |number| held.contains(&(name(number).timeline.0, number));
            let end = Lsn(lsn).segment_number(SIZE);
            let whole = (2..=end).all(there);
            let route = run(&choice, &request(Target::Lsn(Lsn(lsn))), &held);
            prop_assert_eq!(route.is_ok(), whole);
            if let Ok(route) = route {
                prop_assert_eq!(route.wal.map(|wal| wal.last), Some(name(end)));
            }
        }
    }
}
