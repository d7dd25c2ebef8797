//! An archive that is away or hangs keeps no server from stopping, and no standby from failing over. Every limit has its default: what
//! is promised is promised of those.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Mode, Site, SiteOptions, Stop, StoreKind, eventually};

/// Far less than what the waits of this page would add up to, and far more than what a busy machine needs.
const SOON: Duration = Duration::from_secs(40);

#[test]
fn a_store_that_hangs_does_not_hold_a_server_that_is_told_to_stop() {
    let mut site = Site::start(SiteOptions { store: StoreKind::S3, proxied: true, ..SiteOptions::default() });
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.proxy.as_ref().unwrap().set(Mode::BlackHole);
    for _ in 0..3 {
        site.cluster.switch_wal(&site.room);
    }
    // The archiver waits for its answer.
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    site.cluster.stop(Stop::Fast);
    assert!(begun.elapsed() < SOON, "the server needed {:?} to stop", begun.elapsed());
    site.cluster.assert_logged("cannot be written to (no answer within");
    // Nothing was given up.
    site.proxy.as_ref().unwrap().set(Mode::Pass);
    site.cluster.start(&site.room);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.cluster.stop(Stop::Fast);
}

/// What stands in the way of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Nobody listens on the agent's socket.
    Agent,
    /// The agent is there and does nothing.
    AgentHangs,
    /// The store resets every connection.
    Store,
    /// The store takes every request and answers none.
    StoreHangs,
    /// The same, and the agent has never reached it.
    StoreHangsFromTheStart,
    /// Neither is there.
    Both,
    /// Both hang.
    BothHang,
}

const ALL: [Away; 7] = [
    Away::Agent,
    Away::AgentHangs,
    Away::Store,
    Away::StoreHangs,
    Away::StoreHangsFromTheStart,
    Away::Both,
    Away::BothHang,
];

impl Away {
    fn begin(self, site: &mut Site) {
        let proxy = |site: &Site, mode| site.proxy.as_ref().unwrap().set(mode);
        match self {
            Self::Agent => site.stop_agent(),
            Self::AgentHangs => site.agent.as_ref().unwrap().freeze(),
            Self::Store => proxy(site, Mode::Reset),
            Self::StoreHangs => proxy(site, Mode::BlackHole),
            Self::StoreHangsFromTheStart => {
                site.stop_agent();
                proxy(site, Mode::BlackHole);
                site.start_agent();
            }
            Self::Both => {
                Self::Store.begin(site);
                Self::Agent.begin(site);
            }
            Self::BothHang => {
                Self::StoreHangs.begin(site);
                Self::AgentHangs.begin(site);
            }
        }
    }

    /// Everything is as before, with an agent that knows of nothing.
    fn end(self, site: &mut Site) {
        site.proxy.as_ref().unwrap().set(Mode::Pass);
        if let Some(agent) = site.agent.take() {
            agent.thaw();
            agent.kill();
        }
        site.start_agent();
    }
}

/// A site with a backup, and as many standbys of it as there are ways to be away, streaming.
fn site_with_standbys(count: usize) -> (Site, Vec<Cluster>) {
    let site = Site::start(SiteOptions { store: StoreKind::S3, proxied: true, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let primary = site.cluster.connection("postgres");
    let standbys = (0..count).map(|number| {
        let arguments = ["--standby", "--primary-conninfo", &primary];
        let mut standby = site.restore(&format!("standby{number}"), &arguments);
        standby.start(&site.room);
        standby
    });
    let standbys: Vec<Cluster> = standbys.collect();
    for standby in &standbys {
        wait_streaming(&site, standby);
        // The line of any other recovery: what the server is, its data directory says.
        let command = standby.sql(&site.room, "show restore_command");
        assert!(!command.contains("--on-error"), "{command}");
    }
    (site, standbys)
}

/// How long until the standby has what the primary writes now.
fn wait_streaming(site: &Site, standby: &Cluster) -> Duration {
    let begun = Instant::now();
    site.cluster.sql(&site.room, "insert into t values (1)");
    let written = site.cluster.sql(&site.room, "select pg_current_wal_lsn()");
    let caught_up =
        format!("select pg_last_wal_replay_lsn() >= '{written}' and exists (select from pg_stat_wal_receiver)");
    eventually("the standby streams", Duration::from_mins(5), || {
        standby.try_sql(&site.room, &caught_up).is_ok_and(|answer| answer == "t").then_some(())
    });
    begun.elapsed()
}

#[test]
fn a_standby_whose_archive_is_away_streams_again_at_once() {
    let (mut site, standbys) = site_with_standbys(1);
    let standby = &standbys[0];
    for away in ALL {
        // PostgreSQL itself waits for wal_retrieve_retry_interval from one end of its stream to the next.
        std::thread::sleep(Duration::from_secs(6));
        away.begin(&mut site);
        // The primary ends the stream, and the standby goes by its archive first.
        site.cluster.sql(&site.room, "select pg_terminate_backend(pid) from pg_stat_replication");
        let took = wait_streaming(&site, standby);
        println!("{away:?}: streams again after {took:?}");
        assert!(took < SOON / 2, "{away:?}: {took:?}");
        away.end(&mut site);
        wait_streaming(&site, standby);
    }
}

#[test]
fn a_standby_whose_archive_is_away_is_promoted_at_once() {
    let (mut site, mut standbys) = site_with_standbys(ALL.len());
    for (standby, away) in standbys.iter_mut().zip(ALL) {
        wait_streaming(&site, standby);
        let expected = site.cluster.fingerprint(&site.room, &["t"]);
        away.begin(&mut site);
        let begun = Instant::now();
        standby.sql(&site.room, "select pg_promote(false)");
        site.wait_promoted(standby);
        let took = begun.elapsed();
        println!("{away:?}: promoted after {took:?}");
        assert!(took < SOON / 2, "{away:?}: {took:?}");
        assert_eq!(standby.fingerprint(&site.room, &["t"]), expected, "{away:?}");
        standby.sql(&site.room, "insert into t values (2)");
        standby.stop(Stop::Immediate);
        away.end(&mut site);
    }
}
