//! Rounds of random work, each ended by a backup of a random type; whichever of them is restored then is as the cluster was.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::{Cluster, ClusterOptions, Site, SiteOptions, Stop, Version};

/// Rounds of a normal run.
const ROUNDS: usize = 30;
const TABLES: usize = 5;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What every table and database holds.
fn state(site: &Site, cluster: &Cluster) -> String {
    let names = cluster.sql(
        &site.room,
        "select oid::regclass from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and relpersistence = 'p' order by 1",
    );
    let names: Vec<&str> = names.lines().filter(|name| !name.is_empty()).collect();
    let databases = cluster.sql(&site.room, "select datname from pg_database order by 1");
    format!("{}\n{databases}", cluster.fingerprint(&site.room, &names))
}

/// One piece of work. What cannot be done now (a table that is not there) is an error that nobody minds.
fn work(random: &mut StdRng, site: &mut Site) {
    let major = site.cluster.version.major;
    let table = format!("t{}", random.random_range(0..TABLES));
    let (low, count) = (random.random_range(0..20_000u32), random.random_range(1..3_000u32));
    let high = low + count;
    let pad = random.random_range(1..900u32);
    let sql = match random.random_range(0..22) {
        0..=2 => format!(
            "insert into {table} select n, repeat(md5(n::text), {pad} / 32 + 1) from generate_series({low}, {high}) n"
        ),
        3..=5 => format!("update {table} set what = 'changed {count}' where id between {low} and {high}"),
        6..=7 => format!("delete from {table} where id between {low} and {high}"),
        8 => format!("delete from {table} where id > {low}"),
        9..=10 => format!("vacuum {table}"),
        11 => format!("vacuum full {table}"),
        12 => format!("truncate {table}"),
        13 => format!("drop table {table}"),
        14..=15 => format!("create table {table} (id int, what text)"),
        16 => format!("create index on {table} using {} (id)", ["btree", "hash", "brin"].choose(random).unwrap()),
        17 => {
            let kind = ["unlogged", "temporary"].choose(random).unwrap();
            format!("create {kind} table other{count} as select generate_series(1, {count}) as id")
        }
        18 => {
            let strategy = match random.random_range(0..2) {
                0 if major >= 15 => " strategy file_copy",
                _ if major >= 15 => " strategy wal_log",
                _ => "",
            };
            format!("create database d{}{strategy}", count % 3)
        }
        19 => format!("drop database d{}", count % 3),
        20 => format!("begin; insert into {table} select n, 'undone' from generate_series({low}, {high}) n; rollback"),
        _ => {
            site.cluster.stop(Stop::Kill);
            site.cluster.start(&site.room);
            "checkpoint".to_owned()
        }
    };
    let _ = site.cluster.try_sql(&site.room, &sql);
}

#[test]
fn after_rounds_of_random_work_any_backup_is_restored_as_the_cluster_was() {
    let rounds = usize::try_from(number("WALWARD_TEST_ROUNDS", ROUNDS as u64)).expect("few");
    let seed = number("WALWARD_TEST_SEED", 1);
    let mut random = StdRng::seed_from_u64(seed);
    let settings = vec![("autovacuum".to_owned(), "off".to_owned())];
    let cluster = ClusterOptions { segment_mib: 1, settings };
    let mut site = Site::start(SiteOptions { version: Version::main(), cluster, ..SiteOptions::default() });
    let mut taken: Vec<(String, String)> = Vec::new();
    let mut kinds = String::new();
    for round in 0..rounds {
        for _ in 0..random.random_range(1..12) {
            work(&mut random, &mut site);
        }
        let kind = match round {
            0 => "full",
            _ => ["full", "diff", "incr", "incr", "incr", "auto"].choose(&mut random).unwrap(),
        };
        let outcome = site.walward(&["--cluster", "main", "--json", "backup", "--type", kind]).expect(0);
        let report = outcome.json_lines().pop().expect("a line")["backup"].clone();
        let label = report["label"].as_str().expect("a label").to_owned();
        write!(kinds, " {}", report["type"].as_str().expect("a type")).expect("memory");
        // Nothing was written since the backup began.
        taken.push((label, state(&site, &site.cluster)));
        let (label, expected) = taken.choose(&mut random).expect("some").clone();
        let name = format!("round{round}");
        let mut restored = site.restore(&name, &["--backup", &label, "--target-immediate"]);
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(state(&site, &restored), expected, "seed {seed}, round {round}, {label}, after{kinds}");
        site.amcheck(&restored);
        restored.stop(Stop::Immediate);
        std::fs::remove_dir_all(&restored.data).expect("removed");
    }
    println!("seed {seed}:{kinds}");
    assert!(kinds.contains("incr"), "{kinds}");
}
