//! Every kind of recovery target, on one history.

use std::fs;

use crate::support::{Cluster, ClusterOptions, Outcome, Site, SiteOptions, StoreKind};

/// What was noted about the commit of row `id`.
struct Commit {
    id: u32,
    xid: String,
    /// Where the commit record ends.
    lsn: String,
    /// Behind the commit, before the next.
    time: String,
}

fn write_row(site: &Site, id: u32) -> Commit {
    let (room, cluster) = (&site.room, &site.cluster);
    let xid = cluster.sql(room, &format!("insert into t values ({id}) returning txid_current()"));
    let lsn = cluster.sql(room, "select pg_current_wal_insert_lsn()");
    std::thread::sleep(std::time::Duration::from_millis(30));
    let time = cluster.now(room);
    std::thread::sleep(std::time::Duration::from_millis(30));
    Commit { id, xid, lsn, time }
}

/// Restores with `arguments` and returns the highest row that came back, and the cluster.
fn restored_to(site: &Site, name: &str, arguments: &[&str]) -> (u32, Cluster) {
    let mut cluster = site.restore(name, arguments);
    cluster.start(&site.room);
    if !arguments.contains(&"pause") && !arguments.contains(&"--standby") {
        site.wait_promoted(&cluster);
    }
    let highest = cluster.sql(&site.room, "select coalesce(max(id), 0) from t").parse().unwrap();
    (highest, cluster)
}

#[test]
fn every_target_is_met_exactly() {
    let site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, "create table t (id int)");
    write_row(&site, 1);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let two = write_row(&site, 2);
    let three = write_row(&site, 3);
    cluster.sql(room, "select pg_create_restore_point('before four')");
    let four = write_row(&site, 4);
    write_row(&site, 5);
    let last = cluster.switch_wal(room);
    cluster.wait_archived(room, &last);

    let cases: Vec<(&str, Vec<&str>, u32)> = vec![
        ("latest", vec![], 5),
        ("immediate", vec!["--target-immediate"], 1),
        ("time", vec!["--target-time", &three.time], 3),
        ("xid", vec!["--target-xid", &three.xid], 3),
        ("xid-exclusive", vec!["--target-xid", &three.xid, "--exclusive"], 2),
        ("lsn", vec!["--target-lsn", &two.lsn], 2),
        ("name", vec!["--target-name", "before four"], 3),
    ];
    for (name, arguments, expected) in cases {
        let (highest, mut cluster) = restored_to(&site, name, &arguments);
        assert_eq!(highest, expected, "{arguments:?}");
        cluster.stop(crate::support::Stop::Immediate);
        fs::remove_dir_all(&cluster.data).unwrap();
    }

    // Paused at the target: it can be looked at, it does not take writes, and it goes on when told.
    let (highest, paused) = restored_to(&site, "paused", &["--target-time", &four.time, "--action", "pause"]);
    assert_eq!(highest, four.id);
    assert_eq!(paused.sql(room, "select pg_is_in_recovery()"), "t");
    paused.sql(room, "select pg_wal_replay_resume()");
    site.wait_promoted(&paused);
    drop(paused);

    // Shut down at the target.
    let mut stopped = site.restore("stopped", &["--target-xid", &two.xid, "--action", "shutdown"]);
    stopped.start_and_see(room, std::time::Duration::from_mins(1));
    stopped.wait_stopped_if_running();
    assert_eq!(stopped.control(room, "Database cluster state"), "shut down in recovery");

    // A standby follows the archive and never promotes by itself.
    let (_, standby) = restored_to(&site, "standby", &["--standby"]);
    crate::support::eventually("the standby has caught up", std::time::Duration::from_mins(1), || {
        (standby.sql(room, "select max(id) from t") == "5").then_some(())
    });
    assert_eq!(standby.sql(room, "select pg_is_in_recovery()"), "t");
    let six = write_row(&site, 6);
    let segment = site.cluster.switch_wal(room);
    site.cluster.wait_archived(room, &segment);
    crate::support::eventually("the standby follows", std::time::Duration::from_mins(1), || {
        (standby.sql(room, "select max(id) from t") == six.id.to_string()).then_some(())
    });
    assert_eq!(standby.sql(room, "select pg_is_in_recovery()"), "t");
}

#[test]
fn a_recovery_follows_a_timeline_and_can_stay_on_the_old_one() {
    let mut site = Site::start(SiteOptions::default());
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let one = write_row(&site, 1);
    write_row(&site, 2);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.cluster.stop(crate::support::Stop::Fast);

    // A second life from between the rows, which archives as timeline 2 in place of the first.
    let second = site.restore("second", &["--target-xid", &one.xid, "--archive-mode", "preserve"]);
    fs::remove_dir_all(&site.cluster.data).unwrap();
    fs::rename(&second.data, &site.cluster.data).unwrap();
    site.cluster.start(&site.room);
    site.wait_promoted(&site.cluster);
    write_row(&site, 12);
    let segment = site.cluster.switch_wal(&site.room);
    assert!(segment.starts_with("00000002"), "{segment}");
    site.cluster.wait_archived(&site.room, &segment);

    let rows = |name: &str, arguments: &[&str]| {
        let mut cluster = site.restore(name, arguments);
        cluster.start(&site.room);
        site.wait_promoted(&cluster);
        cluster.sql(&site.room, "select string_agg(id::text, ',' order by id) from t")
    };
    assert_eq!(rows("latest", &[]), "1,12");
    assert_eq!(rows("current", &["--timeline", "current"]), "1,2");
    assert_eq!(rows("one", &["--timeline", "1"]), "1,2");
}

#[test]
fn tablespaces_come_back_where_they_were_or_where_they_are_mapped() {
    let mut site = Site::start(SiteOptions { store: StoreKind::S3, ..SiteOptions::default() });
    let kept = site.room.make_folder("kept");
    let moved = site.room.make_folder("moved");
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, &format!("create tablespace kept location '{}'", kept.display()));
    cluster.sql(room, &format!("create tablespace moved location '{}'", moved.display()));
    cluster.sql(room, "create table a tablespace kept as select generate_series(1, 20000) as id");
    cluster.sql(room, "create table b tablespace moved as select generate_series(1, 20000) as id");
    cluster.sql(room, "create index on b (id) tablespace kept");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    cluster.sql(room, "insert into a select generate_series(1, 100); insert into b select generate_series(1, 100)");
    let segment = cluster.switch_wal(room);
    cluster.wait_archived(room, &segment);
    let expected = cluster.fingerprint(room, &["a", "b"]);
    site.destroy();
    fs::remove_dir_all(&kept).unwrap();
    let elsewhere = site.room.join("elsewhere");

    let mapping = format!("moved={}", elsewhere.display());
    let mut restored = site.restore("restored", &["--tablespace-map", &mapping]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["a", "b"]), expected);
    let places = restored.sql(
        &site.room,
        "select string_agg(pg_tablespace_location(oid), ',' order by spcname) from pg_tablespace where spcname in ('kept', 'moved')",
    );
    assert_eq!(places, format!("{},{}", kept.display(), elsewhere.display()));
    site.amcheck(&restored);
}

#[test]
fn small_and_large_segments_are_archived_and_replayed() {
    for segment_mib in [1, 64] {
        let mut site = Site::start(SiteOptions {
            cluster: ClusterOptions { segment_mib, ..ClusterOptions::default() },
            ..SiteOptions::default()
        });
        let (room, cluster) = (&site.room, &site.cluster);
        cluster.sql(room, "create table t as select generate_series(1, 1000) as id");
        site.walward(&["--cluster", "main", "backup"]).expect(0);
        cluster.sql(room, "insert into t select generate_series(1, 50000)");
        let segment = cluster.switch_wal(room);
        cluster.wait_archived(room, &segment);
        let expected = cluster.fingerprint(room, &["t"]);
        site.destroy();
        let mut restored = site.restore("restored", &[]);
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(restored.fingerprint(&site.room, &["t"]), expected, "{segment_mib} MiB");
    }
}

#[test]
fn connections_that_were_raised_after_the_backup_hold_no_recovery_up() {
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.set("max_connections", "20");
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.stop(crate::support::Stop::Fast);
    site.cluster.set("max_connections", "50");
    site.cluster.start(&site.room);
    write_row(&site, 1);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);

    let target = site.room.join("never");
    let plan = ["restore", "--cluster", "main", "--dry-run", "--target-directory", target.to_str().unwrap()];
    site.walward(&plan).expect(0).says("max_connections from 20 to 50");
    let (highest, restored) = restored_to(&site, "restored", &[]);
    assert_eq!((highest, restored.sql(&site.room, "show max_connections").as_str()), (1, "50"));
}

#[test]
fn impossible_targets_are_refused_before_anything_is_written() {
    let site = Site::start(SiteOptions::default());
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, "create table t (id int)");
    let before = cluster.now(room);
    write_row(&site, 1);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let two = write_row(&site, 2);
    let segment = cluster.switch_wal(room);
    cluster.wait_archived(room, &segment);

    let restore = |arguments: &[&str]| -> Outcome {
        let target = room.join("never");
        let mut all = vec!["restore", "--cluster", "main", "--yes", "--target-directory", target.to_str().unwrap()];
        all.extend(arguments);
        let outcome = site.walward(&all);
        assert!(!target.exists() || fs::read_dir(&target).unwrap().next().is_none(), "{arguments:?} wrote something");
        assert!(outcome.stderr.len() > 20, "{arguments:?} says too little: {:?}", outcome.stderr);
        outcome
    };
    let without_zone = two.time.trim_end_matches('Z');
    restore(&["--target-time", without_zone]).expect(2).says("zone");
    let (before_code, future_code) =
        (restore(&["--target-time", &before]).code, restore(&["--target-time", "2099-01-01T00:00:00Z"]).code);
    assert!([14, 16].contains(&before_code), "before the first backup: {before_code}");
    assert!([14, 16].contains(&future_code), "after the last WAL: {future_code}");
    assert!([14, 16].contains(&restore(&["--target-lsn", "FF/0"]).code));
    restore(&["--target-lsn", "nonsense"]).expect(2);
    restore(&["--target-xid", "3", "--target-time", &two.time]).expect(2);
    restore(&["--timeline", "77"]).says("77");
    assert!([14, 16].contains(&restore(&["--backup", "20200101T000000Z-full"]).code));
}

/// What was not looked for is said, and not called good.
#[test]
fn more_wal_than_is_read_for_raised_settings_is_said_and_so_are_segments_that_memory_cannot_hold() {
    let cluster = ClusterOptions { segment_mib: 64, ..ClusterOptions::default() };
    let site = Site::start(SiteOptions { encrypted: false, cluster, ..SiteOptions::default() });
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let unexamined = || {
        let arguments = ["--cluster", "main", "--json", "restore", "--dry-run", "--target-directory", "copy"];
        site.walward(&arguments).json()["unexamined"].clone()
    };
    assert_eq!(unexamined().as_array().map(Vec::len), Some(0));
    for _ in 0..5 {
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
    }
    let said = unexamined();
    assert!(said[0].as_str().is_some_and(|text| text.contains("max_connections")), "{said}");
    let plan = site.walward(&["--cluster", "main", "restore", "--dry-run", "--target-directory", "copy"]);
    assert!(plan.stdout.contains("not examined  whether the server was given more"), "{}", plan.stdout);

    let check = || site.walward(&["config", "check"]).expect(0).stderr;
    assert!(!check().contains("segments are of"), "{}", check());
    let text = site.config_text();
    site.write_config(&text.replace("[agent]\n", "[agent]\nmemory_bytes_max = \"32MiB\"\n"));
    assert!(check().contains("segments are of 64 MiB") && check().contains("Set it to 64 MiB"), "{}", check());
}
