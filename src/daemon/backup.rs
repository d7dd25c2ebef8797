//! A base backup on request: a job, which goes on when whoever asked for it has gone.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::services::Service;
use crate::backup::{self, Progress, Wanted};
use crate::jobs::{Job, NotBegun, Registry};
use crate::outcome::{Exit, judge};
use walward_base::describe;
use walward_base::sys;
use walward_repo::Repository;
use walward_report::Work;

/// What the command line asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The cluster's name.
    pub cluster: String,
    /// The type of backup.
    #[serde(rename = "type")]
    pub kind: Wanted,
    /// Only into this repository; all of the cluster's when none is named.
    pub repository: Option<String>,
    /// The fingerprint of the cluster's configuration that the client has read.
    pub configuration: Option<String>,
}

/// Begins the backup.
///
/// # Errors
/// Why it was not begun, as an exit code of the command line and a text.
pub fn begin(request: BackupRequest, service: &Arc<Service>, jobs: &Registry) -> Result<Arc<Job>, (Exit, String)> {
    let name = &service.config.name;
    if request.configuration.as_ref().is_some_and(|configuration| *configuration != service.config.fingerprint) {
        let places: Vec<String> =
            service.repositories.iter().map(|lazy| format!("{} ({})", lazy.name(), lazy.url())).collect();
        let text = format!(
            "the agent runs another configuration of {name:?} than the one in the files now, and would back up to {}: reload it \
             (systemctl reload walward)",
            places.join(", ")
        );
        return Err((Exit::Refused, text));
    }
    let work = Work::Backup(Progress::new(Timestamp::now()));
    let whose = (name.as_str(), service.config.data_directory.as_path());
    let begun = jobs.begin(whose, work, |tell, cancel| {
        run(request, Arc::clone(service), tell, cancel).instrument(service.archiver.span())
    });
    begun.map_err(|not| match not {
        NotBegun::Stopping => (Exit::Unreachable, "the agent is stopping".to_owned()),
        NotBegun::Runs(job) => {
            let text = format!(
                "a backup of {name:?} is running already in this agent: watch it with walward jobs watch {}",
                job.id()
            );
            (Exit::Locked, text)
        }
    })
}

/// The whole backup, and its report as JSON.
async fn run(
    request: BackupRequest,
    service: Arc<Service>,
    tell: watch::Sender<Work>,
    cancel: CancellationToken,
) -> (Exit, Result<String, String>) {
    let (repositories, levels) = match chosen(&request, &service).await {
        Ok(chosen) => chosen,
        Err((exit, text)) => return (exit, Err(text)),
    };
    let options = service.config.backup_options(request.kind, levels, sys::host::name());
    let (progress, mut watching) = watch::channel(Progress::new(Timestamp::now()));
    let passed_on = async {
        while watching.changed().await.is_ok() {
            tell.send_replace(Work::Backup(watching.borrow_and_update().clone()));
        }
        std::future::pending::<()>().await;
    };
    // When it is cancelled it ends by itself, in order: the server is told, the lease given back.
    let ended = tokio::select! {
        ended = backup::run(&repositories, options, progress, cancel) => ended,
        () = passed_on => return (Exit::Failed, Err("nobody counts how far it is".to_owned())),
    };
    match ended {
        Ok(report) => {
            let exit = if report.has_warnings() { Exit::Warnings } else { Exit::Done };
            match serde_json::to_string(&report) {
                Ok(json) => (exit, Ok(json)),
                Err(error) => (Exit::Failed, Err(error.to_string())),
            }
        }
        Err(error) => (judge(&error).0, Err(describe(&error))),
    }
}

/// The repositories that it goes to, opened anew, and zstd's level for each.
async fn chosen(request: &BackupRequest, service: &Service) -> Result<(Vec<Repository>, Vec<i32>), (Exit, String)> {
    let is_chosen = |name: &str| request.repository.as_ref().is_none_or(|wanted| wanted == name);
    let (mut repositories, mut levels) = (Vec::new(), Vec::new());
    for (lazy, level) in service.repositories.iter().zip(&service.backup_levels) {
        if !is_chosen(lazy.name()) {
            continue;
        }
        match lazy.reopen().await {
            Ok(repository) => repositories.push(repository),
            Err(error) => {
                let mut text = format!("cannot open repository {:?}: {}", lazy.name(), describe(&error));
                let others = service.repositories.iter().map(|other| other.name()).filter(|name| *name != lazy.name());
                let others = others.collect::<Vec<_>>().join(", ");
                if request.repository.is_none() && !others.is_empty() {
                    text = format!("{text}; to back up without it, name another one with --repository: {others}");
                }
                return Err((judge(&error).0, text));
            }
        }
        levels.push(*level);
    }
    if repositories.is_empty() {
        let name = request.repository.as_deref().unwrap_or_default();
        return Err((Exit::NoRepository, format!("cluster {:?} has no repository {name:?}", service.config.name)));
    }
    Ok((repositories, levels))
}
