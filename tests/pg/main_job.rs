//! The main job: a busy cluster is archived, backed up under load, destroyed, and restored to a marked moment.

use std::fs;
use std::time::Duration;

use crate::support::{Site, SiteOptions, StoreKind, Version, eventually, on_every_version};

const TABLES: &[&str] = &["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "marks"];

fn segments_wanted() -> usize {
    match std::env::var("WALWARD_TEST_SEGMENTS") {
        Ok(text) => text.parse().expect("WALWARD_TEST_SEGMENTS is a number"),
        Err(_) => 20,
    }
}

/// A site whose archive_command keeps a copy of every file before it pushes it.
fn site_with_originals(version: Version, store: StoreKind) -> Site {
    let mut site = Site::prepare(SiteOptions { version, store, ..SiteOptions::default() });
    let originals = site.room.make_folder("originals");
    let script = format!(
        "#!/bin/sh\n# $1: %p, $2: %f\nset -e\n[ -e {folder}/$2 ] || {{ cp \"$1\" {folder}/$2.part; mv {folder}/$2.part {folder}/$2; }}\nexec {client} --socket {socket} push \"$1\"\n",
        folder = originals.display(),
        client = site.room.program("walward-wal").display(),
        socket = site.socket.display(),
    );
    let script = site.room.write_with_mode("archive.sh", script, 0o700);
    site.cluster.set("archive_command", &format!("{} %p %f", script.display()));
    site.cluster.start(&site.room);
    site.start_agent();
    site
}

fn main_job(version: Version, store: StoreKind, segments: usize) {
    let mut site = site_with_originals(version, store);
    let (room, cluster) = (&site.room, &site.cluster);

    cluster.pgbench(room, &["-i", "-q", "-s", "2"]);
    cluster.sql(room, "create table marks (id serial primary key, at timestamptz default clock_timestamp())");
    let mut load = cluster.pgbench_in_background(room, &["-n", "-c", "2", "-T", "600", "-R", "150"]);
    let archived = || fs::read_dir(room.join("originals")).unwrap().count();

    // Half of the WAL before the backup, the other half after it.
    while archived() < segments / 2 {
        cluster.sql(room, "insert into marks default values");
        let segment = cluster.switch_wal(room);
        cluster.wait_archived(room, &segment);
    }
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    assert!(load.ended().is_none(), "the load should have lasted through the backup:\n{}", load.log());
    while archived() < segments {
        cluster.sql(room, "insert into marks default values");
        let segment = cluster.switch_wal(room);
        cluster.wait_archived(room, &segment);
    }

    // The marked moment: nothing is written around it, so that what the tables hold is known exactly.
    drop(load);
    eventually("pgbench has left", Duration::from_secs(30), || {
        (cluster.sql(room, "select count(*) from pg_stat_activity where application_name = 'pgbench'") == "0")
            .then_some(())
    });
    cluster.sql(room, "insert into marks default values");
    let expected = cluster.fingerprint(room, TABLES);
    std::thread::sleep(Duration::from_millis(50));
    let moment = cluster.now(room);
    std::thread::sleep(Duration::from_millis(50));
    cluster.pgbench(room, &["-n", "-c", "2", "-t", "200"]);
    cluster.sql(room, "drop table pgbench_accounts");
    let last = cluster.switch_wal(room);
    cluster.wait_archived(room, &last);

    every_archived_file_is_the_original(&site, segments);

    site.destroy();
    let mut restored = site.restore("restored", &["--target-time", &moment]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, TABLES), expected);
    site.amcheck(&restored);
}

fn every_archived_file_is_the_original(site: &Site, segments: usize) {
    let mut compared = 0;
    for entry in fs::read_dir(site.room.join("originals")).unwrap() {
        let original = entry.unwrap().path();
        let name = original.file_name().unwrap().to_str().unwrap().to_owned();
        let fetched = site.room.make_folder("fetched").join(&name);
        // Through the agent, whole: repository, spool, client.
        site.client(&["--cluster", "main", "fetch", &name, fetched.to_str().unwrap()]).expect(0);
        assert!(fs::read(&original).unwrap() == fs::read(&fetched).unwrap(), "{name} is not what PostgreSQL wrote");
        fs::remove_file(fetched).unwrap();
        compared += 1;
    }
    assert!(compared >= segments, "only {compared} files were archived");
}

fn on_a_disk(version: Version) {
    let main = version == Version::main();
    main_job(version, StoreKind::File, if main { segments_wanted() } else { 6 });
}

on_every_version!(a_busy_cluster_is_restored_to_a_marked_moment, super::on_a_disk);

#[test]
fn a_busy_cluster_is_restored_to_a_marked_moment_from_s3() {
    main_job(Version::main(), StoreKind::S3, segments_wanted());
}
