//! What a client may ask about jobs: which there are, how one goes on, to end one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use super::permitted::{STATUS_DEADLINE, may_use, permitted};
use super::services::{Service, Services};
use crate::jobs::{Ended, Job, Registry};
use crate::outcome::Exit;
use walward_wire::Reply;

/// How often a client is told how far a job is.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

/// Follows a job until it has ended, or its client has gone, which does nothing to the job.
pub async fn watch(job: &Job, replies: &mpsc::Sender<Reply>, gone: CancellationToken) -> Reply {
    let Some(_watcher) = job.watcher() else {
        let text = format!("too many watch {} already; it goes on without", job.id());
        return Reply::Done { code: Exit::Unreachable.code(), text };
    };
    let mut watching = job.watching();
    loop {
        let ended = tokio::select! {
            ended = watching.next() => ended,
            // Nobody hears it.
            () = gone.cancelled() => return Reply::Done { code: Exit::Interrupted.code(), text: String::new() },
        };
        if let Some(ended) = ended {
            return answer(ended);
        }
        if let Ok(json) = serde_json::to_string(&job.report()) {
            // A slow or vanished client does not hold the job up.
            let _ = replies.try_send(Reply::Event(json));
        }
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}

/// How a job has ended, as the answer to whoever waited for it.
fn answer(Ended { exit, result, .. }: Ended) -> Reply {
    match result {
        Ok(json) => Reply::Result { code: exit.code(), json },
        Err(text) => Reply::Done { code: exit.code(), text },
    }
}

/// The jobs of the clusters that the peer may use. Touches each cluster's file system once, all at the same time.
pub async fn list(jobs: &Registry, peer: Peer, services: &Arc<Services>) -> Reply {
    let all = services.clusters.values();
    let allowed = join_all(all.map(|service| may_use(peer, service, STATUS_DEADLINE))).await;
    let seen = services.clusters.values().zip(allowed).filter(|(_, allowed)| *allowed == Ok(true));
    let seen: Vec<&Service> = seen.map(|(service, _)| &**service).collect();
    let is_seen = |job: &Job| peer.is_trusted() || seen.iter().any(|service| is_of(job, service));
    let jobs: Vec<_> = jobs.all().iter().filter(|job| is_seen(job)).map(|job| job.report()).collect();
    match serde_json::to_string(&jobs) {
        Ok(json) => Reply::Result { code: 0, json },
        Err(error) => Reply::Done { code: Exit::Failed.code(), text: error.to_string() },
    }
}

/// The job of this name, when the peer may use its cluster.
pub async fn find(id: &str, jobs: &Registry, peer: Peer, services: &Arc<Services>) -> Result<Arc<Job>, (Exit, String)> {
    let unknown = || (Exit::NotFound, format!("there is no job {id:?} in this agent; see walward jobs list"));
    let job = jobs.find(id).ok_or_else(unknown)?;
    // Of a cluster that the configuration has no more, or has elsewhere now, only those who may use all know.
    if peer.is_trusted() {
        return Ok(job);
    }
    match permitted(job.cluster(), Path::new("/"), peer, services).await {
        Ok(service) if is_of(&job, &service) => Ok(job),
        _ => Err(unknown()),
    }
}

/// Whether the job is of the cluster of this service, and not of another one that had its name before.
pub fn is_of(job: &Job, service: &Service) -> bool {
    job.cluster() == service.config.name && job.data_directory() == service.config.data_directory
}
