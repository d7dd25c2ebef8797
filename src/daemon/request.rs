//! One request to one service, and its answer.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::peer::Peer;
use super::permitted::{FILE_SYSTEM_DEADLINE, STATUS_DEADLINE, in_file_system, may_use, permitted};
use super::services::Services;
use super::{backup, jobs, status};
use crate::archive::{Asker, FetchError, Fetched, Place, PushError, Pushed, Spot, Want};
use crate::jobs::Job;
use crate::outcome::Exit;
use walward_base::describe;
use walward_base::sys::folder::Folder;
use walward_pg::{ControlFile, Lineage, WalFileName};
use walward_wire::{OnError, Reply, Request};

/// How long an answer waits for what was written beside a destination to be removed.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

/// What the command line may ask, as JSON with `op`.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Admin {
    /// The snapshot of facts. A variant without fields would take unknown ones.
    Status {},
    /// A base backup of a cluster: a job, which is watched until it has ended.
    Backup(backup::BackupRequest),
    /// The jobs that run, and those that ended lately.
    Jobs {},
    /// How a job goes on, until it has ended.
    WatchJob { id: String },
    /// The job is to end.
    CancelJob { id: String },
    /// What follows `from` is to be moved out of the cluster's archive: how the file stands. With `done`, it was moved, or moved back.
    SetAside { cluster: String, from: WalFileName, done: bool },
}

/// The last word to a client.
pub struct LastWord {
    /// What it is told.
    pub reply: Reply,
    /// What must be kept until the client has closed the connection.
    pub kept: Option<Arc<Place>>,
}

impl From<Reply> for LastWord {
    fn from(reply: Reply) -> Self {
        Self { reply, kept: None }
    }
}

/// Does what is asked; `progress` hears how far it is. `None`: the connection closes without a word, and the client asks the
/// next agent.
pub async fn handle(
    request: Request,
    peer: Peer,
    services: &Arc<Services>,
    progress: mpsc::Sender<Reply>,
    gone: CancellationToken,
) -> Option<LastWord> {
    match request {
        Request::Push { cluster, path } => Some(push(cluster, path, peer, services).await?.into()),
        Request::Fetch { cluster, name, destination, on_error } => {
            let asker = match on_error {
                OnError::Abort => Asker::OneShot,
                OnError::Target => Asker::Target,
                OnError::Retry => Asker::Standby,
            };
            let fetched = tokio::select! {
                fetched = bring(cluster, &name, destination, asker, peer, services) => fetched,
                () = gone.cancelled() => return None,
            };
            let (code, text) = match fetched {
                Ok(Some(place)) => {
                    return Some(LastWord { reply: Reply::File(place.path().to_path_buf()), kept: Some(place) });
                }
                Ok(None) => (Exit::Absent, String::new()),
                Err(Refused::Stopping) => return None,
                Err(Refused::Because(text)) => match asker {
                    Asker::OneShot | Asker::Target => (Exit::FetchFailed, text),
                    Asker::Standby => (Exit::Absent, text),
                },
                // A standby asks again, and a recovery with a target does not end before it at a segment.
                Err(Refused::Hole(text)) => match asker {
                    Asker::OneShot => (Exit::FetchFailed, text),
                    Asker::Target | Asker::Standby => (Exit::Absent, text),
                },
            };
            Some(Reply::Done { code: code.code(), text }.into())
        }
        // Boxed: a backup's future is large, and those of all others would be as large as it.
        Request::Admin(json) => Some(Box::pin(admin(&json, peer, services, &progress, gone)).await.into()),
    }
}

/// Why a fetch got no answer from the repositories.
enum Refused {
    Stopping,
    Hole(String),
    Because(String),
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self::Because(text)
    }
}

/// `None`: the agent is stopping, and says nothing, so that the client asks the next one.
async fn push(cluster: String, path: PathBuf, peer: Peer, services: &Arc<Services>) -> Option<Reply> {
    let failed = |text: String| Some(Reply::Done { code: Exit::Failed.code(), text });
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name: WalFileName = match name.parse() {
        Ok(name) => name,
        Err(error) => return failed(error.to_string()),
    };
    let Some(data_directory) = path.parent().and_then(Path::parent) else {
        return failed(format!("{} does not lie in a pg_wal", path.display()));
    };
    let service = match permitted(&cluster, data_directory, peer, services).await {
        Ok(service) => service,
        Err((_, text)) => return failed(text),
    };
    let (archiver, cluster) = (service.archiver.clone(), service.config.name.clone());
    // One visit to the file system for all that is to be known of it: the agent may have the file already.
    let found = in_file_system(&service.looks, FILE_SYSTEM_DEADLINE, move || {
        // The agent reads with its own rights: only the cluster's own pg_wal, whatever the path says.
        let given = path.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
        if given.is_none() || given != std::fs::canonicalize(archiver.pg_wal()).ok() {
            let (path, pg_wal) = (path.display(), archiver.pg_wal().display());
            return Err(format!("{path} does not lie in {pg_wal}, the pg_wal of cluster {cluster:?}"));
        }
        Ok(archiver.find(name))
    });
    let found = match found.await.flatten() {
        Ok(found) => found,
        Err(text) => return failed(text),
    };
    match service.archiver.push(name, found).await {
        Ok(Pushed::LetGo) => {
            let text = format!(
                "{name} was LET GO, not archived: more WAL waits than archive.queue_limit allows and the store fails; take a new backup when it is back"
            );
            Some(Reply::Done { code: 0, text })
        }
        Ok(Pushed::PutOff) => {
            let text = format!(
                "{name} was put off, because more WAL waits than archive.queue_limit allows and the store fails; it is archived from pg_wal when the store is back"
            );
            Some(Reply::Done { code: 0, text })
        }
        Ok(Pushed::Ahead | Pushed::Now) => Some(Reply::Done { code: 0, text: String::new() }),
        Err(error) if matches!(*error, PushError::Stopping(_)) => None,
        Err(error) => failed(describe(error.as_ref())),
    }
}

/// As [`fetch`]; the file is the client's by then. When it is gone, or its file system does not answer any more, it is brought once again.
async fn bring(
    cluster: String,
    name: &str,
    destination: PathBuf,
    asker: Asker,
    peer: Peer,
    services: &Arc<Services>,
) -> Result<Option<Arc<Place>>, Refused> {
    let mut failed = String::new();
    for _ in 0..2 {
        match fetch(&cluster, name, destination.clone(), asker, peer, services).await? {
            Fetched::Absent => return Ok(None),
            Fetched::File(place) => match hand_over(&place, peer).await {
                Ok(()) => return Ok(Some(place)),
                Err(text) => failed = text,
            },
        }
    }
    Err(failed.into())
}

async fn fetch(
    cluster: &str,
    name: &str,
    destination: PathBuf,
    asker: Asker,
    peer: Peer,
    services: &Arc<Services>,
) -> Result<Fetched, Refused> {
    let name: WalFileName = name.parse().map_err(|error: <WalFileName as std::str::FromStr>::Err| error.to_string())?;
    let pg_wal = destination.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
    let data_directory = pg_wal.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
    let service = permitted(cluster, &data_directory, peer, services).await.map_err(|(_, text)| text)?;
    let looked = in_file_system(&service.looks, FILE_SYSTEM_DEADLINE, move || {
        Ok((lineage_of(&data_directory)?, Spot::beside(&destination, peer.uid)))
    });
    let (lineage, beside) = looked.await.flatten()?;
    let want = Want { lineage, name, pg_wal: Some(pg_wal) };
    let fetched = service.fetcher.fetch(want, asker, beside.clone()).await;
    if let (Err(_), Some(spot)) = (&fetched, beside) {
        // Who asks may ask elsewhere now, for a file of the same name.
        let _ = tokio::time::timeout(SETTLE_TIME_MAX, spot.settled()).await;
    }
    fetched.map_err(|error| match error {
        FetchError::Stopping(_) => Refused::Stopping,
        error if error.is_hole() && !matches!(name, WalFileName::History(_)) => Refused::Hole(describe(&error)),
        error => Refused::Because(describe(&error)),
    })
}

/// The lineage of the server that recovers; `None` when the destination is not in a data directory (a file fetched by hand).
/// Blocking.
fn lineage_of(data_directory: &Path) -> Result<Option<Lineage>, String> {
    let unknown = |error: &(dyn std::error::Error + 'static)| {
        format!("cannot tell which cluster {} belongs to: {}", data_directory.display(), describe(error))
    };
    // Only a clear "there is none" may leave the lineage open.
    match Folder::enter(data_directory).and_then(|folder| folder.look("global/pg_control")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| unknown(&error))?,
    };
    ControlFile::read(data_directory).map(|control| Some(control.lineage())).map_err(|error| unknown(&error))
}

/// The file for the client. An agent that runs as root gives it to the client's user, who will own it.
async fn hand_over(place: &Arc<Place>, peer: Peer) -> Result<(), String> {
    let new_owner = Some(peer.uid).filter(|uid| rustix::process::geteuid().is_root() && *uid != 0);
    let given = place.ask(move |place| place.give(new_owner)).await.flatten();
    given.map_err(|error| format!("cannot give {} to user {}: {error}", place.path().display(), peer.uid))
}

/// The job until it has ended; else why there is none.
async fn followed(
    job: Result<Arc<Job>, (Exit, String)>,
    replies: &mpsc::Sender<Reply>,
    gone: CancellationToken,
) -> Reply {
    match job {
        Ok(job) => jobs::watch(&job, replies, gone).await,
        Err((exit, text)) => Reply::Done { code: exit.code(), text },
    }
}

async fn admin(
    json: &str,
    peer: Peer,
    services: &Arc<Services>,
    replies: &mpsc::Sender<Reply>,
    gone: CancellationToken,
) -> Reply {
    match serde_json::from_str(json) {
        Ok(Admin::Status {}) => {
            // Nothing is asked on behalf of who may not know it.
            let all = services.clusters.values();
            let allowed = join_all(all.map(|service| may_use(peer, service, STATUS_DEADLINE))).await;
            let seen = services.clusters.values().zip(allowed).filter(|(_, allowed)| *allowed == Ok(true));
            let snapshot = status::snapshot(seen.map(|(service, _)| service), &services.jobs).await;
            match serde_json::to_string(&snapshot) {
                Ok(json) => Reply::Result { code: 0, json },
                Err(error) => Reply::Done { code: Exit::Failed.code(), text: error.to_string() },
            }
        }
        Ok(Admin::Backup(request)) => match permitted(&request.cluster, Path::new("/"), peer, services).await {
            Ok(service) => followed(backup::begin(request, &service, &services.jobs), replies, gone).await,
            Err((exit, text)) => Reply::Done { code: exit.code(), text },
        },
        Ok(Admin::Jobs {}) => jobs::list(&services.jobs, peer, services).await,
        Ok(Admin::WatchJob { id }) => {
            followed(jobs::find(&id, &services.jobs, peer, services).await, replies, gone).await
        }
        Ok(Admin::CancelJob { id }) => match jobs::find(&id, &services.jobs, peer, services).await {
            Ok(job) => {
                info!(job = job.id(), cluster = job.cluster(), uid = peer.uid, "a job is cancelled");
                job.cancel();
                match serde_json::to_string(&job.report()) {
                    Ok(json) => Reply::Result { code: 0, json },
                    Err(error) => Reply::Done { code: Exit::Failed.code(), text: error.to_string() },
                }
            }
            Err((exit, text)) => Reply::Done { code: exit.code(), text },
        },
        Ok(Admin::SetAside { cluster, from, done }) => {
            let service = match permitted(&cluster, Path::new("/"), peer, services).await {
                Ok(service) => service,
                Err((exit, text)) => return Reply::Done { code: exit.code(), text },
            };
            if done {
                let _line = service.archiver.span().entered();
                info!(segment = %from, "the archive was changed by hand from this file on: what is remembered of it is let go of");
                service.archiver.forget();
                service.fetcher.forget();
            }
            match serde_json::to_string(&service.archiver.contest(from)) {
                Ok(json) => Reply::Result { code: 0, json },
                Err(error) => Reply::Done { code: Exit::Failed.code(), text: error.to_string() },
            }
        }
        Err(error) => Reply::Done {
            code: Exit::Usage.code(),
            text: format!(
                "the agent does not understand the request ({error}); are walward and walwardd of one release?"
            ),
        },
    }
}
