//! A copy is not its original: what the configuration of the one says does not rule the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::support::{Cluster, ClusterOptions, Outcome, Site, SiteOptions, Stop, eventually};

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
    // In the file only: the original would wait for it, too.
    cluster.set("synchronous_standby_names", "db2");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    cluster.sql(room, "insert into t values (1)");
    let segment = cluster.switch_wal(room);
    cluster.wait_archived(room, &segment);

    let target = room.join("copy");
    let plan = restore(&site, &target, &["--dry-run"]).expect(0);
    let plan = plan.says("more.conf: data_directory").says("cluster_name").says("archiving     off");
    let outcome = restore(&site, &target, &[]).expect(0);
    for name in [
        "recovery_end_command",
        "archive_cleanup_command",
        "recovery_min_apply_delay",
        "external_pid_file",
        "synchronous_standby_names",
    ] {
        assert!(plan.stdout.contains(name) && outcome.stderr.contains(name), "{name}: {}", outcome.stderr);
    }
    let mut copy = Cluster::adopt(room, "copy", &cluster.version, target);
    copy.start(room);
    site.wait_promoted(&copy);
    let shows = |setting: &str| copy.sql(room, &format!("show {setting}"));
    assert_eq!(shows("data_directory"), copy.data.to_str().unwrap());
    assert_eq!(shows("hba_file"), copy.data.join("pg_hba.conf").to_str().unwrap());
    assert_eq!(shows("archive_mode"), "off");
    assert_eq!(shows("synchronous_standby_names"), "");
    copy.sql(room, "create table of_the_copy ()");
    assert_eq!(copy.sql(room, "select count(*) from t"), "1");
    assert!(!touched("ended").exists() && !touched("cleaned").exists());
    assert_eq!(fs::read_to_string(touched("main.pid")).unwrap(), pid);
    assert_eq!(cluster.sql(room, "select pg_is_in_recovery()"), "f", "the original runs on");
    let left = fs::read_to_string(copy.data.join("postgresql.auto.conf")).unwrap();
    assert!(left.contains("recovery_end_command = ''") && !left.contains("wal recovered"), "{left}");
}

#[test]
fn a_copy_leaves_the_originals_subscriptions_to_the_original_until_a_person_says_otherwise() {
    let mut site = Site::prepare(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let settings = vec![("wal_level".to_owned(), "logical".to_owned())];
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let mut publisher = Cluster::create(&site.room, "publisher", &site.cluster.version, &options);
    publisher.start(&site.room);
    publisher.sql(&site.room, "create table orders (n int primary key)");
    publisher.sql(&site.room, "create publication p for table orders");
    // How often a worker that got no slot asks for it again.
    site.cluster.set("wal_retrieve_retry_interval", "200ms");
    site.cluster.start(&site.room);
    site.start_agent();
    let subscribe = format!("create subscription s connection '{}' publication p", publisher.connection("postgres"));
    site.cluster.sql(&site.room, "create table orders (n int primary key)");
    site.cluster.sql(&site.room, &subscribe);
    publisher.sql(&site.room, "insert into orders values (1)");
    let room = &site.room;
    let orders = |cluster: &Cluster| cluster.sql(room, "select string_agg(n::text, ',' order by n) from orders");
    let follows = |cluster: &Cluster, all: &str| {
        eventually("the changes arrive", Duration::from_mins(2), || (orders(cluster) == all).then_some(()));
    };
    let is_taken = || publisher.sql(room, "select active from pg_replication_slots where slot_name = 's'") == "t";
    follows(&site.cluster, "1");
    site.walward(&["--cluster", "main", "backup"]).expect(0);

    let target = room.join("copy");
    restore(&site, &target, &["--dry-run"]).expect(0).says("subscriptions not followed");
    let told = restore(&site, &target, &[]).expect(0);
    told.says("a restart: max_logical_replication_workers, archive_mode");
    let mut copy = Cluster::adopt(room, "copy", &site.cluster.version, target);
    copy.start(room);
    site.wait_promoted(&copy);
    assert_eq!(copy.sql(room, "select subname from pg_subscription where subenabled"), "s");
    let note = copy.data.join("walward.recovery.json");
    eventually("the settings of the recovery are gone", Duration::from_mins(1), || (!note.exists()).then_some(()));

    // The original is away for a moment, as for an update, and the slot is free.
    site.cluster.stop(Stop::Fast);
    eventually("the slot is free", Duration::from_mins(1), || (!is_taken()).then_some(()));
    copy.stop(Stop::Fast);
    copy.start(room);
    publisher.sql(room, "insert into orders values (2), (3)");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        assert!(!is_taken(), "the copy takes the original's changes");
    }
    site.cluster.start(&site.room);
    follows(&site.cluster, "1,2,3");
    assert_eq!(orders(&copy), "1");

    // The copy takes the place of the original, also in the configuration, and is told what it does not do yet.
    site.cluster.stop(Stop::Fast);
    let moved = site.config_text().replace(site.cluster.data.to_str().unwrap(), copy.data.to_str().unwrap());
    let moved = moved.replace(&site.cluster.connection("postgres"), &copy.connection("postgres"));
    let config = room.write("moved.toml", moved);
    let subscriptions = || {
        let mut check = room.command(room.program("walward"));
        let outcome = Outcome::of(check.arg("--config").arg(&config).args(["--json", "--cluster", "main", "check"]));
        let found = outcome.json()["checks"].as_array().unwrap().clone();
        found.into_iter().find(|check| check["check"] == "subscriptions")
    };
    let told = subscriptions().expect("it is told").to_string();
    assert!(told.contains("1 enabled, and none is followed") && told.contains("ALTER SYSTEM RESET"), "{told}");
    copy.sql(room, "alter system reset max_logical_replication_workers");
    copy.stop(Stop::Fast);
    copy.start(room);
    publisher.sql(room, "insert into orders values (4)");
    eventually("the copy has the slot", Duration::from_mins(1), || is_taken().then_some(()));
    assert_eq!(subscriptions(), None);
    eventually("the changes arrive", Duration::from_mins(2), || orders(&copy).ends_with(",4").then_some(()));
}

#[test]
fn no_part_of_a_restore_is_put_into_data_a_repository_or_the_spool() {
    let mut site = Site::prepare(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let space = site.room.make_folder("space");
    // Another cluster, whose data directory the configuration names by a link.
    let (second, link) = (site.room.join("second"), site.room.join("to-second"));
    let configured = format!(
        "{}\n[cluster.second]\ndata_directory = {link:?}\nconnection = \"host=/nowhere\"\nrepositories = [\"store\"]\n",
        site.config_text()
    );
    site.write_config(&configured);
    Cluster::create(&site.room, "second", &site.cluster.version, &ClusterOptions::default());
    symlink(&second, &link).unwrap();
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, &format!("create tablespace fast location '{}'", space.display()));
    site.cluster.sql(&site.room, "create table t (id int) tablespace fast");
    site.walward(&["--cluster", "main", "backup"]).expect(0);

    let (copy, fast) = (site.room.join("copy"), site.room.join("fast"));
    let moved = |to: &Path| format!("fast={}", to.display());
    let to_main = site.room.join("to-main");
    symlink(&site.cluster.data, &to_main).unwrap();
    let folders = ["main", "to-main", "second", "to-second", "space", "repository", "repository/main", "spool"];
    for folder in folders.map(|folder| site.room.join(folder)) {
        let inside = folder.join("restored");
        let (elsewhere, here) = (moved(&fast), moved(&inside));
        let says = |outcome: Outcome| outcome.expect(16).says("lies in").says("their files would be mixed");
        says(restore(&site, &inside, &["--tablespace-map", &elsewhere]));
        says(restore(&site, &copy, &["--tablespace-map", &here]));
        says(restore(&site, &copy, &["--tablespace-map", &elsewhere, "--waldir", inside.to_str().unwrap()]));
        assert!(!inside.exists() && !copy.exists() && !fast.exists(), "{}", inside.display());
    }
    restore(&site, &copy, &["--tablespace-map", &moved(&fast)]).expect(0);
    // In its place it is as ever.
    site.stop_agent();
    site.cluster.stop(Stop::Fast);
    for folder in [&site.cluster.data, &space] {
        fs::remove_dir_all(folder).unwrap();
        site.room.make_folder(folder.file_name().unwrap().to_str().unwrap());
    }
    let outcome = site.walward(&["--cluster", "main", "--yes", "restore"]);
    assert!([0, 3].contains(&outcome.code), "{outcome:?}");
    assert!(site.cluster.data.join("global/pg_control").exists() && site.cluster.data.join("pg_tblspc").is_dir());
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
