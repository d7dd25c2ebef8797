//! More than one server, or more than one agent, on one repository.

use std::fs;
use std::time::Duration;

use super::{Node, assert_archived, drain, failures, options, wait_failed, write_segments};
use crate::support::{Agent, Cluster, Mode, Site, SiteOptions, StoreKind, eventually};

/// A site with a table, a backup, and a segment after it.
fn site(options: SiteOptions) -> Site {
    let site = Site::start(options);
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 2);
    site.cluster.wait_archived(&site.room, &last);
    site
}

/// Rows and a switch on `node`.
fn write_on(site: &Site, cluster: &Cluster) -> String {
    cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
    cluster.switch_wal(&site.room)
}

#[test]
fn two_agents_on_one_repository_archive_the_same_files_once() {
    for store in [StoreKind::File, StoreKind::S3] {
        let site = site(options(store));
        // Both watch the same pg_wal and read ahead; PostgreSQL asks the first.
        let socket = site.room.make_folder("second.run").join("walward.sock");
        let text = site.config_text().replace(site.socket.to_str().unwrap(), socket.to_str().unwrap());
        let text =
            text.replace(&format!("{:?}", site.room.join("spool")), &format!("{:?}", site.room.make_folder("spool2")));
        let config = site.room.write("second.toml", text);
        let second = Agent::start(&site.room, &config, &socket, &site.room.join("second.log"));
        let last = write_segments(&site, 40);
        site.cluster.wait_archived(&site.room, &last);
        assert_eq!(failures(&site), 0);
        let pushed = site.cluster.wal(&last);
        let push = |socket: &std::path::Path| {
            let mut command = site.room.command(site.room.program("walward-wal"));
            command.arg("--socket").arg(socket).arg("push").arg(&pushed);
            crate::support::Outcome::of(&mut command).expect(0);
        };
        push(&socket);
        push(&site.socket);
        second.stop();
        assert_archived(&site, &site.cluster);
    }
}

#[test]
fn a_standby_that_always_archives_pushes_the_same_files_and_all_succeed() {
    let site = site(options(StoreKind::File));
    let mut standby = Node::standby(&site, "standby", true);
    standby.cluster.set("archive_mode", "always");
    standby.cluster.start(&site.room);
    for _ in 0..10 {
        write_on(&site, &site.cluster);
    }
    let last = write_on(&site, &site.cluster);
    standby.wait_caught_up(&site);
    site.cluster.wait_archived(&site.room, &last);
    eventually("the standby has archived all of it", Duration::from_mins(2), || {
        let done = standby.cluster.archive_status("done");
        (standby.cluster.archive_status("ready").is_empty() && done.contains(&last)).then_some(())
    });
    for cluster in [&site.cluster, &standby.cluster] {
        assert_eq!(cluster.sql(&site.room, "select failed_count from pg_stat_archiver"), "0");
        assert_archived(&site, cluster);
    }
}

#[test]
fn a_former_primary_that_still_pushes_after_a_promotion_changes_nothing_for_the_new_one() {
    let site = site(options(StoreKind::File));
    let mut standby = Node::standby(&site, "standby", true);
    standby.cluster.start(&site.room);
    standby.wait_caught_up(&site);
    standby.promote(&site);
    // Nobody told the first that it is no longer the primary.
    for _ in 0..5 {
        write_segments(&site, 1);
        write_on(&site, &standby.cluster);
    }
    standby.cluster.sql(&site.room, "insert into t values (-1)");
    drain(&site, &site.cluster, Duration::from_mins(1));
    drain(&site, &standby.cluster, Duration::from_mins(1));
    assert_archived(&site, &site.cluster);
    assert_archived(&site, &standby.cluster);

    // Both have gone on, and nothing says which of them the cluster is.
    let nowhere = site.room.join("nowhere");
    let unsaid = ["--cluster", "main", "restore", "--yes", "--target-directory", nowhere.to_str().unwrap()];
    site.walward(&unsaid).expect(16).says("--timeline 1 or --timeline 2");
    let expected = standby.cluster.fingerprint(&site.room, &["t"]);
    let mut restored = site.restore("restored", &["--timeline", "2"]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected, "the promoted one's");
    let mut old = site.restore("old", &["--timeline", "1"]);
    old.start(&site.room);
    site.wait_promoted(&old);
    assert_eq!(old.fingerprint(&site.room, &["t"]), site.cluster.fingerprint(&site.room, &["t"]));
}

#[test]
fn a_clone_that_writes_the_same_timeline_is_refused_and_told_what_happened() {
    let mut site = site(options(StoreKind::File));
    drain(&site, &site.cluster, Duration::from_mins(1));
    // As somebody does who copies a data directory and starts it without a thought.
    site.cluster.stop(crate::support::Stop::Fast);
    let data = site.room.join("clone");
    site.room.run(site.room.command("cp").arg("-a").arg(&site.cluster.data).arg(&data));
    site.cluster.start(&site.room);
    let clone = Cluster::adopt(&site.room, "clone", &site.cluster.version, data);
    let mut clone = Node::join(&site, "clone", clone);
    let first = write_segments(&site, 1);
    site.cluster.wait_archived(&site.room, &first);

    clone.cluster.start(&site.room);
    clone.cluster.sql(&site.room, "insert into t select generate_series(5001, 5300)");
    clone.cluster.switch_wal(&site.room);
    let words = "two servers write the same timeline";
    eventually("the clone is refused", Duration::from_mins(1), || {
        clone.cluster.log_text().contains(words).then_some(())
    });
    clone.cluster.assert_logged(&first);
    let status = |config: &str| {
        let mut command = site.room.command(site.room.program("walward"));
        command.arg("--config").arg(site.room.join(config)).args(["--no-input", "status"]);
        crate::support::Outcome::of(&mut command).expect(0)
    };
    status("clone.toml").says("failing").says(words).says("stop archiving on the wrong one");
    // The right one goes on.
    drain(&site, &site.cluster, Duration::from_mins(1));
    assert_eq!(failures(&site), 0);
    assert_archived(&site, &site.cluster);
}

#[test]
fn a_backup_whose_wal_another_server_archived_is_refused() {
    let mut site = site(options(StoreKind::File));
    drain(&site, &site.cluster, Duration::from_mins(1));
    site.cluster.stop(crate::support::Stop::Fast);
    let data = site.room.join("clone");
    site.room.run(site.room.command("cp").arg("-a").arg(&site.cluster.data).arg(&data));
    let clone = Cluster::adopt(&site.room, "clone", &site.cluster.version, data);
    let mut clone = Node::join(&site, "clone", clone);
    clone.cluster.start(&site.room);
    for _ in 0..12 {
        write_on(&site, &clone.cluster);
    }
    drain(&site, &clone.cluster, Duration::from_mins(1));

    // The original comes back. Every name that its backup needs is in the archive, and holds the clone's WAL.
    site.cluster.start(&site.room);
    let refused = site.walward(&["--cluster", "main", "backup"]).expect(16);
    refused.says("is not the WAL of this server").says("another server archives the same timeline");
    let labels = site.walward(&["--cluster", "main", "--json", "info"]).json();
    assert_eq!(labels["repositories"][0]["backups"].as_array().map(Vec::len), Some(1), "{labels}");
    // The clone's own backup is as good as ever.
    let mut command = site.room.command(site.room.program("walward"));
    command.arg("--config").arg(site.room.join("clone.toml")).args(["--no-input", "--cluster", "main", "backup"]);
    crate::support::Outcome::of(&mut command).expect(0);
}

#[test]
fn a_promotion_during_an_upload_loses_nothing() {
    let site = site(SiteOptions { proxied: true, ..options(StoreKind::S3) });
    let proxy = site.proxy.as_ref().unwrap();
    let mut standby = Node::standby(&site, "standby", true);
    standby.cluster.start(&site.room);
    write_segments(&site, 3);
    standby.wait_caught_up(&site);
    // Everything is on its way, on both, while the timeline changes.
    proxy.set(Mode::Slow(128 << 10));
    write_segments(&site, 6);
    standby.wait_caught_up(&site);
    standby.promote(&site);
    for _ in 0..6 {
        write_on(&site, &standby.cluster);
    }
    let before = failures(&site);
    proxy.set(Mode::BlackHole);
    write_segments(&site, 1);
    wait_failed(&site, before);
    proxy.set(Mode::Pass);
    drain(&site, &site.cluster, Duration::from_mins(1));
    drain(&site, &standby.cluster, Duration::from_mins(1));
    assert_archived(&site, &site.cluster);
    assert_archived(&site, &standby.cluster);
    let done = standby.cluster.archive_status("done");
    assert!(done.iter().any(|name| name == "00000002.history"), "{done:?}");
    let expected = standby.cluster.fingerprint(&site.room, &["t"]);
    let mut restored = site.restore("restored", &["--timeline", "2"]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    drop(fs::remove_dir_all(&restored.data));
}
