//! Choices among hand-made backups, and among many by chance.

use proptest::prelude::*;

use super::*;
use crate::catalogue::{Lives, decide, ways};
use crate::restore::request::{Action, Archiving, HostDirectory};
use walward_pg::SegmentSize;
use walward_repo::manifest::BackupType;

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
        refuse_seams: true,
        backup: None,
        tablespace_map: Vec::new(),
        wal_directory: None,
        archive: Archiving::Preserve,
        use_partial: false,
        restore_command: "walward-wal fetch %f %p".to_owned(),
        end_command: "walward wal recovered || exit 1".to_owned(),
        original: HostDirectory { directory: "/original".into(), host: "elsewhere".to_owned(), machine: None },
        taken: Vec::new(),
        primary_conninfo: None,
    }
}

fn histories() -> Histories {
    let mut histories = Histories::new();
    histories.insert(Timeline(2), vec![(Timeline(1), Lsn(500))]);
    histories.insert(Timeline(3), vec![(Timeline(1), Lsn(300))]);
    histories
}

/// The choice when nothing is known of what happened on the lines.
fn choice(backups: &[BackupFacts], histories: &Histories, request: &RestoreRequest) -> Result<Choice, Refusal> {
    let own = eligible(backups, lineage(), request)?;
    let decided = match ways(&own, histories) {
        lines if lines.is_empty() => None,
        lines => Some(
            decide(&lines, &Lives::new(), &request.target, None).map_err(Refusal::SeveralLines)?.expect("a line").way,
        ),
    };
    let settled = Settled { line: decided.as_ref(), ..Settled::default() };
    choose(backups, lineage(), histories, request, &settled)
}

fn chosen(backups: &[BackupFacts], request: &RestoreRequest) -> Result<(String, Timeline), Refusal> {
    choice(backups, &histories(), request).map(|choice| (choice.backup.label.to_string(), choice.way.target()))
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
fn a_backup_after_the_fork_leads_elsewhere() {
    let before = backup(lineage(), 1, 10, 20, 100);
    let after = backup(lineage(), 1, 310, 320, 200);
    let backups = [before.clone(), after.clone()];
    let on = |timeline| RestoreRequest { timeline, ..request(Target::Latest) };
    assert_eq!(chosen(&backups, &request(Target::Latest)), Ok((before.label.to_string(), Timeline(3))));
    assert_eq!(chosen(&backups, &on(TargetTimeline::Number(Timeline(2)))), Ok((after.label.to_string(), Timeline(2))));
    assert_eq!(chosen(&backups, &on(TargetTimeline::Current)), Ok((after.label.to_string(), Timeline(1))));
    // Timeline 3 is newer, but no backup leads to it any more.
    assert_eq!(chosen(&backups[1..], &request(Target::Latest)), Ok((after.label.to_string(), Timeline(2))));
    assert!(matches!(
        chosen(&backups[1..], &on(TargetTimeline::Number(Timeline(3)))),
        Err(Refusal::NotOnTheWay { .. })
    ));
    assert!(matches!(chosen(&backups, &on(TargetTimeline::Number(Timeline(9)))), Err(Refusal::UnknownTimeline { .. })));
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
    let way = Way::root(Timeline(1), &Histories::new());
    let settled = Settled { line: Some(&way), ..Settled::default() };
    assert!(choose(&backups, old.lineage, &Histories::new(), &named, &settled).is_ok());
}

#[test]
fn an_unfinished_restore_goes_on_or_is_refused() {
    let backups = [backup(lineage(), 1, 10, 20, 100), backup(lineage(), 1, 110, 120, 200)];
    let first = &backups[0].label;
    let way = Way::root(Timeline(1), &Histories::new());
    let settled = Settled { line: Some(&way), unfinished: Some(first), ..Settled::default() };
    let go_on = |target| choose(&backups, lineage(), &histories(), &request(target), &settled);
    assert_eq!(go_on(Target::Latest).map(|choice| choice.backup.label), Ok(first.clone()));
    assert!(matches!(go_on(Target::Lsn(Lsn(15))), Err(Refusal::OtherUnfinished { .. })));
}

#[test]
fn a_restore_point_is_reached_from_the_newest_backup_that_ended_before_it() {
    let backups =
        [backup(lineage(), 1, 10, 20, 100), backup(lineage(), 1, 110, 120, 200), backup(lineage(), 1, 210, 220, 300)];
    let way = Way::root(Timeline(1), &Histories::new());
    let from = |positions: &[u64]| {
        let records = positions.iter().map(|at| (Timeline(1), Lsn(*at))).collect();
        let sought = Sought { records, whole: true };
        let settled = Settled { line: Some(&way), sought: Some(&sought), unfinished: None };
        let choice = choose(&backups, lineage(), &histories(), &request(Target::Name("x".into())), &settled);
        choice.map(|choice| (backups.iter().position(|b| b.label == choice.backup.label), choice.position))
    };
    assert_eq!(from(&[150]), Ok((Some(1), Some(Lsn(150)))));
    assert_eq!(from(&[250]), Ok((Some(2), Some(Lsn(250)))));
    // While the newest one ran, the server would meet it before that is consistent.
    assert_eq!(from(&[215]), Ok((Some(1), Some(Lsn(215)))));
    // Made twice: the server stops at the first that it meets.
    assert_eq!(from(&[150, 250]), Ok((Some(2), Some(Lsn(250)))));
    assert_eq!(from(&[150, 215, 250]), Ok((Some(1), Some(Lsn(150)))));
    assert_eq!(from(&[]), Ok((Some(2), None)));
    assert!(matches!(from(&[15]), Err(Refusal::TooEarly { .. })));
}

#[test]
fn a_time_before_a_major_upgrade_names_the_backup_of_the_older_lineage() {
    let old = Lineage { major: 14, system_identifier: 6 };
    let backups = [
        backup(old, 1, 10, 20, 100),
        backup(old, 1, 110, 120, 200),
        backup(old, 1, 210, 220, 300),
        backup(lineage(), 1, 10, 20, 400),
    ];
    let at = |second| request(Target::Time(Timestamp::from_second(second).expect("in range")));
    let refusal = chosen(&backups, &at(250)).expect_err("before the upgrade").to_string();
    let label = backups[1].label.to_string();
    assert!(refusal.contains(&format!("--backup {label}")) && refusal.contains("PostgreSQL 14"), "{refusal}");
    let refusal = chosen(&backups, &at(50)).expect_err("before everything").to_string();
    assert!(!refusal.contains("--backup"), "{refusal}");
}

fn any_backup() -> impl Strategy<Value = BackupFacts> {
    (1u32..=4, 0u64..1000, 0u64..100, 0i64..1000, any::<bool>()).prop_map(|(timeline, start, length, second, old)| {
        let of = if old { Lineage { major: 14, system_identifier: 6 } } else { lineage() };
        backup(of, timeline, start, start + length, second)
    })
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
                && stops_before(backup, &target, &[])
        };
        let chosen = choice(&backups, &histories, &request);
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
