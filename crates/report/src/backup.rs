//! How far a base backup is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a backup is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackupPhase {
    /// Reaching the server and the repositories, and checking that they belong together.
    Connecting,
    /// Waiting for the server's checkpoint.
    Checkpoint,
    /// Listing the files.
    Listing,
    /// Finding out what changed since an earlier backup.
    Comparing,
    /// Copying files.
    Copying,
    /// Ending the backup on the server, and writing the last pack.
    Stopping,
    /// Waiting until the WAL that the backup needs has been archived.
    WaitingForWal,
    /// Writing the manifest.
    Finishing,
}

impl BackupPhase {
    /// Whether files of the cluster are being read. What the other phases wait for has a deadline of its own: the server, the archive,
    /// a repository.
    pub fn reads(self) -> bool {
        match self {
            Self::Listing | Self::Copying => true,
            Self::Connecting
            | Self::Checkpoint
            | Self::Comparing
            | Self::Stopping
            | Self::WaitingForWal
            | Self::Finishing => false,
        }
    }
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BackupProgress {
    /// What it is doing.
    pub phase: BackupPhase,
    /// Its label, as soon as it has one.
    pub label: Option<String>,
    /// When it was begun, by this host's clock.
    pub started: Timestamp,
    /// Files copied.
    pub files_done: u64,
    /// Files found; 0 before they were listed.
    pub files_total: u64,
    /// Bytes of files read.
    pub content_bytes_done: u64,
    /// Bytes of files as they were listed; they may have grown since.
    pub content_bytes_total: u64,
    /// Bytes stored so far in the first repository; grows with every finished pack.
    pub stored_bytes: u64,
    /// The segment that is being waited for.
    pub waiting_for: Option<String>,
}

impl BackupProgress {
    /// Nothing done yet, at `started`.
    pub fn new(started: Timestamp) -> Self {
        Self {
            phase: BackupPhase::Connecting,
            label: None,
            started,
            files_done: 0,
            files_total: 0,
            content_bytes_done: 0,
            content_bytes_total: 0,
            stored_bytes: 0,
            waiting_for: None,
        }
    }
}
