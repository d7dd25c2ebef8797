//! How a recovery ends: by promotion when the archive has truly ended, by FATAL when that cannot be known.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Cluster, Ended, Site, SiteOptions, Stop, StoreKind};

/// A site with a backup and three segments after it, the original stopped; a restore to "latest", not started.
fn site_with_restore(store: StoreKind) -> (Site, Cluster, String) {
    let mut site = Site::start(SiteOptions {
        store,
        // A recovery that cannot know shall not take minutes to say so.
        cluster_settings: "fetch.deadline = \"4s\"\n".to_owned(),
        repository_settings: "limits.request_timeout = \"2s\"\nlimits.retry_deadline = \"2s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    for id in 1..=3 {
        site.cluster.sql(&site.room, &format!("insert into t values ({id})"));
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
    }
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();
    let restored = site.restore("restored", &[]);
    (site, restored, expected)
}

#[track_caller]
fn assert_stops(site: &Site, restored: &mut Cluster, what: &str) {
    let ended = restored.start_and_see(&site.room, Duration::from_secs(90));
    let log = restored.log_text();
    if ended == Ended::Serving {
        // Hot standby may serve reads for a moment before the recovery meets the hole.
        restored.wait_stopped(Duration::from_mins(1));
    }
    assert!(log.contains("FATAL") || restored.log_text().contains("FATAL"), "{what}: no FATAL\n{log}");
    for promoted in ["selected new timeline", "archive recovery complete"] {
        assert!(!restored.log_text().contains(promoted), "{what}: it promoted\n{log}");
    }
}

#[track_caller]
fn assert_promotes(site: &Site, restored: &mut Cluster, expected: &str) {
    restored.start(&site.room);
    site.wait_promoted(restored);
    restored.assert_logged("archive recovery complete");
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn a_recovery_whose_archive_has_ended_promotes() {
    let (site, mut restored, expected) = site_with_restore(StoreKind::File);
    assert_promotes(&site, &mut restored, &expected);
}

#[test]
fn without_an_agent_a_recovery_stops_and_goes_on_later() {
    let (mut site, mut restored, expected) = site_with_restore(StoreKind::File);
    site.stop_agent();
    assert_stops(&site, &mut restored, "no agent");
    site.start_agent();
    assert_promotes(&site, &mut restored, &expected);
}

#[test]
fn with_a_wrong_key_a_recovery_stops_and_goes_on_later() {
    let (mut site, mut restored, expected) = site_with_restore(StoreKind::File);
    site.stop_agent();
    let right = fs::read_to_string(site.key_file()).unwrap();
    site.room.write("store.key", format!("walward-key-1:{}\n", "a5".repeat(32)));
    site.start_agent();
    assert_stops(&site, &mut restored, "wrong key");
    site.stop_agent();
    site.room.write("store.key", right);
    site.start_agent();
    assert_promotes(&site, &mut restored, &expected);
}

#[test]
fn with_a_store_that_hangs_a_recovery_stops_and_goes_on_later() {
    let (site, mut restored, expected) = site_with_restore(StoreKind::S3);
    let s3 = site.s3.as_ref().unwrap();
    s3.freeze();
    assert_stops(&site, &mut restored, "a store that hangs");
    s3.thaw();
    assert_promotes(&site, &mut restored, &expected);
}

#[test]
fn with_a_store_that_is_gone_a_recovery_stops() {
    let (mut site, mut restored, _) = site_with_restore(StoreKind::S3);
    drop(site.s3.take());
    assert_stops(&site, &mut restored, "a store that refuses connections");
}

#[test]
fn with_the_repositorys_folder_gone_a_recovery_stops_and_goes_on_later() {
    // As when the file system of the repository is not mounted.
    let (site, mut restored, expected) = site_with_restore(StoreKind::File);
    let folder = site.repository_folder();
    let away = site.room.join("repository.away");
    fs::rename(&folder, &away).unwrap();
    assert_stops(&site, &mut restored, "no repository");
    fs::rename(&away, &folder).unwrap();
    assert_promotes(&site, &mut restored, &expected);
}

/// By hand, without `walward restore` and its plan: a cold copy, `recovery.signal`, and a restore_command. The archive has the WAL of
/// timeline 2 and not its history. Told that there is none, PostgreSQL would promote at the end of timeline 1.
#[test]
fn by_hand_a_recovery_to_latest_stops_where_a_history_is_gone_and_the_wal_of_its_timeline_is_not() {
    let mut site = Site::start(SiteOptions::default());
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let copy = site.room.join("copy");
    let mut take = site.room.command(site.cluster.version.program("pg_basebackup"));
    take.args(["--checkpoint=fast", "--wal-method=none", "-d", &site.cluster.connection("postgres"), "-D"]).arg(&copy);
    site.room.run(&mut take);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    // The server goes over to timeline 2, and writes most of its rows there.
    site.cluster.stop(Stop::Fast);
    let signal = site.room.write("main/standby.signal", "");
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "select pg_promote()");
    site.wait_promoted(&site.cluster);
    assert!(!signal.exists());
    site.cluster.sql(&site.room, "insert into t select generate_series(1001, 6001)");
    let segment = site.cluster.switch_wal(&site.room);
    assert!(segment.starts_with("00000002"), "{segment}");
    site.cluster.wait_archived(&site.room, &segment);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();

    let history = walk(&site.repository_folder()).into_iter().find(|path| path.ends_with("00000002.history"));
    let history = history.expect("the archive has the history");
    let away = site.room.join("away.history");
    fs::rename(&history, &away).unwrap();
    let mut restored = Cluster::adopt(&site.room, "copy", &site.cluster.version, copy);
    let client = site.room.program("walward-wal");
    restored.set("archive_mode", "off");
    // Nothing but the two lines of the README and the cluster's name.
    let command = format!("{} --socket {} --cluster main fetch %f %p", client.display(), site.socket.display());
    restored.set("restore_command", &command);
    site.room.write("copy/recovery.signal", "");
    assert_stops(&site, &mut restored, "a history that is gone");
    assert!(site.room.join("copy/recovery.signal").exists(), "the recovery has not ended");
    // With the history it goes the whole way.
    fs::rename(&away, &history).unwrap();
    assert_promotes(&site, &mut restored, &expected);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn with_a_damaged_segment_a_recovery_stops() {
    let (site, mut restored, _) = site_with_restore(StoreKind::File);
    let mut segments = site.stored_segments();
    segments.sort();
    let last = segments.last().expect("a segment");
    let mut bytes = fs::read(last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(last, bytes).unwrap();
    assert_stops(&site, &mut restored, "a damaged segment");
}
