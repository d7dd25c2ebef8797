//! Several lines of one cluster: copies that archive beside it, steps back in time, and which of them a restore goes to.

use std::fs;
use std::time::Duration;

use super::Node;
use crate::support::{Cluster, Outcome, Site, SiteOptions, Stop, eventually};

/// Rows 1 to `last` were written by the cluster, those from 100 on by a copy of it.
const ROWS: &str = "select string_agg(id::text, ',' order by id) from t";

/// What was noted about a row.
struct Row {
    xid: String,
    lsn: String,
    /// Behind the row, before the next.
    time: String,
}

fn write_row(site: &Site, cluster: &Cluster, id: u32) -> Row {
    let room = &site.room;
    let xid = cluster.sql(room, &format!("insert into t values ({id}) returning txid_current()"));
    let lsn = cluster.sql(room, "select pg_current_wal_insert_lsn()");
    std::thread::sleep(Duration::from_millis(30));
    let time = cluster.now(room);
    std::thread::sleep(Duration::from_millis(30));
    Row { xid, lsn, time }
}

fn archive(site: &Site, cluster: &Cluster) -> String {
    let segment = cluster.switch_wal(&site.room);
    cluster.wait_archived(&site.room, &segment);
    segment
}

fn backup(site: &Site) {
    site.walward(&["--cluster", "main", "backup"]).expect(0);
}

/// The plan for `arguments`; nothing is restored.
fn plan(site: &Site, arguments: &[&str]) -> Outcome {
    let target = site.room.join("never");
    let mut all = vec!["restore", "--cluster", "main", "--dry-run", "--target-directory", target.to_str().unwrap()];
    all.extend(arguments);
    site.walward(&all)
}

/// The rows after a restore with `arguments`.
fn rows(site: &Site, name: &str, arguments: &[&str]) -> String {
    started(site, site.restore(name, arguments))
}

/// The rows of a restored cluster, which goes.
fn started(site: &Site, mut cluster: Cluster) -> String {
    cluster.start(&site.room);
    site.wait_promoted(&cluster);
    let rows = cluster.sql(&site.room, ROWS);
    cluster.stop(Stop::Immediate);
    fs::remove_dir_all(&cluster.data).unwrap();
    rows
}

#[test]
fn a_test_restore_that_archives_leads_no_restore_away_from_the_cluster() {
    let site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let (room, main) = (&site.room, &site.cluster);
    main.sql(room, "create table t (id int)");
    backup(&site);
    let one = write_row(&site, main, 1);
    let two = write_row(&site, main, 2);
    main.sql(room, "select pg_create_restore_point('release')");
    write_row(&site, main, 3);
    archive(&site, main);

    // A test of a restore, which archives into the cluster's repository.
    let copy = site.restore("copy", &["--target-xid", &one.xid, "--archive-mode", "preserve"]);
    let mut copy = Node::join(&site, "copy", copy);
    copy.cluster.start(room);
    site.wait_promoted(&copy.cluster);
    let during = write_row(&site, &copy.cluster, 100);
    write_row(&site, &copy.cluster, 101);
    assert!(archive(&site, &copy.cluster).starts_with("00000002"));
    // Not in good order, which would archive one more segment.
    copy.cluster.stop(Stop::Immediate);

    // The cluster goes on. Without a newer backup both can be meant, and nothing is chosen in silence.
    let four = write_row(&site, main, 4);
    archive(&site, main);
    let refused = plan(&site, &[]).expect(16).says("--timeline 1 or --timeline 2").says("left timeline 1 at");
    refused.says("its own transactions ended from");
    assert_eq!(rows(&site, "first", &["--timeline", "1"]), "1,2,3,4");
    site.walward(&["check"]).expect(3).says("timeline 2 is above that of the server, which writes timeline 1");
    site.walward(&["info"]).expect(0).says("--timeline 1 or --timeline 2");

    // A newer backup tells where the cluster is.
    backup(&site);
    let five = write_row(&site, main, 5);
    archive(&site, main);
    plan(&site, &[]).expect(0).says("another line").says("timeline 2");
    assert_eq!(rows(&site, "latest", &[]), "1,2,3,4,5");
    // A standby would follow the server's own `latest`, which is the highest number.
    plan(&site, &["--standby"]).expect(0).says("the standby stays on timeline 1");
    assert_eq!(rows(&site, "immediate", &["--target-immediate"]), "1,2,3,4");
    assert_eq!(rows(&site, "time", &["--target-time", &four.time]), "1,2,3,4");
    assert_eq!(rows(&site, "name", &["--target-name", "release"]), "1,2");
    assert_eq!(rows(&site, "early", &["--target-time", &two.time]), "1,2");
    assert_eq!(rows(&site, "position", &["--target-lsn", &four.lsn]), "1,2,3,4");
    assert_eq!(rows(&site, "transaction", &["--target-xid", &five.xid]), "1,2,3,4,5");
    // What the copy had, too: its own moments, positions and transactions.
    plan(&site, &["--target-time", &during.time]).expect(16).says("--timeline 1 or --timeline 2");
    plan(&site, &["--target-lsn", &during.lsn]).expect(16).says("--timeline 1 or --timeline 2");
    plan(&site, &["--target-xid", &two.xid]).expect(16).says("--timeline 1 or --timeline 2");
    assert_eq!(rows(&site, "copied", &["--timeline", "2"]), "1,100,101");
    site.walward(&["check"]).expect(3).says("timeline 2");
    site.walward(&["info"]).expect(0).says("timeline 2");
}

#[test]
fn an_old_primary_that_is_started_again_after_a_fail_over_is_not_taken_for_the_cluster() {
    let mut site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    backup(&site);
    write_row(&site, &site.cluster, 1);
    archive(&site, &site.cluster);
    site.cluster.stop(Stop::Immediate);

    // The fail-over: another server takes the cluster's place.
    let promoted = site.restore("promoted", &["--archive-mode", "preserve"]);
    let mut promoted = Node::join(&site, "promoted", promoted);
    promoted.cluster.start(&site.room);
    site.wait_promoted(&promoted.cluster);
    for id in 2..=4 {
        write_row(&site, &promoted.cluster, id);
        assert!(archive(&site, &promoted.cluster).starts_with("00000002"));
    }
    plan(&site, &[]).expect(0).says("1 -> 2");

    // The old primary is started again, and archives.
    site.cluster.start(&site.room);
    write_row(&site, &site.cluster, 100);
    assert!(archive(&site, &site.cluster).starts_with("00000001"));
    plan(&site, &[]).expect(16).says("--timeline 1 or --timeline 2").says("left timeline 1 at");
    site.walward(&["check"]).expect(3).says("--timeline 1 or --timeline 2");
    site.walward(&["info"]).expect(0).says("--timeline 1 or --timeline 2");
    assert_eq!(rows(&site, "new", &["--timeline", "2"]), "1,2,3,4");
    assert_eq!(rows(&site, "old", &["--timeline", "1"]), "1,100");
}

#[test]
fn a_second_step_back_in_time_is_not_given_the_state_of_the_first() {
    let mut site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    backup(&site);
    let one = write_row(&site, &site.cluster, 1);
    write_row(&site, &site.cluster, 2);
    let three = write_row(&site, &site.cluster, 3);
    site.cluster.sql(&site.room, "select pg_create_restore_point('late')");
    write_row(&site, &site.cluster, 4);
    archive(&site, &site.cluster);
    site.cluster.stop(Stop::Fast);
    // Planned now, started when there is another timeline.
    let late = site.restore("late", &["--target-time", &three.time]);
    let all = site.restore("all", &[]);

    // Too early: rows 2 and 3 were wanted as well.
    let first = site.restore("first", &["--target-time", &one.time, "--archive-mode", "preserve"]);
    fs::remove_dir_all(&site.cluster.data).unwrap();
    fs::rename(&first.data, &site.cluster.data).unwrap();
    site.cluster.start(&site.room);
    site.wait_promoted(&site.cluster);
    let twelve = write_row(&site, &site.cluster, 12);
    write_row(&site, &site.cluster, 13);
    assert!(archive(&site, &site.cluster).starts_with("00000002"));

    for target in [
        ["--target-time", &three.time],
        ["--target-name", "late"],
        ["--target-xid", &three.xid],
        ["--target-lsn", &three.lsn],
    ] {
        plan(&site, &target).expect(16).says("--timeline 1").says("--timeline 2");
    }
    assert_eq!(rows(&site, "second", &["--target-time", &three.time, "--timeline", "1"]), "1,2,3");
    assert_eq!(rows(&site, "named", &["--target-name", "late", "--timeline", "1"]), "1,2,3");
    assert_eq!(started(&site, late), "1,2,3");
    assert_eq!(started(&site, all), "1,2,3,4");
    // Where the cluster went is still where it is.
    assert_eq!(rows(&site, "latest", &[]), "1,12,13");
    assert_eq!(rows(&site, "later", &["--target-time", &twelve.time]), "1,12");
    plan(&site, &["--target-immediate"]).expect(0);
    site.walward(&["check"]).says("none is newer than the server's own");
}

#[test]
fn a_restore_point_or_a_transaction_before_the_newest_backup_is_reached() {
    let site = Site::start(SiteOptions::default());
    let (room, main) = (&site.room, &site.cluster);
    main.sql(room, "create table t (id int)");
    backup(&site);
    write_row(&site, main, 1);
    main.sql(room, "select pg_create_restore_point('release')");
    let two = write_row(&site, main, 2);
    backup(&site);
    let three = write_row(&site, main, 3);
    archive(&site, main);
    for (name, target, expected) in [
        ("name", ["--target-name", "release"], "1"),
        ("xid", ["--target-xid", &two.xid], "1,2"),
        ("newer", ["--target-xid", &three.xid], "1,2,3"),
    ] {
        assert!(!plan(&site, &target).expect(0).stderr.contains("warning"), "{name}");
        assert_eq!(rows(&site, name, &target), expected, "{name}");
    }
    // Nobody made it.
    plan(&site, &["--target-name", "never"]).expect(0).says("cannot be checked ahead");
}

#[test]
fn a_moment_after_the_last_transaction_of_a_quiet_server_is_restored() {
    let site = Site::start(SiteOptions::default());
    let (room, main) = (&site.room, &site.cluster);
    main.sql(room, "create table t (id int)");
    backup(&site);
    let one = write_row(&site, main, 1);
    std::thread::sleep(Duration::from_secs(1));
    let quiet = main.now(room);
    archive(&site, main);
    assert!(one.time < quiet);
    plan(&site, &["--target-time", "2099-01-01T00:00:00Z"]).expect(16).says("walward check --switch-wal");
    // What the refusal says helps: nothing is done on the server but that.
    std::thread::sleep(Duration::from_secs(1));
    let later = main.now(room);
    plan(&site, &["--target-time", &later]).expect(16).says("walward check --switch-wal");
    site.walward(&["check", "--switch-wal"]);
    eventually("the moment is in the archive", Duration::from_mins(1), || {
        (plan(&site, &["--target-time", &later]).code == 0).then_some(())
    });
    for (name, time) in [("quiet", &quiet), ("later", &later)] {
        assert_eq!(rows(&site, name, &["--target-time", time]), "1", "{name}");
        let mut paused = site.restore("paused", &["--target-time", time, "--action", "pause"]);
        paused.start(room);
        assert_eq!((paused.sql(room, ROWS), paused.sql(room, "select pg_is_in_recovery()")), ("1".into(), "t".into()));
        paused.stop(Stop::Immediate);
        fs::remove_dir_all(&paused.data).unwrap();
    }
}

#[test]
fn a_promotion_that_meets_a_copys_history_is_archived_once_that_was_set_aside() {
    let mut site = Site::start(SiteOptions::default());
    site.cluster.sql(&site.room, "create table t (id int)");
    backup(&site);
    write_row(&site, &site.cluster, 1);
    archive(&site, &site.cluster);
    let mut copy = Node::join(&site, "copy", site.restore("copy", &["--archive-mode", "preserve"]));
    copy.cluster.start(&site.room);
    site.wait_promoted(&copy.cluster);
    write_row(&site, &copy.cluster, 100);
    archive(&site, &copy.cluster);
    copy.cluster.stop(Stop::Immediate);
    write_row(&site, &site.cluster, 2);
    archive(&site, &site.cluster);

    // A promotion that does not look into the archive takes the number that the copy has taken.
    site.cluster.stop(Stop::Fast);
    fs::write(site.cluster.data.join("standby.signal"), "").unwrap();
    site.room.give_away(&site.cluster.data.join("standby.signal"));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "select pg_promote()");
    site.wait_promoted(&site.cluster);
    write_row(&site, &site.cluster, 3);
    let segment = site.cluster.switch_wal(&site.room);
    assert!(segment.starts_with("00000002"), "{segment}");
    eventually("the history is refused", Duration::from_mins(1), || {
        site.cluster.log_text().contains("00000002.history").then_some(())
    });
    let waiting = site.cluster.archive_status("ready");
    assert!(waiting.contains(&"00000002.history".to_owned()) && waiting.contains(&segment), "{waiting:?}");

    // As docs/how-to/restore.md says; the agent goes on as it is.
    site.walward(&["--yes", "--cluster", "main", "wal", "set-aside", "--from", "00000002.history"]).expect(0);
    // PostgreSQL's archiver sleeps for a minute after three failures, unless there is more to archive.
    archive(&site, &site.cluster);
    assert_eq!(rows(&site, "latest", &[]), "1,2,3");
    backup(&site);
    let checked = site.walward(&["check"]);
    assert!(!checked.stdout.contains("timeline 2 is above"), "{}", checked.stdout);
}

#[test]
fn a_promotion_of_a_server_that_lacked_the_newest_backups_end_is_not_passed_over() {
    let mut site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let room = &site.room;
    site.cluster.sql(room, "create table t (id int)");
    write_row(&site, &site.cluster, 1);
    let data = room.join("standby");
    let mut copy = room.command(site.cluster.version.program("pg_basebackup"));
    copy.args(["--no-sync", "--checkpoint=fast", "-R", "-d", &site.cluster.connection("postgres"), "-D"]).arg(&data);
    room.run(&mut copy);
    let mut standby = Node::join(&site, "standby", Cluster::adopt(room, "standby", &site.cluster.version, data));
    standby.cluster.start(room);
    // It is cut off from its primary, whose first backup it therefore never replays.
    standby.cluster.sql(room, "alter system set primary_conninfo = ''");
    standby.cluster.sql(room, "select pg_reload_conf()");
    eventually("the standby streams no more", Duration::from_mins(1), || {
        (standby.cluster.sql(room, "select count(*) from pg_stat_wal_receiver") == "0").then_some(())
    });
    backup(&site);
    write_row(&site, &site.cluster, 2);
    archive(&site, &site.cluster);
    site.cluster.stop(Stop::Immediate);
    plan(&site, &[]).expect(0);

    // The fail-over: the cluster goes on, on a timeline that no backup leads to.
    let room = &site.room;
    standby.promote(&site);
    let hundred = write_row(&site, &standby.cluster, 100);
    write_row(&site, &standby.cluster, 101);
    assert!(archive(&site, &standby.cluster).starts_with("00000002"));
    let refused =
        plan(&site, &[]).expect(16).says("timeline 2 (left timeline 1 at").says("say which with --timeline 1;");
    refused.says("no backup to start from leads to it").says("take a backup there at once");
    plan(&site, &["--target-time", &hundred.time]).expect(16).says("no backup leads to timeline 2");
    plan(&site, &["--target-immediate"]).expect(0);
    assert_eq!(rows(&site, "old", &["--timeline", "1"]), "1,2");
    site.walward(&["info"]).expect(0).says("no backup to start from leads to it");
    let mut own = room.command(room.program("walward"));
    own.args(["--config", room.join("standby.toml").to_str().unwrap(), "--no-input", "check"]);
    Outcome::of(&mut own).says("no backup to start from leads to it");

    // What the refusal says helps.
    let mut own = room.command(room.program("walward"));
    own.args(["--config", room.join("standby.toml").to_str().unwrap(), "--no-input", "--cluster", "main", "backup"]);
    Outcome::of(&mut own).expect(0);
    write_row(&site, &standby.cluster, 102);
    archive(&site, &standby.cluster);
    assert_eq!(rows(&site, "latest", &[]), "1,100,101,102");
}
