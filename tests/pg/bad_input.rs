//! What wrong input gets: an exit code from the documented list, and a message that says what to do.

use std::fs;
use std::time::Duration;

use crate::support::{Cluster, Ended, Site, SiteOptions, StoreKind};

/// A site with one backup.
fn site_with_backup() -> Site {
    let site = Site::start(SiteOptions::default());
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site
}

#[test]
fn a_wrong_configuration_is_refused_with_the_line_and_a_suggestion() {
    let site = Site::prepare(SiteOptions::default());
    let right = site.config_text();
    let cases = [
        (right.replace("data_directory", "data_directoy"), "data_directory"),
        (right.replace("repositories = [\"store\"]", "repositories = [\"stor\"]"), "store"),
        (right.replace("[cluster.main]", "[clusters.main]"), "cluster"),
        (format!("{right}archive.deadline = \"soon\"\n"), "archive.deadline"),
        (format!("{right}archive.workers = 0\n"), "archive.workers"),
        (right.replace("url = \"file://", "url = \"ftp://"), "url"),
        (right.replace("socket =", "socket"), "walward.toml:"),
        (right.lines().filter(|line| !line.starts_with("encryption")).collect::<Vec<_>>().join("\n"), "encryption"),
    ];
    for (text, says) in cases {
        assert_ne!(text, right, "{says}: the case changes nothing");
        site.write_config(&text);
        let outcome = site.walward(&["config", "check"]).says(says);
        assert!([1, 2].contains(&outcome.code), "{says}: {}\n{}", outcome.code, outcome.stderr);
        let agent = crate::support::Outcome::of(
            site.room.command(site.room.program("walwardd")).arg("--config").arg(&site.config),
        );
        assert!(agent.code > 0, "{says}: the agent started");
    }
    site.write_config(&right);
    site.walward(&["config", "check"]).expect(0);
}

#[test]
fn a_missing_configuration_cluster_or_repository_is_named() {
    let site = Site::prepare(SiteOptions::default());
    let outcome = site.walward(&["--cluster", "mian", "info"]).says("mian");
    assert!([2, 14].contains(&outcome.code), "{}", outcome.code);
    fs::remove_file(&site.config).unwrap();
    let outcome = site.walward(&["info"]).says("walward.toml");
    assert!([1, 2].contains(&outcome.code), "{}", outcome.code);
}

#[test]
fn a_wrong_or_missing_key_is_told_from_everything_else() {
    let mut site = site_with_backup();
    site.stop_agent();
    let key = site.key_file();
    let right = fs::read_to_string(&key).unwrap();
    let refused = |what: &str| {
        for arguments in [
            &["--cluster", "main", "info"][..],
            &["--cluster", "main", "restore", "--yes", "--target-directory", "never"],
            &["--cluster", "main", "wal", "list"],
        ] {
            let outcome = site.walward(arguments);
            assert_eq!(outcome.code, 12, "{what}: {arguments:?}\n{}{}", outcome.stdout, outcome.stderr);
            assert!(!outcome.stderr.contains(right.trim()), "{what}: the key is shown");
        }
        assert!(!site.room.join("never").exists());
    };
    site.room.write("store.key", format!("walward-key-1:{}\n", "a5".repeat(32)));
    refused("another key");
    site.room.write("store.key", "not a key\n");
    refused("not a key");
    fs::remove_file(&key).unwrap();
    refused("no key");
}

#[test]
fn a_key_that_others_can_read_is_refused_or_warned_about() {
    let mut site = site_with_backup();
    site.stop_agent();
    let text = fs::read_to_string(site.key_file()).unwrap();
    site.room.write_with_mode("store.key", text, 0o644);
    let outcome = site.walward(&["--cluster", "main", "info"]);
    assert!(outcome.stderr.contains("store.key"), "{}", outcome.stderr);
}

#[test]
fn a_repository_of_a_newer_format_is_refused() {
    let mut site = site_with_backup();
    site.stop_agent();
    let folder = site.repository_folder().join("main").join("cluster");
    let newest = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let text = fs::read_to_string(&newest).unwrap();
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert_ne!(newer, text, "{text}");
    fs::write(&newest, newer).unwrap();
    let outcome = site.walward(&["--cluster", "main", "info"]);
    assert!([10, 15, 16].contains(&outcome.code), "{} {}", outcome.code, outcome.stderr);
    let outcome = site.client(&["--cluster", "main", "fetch", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]);
    assert_eq!(outcome.code, 255, "{}", outcome.stderr);
}

#[test]
fn a_folder_with_something_in_it_and_a_running_server_are_left_alone() {
    let site = site_with_backup();
    let folder = site.room.make_folder("full");
    let file = site.room.write("full/precious", "do not touch");
    let restore = |target: &std::path::Path| {
        site.walward(&["--cluster", "main", "restore", "--yes", "--target-directory", target.to_str().unwrap()])
    };
    restore(&folder).expect(16).says("empty");
    assert_eq!(fs::read_to_string(&file).unwrap(), "do not touch");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

    let before = site.cluster.fingerprint(&site.room, &["t"]);
    restore(&site.cluster.data).expect(16);
    assert_eq!(site.cluster.fingerprint(&site.room, &["t"]), before);

    let below_a_file = file.join("data");
    restore(&below_a_file).expect(16).says("precious");
}

#[test]
fn a_half_restored_cluster_does_not_start_and_the_restore_goes_on_later() {
    let site = site_with_backup();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let backup = fs::read_dir(site.repository_folder().join("main/backup")).unwrap().next().unwrap().unwrap().path();
    let last = fs::read_dir(backup.join("pack")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let away = site.room.join("pack.away");
    fs::rename(&last, &away).unwrap();
    let target = site.room.join("half");
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
    site.walward(&arguments).expect(14);
    assert!(fs::read_dir(&target).unwrap().count() > 3, "nothing was restored, which proves nothing");
    assert!(!target.join("global/pg_control").exists());
    let mut half = Cluster::adopt(&site.room, "half", &site.cluster.version, target.clone());
    assert_eq!(half.start_and_see(&site.room, Duration::from_mins(1)), Ended::Stopped, "{}", half.log_text());

    fs::rename(&away, &last).unwrap();
    site.walward(&arguments).expect(0);
    half.start(&site.room);
    site.wait_promoted(&half);
    assert_eq!(half.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn nothing_to_restore_from_is_said() {
    let site = Site::start(SiteOptions::default());
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let target = site.room.join("never");
    let outcome = site
        .walward(&["--cluster", "main", "restore", "--yes", "--target-directory", target.to_str().unwrap()])
        .expect(14);
    assert!(outcome.stderr.contains("backup"), "{}", outcome.stderr);
    assert!(!target.exists());
}

#[test]
fn an_unreachable_store_has_its_own_code() {
    let mut site = Site::start(SiteOptions {
        store: StoreKind::S3,
        repository_settings: "limits.request_timeout = \"2s\"\nlimits.retry_deadline = \"2s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    drop(site.s3.take());
    for arguments in
        [&["--cluster", "main", "info"][..], &["--cluster", "main", "backup"], &["--cluster", "main", "wal", "list"]]
    {
        let outcome = site.walward(arguments);
        assert_eq!(outcome.code, 13, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    }
}

#[test]
fn wrong_usage_is_two_everywhere() {
    let site = Site::prepare(SiteOptions::default());
    for arguments in [
        &["bakcup"][..],
        &["backup", "--tpye", "full"],
        &["backup", "--type", "fulll"],
        &["restore", "--target-time", "yesterday", "--target-directory", "x"],
        &["wal"],
        &["keys", "bend"],
        &["completions", "basic"],
    ] {
        let outcome = site.walward(arguments).expect(2);
        assert!(outcome.stdout.is_empty(), "{arguments:?}: errors go to standard error");
    }
}

#[test]
fn a_full_disk_fails_a_backup_and_leaves_no_backup_behind() {
    // With the signal ignored a file that grows past the limit fails with EFBIG in the middle of a write, as a full disk does.
    let site = Site::start(SiteOptions::default());
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let mut command = site.room.command("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]);
    command.arg(site.room.program("walward")).arg("--config").arg(&site.config);
    // Without the agent, so that the limit is on the process that writes.
    crate::support::Outcome::of(command.args(["--no-input", "--cluster", "main", "backup", "--no-agent"])).expect(17);
    let info = site.walward(&["--cluster", "main", "--json", "info"]);
    assert!(!info.stdout.contains("-full"), "a broken backup is listed:\n{}", info.stdout);
}
