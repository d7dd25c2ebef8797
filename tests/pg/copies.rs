//! A copy is not its original: what the configuration of the one says does not rule the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::support::{Cluster, Outcome, Site, SiteOptions, eventually};

/// `walward restore` into `target` with `arguments`, and no word about archiving.
fn restore(site: &Site, target: &Path, arguments: &[&str]) -> Outcome {
    let mut all = vec!["--cluster", "main", "--yes", "restore", "--target-directory", target.to_str().unwrap()];
    all.extend(arguments);
    site.walward(&all)
}

#[test]
fn a_copy_runs_on_its_own_files_acts_for_nobody_and_archives_nothing() {
    let mut site = Site::prepare(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let data = site.cluster.data.clone();
    let folder = site.room.join("touched");
    let touched = |name: &str| folder.join(name);
    let touch = |name: &str| format!("touch {}", touched(name).display());
    site.room.make_folder("touched");
    site.cluster.set("external_pid_file", touched("main.pid").to_str().unwrap());
    site.cluster.set("hba_file", data.join("pg_hba.conf").to_str().unwrap());
    site.cluster.set("recovery_end_command", &touch("ended"));
    site.cluster.set("archive_cleanup_command", &touch("cleaned"));
    site.cluster.set("cluster_name", "the original");
    fs::write(
        data.join("more.conf"),
        format!("data_directory = '{}'\nrecovery_min_apply_delay = '1h'\n", data.display()),
    )
    .unwrap();
    let conf = data.join("postgresql.conf");
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + "include 'more.conf'\n").unwrap();
    site.cluster.start(&site.room);
    site.start_agent();
    let (room, cluster) = (&site.room, &site.cluster);
    let pid = fs::read_to_string(touched("main.pid")).unwrap();
    cluster.sql(room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    cluster.sql(room, "insert into t values (1)");
    let segment = cluster.switch_wal(room);
    cluster.wait_archived(room, &segment);

    let target = room.join("copy");
    let plan = restore(&site, &target, &["--dry-run"]).expect(0);
    let plan = plan.says("more.conf: data_directory").says("cluster_name").says("archiving     off");
    let outcome = restore(&site, &target, &[]).expect(0);
    for name in ["recovery_end_command", "archive_cleanup_command", "recovery_min_apply_delay", "external_pid_file"] {
        assert!(plan.stdout.contains(name) && outcome.stderr.contains(name), "{name}: {}", outcome.stderr);
    }
    let mut copy = Cluster::adopt(room, "copy", &cluster.version, target);
    copy.start(room);
    site.wait_promoted(&copy);
    let shows = |setting: &str| copy.sql(room, &format!("show {setting}"));
    assert_eq!(shows("data_directory"), copy.data.to_str().unwrap());
    assert_eq!(shows("hba_file"), copy.data.join("pg_hba.conf").to_str().unwrap());
    assert_eq!(shows("archive_mode"), "off");
    assert_eq!(copy.sql(room, "select count(*) from t"), "1");
    assert!(!touched("ended").exists() && !touched("cleaned").exists());
    assert_eq!(fs::read_to_string(touched("main.pid")).unwrap(), pid);
    assert_eq!(cluster.sql(room, "select pg_is_in_recovery()"), "f", "the original runs on");
    let left = fs::read_to_string(copy.data.join("postgresql.auto.conf")).unwrap();
    assert!(left.contains("recovery_end_command = ''") && !left.contains("wal recovered"), "{left}");
}

#[test]
fn a_pg_wal_that_was_a_link_is_told_of_and_goes_where_it_is_told() {
    let mut site = Site::prepare(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let (wal, outside) = (site.cluster.data.join("pg_wal"), site.room.join("wal"));
    fs::rename(&wal, &outside).unwrap();
    symlink(&outside, &wal).unwrap();
    site.cluster.start(&site.room);
    site.start_agent();
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.switch_wal(&site.room);

    let target = site.room.join("copy");
    restore(&site, &target, &["--dry-run"]).expect(0).says("pg_wal was a link to").says("--waldir");
    let place = site.room.join("wal-of-copy");
    let inside = target.join("wal");
    restore(&site, &target, &["--waldir", inside.to_str().unwrap()]).expect(16).says("it lies in the data directory");
    restore(&site, &target, &["--waldir", outside.to_str().unwrap()]).expect(16).says("is not empty");
    restore(&site, &target, &["--waldir", place.to_str().unwrap()]).expect(0);
    assert_eq!(fs::read_link(target.join("pg_wal")).unwrap(), place);
    site.verify_backup(&target);
    let mut copy = Cluster::adopt(&site.room, "copy", &site.cluster.version, target);
    copy.start(&site.room);
    site.wait_promoted(&copy);
    assert!(place.join("archive_status").is_dir());
    let note = place.join("walward.recovery.json");
    eventually("the settings of the recovery are gone", Duration::from_mins(1), || (!note.exists()).then_some(()));
}
