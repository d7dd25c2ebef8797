//! Gathers the snapshot of facts.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::services::{Service, Services};
use crate::base::describe;
use crate::health::{ClusterSnapshot, RepositorySnapshot, Snapshot};
use crate::pg::archive_status::{list_ready, ready_path};
use crate::sys;

/// How long `status` waits for a repository that is slow to answer.
const REPOSITORY_DEADLINE: Duration = Duration::from_secs(5);

/// When this process started; touched first thing.
pub static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// The facts of this moment.
pub async fn snapshot(services: &Services) -> Snapshot {
    let clusters = futures::future::join_all(services.clusters.values().map(|service| cluster(service))).await;
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

async fn cluster(service: &Service) -> ClusterSnapshot {
    let repositories = futures::future::join_all(service.repositories.iter().map(async |lazy| {
        let alive = tokio::time::timeout(REPOSITORY_DEADLINE, async { lazy.get().await?.confirm_alive().await }).await;
        let error = match alive {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(describe(&error)),
            Err(_) => Some(format!("no answer within {} s", REPOSITORY_DEADLINE.as_secs())),
        };
        RepositorySnapshot { name: lazy.name().to_owned(), url: lazy.url(), reachable: error.is_none(), error }
    }))
    .await;
    let pg_wal = service.archiver.pg_wal().to_path_buf();
    let ready = tokio::task::spawn_blocking(move || waiting(&pg_wal)).await.ok().flatten();
    let (uploaded_ahead, in_flight) = service.archiver.counts();
    let (prefetched, spool_bytes, spool_bytes_max) = service.fetcher.counts();
    ClusterSnapshot {
        name: service.config.name.clone(),
        data_directory: service.config.data_directory.clone(),
        archive: service.archive_stats.facts(),
        ready_files: ready.map(|(files, _)| files),
        oldest_ready_seconds: ready.map(|(_, seconds)| seconds),
        uploaded_ahead: uploaded_ahead as u64,
        uploads_in_flight: in_flight as u64,
        fetch: service.fetch_stats.facts(),
        prefetched: prefetched as u64,
        spool_bytes,
        spool_bytes_max,
        repositories,
        backup: service.backup.progress().and_then(|progress| serde_json::to_value(progress).ok()),
    }
}

/// How many files wait in archive_status, and how long the first in the archiver's order has.
fn waiting(pg_wal: &Path) -> Option<(u64, f64)> {
    let ready = list_ready(pg_wal).ok()?;
    let oldest = ready.first().and_then(|name| std::fs::metadata(ready_path(pg_wal, *name)).ok()?.modified().ok());
    let seconds = oldest.and_then(|since| SystemTime::now().duration_since(since).ok()).unwrap_or_default();
    Some((ready.len() as u64, seconds.as_secs_f64()))
}

/// Resident memory from /proc/self/statm (proc(5): the second number, in pages).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
