//! One job.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::outcome::Exit;
use walward_report::{Job as JobReport, JobState, Work};

/// So many may watch one job. Each keeps a connection, of which a user has a bounded number, for as long as the job lasts.
const WATCHERS_MAX: usize = 32;

/// How a job ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// The exit code of a command that did the same.
    pub exit: Exit,
    /// What came of it, as JSON; else why it failed.
    pub result: Result<String, String>,
}

/// One job of this agent, running or ended.
#[derive(Debug)]
pub struct Job {
    id: String,
    cluster: String,
    data_directory: PathBuf,
    started: Timestamp,
    progress: watch::Receiver<Work>,
    ended: watch::Receiver<Option<Ended>>,
    cancel: CancellationToken,
    watchers: Arc<Semaphore>,
}

impl Job {
    pub(super) fn new(
        id: String,
        (cluster, data_directory): (String, PathBuf),
        progress: watch::Receiver<Work>,
        ended: watch::Receiver<Option<Ended>>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            id,
            cluster,
            data_directory,
            started: Timestamp::now(),
            progress,
            ended,
            cancel,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    /// What it is called in this life of the agent.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cluster that it is about.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The data directory that the cluster's name stood for when it was begun: whose job it is.
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// A place among those that watch it, unless there are too many.
    pub fn watcher(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.watchers).try_acquire_owned().ok()
    }

    /// How it ended; none while it runs.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Tells it to end in order. That takes a moment; one that has ended stays as it is.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// How it stands.
    pub fn report(&self) -> JobReport {
        let ended = self.ended();
        let state = match &ended {
            None if self.cancel.is_cancelled() => JobState::Cancelling,
            None => JobState::Running,
            Some(Ended { result: Ok(_), .. }) => JobState::Done,
            Some(Ended { exit: Exit::Interrupted, .. }) => JobState::Cancelled,
            Some(_) => JobState::Failed,
        };
        JobReport {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            work: self.progress.borrow().clone(),
            state,
            started: self.started,
            ended: ended.as_ref().map(|ended| ended.at),
            code: ended.as_ref().map(|ended| ended.exit.code()),
            error: ended.and_then(|ended| ended.result.err()),
        }
    }

    /// For whoever wants to know how it goes on, from now.
    pub fn watching(&self) -> Watching {
        let mut progress = self.progress.clone();
        progress.mark_changed();
        Watching { progress, ended: self.ended.clone() }
    }

    /// Waits until it has ended.
    pub async fn end(&self) -> Ended {
        let mut watching = self.watching();
        loop {
            if let Some(ended) = watching.next().await {
                return ended;
            }
        }
    }
}

/// One that follows a job.
#[derive(Debug)]
pub struct Watching {
    progress: watch::Receiver<Work>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Watching {
    /// Waits until the job has come further, or ended: then how.
    pub async fn next(&mut self) -> Option<Ended> {
        tokio::select! {
            biased;
            // The registry keeps the other end until it has said how.
            ended = self.ended.wait_for(Option::is_some) => {
                Some(ended.ok().and_then(|ended| ended.clone()).unwrap_or_else(|| Ended::died(Timestamp::now())))
            }
            Ok(()) = self.progress.changed() => None,
        }
    }
}

impl Ended {
    /// One that panicked.
    pub(super) fn died(at: Timestamp) -> Self {
        Self { at, exit: Exit::Failed, result: Err("it died; the agent's log says why".to_owned()) }
    }
}
