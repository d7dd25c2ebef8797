//! What a recovery leaves behind in the cluster that it made: no target and no timeline, so that the cluster has standbys and can
//! become one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{Cluster, ClusterOptions, Site, SiteOptions, Stop, eventually};

const MINUTE: Duration = Duration::from_mins(1);

/// A site with a backup, a row, and the moment after it; a second row is archived.
fn site() -> (Site, String) {
    let cluster =
        ClusterOptions { settings: vec![("wal_keep_size".to_owned(), "64MB".to_owned())], ..ClusterOptions::default() };
    let site = Site::start(SiteOptions { encrypted: false, cluster, ..SiteOptions::default() });
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    cluster.sql(room, "insert into t values (1)");
    std::thread::sleep(Duration::from_millis(30));
    let moment = cluster.now(room);
    std::thread::sleep(Duration::from_millis(30));
    cluster.sql(room, "insert into t values (2)");
    let segment = cluster.switch_wal(room);
    cluster.wait_archived(room, &segment);
    (site, moment)
}

fn auto_conf(data: &Path) -> String {
    fs::read_to_string(data.join("postgresql.auto.conf")).unwrap()
}

/// `pg_basebackup -R` of a running server.
fn standby_of(site: &Site, primary: &Cluster, name: &str) -> Cluster {
    let (room, data) = (&site.room, site.room.join(name));
    let mut copy = room.command(primary.version.program("pg_basebackup"));
    copy.args(["--no-sync", "--checkpoint=fast", "-R", "-d", &primary.connection("postgres"), "-D"]).arg(&data);
    room.run(&mut copy);
    Cluster::adopt(room, name, &primary.version, data)
}

fn wait_rows(site: &Site, cluster: &Cluster, rows: &str) {
    eventually(&format!("{rows} rows are there"), MINUTE, || {
        (cluster.try_sql(&site.room, "select count(*) from t").is_ok_and(|found| found == rows)).then_some(())
    });
}

#[test]
fn a_restored_primary_has_standbys_and_becomes_one_and_none_promotes_itself() {
    let (site, moment) = site();
    let room = &site.room;
    let mut restored = site.restore("restored", &["--target-time", &moment, "--action", "pause"]);
    restored.start(room);
    assert!(auto_conf(&restored.data).contains("recovery_target_time"), "the recovery goes on");
    restored.sql(room, "alter system set work_mem = '5MB'");
    restored.sql(room, "select pg_wal_replay_resume()");
    site.wait_promoted(&restored);
    eventually("the settings of the recovery are gone", MINUTE, || {
        let conf = auto_conf(&restored.data);
        (!conf.contains("recovery_") && !conf.contains("restore_command")).then_some(())
    });
    let conf = auto_conf(&restored.data);
    assert!(conf.contains("work_mem") && conf.contains("archive_mode"), "{conf}");
    assert_eq!(
        fs::read_dir(restored.data.join("pg_wal"))
            .unwrap()
            .flatten()
            .filter(|e| e.file_name() == "walward.recovery.json")
            .count(),
        0
    );

    // A standby of it follows and stays one.
    let mut standby = standby_of(&site, &restored, "standby");
    standby.start(room);
    restored.sql(room, "insert into t values (10)");
    wait_rows(&site, &standby, "2");
    assert_eq!(standby.sql(room, "select pg_is_in_recovery()"), "t");

    // The two change places.
    restored.stop(Stop::Fast);
    standby.sql(room, "select pg_promote()");
    site.wait_promoted(&standby);
    standby.sql(room, "insert into t values (11)");
    fs::write(restored.data.join("standby.signal"), "").unwrap();
    restored.set("primary_conninfo", &standby.connection("postgres"));
    restored.start(room);
    wait_rows(&site, &restored, "3");
    assert_eq!(restored.sql(room, "select pg_is_in_recovery()"), "t");
}

#[test]
fn what_the_server_could_not_take_out_is_named_by_check_and_taken_out_by_the_agent() {
    let (mut site, _) = site();
    site.cluster.sql(&site.room, "alter system set restore_command = 'false'");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.sql(&site.room, "insert into t values (3)");
    std::thread::sleep(Duration::from_millis(30));
    let moment = site.cluster.now(&site.room);
    site.cluster.sql(&site.room, "insert into t values (4)");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(&site.cluster.data).unwrap();
    site.walward(&["--cluster", "main", "--yes", "restore", "--target-time", &moment]).expect(0);

    // The program that ends it is not there.
    let data = site.cluster.data.clone();
    let program = site.room.program("walward");
    for file in ["postgresql.auto.conf", "pg_wal/walward.recovery.json"] {
        let text = fs::read_to_string(data.join(file)).unwrap();
        let gone = text.replace(&format!("{} wal recovered", program.display()), "/gone/walward wal recovered");
        assert_ne!(text, gone, "{file}");
        fs::write(data.join(file), gone).unwrap();
    }
    // As if the agent had not looked yet.
    let note = data.join("pg_wal/walward.recovery.json");
    fs::rename(&note, site.room.join("note")).unwrap();
    site.cluster.start(&site.room);
    site.wait_promoted(&site.cluster);
    site.cluster.assert_logged("recovery_end_command");
    site.walward(&["--cluster", "main", "check"]).expect(1).says("ALTER SYSTEM RESET recovery_target_time");
    fs::rename(site.room.join("note"), &note).unwrap();
    eventually("the agent takes them out", MINUTE, || (!auto_conf(&data).contains("recovery_")).then_some(()));
    let conf = auto_conf(&data);
    assert!(conf.contains("restore_command = 'false'"), "its own comes back: {conf}");
    eventually("the note goes", MINUTE, || (!note.exists()).then_some(()));
    site.walward(&["--cluster", "main", "check"]).says("no target of an earlier recovery is left");
    assert_eq!(site.cluster.sql(&site.room, "select count(*) from t"), "3");
    assert_eq!(site.cluster.sql(&site.room, "show archive_mode"), "on", "in its own place it archives");
}

/// Guards against: what an earlier recovery was given last was held against the next one in the same place, until the agent was restarted.
#[test]
fn a_second_recovery_in_the_same_place_is_held_against_nothing_of_the_first() {
    let (mut site, moment) = site();
    let recover = |site: &mut Site, arguments: &[&str]| {
        site.cluster.stop(Stop::Fast);
        fs::remove_dir_all(&site.cluster.data).unwrap();
        site.walward(&[&["--cluster", "main", "--yes", "restore"][..], arguments].concat()).expect(0);
        site.cluster.start(&site.room);
        site.wait_promoted(&site.cluster);
    };
    recover(&mut site, &["--target-time", &moment]);
    // It begins with the segment after the one in which timeline 2 began.
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.sql(&site.room, "insert into t values (4)");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    recover(&mut site, &[]);
    assert_eq!(site.cluster.sql(&site.room, "select max(id) from t"), "4");
}
