//! Faults that really happen: killed processes, stores that misbehave, disks that are full, servers that should not write.
//!
//! Whatever the fault was, at the end of every test: nothing waits any more, and every file that PostgreSQL marked as done is
//! in the repository, byte for byte. The clusters keep all of their WAL, so that there is something to compare with.

use std::fs;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::{Agent, Cluster, ClusterOptions, Outcome, Site, SiteOptions, StoreKind, eventually};

mod alone;
mod bad_store;
mod failed_sync;
mod full_disk;
mod kept_line;
mod killed_agent;
mod lines;
mod outage;
mod partial;
mod sizes;
mod timelines;
mod two_writers;

/// How often a test repeats its fault.
fn rounds(normal: u32, thorough: u32) -> u32 {
    let rounds = if std::env::var_os("WALWARD_TEST_THOROUGH").is_some() { thorough } else { normal };
    println!("rounds: {rounds}");
    rounds
}

/// Chance that can be repeated: `WALWARD_TEST_SEED`, else a new seed, which is printed.
fn chance() -> StdRng {
    let seed = std::env::var("WALWARD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("WALWARD_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Small segments, none of which PostgreSQL removes, and a store that is given up after seconds.
fn options(store: StoreKind) -> SiteOptions {
    SiteOptions {
        store,
        cluster: ClusterOptions {
            segment_mib: 1,
            settings: vec![
                ("wal_keep_size".to_owned(), "100GB".to_owned()),
                ("wal_init_zero".to_owned(), "off".to_owned()),
            ],
        },
        cluster_settings: "archive.deadline = \"3s\"\nfetch.deadline = \"4s\"\n".to_owned(),
        repository_settings: match store {
            StoreKind::File => String::new(),
            StoreKind::S3 => "limits.request_timeout = \"2s\"\nlimits.retry_deadline = \"3s\"\n".to_owned(),
        },
        ..SiteOptions::default()
    }
}

/// Rows and a switch, `count` times; the last segment's name.
fn write_segments(site: &Site, count: u32) -> String {
    let mut last = String::new();
    for _ in 0..count {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
        last = site.cluster.switch_wal(&site.room);
    }
    last
}

/// Waits until PostgreSQL has counted more than `before` failures of archive_command.
fn wait_failed(site: &Site, before: u64) {
    eventually("PostgreSQL counts a failure", Duration::from_secs(30), || (failures(site) > before).then_some(()));
}

fn failures(site: &Site) -> u64 {
    site.cluster.sql(&site.room, "select failed_count from pg_stat_archiver").parse().expect("a number")
}

/// `walward status`, which the agent answers whatever is wrong elsewhere.
fn status(site: &Site) -> Outcome {
    site.walward(&["status"]).expect(0)
}

/// Waits until nothing is ready any more, after a nudge: PostgreSQL's archiver sleeps for a minute after three failures.
fn drain(site: &Site, cluster: &Cluster, patience: Duration) {
    let last = cluster.switch_wal(&site.room);
    eventually(&format!("the backlog drains up to {last}"), patience, || {
        (cluster.archive_status("ready").is_empty() && cluster.archive_status("done").contains(&last)).then_some(())
    });
}

/// Every file that PostgreSQL marked as done is in the repository, byte for byte. Returns how many there were.
fn assert_archived(site: &Site, cluster: &Cluster) -> usize {
    let folder = site.room.make_folder("compared");
    let done = cluster.archive_status("done");
    let compare = |name: &String| {
        let copy = folder.join(name);
        let fetch = || site.client(&["--cluster", "main", "fetch", name, copy.to_str().unwrap()]);
        // On a slow machine the short deadline of these tests may pass.
        let fetched = (0..2).map(|_| fetch()).find(|outcome| outcome.code == 0);
        fetched.unwrap_or_else(fetch).expect(0);
        let (archived, original) = (fs::read(&copy).unwrap(), fs::read(cluster.wal(name)).unwrap());
        assert!(archived == original, "{name} in the repository is not what PostgreSQL wrote");
        fs::remove_file(copy).unwrap();
    };
    std::thread::scope(|scope| {
        for part in done.chunks(done.len().div_ceil(4).max(1)) {
            scope.spawn(|| part.iter().for_each(compare));
        }
    });
    assert!(!done.is_empty(), "nothing was archived at all");
    done.len()
}

/// As [`assert_archived`], straight from the repository `repository` alone.
fn assert_archived_in(site: &Site, cluster: &Cluster, repository: &str) {
    let copy = site.room.make_folder("compared").join("copy");
    let done = cluster.archive_status("done");
    assert!(!done.is_empty(), "nothing was archived at all");
    for name in done {
        let place = copy.to_str().unwrap();
        site.walward(&["--cluster", "main", "--repository", repository, "wal", "fetch", &name, place]).expect(0);
        let (archived, original) = (fs::read(&copy).unwrap(), fs::read(cluster.wal(&name)).unwrap());
        assert!(archived == original, "{name} in {repository} is not what PostgreSQL wrote");
        fs::remove_file(&copy).unwrap();
    }
}

/// A second server of the cluster `main`, with an agent of its own, as on another host.
#[derive(Debug)]
struct Node {
    cluster: Cluster,
    /// Ends with the node.
    _agent: Agent,
}

impl Node {
    /// An agent for `cluster`, and `cluster` archiving through it. The server must not run yet.
    fn join(site: &Site, name: &str, cluster: Cluster) -> Self {
        let socket = site.room.make_folder(&format!("{name}.run")).join("walward.sock");
        let spool = site.room.make_folder(&format!("{name}.spool"));
        let text = site
            .config_text()
            .replace(site.socket.to_str().unwrap(), socket.to_str().unwrap())
            .replace(&format!("{:?}", site.room.join("spool")), &format!("{spool:?}"))
            .replace(&format!("{:?}", site.cluster.data), &format!("{:?}", cluster.data))
            .replace(&site.cluster.connection("postgres"), &cluster.connection("postgres"));
        let config = site.room.write(&format!("{name}.toml"), text);
        let client = site.room.program("walward-wal");
        cluster.set("archive_command", &format!("{} --socket {} push %p", client.display(), socket.display()));
        let agent = Agent::start(&site.room, &config, &socket, &site.room.join(format!("{name}.walwardd.log")));
        Self { cluster, _agent: agent }
    }

    /// A standby that is restored from the repository, streams from the site's primary if `streams`, and archives through
    /// its own agent once it is promoted.
    fn standby(site: &Site, name: &str, streams: bool) -> Self {
        let conninfo = site.cluster.connection("postgres");
        let mut arguments = vec!["--standby", "--archive-mode", "preserve"];
        if streams {
            arguments.extend(["--primary-conninfo", &conninfo]);
        }
        Self::join(site, name, site.restore(name, &arguments))
    }

    /// Promotes the standby and waits until it takes writes.
    fn promote(&self, site: &Site) {
        self.cluster.sql(&site.room, "select pg_promote()");
        site.wait_promoted(&self.cluster);
    }

    /// Waits until the standby has replayed what the site's primary has written.
    fn wait_caught_up(&self, site: &Site) {
        let position = site.cluster.sql(&site.room, "select pg_current_wal_flush_lsn()");
        let query = format!("select coalesce(pg_last_wal_replay_lsn() >= '{position}', false)");
        eventually("the standby has caught up", Duration::from_mins(1), || {
            self.cluster.try_sql(&site.room, &query).is_ok_and(|answer| answer == "t").then_some(())
        });
    }
}
