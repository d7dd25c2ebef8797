//! What the archived segments say that they change, beside what PostgreSQL's own reader of WAL shows of the same segments, and beside its own
//! summaries.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use walward_base::sys::cpu::CpuPool;
use walward_pg::changes::{Chain, Changes};
use walward_pg::{Lineage, WalFileName};
use walward_repo::{Encryption, Repository, layout};
use walward_storage::StoreOptions;

use crate::support::{Cluster, ClusterOptions, Room, Site, SiteOptions, Version, eventually, on_every_version};

/// A block of a main fork: tablespace, database, file, number.
type Block = (u32, u32, u32, u32);

/// What of the WAL it takes to have records of nearly every kind, cut by pages and segments in nearly every place.
const WORK: &[&str] = &[
    "create table t (id int primary key, what text)",
    "insert into t select n, repeat('x', 50) from generate_series(1, 20000) n",
    "create index on t using hash (id)",
    "create index on t using gin (to_tsvector('simple', what))",
    "create index on t using brin (id)",
    "create table points (at point)",
    "insert into points select point(n, n % 7) from generate_series(1, 3000) n",
    "create index on points using gist (at)",
    "create index on points using spgist (at)",
    "select pg_logical_emit_message(true, 'x', repeat('y', 3000000))",
    "update t set what = what || 'z' where id % 3 = 0",
    "delete from t where id > 15000",
    "vacuum (freeze) t",
    "begin; create table gone (id int); insert into gone select generate_series(1, 500); rollback",
    "begin; update t set id = -id where id < 100; prepare transaction 'two'",
    "commit prepared 'two'",
    "truncate points",
    "insert into points values (point(1, 2))",
    "do $$ begin for n in 1..150 loop execute format('create table many_%s (id int)', n); end loop; end $$",
    "do $$ declare drops text; begin select 'drop table ' || string_agg('many_' || n, ', ') into drops from generate_series(1, 150) n; \
     execute drops; end $$",
    "cluster t using t_pkey",
    "create database other",
    "drop database other",
    "create sequence s",
    "select nextval('s') from generate_series(1, 100)",
];

/// The blocks that `pg_waldump` shows in the segments of `folder`.
fn shown(room: &Room, version: &Version, folder: &std::path::Path, segments: &[String]) -> BTreeSet<Block> {
    let mut blocks = BTreeSet::new();
    for segment in segments {
        let mut command = room.command(version.program("pg_waldump"));
        // It ends with an error where a record goes on in the next segment.
        let output = command.arg("--path").arg(folder).arg(segment).arg(segment).output().unwrap();
        for reference in String::from_utf8(output.stdout).unwrap().split("blkref #").skip(1) {
            let mut words = reference.split_whitespace();
            let name = words.by_ref().skip_while(|word| *word != "rel").nth(1).unwrap();
            if words.next() != Some("blk") {
                // Another fork.
                continue;
            }
            let number = words.next().unwrap().trim_end_matches([';', ',']).parse().unwrap();
            let parts: Vec<u32> = name.split('/').map(|part| part.parse().unwrap()).collect();
            blocks.insert((parts[0], parts[1], parts[2], number));
        }
    }
    blocks
}

/// What the archive says, and whether that is all.
fn stored(site: &Site, segments: &[String]) -> Changes {
    let lineage: Lineage = {
        let folder = site.repository_folder().join("main/wal");
        let mut names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.find_map(|name| name.parse().ok()).unwrap()
    };
    let options = StoreOptions::new(format!("file://{}", site.repository_folder().display()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = walward_storage::open(&options, "main").unwrap();
        let repository = Repository::open("store", store, &Encryption::None, CpuPool::new(1).unwrap()).await.unwrap();
        let mut chain = Chain::new();
        for segment in segments {
            let name: WalFileName = segment.parse().unwrap();
            let found = repository.read_summary(&layout::wal_file(lineage, name)).await.unwrap();
            chain.follow(&found.facts.unwrap().changes.unwrap().decode().unwrap());
        }
        chain.finish()
    })
}

/// The blocks of main forks that the server's own summaries (17 and later) name in the WAL between two positions.
fn summarized(room: &Room, cluster: &Cluster, from: &str, to: &str) -> BTreeSet<Block> {
    let reached = format!("select coalesce(max(end_lsn) >= '{to}'::pg_lsn, false) from pg_available_wal_summaries()");
    eventually("the WAL is summarized", Duration::from_mins(1), || (cluster.sql(room, &reached) == "t").then_some(()));
    let rows = cluster.sql(
        room,
        &format!(
            "select c.reltablespace, c.reldatabase, c.relfilenode, c.relblocknumber from pg_available_wal_summaries() s, \
             pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c \
             where s.start_lsn >= '{from}'::pg_lsn and s.end_lsn <= '{to}'::pg_lsn and c.relforknumber = 0 and not c.is_limit_block"
        ),
    );
    let block = |row: &str| {
        let fields: Vec<u32> = row.split('|').map(|field| field.parse().unwrap()).collect();
        (fields[0], fields[1], fields[2], fields[3])
    };
    rows.lines().filter(|row| !row.is_empty()).map(block).collect()
}

fn every_block_is_known(version: Version) {
    let settings = [("wal_keep_size", "1GB"), ("max_prepared_transactions", "5"), ("autovacuum", "off")];
    let own_summaries = (version.major >= 17).then_some(("summarize_wal", "on"));
    let settings = settings.into_iter().chain(own_summaries);
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let cluster = ClusterOptions { segment_mib: 1, settings };
    let site = Site::start(SiteOptions { version, encrypted: false, cluster, ..SiteOptions::default() });
    let (room, cluster) = (&site.room, &site.cluster);
    let first = cluster.switch_wal(room);
    // The server's summaries begin and end where checkpoints do.
    let redo = || {
        cluster.sql(room, "checkpoint");
        cluster.sql(room, "select redo_lsn from pg_control_checkpoint()")
    };
    let from = redo();
    for sql in WORK {
        cluster.sql(room, sql);
    }
    let to = redo();
    let last = cluster.switch_wal(room);
    cluster.wait_archived(room, &last);
    let mut segments: Vec<String> = fs::read_dir(cluster.data.join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 24 && first < *name && *name <= last)
        .collect();
    segments.sort();
    assert!(segments.len() > 10, "{segments:?}");

    let changes = stored(&site, &segments);
    assert!(changes.doubts.is_empty(), "{:?}", changes.doubts);
    assert!(!changes.databases.is_empty());
    let said: BTreeSet<Block> = changes
        .relations
        .iter()
        .flat_map(|(name, relation)| {
            let (tablespace, database, relation_number) = (name.tablespace, name.database, name.relation);
            relation.blocks.iter(0..=u32::MAX).map(move |block| (tablespace, database, relation_number, block))
        })
        .collect();
    if !cluster.version.bin.join("pg_waldump").exists() {
        assert_ne!(cluster.version, Version::main(), "the main version must be able to show its WAL");
        return;
    }
    let expected = shown(room, &cluster.version, &cluster.data.join("pg_wal"), &segments);
    assert!(expected.len() > 1000, "{} blocks", expected.len());
    let missing: Vec<&Block> = expected.difference(&said).collect();
    assert!(missing.is_empty(), "{} of {} are not known, as {:?}", missing.len(), expected.len(), missing.first());
    if cluster.version.major >= 17 {
        let summarized = summarized(room, cluster, &from, &to);
        assert!(summarized.len() > 500, "{} blocks", summarized.len());
        let missing: Vec<&Block> = summarized.difference(&said).collect();
        assert!(
            missing.is_empty(),
            "{} of {} are not known, as {:?}",
            missing.len(),
            summarized.len(),
            missing.first()
        );
    }
    // A record that was cut and is shown by neither half is more than pg_waldump shows.
    let more = said.difference(&expected).count();
    assert!(more * 20 < expected.len(), "{more} more than the {} that are shown", expected.len());
    for name in ["t", "points"] {
        let sql = format!("select pg_relation_filenode('{name}')");
        let number: u32 = cluster.sql(room, &sql).parse().unwrap();
        let known = changes.relations.iter().find(|(relation, _)| relation.relation == number).unwrap().1;
        assert_eq!(known.limit, Some(0), "{name} was made anew");
    }
}

on_every_version!(segments_say_every_block_that_they_change, super::every_block_is_known);
