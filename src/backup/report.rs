//! What goes into a backup and what comes out: options, progress, report.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::incremental::Wanted;
use walward_pg::{Lineage, Lsn, SegmentName, Timeline};
use walward_repo::manifest::BackupType;
pub use walward_report::{BackupPhase as Phase, BackupProgress as Progress};

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Everything, or what changed since an earlier backup.
    pub wanted: Wanted,
    /// How to reach the server, as libpq spells it: `host=/var/run/postgresql user=walward dbname=postgres`.
    pub connection: String,
    /// The server's data directory; this process must be able to read it.
    pub data_directory: PathBuf,
    /// How many packs are read and uploaded at once; at least one.
    pub workers: usize,
    /// Whether the checkpoint that the backup begins with is done as fast as possible rather than spread over
    /// `checkpoint_completion_target` of `checkpoint_timeout`.
    pub fast_checkpoint: bool,
    /// How long to wait, after the copy, until the WAL that the backup needs is in every repository.
    pub archive_deadline: Duration,
    /// How long one read of the data directory may go unanswered before the backup is given up.
    pub read_deadline: Duration,
    /// How many bytes of the data directory are read per second, at most; none: as fast as it goes.
    pub read_limit: Option<u64>,
    /// About how long a pack may grow, in bytes of content.
    pub pack_bytes: u64,
    /// zstd's level for each repository, in their order; 3 where none is given.
    pub levels: Vec<i32>,
    /// The name of this host, for the manifest, the objects' headers and the lease.
    pub host: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Its label.
    pub label: String,
    /// Full, differential or incremental.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The backup that it builds on; none of a full.
    pub parent: Option<String>,
    /// Why it is a full one although another was asked for.
    pub why_full: Option<String>,
    /// The repositories that hold it, by their names in the configuration.
    pub repositories: Vec<String>,
    /// Where they are, in the same order, without secrets.
    #[serde(default)]
    pub urls: Vec<String>,
    /// What it was taken from.
    pub lineage: Lineage,
    /// `server_version`, for people.
    pub server_version: String,
    /// Whether it was taken on a standby.
    pub from_standby: bool,
    /// The timeline that it was taken on.
    pub timeline: Timeline,
    /// Where its WAL begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// The first segment that it needs.
    pub first_segment: SegmentName,
    /// The last segment that it needs.
    pub last_segment: SegmentName,
    /// How many segments it needs.
    pub wal_segments: u64,
    /// When it began, by the server's clock.
    pub started: Timestamp,
    /// When it ended, by the server's clock. No moment before this can be reached from it.
    pub stopped: Timestamp,
    /// How long it took in all, by this host's clock.
    pub seconds: f64,
    /// Files in it.
    pub files: u64,
    /// Bytes of its files, as they are restored.
    pub content_bytes: u64,
    /// Bytes that were read of the data directory for it.
    pub read_bytes: u64,
    /// Bytes of its packs in the first repository.
    pub stored_bytes: u64,
    /// Pages whose checksum does not match, (path, page in that file): at most a hundred a file and a thousand in all.
    pub corrupt_pages: Vec<(String, u32)>,
    /// How many such pages there are.
    pub corrupt_page_count: u64,
    /// What else a person should know: files that were left out.
    pub warnings: Vec<String>,
}

impl BackupReport {
    /// Whether the backup is there but somebody should look at something.
    pub fn has_warnings(&self) -> bool {
        self.corrupt_page_count > 0 || !self.warnings.is_empty()
    }
}
