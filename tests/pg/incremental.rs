//! Backups that build on another one, on real servers: what is restored from them holds every row, after work in which blocks that do not come
//! from where they seem to would be missed.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Cluster, ClusterOptions, Site, SiteOptions, Stop, Version, on_every_version};

/// Work on a cluster: before the full backup, and before each incremental one after it.
struct Work {
    name: &'static str,
    before: &'static [&'static str],
    rounds: &'static [&'static [&'static str]],
}

/// A statement that has to fail.
const FAILS: &str = "fails: ";
/// Writes the rest of the WAL segment, so that nothing of what follows is in it.
const SWITCH: &str = "switch";
/// Makes the server crash and start again.
const CRASH: &str = "crash";

const LOSSY: &[Work] = &[
    Work {
        name: "pages of zeros beyond the length that a table was cut to",
        before: ONE_ROW_A_PAGE,
        rounds: &[&["delete from t where id > 100", "vacuum t", BAD_COPY]],
    },
    Work {
        name: "the same, with a backup in between",
        before: ONE_ROW_A_PAGE,
        rounds: &[&["delete from t where id > 100", "vacuum t"], &[BAD_COPY]],
    },
    Work {
        name: "a table that is cut, and grows again in later segments",
        before: ONE_ROW_A_PAGE,
        rounds: &[&[
            "delete from t where id > 100",
            "vacuum t",
            SWITCH,
            "insert into t select n, repeat('n', 7000) from generate_series(201, 300) n",
            SWITCH,
            "update t set what = 'short' where id = 250",
            SWITCH,
            SWITCH,
            "checkpoint",
        ]],
    },
    Work {
        name: "bits of the visibility map that are cleared",
        before: &[
            "create table v (id int primary key)",
            "insert into v select generate_series(1, 50000)",
            "vacuum (freeze) v",
        ],
        rounds: &[
            &["delete from v where id = 40000", "begin; select * from v where id = 20000 for update; commit"],
            &["vacuum v", "insert into v values (60000)"],
        ],
    },
    Work {
        name: "an indexed table that is cut and filled again",
        before: &[
            "create table i (id int primary key, what text)",
            "insert into i select n, repeat('x', 500) from generate_series(1, 4000) n",
            "delete from i where id > 2000",
            "vacuum (truncate false) i",
        ],
        rounds: &[
            &["vacuum i"],
            &["insert into i select n, repeat('y', 500) from generate_series(2001, 4000) n", "vacuum i"],
        ],
    },
    Work {
        name: "tables that were dropped, made anew, emptied and rewritten",
        before: &[
            "create table a as select n as id, repeat('a', 200) as what from generate_series(1, 3000) n",
            "create table b as select n as id, repeat('b', 200) as what from generate_series(1, 3000) n",
            "create table c as select n as id, repeat('c', 200) as what from generate_series(1, 3000) n",
            "create index on c (id)",
        ],
        rounds: &[
            &[
                "truncate a",
                "insert into a select n, 'again' from generate_series(1, 50) n",
                "drop table b",
                "create table b as select n as id, 'new' as what from generate_series(1, 100) n",
                "vacuum full c",
            ],
            &["cluster c using c_id_idx", "update a set what = 'changed' where id = 7", "reindex table c"],
        ],
    },
    Work {
        name: "transactions that were rolled back, prepared, and made of many parts",
        before: &[
            "create table p as select n as id, repeat('p', 300) as what from generate_series(1, 1000) n",
            "begin; delete from p where id > 900; drop table if exists nothing; prepare transaction 'before'",
        ],
        rounds: &[
            &[
                "begin; create table gone (id int); insert into gone select generate_series(1, 5000); rollback",
                "do $$ begin for n in 1..300 loop begin insert into p values (n + 10000, 'part'); if n % 3 = 0 then raise division_by_zero; end if; \
                 exception when division_by_zero then null; end; end loop; end $$",
                "do $$ begin for n in 1..200 loop execute format('create table many_%s (id int)', n); end loop; end $$",
                "do $$ declare drops text; begin select 'drop table ' || string_agg('many_' || n, ', ') into drops from generate_series(1, 200) n; \
                 execute drops; end $$",
            ],
            &["commit prepared 'before'", "update p set what = 'after' where id = 3"],
        ],
    },
    Work {
        name: "long records, many switches, and a crash",
        before: &["create table l as select n as id, repeat('l', 100) as what from generate_series(1, 20000) n"],
        rounds: &[
            &[
                "select pg_logical_emit_message(true, 'x', repeat('x', 20000000))",
                "create index l_id on l (id)",
                "select pg_logical_emit_message(true, 'x', repeat('x', 20000000))",
                "update l set what = 'one' where id = 11111",
            ],
            &[
                "update l set what = 'two' where id = 1",
                SWITCH,
                "update l set what = 'three' where id = 5000",
                SWITCH,
                "update l set what = 'four' where id = 15000",
                CRASH,
                "update l set what = 'five' where id = 19999",
            ],
        ],
    },
    Work {
        name: "every kind of index, sequences, and tables that become logged",
        before: &[
            "create table k (id int, at point, what text)",
            "insert into k select n, point(n, n % 7), 'word' || n from generate_series(1, 5000) n",
            "create index on k using hash (id)",
            "create index on k using gin (to_tsvector('simple', what))",
            "create index on k using gist (at)",
            "create index on k using spgist (at)",
            "create index on k using brin (id)",
            "create index on k (what)",
            "create sequence s",
            "create unlogged table u as select generate_series(1, 1000) as id",
        ],
        rounds: &[
            &[
                "insert into k select n, point(n, n % 5), 'more' || n from generate_series(5001, 12000) n",
                "delete from k where id % 3 = 0",
                "vacuum k",
                "select nextval('s') from generate_series(1, 100)",
            ],
            &[
                "alter table u set logged",
                "insert into u values (5000)",
                "update k set what = 'x' where id = 1",
                "create role someone",
            ],
        ],
    },
    Work {
        name: "databases that are made and dropped",
        before: &["create database first", "create database second"],
        rounds: &[
            &["drop database first", "create database first template second"],
            &["create database third", "drop database second"],
        ],
    },
];

const ONE_ROW_A_PAGE: &[&str] = &[
    "create table t (id int primary key, what text)",
    "alter table t alter what set storage plain",
    "insert into t select n, repeat('x', 7000) from generate_series(1, 200) n",
    "vacuum (freeze) t",
    "checkpoint",
];
const BAD_COPY: &str =
    "fails: copy t from program 'for n in $(seq 201 275); do printf \"%d\\t%07000d\\n\" $n 0; done; echo bad'";

/// What every table of the database holds.
fn fingerprint(site: &Site, cluster: &Cluster) -> String {
    let names = cluster.sql(
        &site.room,
        "select oid::regclass from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1",
    );
    let databases = cluster.sql(&site.room, "select datname from pg_database order by 1");
    let names: Vec<&str> = names.lines().filter(|name| !name.is_empty()).collect();
    format!("{}\n{databases}", cluster.fingerprint(&site.room, &names))
}

fn run(site: &mut Site, statement: &str) {
    match statement {
        SWITCH => drop(site.cluster.switch_wal(&site.room)),
        CRASH => {
            site.cluster.stop(Stop::Kill);
            site.cluster.start(&site.room);
        }
        _ => match statement.strip_prefix(FAILS) {
            Some(statement) => drop(site.cluster.try_sql(&site.room, statement).expect_err("it fails")),
            None => drop(site.cluster.sql(&site.room, statement)),
        },
    }
}

fn backup(site: &Site, kind: &str) -> Value {
    let taken = site.walward(&["--cluster", "main", "--json", "backup", "--type", kind]).expect(0);
    let taken = taken.json_lines().pop().expect("a line")["backup"].clone();
    assert_eq!(taken["type"], kind, "{taken}");
    taken
}

fn start(version: Version, encrypted: bool) -> Site {
    let settings = [("autovacuum", "off"), ("max_prepared_transactions", "5"), ("wal_keep_size", "1GB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = ClusterOptions { segment_mib: 1, settings };
    Site::start(SiteOptions { version, encrypted, cluster, ..SiteOptions::default() })
}

/// Restores the last backup and everything since, and compares it with the cluster.
fn compare(site: &Site, name: &str, expected: &str) {
    let mut restored = site.restore(name, &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(fingerprint(site, &restored), expected, "{name}");
    site.amcheck(&restored);
    restored.stop(Stop::Immediate);
    std::fs::remove_dir_all(&restored.data).expect("removed");
}

fn every_row_is_there(version: Version) {
    let mut site = start(version, false);
    for (number, work) in LOSSY.iter().enumerate() {
        site.cluster.sql(&site.room, "drop schema public cascade; create schema public");
        work.before.iter().for_each(|statement| run(&mut site, statement));
        let mut parent = backup(&site, "full");
        for round in work.rounds {
            round.iter().for_each(|statement| run(&mut site, statement));
            let taken = backup(&site, "incr");
            assert_eq!(taken["parent"], parent["label"], "{}", work.name);
            let (read, all) = (taken["read_bytes"].as_u64().unwrap(), parent["content_bytes"].as_u64().unwrap());
            assert!(read < all / 2, "{}: {read} bytes of {all} were read", work.name);
            parent = taken;
        }
        let last = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &last);
        println!("{}", work.name);
        compare(&site, &format!("restored{number}"), &fingerprint(&site, &site.cluster));
    }
}

on_every_version!(what_is_restored_from_incremental_backups_holds_every_row, super::every_row_is_there);

#[test]
fn each_backup_of_a_chain_is_restored_as_it_was_and_a_differential_builds_on_the_full_one() {
    let site = start(Version::main(), true);
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.pgbench(room, &["-i", "-q", "-s", "2"]);
    let mut states = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    for kind in ["full", "incr", "incr", "diff", "incr"] {
        let taken = backup(&site, kind);
        let parent = match kind {
            "full" => None,
            "diff" => labels.first(),
            _ => labels.last(),
        };
        assert_eq!(taken["parent"].as_str(), parent.map(String::as_str), "{taken}");
        labels.push(taken["label"].as_str().expect("a label").to_owned());
        // Nothing was written since it began.
        states.push(fingerprint(&site, cluster));
        cluster.pgbench(room, &["-n", "-t", "300"]);
        std::thread::sleep(Duration::from_secs(1));
    }
    let last = cluster.switch_wal(room);
    cluster.wait_archived(room, &last);
    for (at, (label, state)) in labels.iter().zip(&states).enumerate() {
        let mut restored = site.restore(&format!("at{at}"), &["--backup", label, "--target-immediate"]);
        let label_file = std::fs::read_to_string(restored.data.join("backup_label")).expect("there");
        assert!(!label_file.contains("INCREMENTAL"), "{label_file}");
        restored.start(room);
        site.wait_promoted(&restored);
        assert_eq!(&fingerprint(&site, &restored), state, "{label}");
        site.amcheck(&restored);
    }
    let info = site.walward(&["--cluster", "main", "--json", "info"]).expect(0).json();
    let shown = info.to_string();
    assert!(labels.iter().all(|label| shown.contains(label.as_str())));
}

#[test]
fn what_cannot_be_built_on_makes_a_full_backup_that_says_why() {
    let site = start(Version::main(), false);
    let (room, cluster) = (&site.room, &site.cluster);
    let taken = |kind: &str, code: i32| {
        let outcome = site.walward(&["--cluster", "main", "--json", "backup", "--type", kind]).expect(code);
        outcome.json_lines().pop().expect("a line")["backup"].clone()
    };
    let first = taken("incr", 3);
    assert_eq!((first["type"].as_str(), first["parent"].as_str()), (Some("full"), None));
    assert!(first["why_full"].as_str().is_some_and(|why| why.contains("no earlier backup")), "{first}");
    let auto = taken("auto", 0);
    assert_eq!((auto["type"].as_str(), &auto["parent"]), (Some("incr"), &first["label"]));

    // All archived WAL is gone, and pg_wal was emptied of it: what changed cannot be known.
    cluster.sql(room, "create table t as select generate_series(1, 1000) as id");
    cluster.sql(room, "alter system set wal_keep_size = 0");
    cluster.sql(room, "select pg_reload_conf()");
    for _ in 0..3 {
        let last = cluster.switch_wal(room);
        cluster.wait_archived(room, &last);
    }
    cluster.sql(room, "checkpoint");
    for path in site.stored_segments() {
        std::fs::remove_file(path).expect("removed");
    }
    let outcome = site.walward(&["--cluster", "main", "--json", "backup", "--type", "auto"]);
    let line = outcome.json_lines().pop().expect("a line");
    assert_eq!(line["backup"]["type"], "full", "{line}");
    assert!(line["backup"]["why_full"].as_str().is_some_and(|why| why.contains("is in no repository")), "{line}");
}

#[test]
fn a_backup_whose_parent_is_gone_or_damaged_is_refused_by_its_name() {
    let site = start(Version::main(), false);
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, "create table t as select generate_series(1, 100000) as id");
    let full = backup(&site, "full")["label"].as_str().expect("a label").to_owned();
    cluster.sql(room, "update t set id = 0 where id = 50000");
    let incr = backup(&site, "incr")["label"].as_str().expect("a label").to_owned();
    let target = room.join("restored");
    let restore = |code: i32| {
        let target = target.to_str().expect("UTF-8");
        site.walward(&["--cluster", "main", "restore", "--yes", "--target-directory", target, "--backup", &incr])
            .expect(code)
    };
    let folder = site.repository_folder().join("main/backup").join(&full);
    let pack = folder.join("pack/00000");
    let content = std::fs::read(&pack).expect("there");
    let mut damaged = content.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&pack, &damaged).expect("written");
    let outcome = restore(15);
    assert!(outcome.stderr.contains(&full), "{}", outcome.stderr);
    assert!(!target.join("global/pg_control").exists());
    // Healed, the same restore goes on.
    std::fs::write(&pack, &content).expect("written");
    restore(0);
    std::fs::remove_dir_all(&target).expect("removed");
    std::fs::rename(&folder, room.join("away")).expect("moved");
    let outcome = restore(16);
    assert!(outcome.stderr.contains(&full) && outcome.stderr.contains("builds on"), "{}", outcome.stderr);
    assert!(!target.join("walward.restore.json").exists());
}
