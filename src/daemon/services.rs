//! One service a cluster, made from the configuration, and how to find the one that a request is for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bounds::Bounds;
use super::peer::{Owner, Peer};
use super::recovered;
use super::snapshot_cache::SnapshotCache;
use super::spools;
use super::watch::watch;
use crate::archive::{self, Archiver, Fetcher, Spool};
use crate::config::{ClusterConfig, Config};
use crate::health::{ArchiveStats, BeliefStats, FetchStats};
use crate::jobs::{Registry, Task, supervise};
use walward_base::sys;
use walward_base::sys::shared::Shared;
use walward_base::sys::whose::{Whose, whose};
use walward_repo::LazyRepository;

/// Threads that may look at one data directory on behalf of requests at the same time.
const LOOKS_MAX: usize = 4;
/// By the data directory: a configuration that is read again has no threads of its own.
static LOOKS: Shared<Semaphore> = Shared::new();

/// Everything that the agent does for one cluster.
pub struct Service {
    /// As configured.
    pub config: ClusterConfig,
    /// In order of preference.
    pub repositories: Vec<Arc<LazyRepository>>,
    /// zstd's level for base backups, in the order of `repositories`.
    pub backup_levels: Vec<i32>,
    /// WAL in.
    pub archiver: Archiver,
    /// WAL out.
    pub fetcher: Fetcher,
    /// Counters of `archiver`.
    pub archive_stats: Arc<ArchiveStats>,
    /// Counters of `fetcher`.
    pub fetch_stats: Arc<FetchStats>,
    /// What the server believes archived.
    pub belief: Arc<BeliefStats>,
    /// The owner of the data directory when it was looked at last.
    owner: Owner,
    /// Threads that may look at the data directory for requests at the same time: a file system that hangs keeps them.
    pub looks: Arc<Semaphore>,
    /// What `status` and metrics found out last.
    pub cache: SnapshotCache,
}

/// The services of one configuration.
pub struct Services {
    /// By the cluster's name.
    pub clusters: BTreeMap<String, Arc<Service>>,
    /// Cancelled: no new work of its own accord.
    pub closing: CancellationToken,
    /// What runs for longer than a request. A reload leaves it alone.
    pub jobs: Registry,
    /// Cancelled: WAL on its way is given up; PostgreSQL asks again. So the services of an old configuration end.
    pub uploads: CancellationToken,
    /// Cancelled: work under way is given up.
    pub stop: CancellationToken,
}

impl Services {
    /// Makes the services of `config` and starts their tasks in `tasks`. `spools` are those of its clusters; `bounds` and `jobs` are the process's.
    pub fn start(
        config: &Config,
        spools: &BTreeMap<String, Spool>,
        bounds: &Bounds,
        jobs: &Registry,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Arc<Self>> {
        let pool = bounds.pool();
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let uploads = stop.child_token();
        // What was started is ended again when the rest cannot be.
        let unfinished = closing.clone().drop_guard();
        let mut clusters = BTreeMap::new();
        for (name, cluster) in &config.clusters {
            let configured =
                || cluster.repositories.iter().filter_map(|repository| config.repositories.get(repository));
            let repositories: Vec<_> = configured()
                .map(|repository| {
                    let (store, encryption) = (repository.store.clone(), repository.encryption.clone());
                    LazyRepository::new(&repository.name, name, store, encryption, repository.wal_level, pool.clone())
                })
                .collect();
            LazyRepository::apart(&repositories);
            let archive_stats = Arc::new(ArchiveStats::default());
            let fetch_stats = Arc::new(FetchStats::default());
            let archiver = Archiver::new(
                name,
                &cluster.data_directory,
                repositories.clone(),
                cluster.archive_options(sys::host::name()),
                bounds.memory(),
                Arc::clone(&archive_stats),
                uploads.clone(),
            );
            // Beside the spools, which are cleared at every start; this is not.
            let notes = spools::folder_of(&config.agent.spool_directory, name).join("let-go");
            archiver.limit_queue(cluster.archive.queue_limit, notes);
            let spool = spools.get(name).with_context(|| format!("find the spool of cluster {name:?}"))?.clone();
            let fetcher = Fetcher::new(
                name,
                repositories.clone(),
                cluster.fetch_options(),
                spool,
                Arc::clone(&fetch_stats),
                stop.clone(),
            );
            let (owner, belief) = (Owner::default(), Arc::new(BeliefStats::default()));
            let backup_levels = configured().map(|repository| repository.backup_level).collect();
            let service = Service {
                config: cluster.clone(),
                repositories,
                backup_levels,
                archiver,
                fetcher,
                archive_stats,
                fetch_stats,
                belief,
                owner,
                looks: looks_at(&cluster.data_directory),
                cache: SnapshotCache::default(),
            };
            tasks.spawn(supervise(service.tasks(&closing), service.archiver.span()));
            clusters.insert(name.clone(), Arc::new(service));
        }
        unfinished.disarm();
        Ok(Arc::new(Self { clusters, closing, jobs: jobs.clone(), uploads, stop }))
    }

    /// Whether the peer was the owner of a cluster's data directory when it was looked at last.
    pub fn has_owner(&self, peer: Peer) -> bool {
        self.clusters.values().any(|service| service.owner.is(peer))
    }

    /// The service that a request is for, by name, else by the data directory as it is configured; `None` when the path may be
    /// spelled in another way. Touches no file system: one of another cluster may hang.
    pub fn known(&self, cluster: &str, data_directory: &Path) -> Option<Result<Arc<Service>, String>> {
        if !cluster.is_empty() {
            return Some(self.clusters.get(cluster).cloned().ok_or_else(|| {
                let known: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
                format!("no cluster {cluster:?} in the configuration (there is: {})", known.join(", "))
            }));
        }
        let found = self.clusters.values().find(|service| service.config.data_directory == data_directory);
        found.map(|service| Ok(Arc::clone(service)))
    }

    /// The service with this data directory, links followed, where its file system answers within `limit`. The error says what to do.
    pub async fn find(&self, data_directory: &Path, limit: Duration) -> Result<Arc<Service>, String> {
        let services = self.clusters.values();
        let folders: Vec<_> = services.map(|service| (service, service.config.data_directory.as_path())).collect();
        let (found, shown) = (whose(data_directory, &folders, limit).await, data_directory.display());
        match found {
            Whose::Of(service) => Ok(Arc::clone(service)),
            Whose::Nobodys => Err(format!(
                "no cluster in the configuration has the data directory {shown}; add it to walward.toml (walward setup), or name the cluster with --cluster"
            )),
            Whose::NoAnswer => Err(format!(
                "the file system of a data directory did not answer in {} s, and no other is {shown}; name the cluster with --cluster",
                limit.as_secs()
            )),
        }
    }

    /// Ends the services' own work; in-flight work gets no grace here.
    pub async fn end(&self) {
        self.closing.cancel();
        self.stop.cancel();
        for service in self.clusters.values() {
            service.archiver.drain().await;
        }
    }
}

impl Service {
    /// What is done for the cluster unasked, until `closing`.
    fn tasks(&self, closing: &CancellationToken) -> Vec<Task> {
        let (data_directory, archiver) = (&self.config.data_directory, &self.archiver);
        let (look_ahead, settle, debts, busy) =
            (archiver.clone(), archiver.clone(), archiver.clone(), archiver.clone());
        let (asked, waiting) = (Arc::clone(&self.archive_stats), Arc::clone(&self.archive_stats));
        let until = || closing.clone();
        let (ahead_until, gaps_until, debts_until) = (until(), until(), until());
        let compare = archive::believed::watch(
            data_directory.clone(),
            self.repositories.clone(),
            self.config.acknowledge,
            move || asked.was_asked(),
            move || waiting.facts().ready_files > 0 || busy.counts().1 > 0,
            Arc::clone(&self.belief),
            until(),
        );
        vec![
            ("watch archive_status", watch(archiver.clone(), until()).boxed()),
            ("upload ahead", async move { look_ahead.look_ahead(ahead_until).await }.boxed()),
            ("record gaps", async move { settle.settle_gaps(gaps_until).await }.boxed()),
            ("look who owns the data directory", self.owner.clone().watch(data_directory.clone(), until()).boxed()),
            ("take back the settings of a recovery", recovered::watch(data_directory.clone(), until()).boxed()),
            ("work off debts", async move { debts.work_off(debts_until).await }.boxed()),
            ("compare with what the server believes", compare.boxed()),
        ]
    }
}

fn looks_at(data_directory: &Path) -> Arc<Semaphore> {
    LOOKS.get(data_directory.display().to_string(), || Semaphore::new(LOOKS_MAX))
}
