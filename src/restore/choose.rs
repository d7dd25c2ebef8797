//! Which backup a restore starts from. Pure: facts and a request in, a choice with its reason or a refusal out.
//!
//! The newest backup that the target can be reached from: it lies on the way to the target timeline, and it stopped
//! before the target. Backups of a lineage that a major upgrade ended are taken only when they are asked for.

use jiff::Timestamp;

use super::refusal::Refusal;
use super::request::{RestoreRequest, Target, TargetTimeline};
use super::time::format_time;
use super::timelines::{Histories, Way};
use crate::pg::{Lineage, Lsn, SegmentSize, Timeline};
use crate::repo::manifest::BackupLabel;

/// What the choice needs to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its name.
    pub label: BackupLabel,
    /// What it was taken from.
    pub lineage: Lineage,
    /// The timeline that it ran on.
    pub timeline: Timeline,
    /// Where its WAL begins.
    pub start_lsn: Lsn,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
    /// When it ended, by the server's clock.
    pub stopped: Timestamp,
    /// Size of its WAL segments.
    pub segment_bytes: SegmentSize,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The backup.
    pub backup: BackupFacts,
    /// The way to the timeline that recovery ends on.
    pub way: Way,
    /// Why this one.
    pub reason: String,
}

/// The lineage that the request is about: that of the backup it names, else `current`.
pub fn lineage(backups: &[BackupFacts], current: Lineage, request: &RestoreRequest) -> Result<Lineage, Refusal> {
    match &request.backup {
        None => Ok(current),
        Some(label) => {
            let known = backups.iter().find(|backup| backup.label == *label);
            known.map(|backup| backup.lineage).ok_or_else(|| no_such_backup(label, backups))
        }
    }
}

/// Chooses among `backups`; those of another lineage than `lineage` are left out. `histories` are those of `lineage`.
/// `unfinished` is the backup that the target directory already holds a part of.
pub fn choose(
    backups: &[BackupFacts],
    lineage: Lineage,
    histories: &Histories,
    request: &RestoreRequest,
    unfinished: Option<&BackupLabel>,
) -> Result<Choice, Refusal> {
    let mut own: Vec<&BackupFacts> = backups.iter().filter(|backup| backup.lineage == lineage).collect();
    own.sort_by(|a, b| (a.stop_lsn, &a.label).cmp(&(b.stop_lsn, &b.label)));
    if own.is_empty() {
        return Err(Refusal::NoBackups { lineage, others: backups.iter().map(|b| b.label.to_string()).collect() });
    }
    if let Some(label) = &request.backup {
        own.retain(|backup| backup.label == *label);
        if own.is_empty() {
            return Err(no_such_backup(label, backups));
        }
    }
    let on_the_way = on_the_way(&own, histories, request)?;

    let reaching: Vec<&(&BackupFacts, Way)> =
        on_the_way.iter().filter(|(backup, _)| stops_before(backup, &request.target)).collect();
    let chosen = match unfinished {
        Some(label) => reaching
            .iter()
            .find(|(backup, _)| backup.label == *label)
            .copied()
            .ok_or_else(|| Refusal::OtherUnfinished { label: label.to_string() })?,
        None => reaching.last().copied().ok_or_else(|| too_early(&on_the_way, request))?,
    };
    let (backup, way) = chosen;
    let reason = if unfinished.is_some() {
        "the directory holds an unfinished restore of it".to_owned()
    } else if request.backup.is_some() {
        "it was asked for".to_owned()
    } else {
        match &request.target {
            Target::Latest | Target::Immediate => format!("the newest backup that leads to timeline {}", way.target()),
            Target::Time(_) | Target::Lsn(_) => {
                format!("the newest backup that ended before the target and leads to timeline {}", way.target())
            }
            Target::Xid(_) | Target::Name(_) => format!(
                "the newest backup that leads to timeline {}; whether the target comes after it cannot be known ahead",
                way.target()
            ),
        }
    };
    Ok(Choice { backup: (*backup).clone(), way: way.clone(), reason })
}

/// The backups (of `own`, oldest first) that lie on the way to the target timeline, with that way. Never empty.
fn on_the_way<'a>(
    own: &[&'a BackupFacts],
    histories: &Histories,
    request: &RestoreRequest,
) -> Result<Vec<(&'a BackupFacts, Way)>, Refusal> {
    let to = |timeline| way_to(timeline, own, histories);
    let along = |way: &Way| -> Vec<(&'a BackupFacts, Way)> {
        own.iter()
            .filter(|backup| way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn))
            .map(|backup| (*backup, way.clone()))
            .collect()
    };
    let ran_on = own.iter().map(|backup| backup.timeline);
    let mut known: Vec<Timeline> = histories.keys().copied().chain([Timeline(1)]).chain(ran_on).collect();
    known.sort_unstable();
    known.dedup();
    match request.timeline {
        TargetTimeline::Latest => known
            .iter()
            .rev()
            .filter_map(|timeline| to(*timeline))
            .map(|way| along(&way))
            .find(|found| !found.is_empty())
            .ok_or_else(|| Refusal::NoHistory { timeline: own.last().map_or(Timeline(1), |backup| backup.timeline) }),
        TargetTimeline::Number(timeline) => {
            let unknown = || Refusal::UnknownTimeline { timeline, known: known.clone() };
            let way = to(timeline).ok_or_else(unknown)?;
            let found = along(&way);
            if found.is_empty() { Err(Refusal::NotOnTheWay { timeline, fork: way.target_begin() }) } else { Ok(found) }
        }
        TargetTimeline::Current => {
            let found: Vec<_> = own
                .iter()
                .filter_map(|backup| Some((*backup, to(backup.timeline)?)))
                .filter(|(backup, way)| way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn))
                .collect();
            let newest = own.last().map_or(Timeline(1), |backup| backup.timeline);
            if found.is_empty() { Err(Refusal::NoHistory { timeline: newest }) } else { Ok(found) }
        }
    }
}

/// The way to `timeline`. One that a backup ran on is known even without its history, which is not in the archive when the
/// server was promoted before it archived: the backup and the WAL behind it are all on that timeline.
fn way_to(timeline: Timeline, own: &[&BackupFacts], histories: &Histories) -> Option<Way> {
    Way::to(timeline, histories)
        .or_else(|| own.iter().any(|backup| backup.timeline == timeline).then(|| Way::root(timeline)))
}

/// Whether recovery from `backup` can stop at `target`, as far as that can be known from the backup alone.
fn stops_before(backup: &BackupFacts, target: &Target) -> bool {
    match target {
        Target::Time(time) => backup.stopped <= *time,
        Target::Lsn(lsn) => backup.stop_lsn <= *lsn,
        Target::Latest | Target::Xid(_) | Target::Name(_) | Target::Immediate => true,
    }
}

fn too_early(on_the_way: &[(&BackupFacts, Way)], request: &RestoreRequest) -> Refusal {
    let earliest = match &request.target {
        Target::Lsn(_) => on_the_way.iter().min_by_key(|(backup, _)| backup.stop_lsn),
        _ => on_the_way.iter().min_by_key(|(backup, _)| backup.stopped),
    };
    let (label, earliest) = earliest.map_or_else(Default::default, |(backup, _)| {
        let moment = if matches!(request.target, Target::Lsn(_)) {
            backup.stop_lsn.to_string()
        } else {
            format_time(whole_second(backup.stopped))
        };
        (backup.label.to_string(), moment)
    });
    Refusal::TooEarly { target: request.target.to_string(), earliest, label, only_this: request.backup.is_some() }
}

/// `time`, or the next whole second: what is printed is what one can then ask for.
fn whole_second(time: Timestamp) -> Timestamp {
    if time.subsec_nanosecond() == 0 {
        return time;
    }
    Timestamp::from_second(time.as_second().saturating_add(1)).unwrap_or(time)
}

fn no_such_backup(label: &BackupLabel, backups: &[BackupFacts]) -> Refusal {
    Refusal::NoSuchBackup { label: label.to_string(), known: backups.iter().map(|b| b.label.to_string()).collect() }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::repo::manifest::BackupType;
    use crate::restore::request::Action;

    pub fn lineage() -> Lineage {
        Lineage { major: 15, system_identifier: 7 }
    }

    pub fn backup(lineage: Lineage, timeline: u32, start: u64, stop: u64, second: i64) -> BackupFacts {
        let time = |second| Timestamp::from_second(second).expect("in range");
        BackupFacts {
            label: BackupLabel::new(time(second), BackupType::Full),
            lineage,
            timeline: Timeline(timeline),
            start_lsn: Lsn(start),
            stop_lsn: Lsn(stop),
            stopped: time(second + 1),
            segment_bytes: SegmentSize::DEFAULT,
        }
    }

    pub fn request(target: Target) -> RestoreRequest {
        RestoreRequest {
            target,
            exclusive: false,
            timeline: TargetTimeline::Latest,
            action: Action::Pause,
            standby: false,
            backup: None,
            tablespace_map: Vec::new(),
            archive_mode_off: false,
            use_partial: false,
            restore_command: "walward-wal fetch %f %p".to_owned(),
            primary_conninfo: None,
        }
    }

    fn histories() -> Histories {
        let mut histories = Histories::new();
        histories.insert(Timeline(2), vec![(Timeline(1), Lsn(500))]);
        histories.insert(Timeline(3), vec![(Timeline(1), Lsn(300))]);
        histories
    }

    fn chosen(backups: &[BackupFacts], request: &RestoreRequest) -> Result<(String, Timeline), Refusal> {
        choose(backups, lineage(), &histories(), request, None)
            .map(|choice| (choice.backup.label.to_string(), choice.way.target()))
    }

    #[test]
    fn a_backup_that_stops_after_the_target_is_not_chosen() {
        let backups = [backup(lineage(), 1, 10, 20, 100), backup(lineage(), 1, 110, 120, 200)];
        let at = |second| Target::Time(Timestamp::from_second(second).expect("in range"));
        let label = |index: usize| backups[index].label.to_string();
        assert_eq!(chosen(&backups, &request(at(200))), Ok((label(0), Timeline(3))));
        assert_eq!(chosen(&backups, &request(at(201))), Ok((label(1), Timeline(3))));
        assert_eq!(chosen(&backups, &request(Target::Lsn(Lsn(119)))), Ok((label(0), Timeline(3))));
        let refusal = chosen(&backups, &request(at(99))).expect_err("before the first");
        assert!(refusal.to_string().contains("1970-01-01 00:01:41+00"), "{refusal}");
    }

    #[test]
    fn a_backup_behind_the_fork_leads_elsewhere() {
        let before = backup(lineage(), 1, 10, 20, 100);
        let behind = backup(lineage(), 1, 310, 320, 200);
        let backups = [before.clone(), behind.clone()];
        let on = |timeline| RestoreRequest { timeline, ..request(Target::Latest) };
        assert_eq!(chosen(&backups, &request(Target::Latest)), Ok((before.label.to_string(), Timeline(3))));
        assert_eq!(
            chosen(&backups, &on(TargetTimeline::Number(Timeline(2)))),
            Ok((behind.label.to_string(), Timeline(2)))
        );
        assert_eq!(chosen(&backups, &on(TargetTimeline::Current)), Ok((behind.label.to_string(), Timeline(1))));
        // Timeline 3 is newer, but no backup leads to it any more.
        assert_eq!(chosen(&backups[1..], &request(Target::Latest)), Ok((behind.label.to_string(), Timeline(2))));
        assert!(matches!(
            chosen(&backups[1..], &on(TargetTimeline::Number(Timeline(3)))),
            Err(Refusal::NotOnTheWay { .. })
        ));
        assert!(matches!(
            chosen(&backups, &on(TargetTimeline::Number(Timeline(9)))),
            Err(Refusal::UnknownTimeline { .. })
        ));
    }

    #[test]
    fn a_timeline_without_its_history_is_restored_from_a_backup_that_ran_on_it() {
        let backups = [backup(lineage(), 1, 10, 20, 100), backup(lineage(), 5, 110, 120, 200)];
        let on = |timeline| RestoreRequest { timeline, ..request(Target::Latest) };
        let fifth = Ok((backups[1].label.to_string(), Timeline(5)));
        assert_eq!(chosen(&backups, &request(Target::Latest)), fifth);
        assert_eq!(chosen(&backups, &on(TargetTimeline::Current)), fifth);
        assert_eq!(chosen(&backups, &on(TargetTimeline::Number(Timeline(5)))), fifth);
        assert!(matches!(
            chosen(&backups[..1], &on(TargetTimeline::Number(Timeline(5)))),
            Err(Refusal::UnknownTimeline { .. })
        ));
    }

    #[test]
    fn an_older_lineage_is_restored_only_when_its_backup_is_named() {
        let old = backup(Lineage { major: 14, system_identifier: 6 }, 1, 900, 950, 50);
        let backups = [old.clone()];
        assert!(matches!(chosen(&backups, &request(Target::Latest)), Err(Refusal::NoBackups { .. })));
        let named = RestoreRequest { backup: Some(old.label.clone()), ..request(Target::Latest) };
        assert_eq!(super::lineage(&backups, lineage(), &named), Ok(old.lineage));
        assert!(choose(&backups, old.lineage, &Histories::new(), &named, None).is_ok());
    }

    #[test]
    fn an_unfinished_restore_goes_on_or_is_refused() {
        let backups = [backup(lineage(), 1, 10, 20, 100), backup(lineage(), 1, 110, 120, 200)];
        let first = &backups[0].label;
        let go_on = |target| choose(&backups, lineage(), &histories(), &request(target), Some(first));
        assert_eq!(go_on(Target::Latest).map(|choice| choice.backup.label), Ok(first.clone()));
        assert!(matches!(go_on(Target::Lsn(Lsn(15))), Err(Refusal::OtherUnfinished { .. })));
    }

    fn any_backup() -> impl Strategy<Value = BackupFacts> {
        (1u32..=4, 0u64..1000, 0u64..100, 0i64..1000, any::<bool>()).prop_map(
            |(timeline, start, length, second, old)| {
                let of = if old { Lineage { major: 14, system_identifier: 6 } } else { lineage() };
                backup(of, timeline, start, start + length, second)
            },
        )
    }

    fn any_target() -> impl Strategy<Value = Target> {
        prop_oneof![
            Just(Target::Latest),
            Just(Target::Immediate),
            (0u64..1200).prop_map(|lsn| Target::Lsn(Lsn(lsn))),
            (0i64..1100).prop_map(|second| Target::Time(Timestamp::from_second(second).expect("in range"))),
        ]
    }

    proptest! {
        #[test]
        fn the_newest_backup_that_the_target_can_be_reached_from_is_chosen(
            backups in proptest::collection::vec(any_backup(), 0..12),
            target in any_target(),
            timeline in prop_oneof![
                Just(TargetTimeline::Latest),
                Just(TargetTimeline::Current),
                (1u32..=4).prop_map(|number| TargetTimeline::Number(Timeline(number))),
            ],
        ) {
            let request = RestoreRequest { timeline, ..request(target.clone()) };
            let histories = histories();
            let fits = |backup: &BackupFacts, way: &Way| {
                backup.lineage == lineage()
                    && way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn)
                    && stops_before(backup, &target)
            };
            let chosen = choose(&backups, lineage(), &histories, &request, None);
            match &chosen {
                Ok(choice) => {
                    prop_assert!(fits(&choice.backup, &choice.way));
                    match timeline {
                        TargetTimeline::Number(number) => prop_assert_eq!(choice.way.target(), number),
                        TargetTimeline::Current => prop_assert_eq!(choice.way.target(), choice.backup.timeline),
                        TargetTimeline::Latest => {}
                    }
                    if timeline != TargetTimeline::Current {
                        for other in backups.iter().filter(|other| fits(other, &choice.way)) {
                            prop_assert!(other.stop_lsn <= choice.backup.stop_lsn);
                        }
                    }
                }
                Err(_refusal) => {
                    let own: Vec<&BackupFacts> =
                        backups.iter().filter(|backup| backup.lineage == lineage()).collect();
                    let ways: Vec<Way> = match timeline {
                        TargetTimeline::Number(number) => way_to(number, &own, &histories).into_iter().collect(),
                        // The newest timeline that any backup leads to; an older one would be another future.
                        TargetTimeline::Latest => (1..=4)
                            .rev()
                            .filter_map(|number| way_to(Timeline(number), &own, &histories))
                            .find(|way| backups.iter().any(|backup| {
                                backup.lineage == lineage()
                                    && way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn)
                            }))
                            .into_iter()
                            .collect(),
                        TargetTimeline::Current => Vec::new(),
                    };
                    for way in &ways {
                        prop_assert!(!backups.iter().any(|backup| fits(backup, way)));
                    }
                }
            }
        }
    }
}
