//! File systems that are full, read-only or gone, under the repository and under the spool.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::{SiteOptions, assert_archived, drain, failures, options, status, wait_failed, write_segments};
use crate::support::{Cluster, Daemon, Ended, Site, StoreKind, eventually};

/// A site that archives, with `name` on a file system of its own.
fn site_on(name: &'static str, mib: u32) -> Site {
    let site = Site::start(SiteOptions { file_systems: vec![(name, mib)], ..options(StoreKind::File) });
    site.cluster.sql(&site.room, "create table t (id int)");
    let segment = write_segments(&site, 2);
    site.cluster.wait_archived(&site.room, &segment);
    site
}

/// Archives while the repository is not usable: `break_it`, assert what is said, `heal`.
fn archive_without_repository(site: &Site, words: &[&str], break_it: impl FnOnce(), heal: impl FnOnce()) {
    let before = failures(site);
    break_it();
    write_segments(site, 3);
    wait_failed(site, before);
    let mut said = status(site).says("failing").says("\"store\"");
    let mut checked = site.walward(&["check"]).expect(1).says("FAILED").says("(main, store)");
    for word in words {
        (said, checked) = (said.says(word), checked.says(word));
    }
    site.cluster.assert_logged("repository \"store\"");
    heal();
    drain(site, &site.cluster, Duration::from_mins(1));
    assert_archived(site, &site.cluster);
    site.walward(&["check"]).expect(3).says("there is none yet");
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_a_full_repository_fails_pushes_and_drains_when_there_is_room() {
    let site = site_on("repository", 24);
    let disk = &site.file_systems[0];
    let filler = site.room.join("repository.shelf").join("filler");
    archive_without_repository(
        &site,
        &["No space left on device"],
        || drop(disk.fill()),
        || fs::remove_file(&filler).unwrap(),
    );
    // What could not be written left nothing behind that keeps the disk full.
    assert_eq!(temporaries(&site), Vec::<String>::new());
}

/// Files in the repository that are no objects.
fn temporaries(site: &Site) -> Vec<String> {
    let listed =
        site.room.run(site.room.command("find").arg(site.repository_folder()).args(["-name", ".walward-*.tmp"]));
    listed.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_a_read_only_repository_fails_pushes_and_drains_when_it_is_writable() {
    let site = site_on("repository", 64);
    let disk = &site.file_systems[0];
    archive_without_repository(
        &site,
        &["Read-only file system"],
        || disk.set_read_only(true),
        || disk.set_read_only(false),
    );
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_an_unmounted_repository_fails_pushes_and_takes_nothing_on_the_disk_below() {
    let site = site_on("repository", 64);
    let disk = &site.file_systems[0];
    archive_without_repository(
        &site,
        &["mounted"],
        || disk.take_away(),
        || {
            assert_eq!(fs::read_dir(site.room.join("repository")).unwrap().count(), 0, "written below the mount point");
            disk.bring_back();
        },
    );
}

#[test]
fn a_repository_that_was_moved_away_fails_pushes_and_drains_when_it_is_back() {
    let site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    let segment = write_segments(&site, 2);
    site.cluster.wait_archived(&site.room, &segment);
    let (folder, away) = (site.repository_folder(), site.room.join("away"));
    archive_without_repository(
        &site,
        &["mounted"],
        || fs::rename(&folder, &away).unwrap(),
        || fs::rename(&away, &folder).unwrap(),
    );
}

/// A site with its spool on a small file system, and a restored cluster, not started, with its rows.
fn site_with_restore() -> (Site, Cluster, String) {
    site_with_restore_on(8)
}

fn site_with_restore_on(mib: u32) -> (Site, Cluster, String) {
    let mut site = site_on("spool", mib);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 30);
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();
    let restored = site.restore("restored", &[]);
    (site, restored, expected)
}

/// A spool that takes nothing is done without: the agent is the server's own user, or root, and may write beside the destination. `break_it`
/// returns the agent that takes the place of the site's.
fn recover_without_spool(words: &str, break_it: impl FnOnce(&mut Site) -> Option<Daemon>) {
    let (mut site, mut restored, expected) = site_with_restore();
    let _agent = break_it(&mut site);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    let log = fs::read_to_string(site.room.join("walwardd.log")).unwrap();
    assert!(log.contains("the spool cannot take the file") && log.contains(words), "{log}");
    let fetch = &site.walward(&["--json", "status"]).expect(0).json()["clusters"][0]["fetch"];
    assert_eq!(fetch["fallback_total"], 0, "a trouble of this host is charged to a repository: {fetch}");
    let left: Vec<_> = fs::read_dir(restored.data.join("pg_wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.to_str().unwrap().contains("walward-unverified")), "{left:?}");
    let owner = fs::metadata(&restored.data).unwrap().uid();
    assert!(left.iter().all(|path| fs::symlink_metadata(path).unwrap().uid() == owner), "{left:?}");
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_with_a_full_spool_a_recovery_goes_on_without_it() {
    recover_without_spool("No space left on device", |site| {
        drop(site.file_systems[0].fill());
        site.walward(&["check"]).expect(1).says("FAILED   spool").says("two segments");
        None
    });
}

/// Beside the destination root has no rights but those of the folder's owner, and what it leaves is the owner's.
#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_with_a_full_spool_an_agent_of_roots_goes_on_without_it_too() {
    recover_without_spool("No space left on device", |site| {
        site.stop_agent();
        drop(site.file_systems[0].fill());
        // Whom the agent serves is told by the owner of the cluster's data directory, which was destroyed.
        site.room.make_folder("main");
        site.room.as_made_by_the_system();
        chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
        fs::remove_dir(site.room.join("spool/main")).unwrap();
        let mut command = Command::new(site.room.program("walwardd"));
        command.arg("--config").arg(&site.config).current_dir("/");
        let agent = Daemon::start("walwardd", command, &site.room.join("walwardd.log"), Signal::TERM);
        eventually("the agent answers", Duration::from_secs(30), || UnixStream::connect(&site.socket).ok());
        Some(agent)
    });
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_with_a_read_only_spool_a_recovery_goes_on_without_it() {
    recover_without_spool("Read-only file system", |site| {
        site.file_systems[0].set_read_only(true);
        site.walward(&["check"]).says("FAILED   spool");
        None
    });
}

/// Two files of this recovery and a half fit: what is brought ahead leaves room for the one that is asked for.
#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_prefetch_never_takes_the_room_of_the_file_that_is_asked_for() {
    let (site, mut restored, expected) = site_with_restore_on(2);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    let log = site.agent.as_ref().unwrap().log();
    assert!(!log.contains("No space left on device"), "{log}");
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_with_an_unmounted_spool_a_recovery_stops_or_goes_on_but_never_ends_early() {
    let (site, mut restored, expected) = site_with_restore();
    site.file_systems[0].take_away();
    if restored.start_and_see(&site.room, Duration::from_mins(1)) == Ended::Stopped {
        restored.assert_logged("FATAL");
        site.file_systems[0].bring_back();
        restored.start(&site.room);
    }
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_a_spool_smaller_than_the_prefetch_only_slows_a_recovery_down() {
    // 8 MiB, and the configuration lets the prefetch take 1 GiB.
    let (site, mut restored, expected) = site_with_restore();
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}
