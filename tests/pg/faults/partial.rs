//! The last, unfinished segment of a primary that is gone.

use std::fs;
use std::time::Duration;

use super::{Node, drain, options, write_segments};
use crate::support::{Site, StoreKind};

#[test]
fn what_a_promoted_standby_saved_of_the_old_timeline_is_recovered_when_asked() {
    let mut site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    write_segments(&site, 3);
    drain(&site, &site.cluster, Duration::from_mins(1));
    let archived = site.cluster.sql(&site.room, "select count(*) from t");
    let mut standby = Node::standby(&site, "standby", true);
    standby.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into t select generate_series(1, 7)");
    standby.wait_caught_up(&site);
    let everything = site.cluster.sql(&site.room, "select count(*) from t");
    site.cluster.stop(crate::support::Stop::Kill);
    standby.promote(&site);
    standby.cluster.sql(&site.room, "insert into t values (-1)");
    drain(&site, &standby.cluster, Duration::from_mins(1));
    let done = standby.cluster.archive_status("done");
    assert!(done.iter().any(|name| name.starts_with("00000001") && name.ends_with(".partial")), "{done:?}");
    // The life that ended with the primary, and not the new one.
    for (name, more, rows) in [("without", &[][..], &archived), ("with", &["--use-partial"], &everything)] {
        let mut restored = site.restore(name, &[&["--timeline", "current"], more].concat());
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(&restored.sql(&site.room, "select count(*) from t"), rows, "{name}");
    }
}

#[test]
fn a_partial_segment_of_a_dead_primary_is_recovered_when_asked_and_only_then() {
    let mut site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    write_segments(&site, 3);
    drain(&site, &site.cluster, Duration::from_mins(1));
    let archived = site.cluster.sql(&site.room, "select count(*) from t");
    site.cluster.sql(&site.room, "insert into t select generate_series(1, 7)");
    let everything = site.cluster.sql(&site.room, "select count(*) from t");
    let current = site.cluster.sql(&site.room, "select pg_walfile_name(pg_current_wal_lsn())");
    // The server dies; somebody saves its last segment from the disk, as PostgreSQL itself does at a promotion.
    site.cluster.stop(crate::support::Stop::Kill);
    let partial = format!("{current}.partial");
    fs::copy(site.cluster.wal(&current), site.cluster.wal(&partial)).unwrap();
    site.room.give_away(&site.cluster.wal(&partial));
    site.client(&["push", site.cluster.wal(&partial).to_str().unwrap()]).expect(0);

    let rows = |name: &str, arguments: &[&str]| {
        let mut restored = site.restore(name, arguments);
        restored.start(&site.room);
        site.wait_promoted(&restored);
        (restored.sql(&site.room, "select count(*) from t"), restored)
    };
    let (without, restored) = rows("without", &[]);
    assert_eq!(without, archived);
    assert!(!restored.log_text().contains(&partial), "{}", restored.log_text());
    let (with, restored) = rows("with", &["--use-partial"]);
    assert_eq!(with, everything);
    // Never silently: in the plan, and in the server's log.
    restored.assert_logged(&format!("{partial} was placed instead"));
    let target = site.room.join("plan");
    let plan = ["--cluster", "main", "restore", "--dry-run", "--target-directory", target.to_str().unwrap()];
    site.walward(&plan).expect(0).says(&format!("{partial} is in the archive")).says("--use-partial");
    site.walward(&[&plan[..], &["--use-partial"]].concat()).expect(0).says(&format!("recovery reads {partial}"));
    // Without an agent the same.
    let file = site.room.make_folder("fetched").join("RECOVERYXLOG");
    let fetch = |more: &[&str]| {
        let place = file.to_str().unwrap();
        site.walward(&[&["--cluster", "main", "wal", "fetch", &current, place], more].concat())
    };
    fetch(&[]).expect(1);
    assert!(!file.exists());
    fetch(&["--use-partial"]).expect(0).says(&partial);
    assert!(fs::read(&file).unwrap() == fs::read(site.cluster.wal(&partial)).unwrap());
}
