//! The recovery settings of a restored cluster. Pure.

use super::loan::{Lent, Loan};
use super::request::{Archiving, RestoreRequest};
use crate::catalogue::{Target, TargetTimeline, Way, format_time};
use walward_pg::{Capacity, settings};

/// What an earlier recovery, or the cluster that was backed up, may have left in postgresql.auto.conf and what would now
/// contradict the request: PostgreSQL refuses two targets.
const OF_RECOVERY: [&str; 15] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
];

/// Those of them that act for every member of a cluster, and so for a standby that follows.
const OF_A_MEMBER: [&str; 6] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
];

/// Those of them that set a target, of which PostgreSQL takes one at most.
pub const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// What acts for the cluster that was backed up and not for a recovery of its backup, and the value that does nothing. A cluster that is
/// restored in its place gets its own back when the recovery has ended.
const OF_THE_ORIGINAL: [(&str, &str); 4] = [
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_min_apply_delay", "0"),
    ("restore_command", ""),
];

/// What a copy must not do beside its original, and the value that keeps it from that until a person decides. Its subscriptions name the
/// original's slots, and its workers would take the changes from there (`ApplyLauncherRegister` starts none, launcher.c); its commits would
/// wait for the original's standbys.
pub const OF_A_COPY: [(&str, &str); 2] = [("max_logical_replication_workers", "0"), ("synchronous_standby_names", "")];

/// A setting that is written.
pub type Setting = (&'static str, String);

/// Whether the settings are for this recovery alone, which ends at a target or at the end of the archive. A standby without a target
/// needs them for as long as it is one.
pub fn is_lent(request: &RestoreRequest) -> bool {
    !request.standby || request.target != Target::Latest
}

/// Whether a copy is made, which stands beside the cluster and is no part of it.
pub fn is_copy(request: &RestoreRequest, in_place: bool) -> bool {
    !in_place && is_lent(request) && request.archive != Archiving::Preserve
}

/// Those of the settings `written` that stay after the recovery, until a person resets them.
pub fn until_reset(written: &[Setting]) -> Vec<&'static str> {
    let stays = |name: &str| name == "archive_mode" || OF_A_COPY.iter().any(|(of_a_copy, _)| *of_a_copy == name);
    written.iter().map(|(name, _)| *name).filter(|name| stays(name)).collect()
}

/// The settings for `request`, whose recovery goes `way`.
pub fn wanted(request: &RestoreRequest, way: &Way) -> Vec<Setting> {
    let mut settings = vec![("restore_command", request.restore_command.clone())];
    let target = match &request.target {
        Target::Latest => None,
        Target::Time(time) => Some(("recovery_target_time", format_time(*time))),
        Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        Target::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
        Target::Name(name) => Some(("recovery_target_name", name.clone())),
        Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
    };
    let has_target = target.is_some();
    // The server's own configuration, which need not lie in the data directory, may set a target too. Empty ones take that
    // back; they come before ours, because each is refused after another target (`assign_recovery_target`, guc.c and
    // xlogrecovery.c; 13 to 18).
    let own = target.as_ref().map(|(name, _)| *name);
    settings.extend(TARGETS.into_iter().filter(|name| Some(*name) != own).map(|name| (name, String::new())));
    settings.extend(target);
    if has_target {
        if !matches!(request.target, Target::Immediate | Target::Name(_)) {
            settings.push(("recovery_target_inclusive", if request.exclusive { "off" } else { "on" }.to_owned()));
        }
        settings.push(("recovery_target_action", request.action.as_str().to_owned()));
    }
    // The plan's timeline by its number: the server would look anew for its own `latest`, the highest number that it finds, related or not
    // (findNewestTimeLine, timeline.c), and so follow whatever was archived since the plan. A standby has to follow promotions to come.
    let follows = request.standby && request.timeline == TargetTimeline::Latest && !has_target;
    let timeline = if follows {
        "latest".to_owned()
    } else if way.lacks_history() {
        // The server refuses a number other than 1 without its history (validateRecoveryParameters, xlogrecovery.c).
        "current".to_owned()
    } else {
        way.target().to_string()
    };
    settings.push(("recovery_target_timeline", timeline));
    if let Some(conninfo) = request.primary_conninfo.as_ref().filter(|_| request.standby) {
        settings.push(("primary_conninfo", conninfo.clone()));
    }
    if is_lent(request) {
        settings.push(("recovery_end_command", request.end_command.clone()));
    }
    settings
}

/// For how long settings hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lending {
    /// It is the cluster itself that comes back, with its own settings after the recovery.
    pub in_place: bool,
    /// What is silenced in a copy, and stays so.
    pub stays: Vec<&'static str>,
}

/// What of `wanted` is lent to the recovery: all but what keeps a copy apart from its original and what stays silenced. What the cluster had
/// set itself in postgresql.auto.conf (`content`) comes back, when it is restored in place.
pub fn lent(content: &[u8], wanted: &[Setting], lending: &Lending) -> Loan {
    let content = String::from_utf8_lossy(content);
    let own =
        |name: &str| settings::setting(&content, name).filter(|value| !value.contains(char::REPLACEMENT_CHARACTER));
    let until_reset = until_reset(wanted);
    let lent = wanted.iter().filter_map(|(name, value)| {
        let of_original = OF_THE_ORIGINAL.iter().find(|(of_original, _)| of_original == name);
        let after = match of_original {
            _ if until_reset.contains(name) => return None,
            Some((_, silent)) if lending.stays.contains(name) && silent != value => Some((*silent).to_owned()),
            _ if lending.stays.contains(name) => return None,
            Some(_) if lending.in_place => own(name).filter(|own| own != value),
            None if Capacity::has(name) => own(name).filter(|own| own != value),
            _ => None,
        };
        Some(Lent { name: (*name).to_owned(), value: value.clone(), after })
    });
    Loan::new(lent.collect())
}

/// `wanted`, and what silences those of the cluster's own settings in postgresql.auto.conf (`content`) that shall come back.
pub fn with_silenced(content: &[u8], mut wanted: Vec<Setting>) -> Vec<Setting> {
    let content = String::from_utf8_lossy(content);
    for (name, silent) in OF_THE_ORIGINAL {
        if settings::setting(&content, name).is_some() && !wanted.iter().any(|(known, _)| *known == name) {
            wanted.push((name, silent.to_owned()));
        }
    }
    wanted
}

/// What of postgresql.auto.conf (`content`) would end the next recovery of this cluster, and that of every standby made from it, where
/// an earlier one ended: a target, or a timeline that is not `latest`.
pub fn targets_in(content: &[u8]) -> Vec<(&'static str, String)> {
    let content = String::from_utf8_lossy(content);
    let target = |name| settings::setting(&content, name).filter(|value| !value.is_empty()).map(|value| (name, value));
    let timeline = target("recovery_target_timeline").filter(|(_, value)| value != "latest");
    TARGETS.into_iter().filter_map(target).chain(timeline).collect()
}

/// The file whose presence makes the server recover, and how.
pub fn signal_file(request: &RestoreRequest) -> &'static str {
    if request.standby { "standby.signal" } else { "recovery.signal" }
}

/// The content of postgresql.auto.conf with `wanted` in place of every setting of recovery in it; a standby that follows (`is_lent` is
/// false) is a member of the cluster, and keeps what acts for it. Values in the server's own encoding, which need not be UTF-8, stay as
/// they are.
pub fn edit(content: &[u8], wanted: &[Setting], is_lent: bool) -> Vec<u8> {
    let goes = |name: &&str| is_lent || !OF_A_MEMBER.contains(name);
    let replaced: Vec<&str> =
        OF_RECOVERY.into_iter().filter(goes).chain(wanted.iter().map(|(name, _)| *name)).collect();
    let mut edited = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        // Only the name matters, and those that are replaced are ASCII.
        if !settings::without_settings(&String::from_utf8_lossy(line), &replaced).is_empty() {
            edited.extend_from_slice(line);
        }
    }
    if edited.last().is_some_and(|byte| *byte != b'\n') {
        edited.push(b'\n');
    }
    for (name, value) in wanted {
        edited.extend_from_slice(settings::setting_line(name, value).as_bytes());
    }
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Histories;
    use crate::restore::choose::tests::request;
    use walward_pg::{Lsn, Timeline};

    fn way(timeline: u32) -> Way {
        let histories = Histories::from([(Timeline(timeline), vec![(Timeline(1), Lsn(100))])]);
        if timeline == 1 {
            Way::root(Timeline(1), &Histories::new())
        } else {
            Way::to(Timeline(timeline), &histories).expect("known")
        }
    }

    #[test]
    fn what_an_earlier_recovery_left_is_replaced() {
        let text = "# Do not edit this file manually!\nwork_mem = '64MB'\nrecovery_target_time = '2020-01-01 00:00:00+00'\n\
                    restore_command = 'old'\nprimary_conninfo = 'host=old'\n";
        let request = request(Target::Lsn(Lsn(0x1600_0000_0028)));
        assert_eq!(
            String::from_utf8(edit(text.as_bytes(), &wanted(&request, &way(3)), true)).expect("UTF-8"),
            "# Do not edit this file manually!\nwork_mem = '64MB'\nrestore_command = 'walward-wal fetch %f %p'\n\
             recovery_target = ''\nrecovery_target_name = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
             recovery_target_lsn = '1600/28'\nrecovery_target_inclusive = 'on'\nrecovery_target_action = 'pause'\n\
             recovery_target_timeline = '3'\nrecovery_end_command = 'walward wal recovered || exit 1'\n"
        );
    }

    #[test]
    fn a_target_that_an_earlier_recovery_left_is_found() {
        let text = b"recovery_target_time = '2026-11-21 14:03:00+00'\nrecovery_target_xid = ''\nrecovery_target_timeline = 'latest'\n";
        assert_eq!(targets_in(text), [("recovery_target_time", "2026-11-21 14:03:00+00".to_owned())]);
        assert_eq!(targets_in(b"recovery_target_timeline = '1'\n"), [("recovery_target_timeline", "1".to_owned())]);
        assert_eq!(targets_in(b"restore_command = 'walward-wal fetch %f %p'\n"), []);
    }

    #[test]
    fn a_value_that_is_not_utf8_stays_as_it_is() {
        let content = b"search_path = 'caf\xe9'\nrestore_command = 'caf\xe9'\narchive_mode = 'on'";
        let settings = [("restore_command", "new".to_owned()), ("archive_mode", "off".to_owned())];
        let expected = b"search_path = 'caf\xe9'\nrestore_command = 'new'\narchive_mode = 'off'\n";
        assert_eq!(edit(content, &settings, true), expected);
    }

    #[test]
    fn a_time_carries_its_zone() {
        let time = "2026-11-21T14:03:00.5Z".parse().expect("a time");
        let request = RestoreRequest { exclusive: true, ..request(Target::Time(time)) };
        let settings = wanted(&request, &way(1));
        assert!(settings.contains(&("recovery_target_time", "2026-11-21 14:03:00.500000+00".to_owned())));
        assert!(settings.contains(&("recovery_target_inclusive", "off".to_owned())));
    }

    #[test]
    fn a_standby_follows_promotions_to_come() {
        let primary_conninfo = Some("host=primary password='it''s'".to_owned());
        let request = RestoreRequest { standby: true, primary_conninfo, ..request(Target::Latest) };
        let settings = wanted(&request, &way(4));
        assert!(settings.contains(&("recovery_target_timeline", "latest".to_owned())));
        let text = String::from_utf8(edit(b"recovery_end_command = 'own'\n", &settings, false)).expect("UTF-8");
        assert!(text.contains("recovery_end_command = 'own'"));
        assert!(text.contains("primary_conninfo = 'host=primary password=''it''''s'''"));
        assert!(!settings.iter().any(|(name, _)| *name == "recovery_target_action"));
        assert_eq!(signal_file(&request), "standby.signal");
    }

    #[test]
    fn a_timeline_without_its_history_is_not_asked_for_by_its_number() {
        let timeline = |way: &Way| {
            let settings = wanted(&request(Target::Latest), way);
            settings.into_iter().find(|(name, _)| *name == "recovery_target_timeline").map(|(_, value)| value)
        };
        assert_eq!(timeline(&Way::root(Timeline(2), &Histories::new())).as_deref(), Some("current"));
        assert_eq!(timeline(&Way::root(Timeline(1), &Histories::new())).as_deref(), Some("1"));
        assert_eq!(timeline(&way(2)).as_deref(), Some("2"));
    }

    #[test]
    fn the_planned_timeline_is_written_by_its_number_but_for_a_standby_that_follows() {
        let timeline = |request: &RestoreRequest, number: u32| {
            let settings = wanted(request, &way(number));
            settings.into_iter().find(|(name, _)| *name == "recovery_target_timeline").map(|(_, value)| value)
        };
        for target in [Target::Latest, Target::Lsn(Lsn(100)), Target::Immediate, Target::Name("x".to_owned())] {
            for standby in [false, true] {
                for asked in [TargetTimeline::Latest, TargetTimeline::Current, TargetTimeline::Number(Timeline(2))] {
                    let request = RestoreRequest { standby, timeline: asked, ..request(target.clone()) };
                    let follows = standby && asked == TargetTimeline::Latest && target == Target::Latest;
                    for number in [1, 2] {
                        let expected = if follows { "latest".to_owned() } else { number.to_string() };
                        assert_eq!(timeline(&request, number), Some(expected), "{request:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_cluster_had_set_comes_back_only_in_its_own_place() {
        let content = b"restore_command = 'own'\narchive_cleanup_command = 'clean %r'\nprimary_conninfo = 'host=old'\n";
        let wanted = with_silenced(content, wanted(&request(Target::Latest), &way(1)));
        assert!(wanted.contains(&("archive_cleanup_command", String::new())));
        let after = |in_place| -> Vec<(String, String)> {
            let loan = lent(content, &wanted, &Lending { in_place, stays: Vec::new() }).settings;
            loan.into_iter().filter_map(|lent| Some((lent.name, lent.after?))).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(after(true), [pair("restore_command", "own"), pair("archive_cleanup_command", "clean %r")]);
        assert_eq!(after(false), []);
        // What acts for the original stays silent in a copy.
        let stays = vec!["archive_cleanup_command", "recovery_end_command"];
        let loan = lent(content, &wanted, &Lending { in_place: false, stays }).settings;
        assert!(!loan.iter().any(|lent| lent.name == "archive_cleanup_command"));
        let end = loan.iter().find(|lent| lent.name == "recovery_end_command").expect("lent");
        assert_eq!(end.after.as_deref(), Some(""));
    }

    #[test]
    fn what_keeps_a_copy_apart_stays_after_its_recovery_and_is_for_copies_alone() {
        let standby = RestoreRequest { standby: true, ..request(Target::Latest) };
        let preserved = RestoreRequest { archive: Archiving::Preserve, ..request(Target::Latest) };
        let off = RestoreRequest { archive: Archiving::Off, ..request(Target::Latest) };
        let by_place = RestoreRequest { archive: Archiving::ByPlace, ..request(Target::Latest) };
        let copies = [&standby, &preserved, &off, &by_place].map(|request| is_copy(request, false));
        assert_eq!(copies, [false, false, true, true]);
        assert!(![&standby, &preserved, &off, &by_place].iter().any(|request| is_copy(request, true)));
        let written: Vec<Setting> = OF_A_COPY
            .into_iter()
            .chain([("archive_mode", "off")])
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        let names = ["max_logical_replication_workers", "synchronous_standby_names", "archive_mode"];
        assert_eq!(until_reset(&written), names);
        assert_eq!(lent(b"", &written, &Lending { in_place: false, stays: Vec::new() }).settings, []);
    }

    #[test]
    fn a_size_that_was_raised_is_the_clusters_own_again_after_the_recovery() {
        let wanted = [("max_connections", "50".to_owned()), ("max_wal_senders", "20".to_owned())];
        let lending = Lending { in_place: false, stays: Vec::new() };
        let loan = lent(b"max_connections = '20'\n", &wanted, &lending).settings;
        let after: Vec<_> = loan.iter().map(|lent| (lent.name.as_str(), lent.after.as_deref())).collect();
        assert_eq!(after, [("max_connections", Some("20")), ("max_wal_senders", None)]);
    }

    #[test]
    fn a_standby_without_a_target_keeps_its_settings() {
        let standby = |target| RestoreRequest { standby: true, ..request(target) };
        assert!(!is_lent(&standby(Target::Latest)) && is_lent(&standby(Target::Lsn(Lsn(100)))));
        let ends = |target| wanted(&standby(target), &way(1)).iter().any(|(name, _)| *name == "recovery_end_command");
        assert!(!ends(Target::Latest) && ends(Target::Lsn(Lsn(100))));
    }

    #[test]
    fn a_standby_stops_at_its_target_as_the_request_says() {
        let request = RestoreRequest { standby: true, ..request(Target::Lsn(Lsn(100))) };
        let settings = wanted(&request, &way(1));
        assert!(settings.contains(&("recovery_target_action", "pause".to_owned())));
        assert!(settings.contains(&("recovery_target_timeline", "1".to_owned())));
        assert_eq!(signal_file(&request), "standby.signal");
    }

    #[test]
    fn a_target_in_the_servers_own_configuration_is_taken_back_before_ours_is_set() {
        let is_target = |name: &str| TARGETS.contains(&name);
        let targets = |target| -> Vec<Setting> {
            wanted(&request(target), &way(1)).into_iter().filter(|(name, _)| is_target(name)).collect()
        };
        let immediate = targets(Target::Immediate);
        assert_eq!(immediate.len(), TARGETS.len());
        assert_eq!(immediate.last(), Some(&("recovery_target", "immediate".to_owned())));
        assert_eq!(immediate.iter().filter(|(_, value)| value.is_empty()).count(), TARGETS.len() - 1);
        assert_eq!(targets(Target::Latest), TARGETS.map(|name| (name, String::new())));
    }
}
