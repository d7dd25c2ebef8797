//! What the repositories and the agent say of a cluster: is there WAL, a backup, somebody who serves it; does a segment arrive.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::server::Server;
use crate::cli::agent::{self, Asked};
use crate::cli::arrival;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::health::Snapshot;
use crate::setup::Agent;
use walward_base::describe;
use walward_pg::Lineage;
use walward_repo::{Repository, layout, stored};

/// How long an agent may take to read its configuration again.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

fn snapshot(context: &Context) -> Option<Snapshot> {
    let socket = context.socket();
    let asked = tokio::task::block_in_place(|| agent::ask(&socket, &json!({ "op": "status" }), |_| Ok(())));
    match asked {
        Ok(Asked::Answered(answer)) => serde_json::from_value(answer.json).ok(),
        Ok(Asked::NoAgent(_)) | Err(_) => None,
    }
}

fn of(snapshot: Option<&Snapshot>, cluster: &ClusterConfig) -> Agent {
    match snapshot {
        None => Agent::Away,
        Some(snapshot) if snapshot.clusters.iter().any(|served| served.name == cluster.name) => Agent::Serves,
        Some(_) => Agent::Unaware,
    }
}

/// Whether the agent serves the cluster. With `reload` one that does not know it is told to read its configuration again.
pub(super) async fn agent(context: &Context, cluster: &ClusterConfig, reload: bool, printer: &Printer) -> Agent {
    let found = snapshot(context);
    let state = of(found.as_ref(), cluster);
    let pid = found.and_then(|found| Pid::from_raw(i32::try_from(found.pid).ok()?));
    let (Agent::Unaware, true, Some(pid)) = (state, reload, pid) else { return state };
    if kill_process(pid, Signal::HUP).is_err() {
        return state;
    }
    let began = Instant::now();
    while began.elapsed() < RELOAD_DEADLINE {
        tokio::time::sleep(PAUSE).await;
        if of(snapshot(context).as_ref(), cluster) == Agent::Serves {
            printer.note("done: the agent has read the configuration again");
            return Agent::Serves;
        }
    }
    Agent::Unaware
}

/// Whether every repository holds a finished backup.
pub(super) async fn has_backup(repositories: &[Repository]) -> Result<bool, Failure> {
    for repository in repositories {
        let mut finished = false;
        for label in stored::labels(repository).await.context("cannot list the backups")?.iter().rev() {
            if stored::head(repository, label).await.is_ok() {
                finished = true;
                break;
            }
        }
        if !finished {
            return Ok(false);
        }
    }
    Ok(!repositories.is_empty())
}

/// Whether every repository holds WAL of the lineage.
pub(super) async fn has_wal(repositories: &[Repository], lineage: Lineage) -> Result<bool, Failure> {
    for repository in repositories {
        let folder = layout::wal_root(lineage);
        let listing = repository.store().list(Some(&folder)).await.context("cannot list the WAL")?;
        if listing.folders.is_empty() {
            return Ok(false);
        }
    }
    Ok(!repositories.is_empty())
}

/// A segment that came through.
#[derive(Debug, serde::Serialize)]
pub(super) struct Arrival {
    segment: String,
    seconds: f64,
}

/// Ends a segment and waits until every repository has it.
pub(super) async fn first_segment(
    server: &Server,
    repositories: &[Repository],
    deadline: Duration,
    printer: &Printer,
) -> Result<Arrival, String> {
    let segment = arrival::switch(&server.session, "walward setup").await.map_err(|error| describe(&error))?;
    printer.note(&format!("waiting for {segment} to arrive"));
    let began = Instant::now();
    for repository in repositories {
        let left = deadline.saturating_sub(began.elapsed());
        arrival::wait(repository, server.facts.lineage(), segment, left)
            .await
            .map_err(|why| format!("repository \"{}\": {why}", repository.name()))?;
    }
    Ok(Arrival { segment: segment.to_string(), seconds: began.elapsed().as_secs_f64() })
}
