//! How a recovery ends: by promotion when the archive has truly ended, by FATAL when that cannot be known.

use std::fs;
use std::time::Duration;

use crate::support::{Cluster, Ended, Site, SiteOptions, StoreKind};

/// A site with a backup and three segments behind it, the original stopped; a restore to "latest", not started.
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
