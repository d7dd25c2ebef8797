//! The last, unfinished segment of a primary that is gone.

use std::fs;
use std::time::Duration;

use super::{Node, drain, options, write_segments};
use crate::support::{Outcome, Site, StoreKind};

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

/// What PostgreSQL may have ready after its current segment: an old one under a new name, and an empty one, the newest file of all.
fn keep_ready_for_later(site: &Site, current: &str) {
    let number = u64::from_str_radix(&current[8..], 16).unwrap();
    let name = |after: u64| format!("{}{:016X}", &current[..8], number + after);
    // Segments of 1 MiB: their numbers are the last three digits.
    assert!(number & 0xFFF < 0xFF0, "{current}");
    let empty = vec![0; usize::try_from(fs::metadata(site.cluster.wal(current)).unwrap().len()).unwrap()];
    fs::copy(site.cluster.wal(current), site.cluster.wal(&name(1))).unwrap();
    fs::write(site.cluster.wal(&name(2)), empty).unwrap();
    for after in [1, 2] {
        site.room.give_away(&site.cluster.wal(&name(after)));
    }
}

/// Runs the commands by which docs/how-to/dead-primary.md saves the last segment.
fn as_documented(site: &Site) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-to/dead-primary.md")).unwrap();
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let script = block.replace("/var/lib/postgresql/15/main", site.cluster.data.to_str().unwrap());
    let walward = format!(
        "walward() {{ {} --config {} --cluster main \"$@\"; }}\n",
        site.room.program("walward").display(),
        site.config.display()
    );
    let mut command = site.room.command("sh");
    Outcome::of(command.arg("-c").arg(walward + &script)).expect(0).says("does not belong to its name");
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
    // The server dies; its last segment is saved from the disk as the documents say.
    site.cluster.stop(crate::support::Stop::Kill);
    let partial = format!("{current}.partial");
    keep_ready_for_later(&site, &current);
    as_documented(&site);
    let saved = fs::read_dir(site.cluster.data.join("pg_wal")).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.ends_with(".partial").then_some(name)
    });
    assert_eq!(saved.collect::<Vec<_>>(), std::slice::from_ref(&partial));

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
