//! The agent killed with SIGKILL at moments that nobody chose.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{assert_archived, chance, drain, options, rounds, write_segments};
use crate::support::{Site, StoreKind};

fn pause(chance: &mut StdRng, milliseconds_max: u64) {
    std::thread::sleep(Duration::from_millis(chance.random_range(0..=milliseconds_max)));
}

fn killed_under_load(store: StoreKind) {
    let (rounds, mut chance) = (rounds(10, 100), chance());
    let mut site = Site::start(options(store));
    site.cluster.pgbench(&site.room, &["--initialize", "--scale=2", "--quiet"]);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let forever = "--time=100000";
    let mut load = site.cluster.pgbench_in_background(&site.room, &["--client=2", "--no-vacuum", forever]);
    for round in 0..rounds {
        // pgbench alone fills a small segment in a second or so: some switches on top.
        for _ in 0..chance.random_range(1..6) {
            site.cluster.switch_wal(&site.room);
        }
        pause(&mut chance, 400);
        site.agent.take().unwrap().kill();
        pause(&mut chance, 300);
        site.start_agent();
        assert!(load.ended().is_none(), "pgbench ended in round {round}\n{}", load.log());
    }
    load.signal(Signal::TERM);
    load.wait(Duration::from_secs(30));
    drain(&site, &site.cluster, Duration::from_mins(2));
    let archived = assert_archived(&site, &site.cluster);
    assert!(archived > rounds as usize, "only {archived} files were archived in {rounds} rounds");

    let tables = ["pgbench_accounts", "pgbench_history", "pgbench_tellers", "pgbench_branches"];
    let expected = site.cluster.fingerprint(&site.room, &tables);
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &tables), expected);
}

#[test]
fn an_agent_killed_at_random_moments_under_load_loses_nothing_on_a_disk() {
    killed_under_load(StoreKind::File);
}

#[test]
fn an_agent_killed_at_random_moments_under_load_loses_nothing_on_s3() {
    killed_under_load(StoreKind::S3);
}

#[test]
fn a_backup_whose_process_was_killed_holds_the_next_one_of_its_host_up_by_nothing() {
    let site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 100000) as id");
    let leases = || site.walward(&["--json", "lease", "list"]).expect(0).json()["leases"].clone();
    // It may be done before it is seen.
    for _ in 0..10 {
        let mut backup = site.walward_command(&["backup", "--no-agent"]).spawn().expect("a backup");
        while backup.try_wait().expect("its state").is_none() && leases()[0]["state"] != "held" {}
        backup.kill().expect("killed");
        backup.wait().expect("ended");
        if leases()[0]["state"] == "holder_gone" {
            break;
        }
    }
    let seen = leases();
    assert_eq!(seen[0]["state"], "holder_gone", "{seen}");
    site.walward(&["lease", "list"]).expect(0).says("its process has ended");
    site.walward(&["backup"]).expect(0);
    assert_eq!(leases()[0]["state"], "released");
    site.walward(&["--yes", "lease", "break"]).expect(0).says("no lease is held");
}

#[test]
fn an_agent_killed_during_a_recovery_never_ends_it_early() {
    let (rounds, mut chance) = (rounds(4, 30), chance());
    let mut site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 60);
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();
    for round in 0..rounds {
        let mut restored = site.restore(&format!("restored{round}"), &[]);
        restored.spawn(&site.room);
        for _ in 0..4 {
            pause(&mut chance, 500);
            site.agent.take().unwrap().kill();
            pause(&mut chance, 500);
            site.start_agent();
        }
        if !restored.runs() {
            // It could not know, and stopped; it goes on from where it was.
            restored.wait_stopped_if_running();
            restored.assert_logged("FATAL");
            restored.start(&site.room);
        }
        site.wait_promoted(&restored);
        assert_eq!(restored.fingerprint(&site.room, &["t"]), expected, "round {round}");
    }
}
