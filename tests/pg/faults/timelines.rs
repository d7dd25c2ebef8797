//! Timeline switches, hexadecimal timelines, a hole in the middle.

use std::fs;
use std::time::Duration;

use super::{Node, assert_archived, drain, options, write_segments};
use crate::support::{Cluster, Site, SiteOptions, Stop, StoreKind, Version, eventually, on_every_version};

fn write_on(site: &Site, cluster: &Cluster, count: u32) {
    for _ in 0..count {
        cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
        cluster.switch_wal(&site.room);
    }
}

#[test]
fn a_standby_fed_only_by_the_archive_follows_a_timeline_switch() {
    let site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 3);
    site.cluster.wait_archived(&site.room, &last);
    let mut promoted = Node::standby(&site, "promoted", true);
    promoted.cluster.start(&site.room);
    let mut follower = Node::standby(&site, "follower", false);
    follower.cluster.start(&site.room);
    promoted.wait_caught_up(&site);
    promoted.promote(&site);
    write_on(&site, &promoted.cluster, 8);
    promoted.cluster.sql(&site.room, "insert into t values (-1)");
    drain(&site, &promoted.cluster, Duration::from_mins(1));
    eventually("the follower has the rows of the new timeline", Duration::from_mins(2), || {
        let found = follower.cluster.try_sql(&site.room, "select count(*) from t where id = -1");
        (found.as_deref() == Ok("1")).then_some(())
    });
    assert_eq!(follower.cluster.sql(&site.room, "select pg_is_in_recovery()"), "t");
    let rows = |cluster: &Cluster| cluster.fingerprint(&site.room, &["t"]);
    assert_eq!(rows(&follower.cluster), rows(&promoted.cluster));
    assert_archived(&site, &promoted.cluster);
}

#[test]
fn a_recovery_prefetches_over_a_timeline_switch() {
    let site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 15);
    site.cluster.wait_archived(&site.room, &last);
    let mut promoted = Node::standby(&site, "promoted", false);
    promoted.cluster.start(&site.room);
    let all = "select count(*) = 15 * 200 from t";
    eventually("the standby has replayed the archive", Duration::from_mins(1), || {
        promoted.cluster.try_sql(&site.room, all).is_ok_and(|answer| answer == "t").then_some(())
    });
    promoted.promote(&site);
    write_on(&site, &promoted.cluster, 15);
    drain(&site, &promoted.cluster, Duration::from_mins(1));
    let expected = promoted.cluster.fingerprint(&site.room, &["t"]);
    let mut restored = site.restore("restored", &[]);
    let before = fetched(&site);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    let after = fetched(&site);
    // All but the first few come from the spool, on either side of the switch.
    let (served, prefetched) = (after.0 - before.0, after.1 - before.1);
    assert!(served >= 30 && prefetched + 8 >= served, "{prefetched} of {served} were prefetched");

    // The last segment of the old timeline, after which that has nothing, goes after a recovery over it was planned.
    let mut holed = site.restore("holed", &[]);
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let old =
        site.stored_segments().into_iter().filter(|path| name(path).starts_with("00000001") && name(path).len() == 24);
    let last = old.max_by_key(name).expect("segments of the old timeline");
    fs::remove_file(&last).unwrap();
    if holed.start_and_see(&site.room, Duration::from_mins(1)) == crate::support::Ended::Serving {
        holed.wait_stopped(Duration::from_mins(1));
    }
    holed.assert_logged(&name(&last));
    holed.assert_logged("is missing in the archive, and WAL goes on with 00000002");
    assert!(!holed.log_text().contains("archive recovery complete"), "it promoted\n{}", holed.log_text());
}

/// Files served by the agent, and how many of them had been prefetched.
fn fetched(site: &Site) -> (u64, u64) {
    let status = site.walward(&["--json", "status"]).expect(0).json();
    let number =
        |name: &str| status["clusters"][0]["fetch"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {status}"));
    (number("served_total"), number("served_prefetched_total"))
}

#[test]
fn timelines_beyond_nine_are_hexadecimal_everywhere() {
    // The ninth timeline, as after eight promotions.
    let mut site = Site::prepare(options(StoreKind::File));
    let mut reset = site.room.command(site.cluster.version.program("pg_resetwal"));
    reset.args(["-l", "000000090000000000000010", "-D"]).arg(&site.cluster.data);
    site.room.run(&mut reset);
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let mut names = vec!["00000009"];
    let last = write_segments(&site, 3);
    assert!(last.starts_with("00000009"), "{last}");
    site.cluster.wait_archived(&site.room, &last);
    for timeline in ["0000000A", "0000000B"] {
        // The archive's newest life takes the place of the one before.
        let next = site.restore("next", &["--archive-mode", "preserve"]);
        site.cluster.stop(Stop::Fast);
        fs::remove_dir_all(&site.cluster.data).unwrap();
        fs::rename(&next.data, &site.cluster.data).unwrap();
        site.cluster.start(&site.room);
        site.wait_promoted(&site.cluster);
        let last = write_segments(&site, 3);
        assert!(last.starts_with(timeline), "{last}");
        drain(&site, &site.cluster, Duration::from_mins(1));
        assert_archived(&site, &site.cluster);
        names.push(timeline);
        if timeline == "0000000A" {
            site.walward(&["--cluster", "main", "backup"]).expect(0);
            let last = write_segments(&site, 1);
            site.cluster.wait_archived(&site.room, &last);
        }
    }
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    assert!(restored.switch_wal(&site.room).starts_with("0000000C"));
    // Typed as people say it, which is decimal.
    let mut tenth = site.restore("tenth", &["--timeline", "10"]);
    tenth.start(&site.room);
    site.wait_promoted(&tenth);
    let listed = site.walward(&["--cluster", "main", "wal", "list", "-v"]).expect(0);
    for name in names {
        assert!(listed.stdout.contains(name), "no {name} in\n{}", listed.stdout);
    }
}

#[test]
fn a_hole_in_the_middle_is_named_and_never_recovered_across() {
    let mut site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    write_segments(&site, 3);
    site.cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
    let position = site.cluster.sql(&site.room, "select pg_current_wal_insert_lsn()");
    let before = site.cluster.switch_wal(&site.room);
    let lost = write_segments(&site, 1);
    let end = write_segments(&site, 4);
    site.cluster.wait_archived(&site.room, &end);
    // Planned while everything was there.
    let mut recovery = site.restore("planned", &[]);
    let object = site.stored_segments().into_iter().find(|path| path.ends_with(&lost)).expect("the object");
    fs::remove_file(object).unwrap();

    site.walward(&["--cluster", "main", "wal", "gaps"]).expect(3).says(&lost);
    site.walward(&["check"]).says("1 gap(s)").says("take a new backup");
    let target = site.room.join("never");
    let target = target.to_str().unwrap();
    let refused = ["--cluster", "main", "restore", "--yes", "--target-directory", target];
    site.walward(&refused).expect(16).says(&lost).says("missing");
    // Up to the hole it can still be restored.
    let mut restored = site.restore("restored", &["--target-lsn", &position]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.sql(&site.room, "select count(*) from t"), (4 * 200).to_string(), "up to {before}");

    // A recovery that meets the hole on its way stops there: to end is for somebody to decide.
    if recovery.start_and_see(&site.room, Duration::from_mins(1)) == crate::support::Ended::Serving {
        recovery.wait_stopped(Duration::from_mins(1));
    }
    recovery.assert_logged("FATAL");
    recovery.assert_logged(&lost);
    assert!(!recovery.log_text().contains("archive recovery complete"), "it promoted\n{}", recovery.log_text());
    // A standby, which asks again, is let go on to its primary, and a recovery with a target to that.
    let nowhere = site.room.join("nowhere");
    let fetch = ["--cluster", "main", "fetch", &lost, nowhere.to_str().unwrap()];
    site.client(&fetch).expect(255).says("is missing in the archive, and WAL goes on with");
    for on_error in ["--on-error=retry", "--on-error=target"] {
        site.client(&[&fetch[..], &[on_error]].concat()).expect(1).says("is missing in the archive");
    }
    assert!(!nowhere.exists());
    // A server still has it: pushed again, everything is whole.
    let file = site.cluster.wal(&lost);
    site.client(&["push", file.to_str().unwrap()]).expect(0);
    recovery.start(&site.room);
    site.wait_promoted(&recovery);
    assert_eq!(recovery.fingerprint(&site.room, &["t"]), site.cluster.fingerprint(&site.room, &["t"]));
    drain(&site, &site.cluster, Duration::from_mins(1));
    assert_archived(&site, &site.cluster);
    site.stop_agent();
}

#[test]
fn a_cluster_that_was_promoted_before_archiving_began_is_backed_up_and_restored() {
    // Timeline 2, and no archive has its history, because nothing was archived then.
    let mut site = Site::prepare(options(StoreKind::File));
    site.cluster.set("archive_mode", "off");
    fs::write(site.cluster.data.join("standby.signal"), "").unwrap();
    site.room.give_away(&site.cluster.data.join("standby.signal"));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "select pg_promote()");
    site.wait_promoted(&site.cluster);
    site.cluster.stop(Stop::Fast);
    site.cluster.set("archive_mode", "on");
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 3);
    assert!(last.starts_with("00000002"), "{last}");
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    drain(&site, &site.cluster, Duration::from_mins(1));
    assert_archived(&site, &site.cluster);
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    assert!(restored.switch_wal(&site.room).starts_with("00000003"));
}

/// What an earlier recovery left in postgresql.conf does not decide about this one.
fn left_over_targets(version: Version) {
    let site = Site::start(SiteOptions { version, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    let past = site.cluster.now(&site.room);
    // As a person writes them who recovers by hand, and never takes them away again.
    for (name, value) in [
        ("recovery_target_time", past.as_str()),
        ("recovery_target_action", "shutdown"),
        ("recovery_target_timeline", "1"),
        ("recovery_target_inclusive", "off"),
        ("restore_command", "false"),
    ] {
        site.cluster.set(name, value);
    }
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.sql(&site.room, "insert into t select generate_series(1, 10)");
    let position = site.cluster.sql(&site.room, "select pg_current_wal_insert_lsn()");
    site.cluster.sql(&site.room, "insert into t select generate_series(11, 20)");
    let last = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &last);
    for (name, arguments, rows) in [
        ("latest", &[][..], "20"),
        ("position", &["--target-lsn", &position], "10"),
        ("now", &["--target-immediate"], "0"),
    ] {
        let mut restored = site.restore(name, arguments);
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(restored.sql(&site.room, "select count(*) from t"), rows, "{name}");
    }
}

on_every_version!(targets_left_in_the_configuration_do_not_decide_about_a_restore, super::left_over_targets);
