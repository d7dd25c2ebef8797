//! Incremental backups after what a cluster goes through in its life: promotions, settings that change what is in the WAL, tablespaces and databases
//! that move.

use std::fs;

use serde_json::Value;

use crate::support::{Cluster, ClusterOptions, Outcome, Site, SiteOptions, Stop, Version, on_every_version};

fn site(version: Version, settings: &[(&str, &str)]) -> Site {
    let always = [("autovacuum", "off")];
    let settings = always.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let cluster = ClusterOptions { segment_mib: 1, settings: settings.collect() };
    Site::start(SiteOptions { version, cluster, ..SiteOptions::default() })
}

fn asked(site: &Site, kind: &str) -> Outcome {
    site.walward(&["--cluster", "main", "--json", "backup", "--type", kind])
}

fn report(outcome: &Outcome) -> Value {
    outcome.json_lines().pop().expect("a line")["backup"].clone()
}

fn backup(site: &Site, kind: &str) -> Value {
    let report = report(&asked(site, kind).expect(0));
    assert_eq!(report["type"], kind, "{report}");
    report
}

/// An incremental backup was asked for, and is a full one because of this.
fn is_full_because(site: &Site, why: &str) {
    let report = report(&asked(site, "incr").expect(3));
    assert_eq!((report["type"].as_str(), &report["parent"]), (Some("full"), &Value::Null), "{report}");
    assert!(report["why_full"].as_str().is_some_and(|text| text.contains(why)), "{report}");
}

fn tables(site: &Site, cluster: &Cluster) -> String {
    let names = cluster.sql(
        &site.room,
        "select oid::regclass from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1",
    );
    let names: Vec<&str> = names.lines().filter(|name| !name.is_empty()).collect();
    cluster.fingerprint(&site.room, &names)
}

fn archive_all(site: &Site) {
    let last = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &last);
}

/// Restores the last backup and everything since, and compares it with the cluster.
fn compare(site: &Site, name: &str, arguments: &[&str]) {
    archive_all(site);
    let expected = tables(site, &site.cluster);
    let mut restored = site.restore(name, arguments);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(tables(site, &restored), expected, "{name}");
    site.amcheck(&restored);
}

/// Restores in the cluster's own place, which makes a new timeline.
fn recover(site: &mut Site, arguments: &[&str]) {
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(&site.cluster.data).expect("removed");
    site.walward(&[&["--cluster", "main", "--yes", "restore"][..], arguments].concat()).expect(0);
    site.cluster.start(&site.room);
    site.wait_promoted(&site.cluster);
}

/// The length that a table was cut to is of the older timeline, the rows that came after that of the newer.
fn a_promotion_lies_between(version: Version) {
    let mut site = site(version, &[]);
    let sql = |site: &Site, sql: &str| site.cluster.sql(&site.room, sql);
    sql(&site, "create table t (id int primary key, what text)");
    sql(&site, "alter table t alter what set storage plain");
    sql(&site, "insert into t select n, repeat('x', 7000) from generate_series(1, 200) n");
    let full = backup(&site, "full");
    sql(&site, "delete from t where id > 100");
    sql(&site, "vacuum t");
    archive_all(&site);
    recover(&mut site, &[]);
    sql(&site, "insert into t select n, repeat('n', 7000) from generate_series(201, 300) n");
    archive_all(&site);
    let incr = backup(&site, "incr");
    assert_eq!((incr["timeline"].as_u64(), &incr["parent"]), (Some(2), &full["label"]));
    compare(&site, "restored", &[]);
}

on_every_version!(a_backup_after_a_promotion_builds_on_one_before_it, super::a_promotion_lies_between);

#[test]
fn a_backup_that_the_server_did_not_go_through_is_never_built_on() {
    let mut site = site(Version::main(), &[]);
    let sql = |site: &Site, sql: &str| site.cluster.sql(&site.room, sql);
    sql(&site, "create table t as select n as id, repeat('x', 200) as what from generate_series(1, 3000) n");
    let first = backup(&site, "full");
    sql(&site, "update t set what = 'before' where id = 1");
    sql(&site, "select pg_create_restore_point('here')");
    archive_all(&site);
    sql(&site, "update t set what = 'elsewhere' where id % 2 = 0");
    let lost = backup(&site, "full");
    archive_all(&site);
    recover(&mut site, &["--target-name", "here"]);
    sql(&site, "update t set what = 'after' where id = 2");
    archive_all(&site);
    let incr = backup(&site, "incr");
    assert_ne!(lost["label"], first["label"]);
    assert_eq!(incr["parent"], first["label"], "{incr}");
    compare(&site, "restored", &[]);
}

fn kinds_of_wal(version: Version) {
    let major = version.major;
    let mut site = site(version, &[("wal_level", "logical"), ("wal_consistency_checking", "all")]);
    let sql = |site: &Site, sql: &str| site.cluster.sql(&site.room, sql);
    site.cluster.pgbench(&site.room, &["-i", "-q", "-s", "1"]);
    backup(&site, "full");
    let methods: &[&str] = if major >= 15 { &["off", "pglz", "lz4", "zstd"] } else { &["off", "on"] };
    for method in methods {
        // Some builds have no lz4 or zstd.
        if site.cluster.try_sql(&site.room, &format!("alter system set wal_compression = '{method}'")).is_err() {
            continue;
        }
        site.cluster.stop(Stop::Fast);
        site.cluster.start(&site.room);
        site.cluster.pgbench(&site.room, &["-n", "-t", "100"]);
        sql(
            &site,
            "select pg_replication_origin_create('o'); begin; select pg_replication_origin_session_setup('o'); \
             update pgbench_branches set bbalance = 7; savepoint a; update pgbench_tellers set tbalance = 8; savepoint b; \
             update pgbench_accounts set abalance = 9 where aid = 77; commit; select pg_replication_origin_session_reset(); \
             select pg_replication_origin_drop('o')",
        );
        backup(&site, "incr");
    }
    compare(&site, "restored", &[]);
}

on_every_version!(wal_of_every_form_says_what_changes, super::kinds_of_wal);

fn no_wal_level(version: Version) {
    let mut site = site(version, &[("wal_keep_size", "1GB")]);
    let sql = |site: &Site, sql: &str| site.cluster.sql(&site.room, sql);
    sql(&site, "create table t as select n as id, repeat('x', 200) as what from generate_series(1, 3000) n");
    backup(&site, "full");
    let set = |site: &mut Site, values: [(&str, &str); 3]| {
        site.cluster.stop(Stop::Fast);
        for (name, value) in values {
            site.cluster.set(name, value);
        }
        site.cluster.start(&site.room);
    };
    set(&mut site, [("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")]);
    sql(&site, "begin; truncate t; insert into t select n, 'minimal' from generate_series(1, 3000) n; commit");
    set(&mut site, [("wal_level", "replica"), ("max_wal_senders", "5"), ("archive_mode", "on")]);
    sql(&site, "update t set what = 'after' where id = 2");
    is_full_because(&site, "");
    sql(&site, "update t set what = 'again' where id = 3");
    backup(&site, "incr");
    compare(&site, "restored", &[]);
}

on_every_version!(time_without_wal_makes_a_full_backup, super::no_wal_level);

#[test]
fn checksums_that_were_switched_on_make_a_full_backup() {
    let mut site = site(Version::main(), &[]);
    site.cluster.sql(&site.room, "create table t as select n as id from generate_series(1, 3000) n");
    backup(&site, "full");
    let enabled = site.cluster.control(&site.room, "Data page checksum version") != "0";
    site.cluster.stop(Stop::Fast);
    let mut program = site.room.command(site.cluster.version.program("pg_checksums"));
    let how = if enabled { "--disable" } else { "--enable" };
    site.room.run(program.arg(how).arg("--no-sync").arg("-D").arg(&site.cluster.data));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "update t set id = 0 where id = 7");
    is_full_because(&site, "checksums");
}

/// Runs SQL in the database `d`.
fn in_database(site: &Site, cluster: &Cluster, sql: &str) -> String {
    let mut psql = site.room.command(cluster.version.program("psql"));
    // Of two names the last one counts.
    let connection = format!("{} dbname=d", cluster.connection("postgres"));
    site.room.run(psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &connection, "-c", sql]))
}

fn what_moves(version: Version) {
    let major = version.major;
    let site = site(version, &[]);
    let sql = |sql: &str| site.cluster.sql(&site.room, sql);
    let place = site.room.make_folder("place");
    sql(&format!("create tablespace away location '{}'", place.display()));
    sql("create table t as select n as id, repeat('x', 200) as what from generate_series(1, 3000) n");
    sql("create database d");
    let in_d = |sql: &str| in_database(&site, &site.cluster, sql);
    in_d("create table inside as select n as id, repeat('i', 200) as what from generate_series(1, 3000) n");
    backup(&site, "full");
    sql("alter database d set tablespace away");
    in_d("update inside set what = 'away' where id = 5");
    sql("alter table t set tablespace away");
    backup(&site, "incr");
    sql("alter database d set tablespace pg_default");
    in_d("update inside set what = 'back' where id = 6");
    sql("alter table t set tablespace pg_default");
    sql("update t set what = 'back' where id = 6");
    backup(&site, "incr");
    if major >= 15 {
        // The same files, whose pages are as old as those that they were copied from.
        let oid = sql("select oid from pg_database where datname = 'd'");
        sql("drop database d");
        sql(&format!("create database d oid = {oid} strategy file_copy"));
        in_d("create table inside as select n as id from generate_series(1, 10) n");
        backup(&site, "incr");
    }
    archive_all(&site);
    let query = "select count(*), sum(hashtextextended(i::text, 1)::numeric) from inside i";
    let expected = in_d(query);
    let mapping = format!("away={}", site.room.join("elsewhere").display());
    let mut restored = site.restore("restored", &["--tablespace-map", &mapping]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(in_database(&site, &restored, query), expected);
    assert_eq!(tables(&site, &restored), tables(&site, &site.cluster));
    site.amcheck(&restored);
}

on_every_version!(what_moves_between_tablespaces_or_is_made_again_under_its_number, super::what_moves);
