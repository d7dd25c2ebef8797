//! Gathers the snapshot of facts.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tracing::Instrument;

use super::jobs::is_of;
use super::services::Service;
use crate::health::{ClusterSnapshot, DebtFacts, HangingRead, RepositorySnapshot, Snapshot};
use crate::jobs::Registry;
use walward_base::describe;
use walward_base::sys;
use walward_base::sys::ground::{Ground, Unanswered};
use walward_pg::archive_status::{list_ready, ready_since};
use walward_repo::{LazyRepository, RepoError};
use walward_storage::Creates;

/// How long a repository may take to answer.
const REPOSITORY_DEADLINE: Duration = Duration::from_secs(5);
/// How long a snapshot waits for what is asked of others.
const DEADLINE: Duration = Duration::from_secs(6);
/// How old the standing of the repositories may be.
const REPOSITORIES_AGE: Duration = Duration::from_secs(3);
/// How old the count of waiting files may be.
const READY_AGE: Duration = Duration::from_secs(1);

/// When this process started; touched first thing.
pub static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// The facts of this moment about `services` of the agent.
pub async fn snapshot(services: impl Iterator<Item = &Arc<Service>>, jobs: &Registry) -> Snapshot {
    let clusters = futures::future::join_all(services.map(|service| cluster(service, jobs))).await;
    Snapshot {
        schema: "walward.status/1".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: sys::host::name(),
        pid: std::process::id(),
        started: *STARTED,
        taken: Timestamp::now(),
        resident_bytes: resident_bytes().unwrap_or(0),
        clusters,
    }
}

async fn cluster(service: &Service, jobs: &Registry) -> ClusterSnapshot {
    let looked = async { tokio::join!(repositories(service), ready(service)) };
    let (mut repositories, ready) = looked.instrument(service.archiver.span()).await;
    for (repository, debt) in repositories.iter_mut().zip(service.archiver.repository_facts()) {
        repository.debt = debt;
    }
    let (uploaded_ahead, in_flight) = service.archiver.counts();
    let (prefetched, spool_bytes, spool_bytes_max) = service.fetcher.counts();
    ClusterSnapshot {
        name: service.config.name.clone(),
        data_directory: service.config.data_directory.clone(),
        configuration: Some(service.config.fingerprint.clone()),
        archive: service.archive_stats.facts(),
        ready_files: ready.map(|(files, _)| files),
        oldest_ready_seconds: ready.map(|(_, seconds)| seconds),
        uploaded_ahead: uploaded_ahead as u64,
        uploads_in_flight: in_flight as u64,
        unrecorded_gaps: service.archiver.unrecorded_gaps(),
        unreadable_gaps: service.archiver.unreadable_gaps(),
        belief: service.belief.facts(),
        fetch: service.fetch_stats.facts(),
        prefetched: prefetched as u64,
        spool_bytes,
        spool_bytes_max,
        spool_hangs_seconds: service.fetcher.hangs().map(|step| step.waited.as_secs()),
        repositories,
        hanging_reads: Ground::of(&service.config.data_directory).hanging().into_iter().map(hanging).collect(),
        jobs: jobs.all().iter().filter(|job| is_of(job, service)).map(|job| job.report()).collect(),
    }
}

fn hanging(Unanswered { path, waited }: Unanswered) -> HangingRead {
    HangingRead { path, seconds: waited.as_secs() }
}

async fn repositories(service: &Service) -> Vec<RepositorySnapshot> {
    let all = service.repositories.clone();
    let found = service.cache.repositories.get(REPOSITORIES_AGE, DEADLINE, async move {
        futures::future::join_all(all.iter().map(async |lazy| {
            // Answers before whoever asked gives up, so that one that is slow does not hide the others.
            let alive = async {
                let repository = lazy.get().await?;
                repository.confirm_alive().await?;
                Ok::<_, RepoError>(repository.store().creates())
            };
            match tokio::time::timeout(REPOSITORY_DEADLINE, alive).await {
                Ok(Ok(creates)) => RepositorySnapshot { warning: warning(creates), ..standing(lazy, None) },
                Ok(Err(error)) => standing(lazy, Some(describe(&error))),
                Err(_) => standing(lazy, Some(no_answer())),
            }
        }))
        .await
    });
    match found.await {
        Some(found) => found,
        None => service.repositories.iter().map(|lazy| standing(lazy, Some(no_answer()))).collect(),
    }
}

fn standing(lazy: &LazyRepository, error: Option<String>) -> RepositorySnapshot {
    let (name, reachable, debt) = (lazy.name().to_owned(), error.is_none(), DebtFacts::default());
    RepositorySnapshot { name, url: lazy.url(), reachable, error, warning: None, debt }
}

fn warning(creates: Creates) -> Option<String> {
    let advice = "let only one server archive each timeline to it (see walward check)";
    creates.is_unsafe().then(|| format!("the store {}: {advice}", creates.words()))
}

fn no_answer() -> String {
    format!("no answer within {} s", REPOSITORY_DEADLINE.as_secs())
}

async fn ready(service: &Service) -> Option<(u64, f64)> {
    let pg_wal = service.archiver.pg_wal().to_path_buf();
    let ground = Ground::of(&service.config.data_directory);
    let looked = async move { ground.look(move || waiting(&pg_wal)).await.flatten() };
    service.cache.ready.get(READY_AGE, DEADLINE, looked).await.flatten()
}

/// How many files wait in archive_status, and how long the first in the archiver's order has. Blocking.
fn waiting(pg_wal: &Path) -> Option<(u64, f64)> {
    let ready = list_ready(pg_wal).ok()?;
    let oldest = ready.first().and_then(|name| ready_since(pg_wal, *name).ok());
    let seconds = oldest.and_then(|since| SystemTime::now().duration_since(since).ok()).unwrap_or_default();
    Some((ready.len() as u64, seconds.as_secs_f64()))
}

/// Resident memory from /proc/self/statm (proc(5): the second number, in pages).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
