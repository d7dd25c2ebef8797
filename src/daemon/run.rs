//! The agent's life: start, reload, watchdog, stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::{join, join_all};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::bounds::Bounds;
use super::services::Services;
use super::{listen, log, metrics, server, spools, status};
use crate::archive::Spool;
use crate::config::{self, Config, Loaded};
use crate::jobs::Registry;
use walward_base::describe;
use walward_base::sys;

/// How long what is being answered may take when the agent stops.
const GRACE: Duration = Duration::from_secs(10);
/// How long uploads that an older configuration began may take when it was replaced.
const DRAIN: Duration = Duration::from_mins(1);
/// How long threads that wait for disks may take at the end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How often idle things are looked after.
const TICK: Duration = Duration::from_secs(5);
/// How long the services may take to end what they have under way.
const END: Duration = Duration::from_secs(5);
/// Threads that wait for disks, beside those for the data directories.
const BLOCKING_THREADS: usize = 64;
/// As many more for each cluster: its watchers, looks and readers, and those of the configuration before a reload, may all hang in one file
/// system, and must not take the threads of other clusters and of repositories. They are made when they are needed.
const BLOCKING_THREADS_OF_A_CLUSTER: usize = 48;
/// The most of the process.
const BLOCKING_THREADS_MAX: usize = 1024;

/// `walwardd`: archives WAL, prefetches for recovery, takes base backups; asked by walward-wal and walward over its socket.
#[derive(Debug, clap::Parser)]
#[command(name = "walwardd", version)]
pub struct Arguments {
    /// The configuration; `conf.d/*.toml` beside it is read, too.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/walward/walward.toml")]
    pub config: PathBuf,
}

/// Runs the agent until it is told to stop.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _ = *status::STARTED;
    sys::secrecy::keep_memory_private();
    let loaded = config::load(&arguments.config)?;
    log::install(loaded.config.agent.log)?;
    sys::panics::log_them();
    let config = said(loaded);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking_threads(config.clusters.len()))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let lived = runtime.block_on(live(&arguments.config, config));
    // Threads that hang in a dead file system do not keep the process.
    runtime.shutdown_timeout(SHUTDOWN);
    lived
}

/// The bound of the runtime's threads that wait for disks.
fn blocking_threads(clusters: usize) -> usize {
    // One that comes with a reload has a place, too.
    let of_clusters = BLOCKING_THREADS_OF_A_CLUSTER.saturating_mul(clusters.saturating_add(1));
    BLOCKING_THREADS.saturating_add(of_clusters).min(BLOCKING_THREADS_MAX)
}

/// The configuration, when what is unwise about it was said to the log.
fn said(loaded: Loaded) -> Config {
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    loaded.config
}

async fn live(path: &Path, config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    // First of all: where another agent listens, its spool is not ours to clear.
    let listening = listen::listen(&config.agent.socket)?;
    spools::clear(&config).await;
    let mut tasks = JoinSet::new();
    let mut bounds = Bounds::new(&config.agent).context("start worker threads")?;
    let jobs = Registry::default();
    let services = Services::start(&config, &spools::open(&config).await?, &bounds, &jobs, &mut tasks)?;
    let mut draining = CancellationToken::new();
    let (publish, current) = watch::channel(services);
    let listener = UnixListener::from_std(listening.listener).context("listen")?;
    let closing = CancellationToken::new();
    let answers = TaskTracker::new();
    tasks.spawn(server::serve(listener, current.clone(), answers.clone(), closing.clone()));
    if let Some(address) = config.agent.metrics_listen {
        tasks.spawn(metrics::serve(address, current.clone(), closing.clone()).await?);
    }
    let clusters = config.clusters.len();
    info!(socket = %config.agent.socket.display(), clusters, version = env!("CARGO_PKG_VERSION"), "walwardd is ready");
    tell_systemd(&[NotifyState::Ready]);
    let mut tick = tokio::time::interval(watchdog_interval());
    let mut loading = None;
    let outcome = loop {
        tokio::select! {
            () = stopped(&mut terminate, &mut interrupt) => break Ok(()),
            _ = hangup.recv(), if loading.is_none() => loading = Some(load(path)),
            loaded = finished(&mut loading) => {
                reload(loaded, &publish, (&mut bounds, &mut draining), &mut tasks);
            }
            _ = tick.tick() => {
                tell_systemd(&[NotifyState::Watchdog]);
                let services = Arc::clone(&publish.borrow());
                services.clusters.values().for_each(|service| service.fetcher.sweep());
            }
            Some(ended) = tasks.join_next() => {
                // Tasks of an earlier configuration end by themselves; one that died takes the agent with it, and
                // systemd starts it anew.
                if let Err(died) = ended {
                    error!(%died, "a task died");
                    break Err(died);
                }
            }
        }
    };
    info!("walwardd is stopping");
    tell_systemd(&[NotifyState::Stopping]);
    // While nobody else can listen yet: later the name may be a successor's.
    if let Some(socket) = listening.path {
        let _ = listen::remove(&socket);
    }
    closing.cancel();
    let services = Arc::clone(&publish.borrow());
    services.closing.cancel();
    // They would not be done within the grace, and need that: a backup tells the server and gives its leases back.
    jobs.close();
    answers.close();
    if tokio::time::timeout(GRACE, join(answers.wait(), jobs.ended())).await.is_err() {
        warn!("requests or jobs are still under way after {} s; they are given up", GRACE.as_secs());
    }
    if tokio::time::timeout(END, services.end()).await.is_err() {
        warn!("files are still on their way after {} s; PostgreSQL asks again", END.as_secs());
    }
    join_all(services.clusters.values().map(|service| service.fetcher.end())).await;
    match outcome {
        Ok(()) => Ok(()),
        Err(died) => bail!("a task of the agent died: {died}"),
    }
}

/// A configuration that was read, and its spools.
type Read = anyhow::Result<(Loaded, BTreeMap<String, Spool>)>;

/// Reads the configuration. Its paths may lead into a file system that does not answer for a while, and the agent goes on.
fn load(path: &Path) -> JoinHandle<Read> {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell_systemd(&states);
    let path = path.to_owned();
    tokio::spawn(async move {
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let loaded = loaded.context("read the configuration")??;
        let spools = spools::open(&loaded.config).await?;
        Ok((loaded, spools))
    })
}

/// What was read, once; for as long as nothing is being read this does not end.
async fn finished(loading: &mut Option<JoinHandle<Read>>) -> Read {
    let loaded = match loading {
        Some(loading) => loading.await,
        None => std::future::pending().await,
    };
    *loading = None;
    loaded.context("read the configuration")?
}

/// Takes a new configuration if it is valid; the old services finish what they have under way, for [`DRAIN`] at most and until the
/// next reload: two configurations are at work at once, and no more. `draining` ends the uploads of the one before.
fn reload(
    loaded: Read,
    publish: &watch::Sender<Arc<Services>>,
    (bounds, draining): (&mut Bounds, &mut CancellationToken),
    tasks: &mut JoinSet<()>,
) {
    let (_, memory_mib) = bounds.memory();
    let started = loaded.and_then(|(loaded, spools)| {
        let config = said(loaded);
        bounds.change(&config.agent).context("start worker threads")?;
        let jobs = publish.borrow().jobs.clone();
        Services::start(&config, &spools, bounds, &jobs, tasks)
    });
    match started {
        Ok(services) => {
            let clusters = services.clusters.len();
            let old = publish.send_replace(services);
            old.closing.cancel();
            std::mem::replace(draining, old.uploads.clone()).cancel();
            // In-flight uploads of the old services go on; what waits for them still gets the answer.
            for service in old.clusters.values() {
                let (archiver, uploads) = (service.archiver.clone(), old.uploads.clone());
                tasks.spawn(async move {
                    if tokio::time::timeout(DRAIN, archiver.drain()).await.is_err() {
                        uploads.cancel();
                        archiver.drain().await;
                    }
                });
            }
            info!(clusters, "configuration reloaded");
        }
        Err(error) => {
            bounds.set_memory(memory_mib);
            error!(error = describe(error.as_ref()), "the new configuration is not usable; the old one stays in force");
        }
    }
    tell_systemd(&[NotifyState::Ready]);
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Half of systemd's watchdog time, when there is one.
fn watchdog_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(TICK, |limit| (limit / 2).min(TICK)).max(Duration::from_millis(100))
}

/// Not under systemd this does nothing.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot talk to systemd");
    }
}
