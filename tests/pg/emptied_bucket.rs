//! A bucket whose objects are all deleted under a running agent: what is written there has no keys, and nobody could read it.

use std::time::Duration;

use crate::support::{Site, SiteOptions, StoreKind, eventually};

#[test]
fn a_bucket_that_is_emptied_under_a_running_agent_takes_no_wal_that_nobody_could_read() {
    let mut site = Site::start(SiteOptions { store: StoreKind::S3, ..SiteOptions::default() });
    let sql = |site: &Site, text: &str| site.cluster.sql(&site.room, text);
    sql(&site, "create table t as select generate_series(1, 1000) as id");
    let first = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &first);

    let s3 = site.s3.as_ref().unwrap();
    s3.empty();
    sql(&site, "insert into t select generate_series(1, 1000)");
    let second = site.cluster.switch_wal(&site.room);
    eventually("the push fails", Duration::from_mins(2), || {
        (sql(&site, "select failed_count > 1 from pg_stat_archiver") == "t").then_some(())
    });
    assert_eq!(sql(&site, "select last_archived_wal from pg_stat_archiver"), first);
    site.walward(&["check"]).says("there is no repository for this cluster");
    // What was on its way then, and nothing later.
    let left = s3.keys();
    assert!(left.iter().all(|key| key.contains("/wal/")), "{left:?}");
    if !left.is_empty() {
        site.walward(&["--cluster", "main", "setup"]).expect(16).says("no identity");
    }

    // Other keys than the agent has seen. It serves on, and opens what is there now.
    s3.empty();
    site.walward(&["--cluster", "main", "setup"]).expect(0);
    site.cluster.wait_archived(&site.room, &second);
    site.stop_agent();
    site.start_agent();
    let copy = site.room.make_folder("copies").join("second");
    site.client(&["--cluster", "main", "fetch", &second, copy.to_str().unwrap()]).expect(0);
    assert!(std::fs::read(copy).unwrap() == std::fs::read(site.cluster.wal(&second)).unwrap());
}
