//! Lives of servers: what is archived of which, and what never becomes one archive.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{ClusterOptions, Site, SiteOptions, Stop, eventually};

fn site() -> Site {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    site
}

/// Writes `segments` segments; the name of the last.
fn write(site: &Site, segments: usize) -> String {
    let mut last = String::new();
    for _ in 0..segments {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 100)");
        last = site.cluster.switch_wal(&site.room);
    }
    last
}

/// The segments in the repository.
fn stored(site: &Site) -> BTreeSet<String> {
    let names = site.stored_segments().into_iter();
    names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Time in which the agent would do what it may: it looks every few seconds.
fn a_while() {
    std::thread::sleep(Duration::from_secs(4));
}

fn nothing_waits(site: &Site) {
    eventually("nothing waits", Duration::from_mins(1), || {
        site.cluster.archive_status("ready").is_empty().then_some(())
    });
}

#[test]
fn without_an_archive_command_of_ours_nothing_is_archived() {
    let mut site = site();
    let last = write(&site, 2);
    site.cluster.wait_archived(&site.room, &last);
    let before = stored(&site);
    // Archiving is switched off for now.
    site.cluster.stop(Stop::Fast);
    site.cluster.set("archive_command", "");
    site.cluster.start(&site.room);
    write(&site, 6);
    a_while();
    assert!(site.cluster.archive_status("ready").len() >= 6);
    assert_eq!(stored(&site).len(), before.len() + lost_at_stop(&site, &before), "nobody asked");
    // Another tool archives, and a restarted agent finds marks.
    let here = stored(&site);
    site.stop_agent();
    site.start_agent();
    site.cluster.set("archive_command", "sleep 0.2");
    site.cluster.sql(&site.room, "select pg_reload_conf()");
    write(&site, 2);
    nothing_waits(&site);
    assert_eq!(stored(&site), here, "another tool's files are not ours");
    // Walward is asked again.
    site.cluster.set("archive_command", &site.archive_command());
    site.cluster.sql(&site.room, "select pg_reload_conf()");
    let last = write(&site, 3);
    site.cluster.wait_archived(&site.room, &last);
    assert!(stored(&site).contains(&last));
}

/// The segment that was archived while the server stopped, if there was one.
fn lost_at_stop(site: &Site, before: &BTreeSet<String>) -> usize {
    let done: BTreeSet<String> = site.cluster.archive_status("done").into_iter().collect();
    stored(site).iter().filter(|name| !before.contains(*name) && done.contains(*name)).count()
}

#[test]
fn a_volume_that_is_rolled_back_does_not_mix_its_lives() {
    let mut site = site();
    write(&site, 2);
    nothing_waits(&site);
    site.cluster.stop(Stop::Fast);
    let (data, copy) = (site.cluster.data.clone(), site.room.join("volume"));
    site.room.run(site.room.command("cp").arg("-a").arg(&data).arg(&copy));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into t select 1 from generate_series(1, 50)");
    let contested = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &contested);
    site.cluster.stop(Stop::Fast);
    let before = stored(&site);
    // The volume is rolled back to the copy, and the server goes on from there.
    std::fs::rename(&data, site.room.join("first-life")).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into t select 2 from generate_series(1, 60)");
    write(&site, 6);
    eventually("the second life is refused", Duration::from_mins(1), || {
        site.cluster.log_text().contains("other content").then_some(())
    });
    a_while();
    assert_eq!(stored(&site), before, "something of the second life lies behind the first one's");
    // Pushed by hand.
    let ready = site.cluster.archive_status("ready");
    let later = ready.iter().filter(|name| **name > contested).max().expect("more waits").clone();
    let push = site.client(&["push", site.cluster.wal(&later).to_str().unwrap()]);
    push.expect(1).says(&contested).says("two contents");
    assert_eq!(stored(&site), before);
    site.walward(&["status"]).expect(0).says("failing");
}
