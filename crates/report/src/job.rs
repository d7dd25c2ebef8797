//! What runs for longer than a request.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup::BackupProgress;

/// One job of an agent. It goes on whether or not anybody watches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Job {
    /// What it is called in this life of the agent.
    pub id: String,
    /// The cluster, as the configuration names it.
    pub cluster: String,
    /// What it does, and how far it is.
    #[serde(flatten)]
    pub work: Work,
    /// Whether it runs, or how it ended.
    pub state: JobState,
    /// When it was begun.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The exit code that a command would end with that did the same; none while it runs.
    pub code: Option<u8>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The kinds of jobs, and how far each is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", content = "progress", rename_all = "snake_case")]
pub enum Work {
    /// A base backup.
    Backup(BackupProgress),
}

/// Whether a job runs, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It runs.
    Running,
    /// It was told to end, and is ending in order.
    Cancelling,
    /// It is done; there may be warnings (`code` 3).
    Done,
    /// It failed.
    Failed,
    /// It ended because somebody wanted that, or the agent stopped.
    Cancelled,
}

impl Work {
    /// One word for the kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
        }
    }
}

impl JobState {
    /// Whether it has not ended yet.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Cancelling)
    }

    /// One word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
