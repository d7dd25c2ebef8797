//! A base backup on request, its progress sent as it goes. It ends when the client goes away: Ctrl-C cancels it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::services::{Service, Services};
use crate::backup::{self, BackupOptions, Progress};
use crate::outcome::{Exit, judge};
use walward_base::describe;
use walward_base::sys;
use walward_repo::manifest::BackupType;
use walward_wire::Reply;

/// How often progress is sent.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What the command line asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The cluster's name.
    pub cluster: String,
    /// The type of backup.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// Only into this repository; all of the cluster's when none is named.
    pub repository: Option<String>,
    /// The fingerprint of the cluster's configuration that the client has read.
    pub configuration: Option<String>,
}

/// Runs the backup and answers its report.
pub async fn run(
    request: BackupRequest,
    service: &Arc<Service>,
    services: &Services,
    replies: &mpsc::Sender<Reply>,
    gone: CancellationToken,
) -> Reply {
    let failed = |exit: Exit, text: String| Reply::Done { code: exit.code(), text };
    if request.kind != BackupType::Full {
        return failed(Exit::Usage, "only full backups can be taken in this version".to_owned());
    }
    if request.configuration.as_ref().is_some_and(|configuration| *configuration != service.config.fingerprint) {
        let places: Vec<String> =
            service.repositories.iter().map(|lazy| format!("{} ({})", lazy.name(), lazy.url())).collect();
        let text = format!(
            "the agent runs another configuration of {:?} than the one in the files now, and would back up to {}: reload it \
             (systemctl reload walward)",
            service.config.name,
            places.join(", ")
        );
        return failed(Exit::Refused, text);
    }
    let (progress, watching) = watch::channel(Progress::new(Timestamp::now()));
    let Some(_taken) = service.backup.take(watching.clone()) else {
        return failed(Exit::Locked, format!("a backup of {:?} is running already in this agent", service.config.name));
    };
    let mut repositories = Vec::new();
    let mut levels = Vec::new();
    for (lazy, level) in service.repositories.iter().zip(&service.backup_levels) {
        if request.repository.as_ref().is_some_and(|wanted| wanted != lazy.name()) {
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
                return failed(judge(&error).0, text);
            }
        }
        levels.push(*level);
    }
    if repositories.is_empty() {
        let name = request.repository.unwrap_or_default();
        return failed(Exit::NoRepository, format!("cluster {:?} has no repository {name:?}", service.config.name));
    }
    let config = &service.config;
    let options = BackupOptions {
        connection: config.connection.clone(),
        data_directory: config.data_directory.clone(),
        workers: config.backup.workers,
        fast_checkpoint: config.backup.fast_checkpoint,
        archive_deadline: config.backup.archive_deadline,
        read_deadline: config.backup.read_deadline,
        pack_bytes: config.backup.pack_bytes,
        levels,
        host: sys::host::name(),
    };
    let cancel = CancellationToken::new();
    let work = backup::run(&repositories, options, progress, cancel.clone());
    let give_up = async {
        tokio::select! {
            () = gone.cancelled() => {}
            () = services.backups.cancelled() => {}
        }
        cancel.cancel();
        // The backup ends by itself, in order: the server is told, the lease given back.
        std::future::pending::<()>().await;
    };
    let tell = tell(watching, replies);
    let result = tokio::select! {
        result = work => result,
        () = give_up => return failed(Exit::Interrupted, "interrupted".to_owned()),
        () = tell => return failed(Exit::Interrupted, "interrupted".to_owned()),
    };
    match result {
        Ok(report) => {
            let exit = if report.has_warnings() { Exit::Warnings } else { Exit::Done };
            match serde_json::to_string(&report) {
                Ok(json) => Reply::Result { code: exit.code(), json },
                Err(error) => failed(Exit::Failed, error.to_string()),
            }
        }
        Err(error) => failed(judge(&error).0, describe(&error)),
    }
}

/// Sends progress for as long as the work lasts; never ends by itself.
async fn tell(mut watching: watch::Receiver<Progress>, replies: &mpsc::Sender<Reply>) {
    while watching.changed().await.is_ok() {
        let json = serde_json::to_string(&*watching.borrow_and_update());
        if let Ok(json) = json {
            // A slow or vanished client does not hold the backup up.
            let _ = replies.try_send(Reply::Event(json));
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
    std::future::pending::<()>().await;
}
