//! The one snapshot of facts that `status`, metrics and reports are made from.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup::BackupProgress;
use super::facts::{ArchiveFacts, BeliefFacts, DebtFacts, FetchFacts};
use super::job::{Job, Work};

/// Everything that an agent knows about itself at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// `walward.status/1`
    pub schema: String,
    /// The agent's version.
    pub version: String,
    /// The agent's host.
    pub host: String,
    /// The agent's process id.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// When this was taken.
    pub taken: Timestamp,
    /// Resident memory, bytes; 0 when it could not be read.
    pub resident_bytes: u64,
    /// Every cluster that the asker may see.
    pub clusters: Vec<ClusterSnapshot>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterSnapshot {
    /// Its name in the configuration.
    pub name: String,
    /// Where it lies.
    pub data_directory: PathBuf,
    /// The fingerprint of the configuration of it that the agent runs; none from an older agent.
    #[serde(default)]
    pub configuration: Option<String>,
    /// WAL in.
    pub archive: ArchiveFacts,
    /// Files marked ready in archive_status now; `None` when it cannot be read.
    pub ready_files: Option<u64>,
    /// How long the oldest of them has waited, seconds; 0 when none waits.
    pub oldest_ready_seconds: Option<f64>,
    /// Files durable before PostgreSQL asked for them.
    pub uploaded_ahead: u64,
    /// Files on their way.
    pub uploads_in_flight: u64,
    /// Gaps (WAL that was let go) that some repository was not told of yet.
    pub unrecorded_gaps: u64,
    /// Notes of such gaps that cannot be read: no repository will be told of these.
    #[serde(default)]
    pub unreadable_gaps: u64,
    /// What the server believes archived, beside what the repositories hold.
    #[serde(default)]
    pub belief: BeliefFacts,
    /// WAL out.
    pub fetch: FetchFacts,
    /// Segments in the spool or on their way there.
    pub prefetched: u64,
    /// Bytes of the spool in use.
    pub spool_bytes: u64,
    /// The most bytes of the spool.
    pub spool_bytes_max: u64,
    /// For how long the file system of the spool has not answered; none while it does.
    #[serde(default)]
    pub spool_hangs_seconds: Option<u64>,
    /// In order of preference.
    pub repositories: Vec<RepositorySnapshot>,
    /// Reads of the data directory for a backup that its file system does not answer now, the longest first.
    #[serde(default)]
    pub hanging_reads: Vec<HangingRead>,
    /// What runs for longer than a request, and what ended of it lately, the newest last.
    #[serde(default)]
    pub jobs: Vec<Job>,
}

impl ClusterSnapshot {
    /// How far the base backup is that runs, if one does.
    pub fn running_backup(&self) -> Option<&BackupProgress> {
        self.jobs
            .iter()
            .filter(|job| job.state.is_running())
            .map(|job| match &job.work {
                Work::Backup(progress) => progress,
            })
            .next()
    }
}

/// A read that a file system does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HangingRead {
    /// Of what.
    pub path: PathBuf,
    /// For how long by now.
    pub seconds: u64,
}

/// One repository of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepositorySnapshot {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is, without secrets.
    pub url: String,
    /// Whether it could be opened just now.
    pub reachable: bool,
    /// Why not, in one line.
    pub error: Option<String>,
    /// What somebody should know about it although it works, in one line.
    #[serde(default)]
    pub warning: Option<String>,
    /// What it is owed beside the others.
    #[serde(default)]
    pub debt: DebtFacts,
}
