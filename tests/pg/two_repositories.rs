//! A disk and an object store: one goes away and comes back, is damaged, and is copied to a third.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{ClusterOptions, Mode, S3, Site, SiteOptions, StoreKind, eventually};

/// Segments that are archived while the store is away.
const SEGMENTS: usize = 6;

/// A site with `store` (as `options` say, encrypted) and `disk` (plain, preferred); one of them is enough.
fn two_repositories(options: SiteOptions) -> Site {
    let mut site = Site::prepare(options);
    let disk = site.room.make_folder("disk");
    let text = site
        .config_text()
        .replace("repositories = [\"store\"]", "repositories = [\"disk\", \"store\"]\nacknowledge = 1");
    site.write_config(&format!(
        "{text}\n[repository.disk]\nurl = \"file://{}\"\nencryption = \"none\"\n",
        disk.display()
    ));
    site.set_up("main");
    site.cluster.start(&site.room);
    site.start_agent();
    site
}

fn small_segments() -> ClusterOptions {
    ClusterOptions { segment_mib: 1, ..ClusterOptions::default() }
}

/// What `status` says of a repository's debt.
fn debt(site: &Site, repository: &str) -> Value {
    let status = site.walward(&["--json", "status"]).expect(0).json();
    let repositories = find(&status, "repositories").expect("repositories").as_array().expect("a list").clone();
    let one = repositories.into_iter().find(|one| one["name"] == repository);
    one.expect("the repository")["debt"].clone()
}

fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// The WAL files whose objects lie below `folder`.
fn names(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names(&path, found);
        } else {
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// Every WAL file of the disk is in the other repository, byte for byte.
fn both_hold_the_same(site: &Site, other: &str) -> usize {
    let mut files = BTreeSet::new();
    names(&site.room.join("disk/main/wal"), &mut files);
    let folder = site.room.make_folder("compared");
    for name in &files {
        let fetch = |repository: &str| {
            let place = folder.join(format!("{name}.{repository}"));
            let arguments = ["--cluster", "main", "--repository", repository, "wal", "fetch", name];
            let mut command = site.walward_command(&arguments);
            crate::support::Outcome::of(command.arg(&place)).expect(0);
            fs::read(place).unwrap()
        };
        assert!(fetch("disk") == fetch(other), "{name} differs");
    }
    files.len()
}

#[test]
fn one_repository_goes_away_and_what_it_missed_is_brought_to_it() {
    let mut site = two_repositories(SiteOptions {
        store: StoreKind::S3,
        proxied: true,
        cluster: small_segments(),
        repository_settings: "limits.request_timeout = \"2s\"\nlimits.retry_deadline = \"2s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    site.cluster.pgbench(&site.room, &["-i", "-q", "-s", "1"]);
    let load = site.cluster.pgbench_in_background(&site.room, &["-n", "-c", "1", "-T", "600", "-R", "50"]);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);

    // Nothing of what is sent arrives, not even later.
    site.proxy.as_ref().unwrap().set(Mode::BlackHole);
    for number in 0..SEGMENTS {
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
        if number == SEGMENTS / 2 {
            eventually("the debt is seen", Duration::from_mins(1), || {
                (debt(&site, "store")["files"].as_u64().unwrap() > 0).then_some(())
            });
            site.walward(&["check"]).says("archived elsewhere and not here");
            // What it remembers is gone with it.
            site.stop_agent();
            site.start_agent();
        }
    }
    drop(load);
    // Otherwise the last of them arrives by itself when the store is back.
    eventually("what was archived since is owed", Duration::from_mins(1), || {
        (debt(&site, "store")["files"].as_u64().unwrap() >= (SEGMENTS - SEGMENTS / 2 - 1) as u64).then_some(())
    });
    // PostgreSQL recycles what it was told is archived; the debt does not depend on it.
    site.cluster.sql(&site.room, "checkpoint");

    site.proxy.as_ref().unwrap().set(Mode::Pass);
    let paid = eventually("the debt is paid", Duration::from_mins(6), || {
        let (store, disk) = (debt(&site, "store"), debt(&site, "disk"));
        let even = |debt: &Value| debt["files"] == 0 && debt["compared"].is_string();
        (even(&store) && even(&disk)).then(|| store["paid_total"].as_u64().unwrap())
    });
    assert!(paid >= SEGMENTS as u64, "only {paid} files were brought");
    assert!(both_hold_the_same(&site, "store") > SEGMENTS);
    site.walward(&["check"]).expect(3).says("there is none yet");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.walward(&["--json", "check"]).expect_healthy();
}

#[test]
fn a_restore_takes_what_is_damaged_in_one_repository_from_the_next_and_says_so() {
    let mut site = two_repositories(SiteOptions { cluster: small_segments(), ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 50000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let backups = site.room.join("disk/main/backup");
    let label = fs::read_dir(backups).unwrap().next().unwrap().unwrap().path();
    let pack = label.join("pack/00000");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();

    site.destroy();
    let target = site.room.join("restored");
    let arguments = [
        "--cluster",
        "main",
        "restore",
        "--yes",
        "--archive-mode",
        "off",
        "--target-directory",
        target.to_str().unwrap(),
    ];
    let outcome = site
        .walward(&arguments)
        .expect(3)
        .says("pack 0 of backup ")
        .says("was restored after a failure")
        .says("repository disk");
    assert!(outcome.stderr.contains("warning:"), "{}", outcome.stderr);
    site.verify_backup(&target);
    let mut restored = crate::support::Cluster::adopt(&site.room, "restored", &site.cluster.version, target);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn a_restore_leaves_out_a_repository_that_is_away_only_where_the_others_must_have_everything() {
    let mut site = two_repositories(SiteOptions { cluster: small_segments(), ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let held = |folder: std::path::PathBuf| {
        let mut found = BTreeSet::new();
        names(&folder.join("main/wal"), &mut found);
        found
    };
    eventually("both have it", Duration::from_mins(1), || {
        let (disk, store) = (held(site.room.join("disk")), held(site.repository_folder()));
        (disk == store && disk.contains(&segment)).then_some(())
    });
    let disk = site.room.join("disk");
    fs::rename(&disk, site.room.join("away")).unwrap();
    // A backup goes everywhere or nowhere, and says how to go on.
    let backups = || fs::read_dir(site.repository_folder().join("main/backup")).unwrap().count();
    site.walward(&["--cluster", "main", "backup"]).expect(1).says("repository \"disk\"").says("--repository: store");
    assert_eq!(backups(), 1);
    site.walward(&["--cluster", "main", "--repository", "store", "backup"]).expect(0);
    assert_eq!(backups(), 2);
    site.destroy();
    let target = site.room.join("restored");
    let arguments = [
        "--cluster",
        "main",
        "restore",
        "--yes",
        "--archive-mode",
        "off",
        "--target-directory",
        target.to_str().unwrap(),
    ];
    // One was enough: what it has, the other may lack.
    site.walward(&arguments).expect(10).says("to go on without it, name another one with --repository: store");
    assert!(!target.exists());
    let text = fs::read_to_string(site.room.join("walward.toml")).unwrap();
    site.write_config(&text.replace("\nacknowledge = 1", ""));
    site.walward(&arguments).expect(3).says("repository \"disk\" is left out").says("take it out of `repositories`");
    site.write_config(&text.replace("[\"disk\", \"store\"]\nacknowledge = 1", "[\"store\"]"));
    site.stop_agent();
    site.start_agent();
    let mut restored = crate::support::Cluster::adopt(&site.room, "restored", &site.cluster.version, target);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn a_new_repository_is_brought_up_to_date_and_can_be_restored_from() {
    let mut site = two_repositories(SiteOptions { cluster: small_segments(), ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 50000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.stop_agent();

    let folder = site.room.make_folder("third");
    let key = site.room.join("third.key");
    let text = fs::read_to_string(site.room.join("walward.toml")).unwrap();
    let text = format!(
        "{text}\n[repository.third]\nurl = \"file://{}\"\nencryption = {{ key_file = {key:?} }}\n",
        folder.display()
    );
    site.write_config(&text);
    // Nobody made it yet.
    fs::copy(site.key_file(), &key).unwrap();
    site.room.give_away(&key);
    site.walward(&["--cluster", "main", "repo", "copy", "disk", "third"]).expect(10).says("walward setup");
    fs::remove_file(&key).unwrap();
    site.write_config(&text.replace("[\"disk\", \"store\"]", "[\"disk\", \"store\", \"third\"]"));
    site.set_up("main");

    let copy = |arguments: &[&str]| {
        let mut all = vec!["--cluster", "main", "--json", "repo", "copy"];
        all.extend(arguments);
        let outcome = site.walward(&all).expect(0);
        let last: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
        (find(&last, "copied").unwrap().as_u64().unwrap(), find(&last, "state").cloned())
    };
    let (files, backup) = copy(&["disk", "third", "--only", "wal"]);
    assert!(files > 2 && backup.is_none());
    let (again, backup) = copy(&["disk", "third"]);
    assert_eq!((again, backup.unwrap()), (0, Value::from("copied")));
    let (again, backup) = copy(&["disk", "third"]);
    assert_eq!((again, backup.unwrap()), (0, Value::from("there")));
    assert!(both_hold_the_same(&site, "third") > 2);
    site.walward(&["--cluster", "main", "repo", "copy", "disk", "disk"]).expect(2);

    // The others are gone for good.
    fs::remove_dir_all(site.room.join("disk")).unwrap();
    fs::remove_dir_all(site.repository_folder()).unwrap();
    site.write_config(&text.replace("[\"disk\", \"store\"]\nacknowledge = 1", "[\"third\"]"));
    site.start_agent();
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

/// One bucket at two endpoints: nothing in the configuration shows that it is one place.
#[test]
fn one_bucket_under_two_endpoints_is_one_copy_and_never_two() {
    const REFUSED: &str = "are one place under two names";
    let options = SiteOptions { store: StoreKind::S3, cluster: small_segments(), ..SiteOptions::default() };
    let mut site = Site::prepare(options);
    let alone = site.config_text();
    let encryption = alone.lines().find(|line| line.starts_with("encryption")).expect("a line");
    let endpoint = site.s3.as_ref().unwrap().endpoint().replace("127.0.0.1", "localhost");
    let mirror = S3::settings_at(&endpoint, "repository");
    let both = alone.replace("repositories = [\"store\"]", "repositories = [\"store\", \"mirror\"]");
    site.write_config(&format!("{both}\n[repository.mirror]\n{mirror}{encryption}\n"));
    site.walward(&["config", "check"]).expect(0);
    site.walward(&["--cluster", "main", "setup"]).expect(16).says(REFUSED);
    site.walward(&["--cluster", "main", "repo", "copy", "store", "mirror"]).expect(16).says(REFUSED);
    site.cluster.start(&site.room);
    site.start_agent();
    let segment = site.cluster.switch_wal(&site.room);
    eventually("the push is refused", Duration::from_mins(1), || {
        site.cluster.log_text().contains(REFUSED).then_some(())
    });
    assert_eq!(site.cluster.sql(&site.room, "select archived_count from pg_stat_archiver"), "0");
    site.walward(&["check"]).expect(1).says("copies (main)");
    site.walward(&["--cluster", "main", "backup"]).expect(16).says(REFUSED);
    site.walward(&["--cluster", "main", "backup", "--no-agent"]).expect(16).says(REFUSED);
    // With one name for one place it goes on.
    site.write_config(&alone);
    site.stop_agent();
    site.start_agent();
    site.cluster.wait_archived(&site.room, &segment);
}
