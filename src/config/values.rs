//! The resolved values: checked, every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::Acknowledge;
use walward_repo::Encryption;
use walward_storage::StoreOptions;

/// Where the agent listens by default.
pub const DEFAULT_SOCKET: &str = "/run/walward/walward.sock";

/// Everything.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[agent]`
    pub agent: AgentConfig,
    /// `[repository.NAME]`
    pub repositories: BTreeMap<String, RepositoryConfig>,
    /// `[cluster.NAME]`
    pub clusters: BTreeMap<String, ClusterConfig>,
}

/// The agent of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Where prefetched WAL lies.
    pub spool_directory: PathBuf,
    /// Threads for compression, encryption and checksums; at least one.
    pub cpu_threads: usize,
    /// Bytes of WAL in memory at once.
    pub memory_bytes_max: u64,
    /// Where `/metrics` is served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How it logs.
    pub log: LogConfig,
}

/// How the agent logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The look of a line.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
}

/// The look of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Somebody should look at it.
    Warn,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// One repository. A cluster's part of it lies in the folder `<url>/<cluster>`.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// Its name.
    pub name: String,
    /// Where it lies and how it is reached.
    pub store: StoreOptions,
    /// How its objects are protected.
    pub encryption: Encryption,
    /// zstd level for WAL, 1 to 19.
    pub wal_level: i32,
    /// zstd level for base backups, 1 to 19.
    pub backup_level: i32,
}

/// One PostgreSQL cluster of this host.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name: letters, digits, `_` and `-`, all lower case.
    pub name: String,
    /// Its data directory; absolute.
    pub data_directory: PathBuf,
    /// libpq connection string. May hold a password: show it through [`super::redact_connection`].
    pub connection: String,
    /// Names of repositories, the preferred one first; at least one, all exist.
    pub repositories: Vec<String>,
    /// In how many of them a file must be to count as archived; not more than there are.
    pub acknowledge: Acknowledge,
    /// WAL in.
    pub archive: ArchiveConfig,
    /// WAL out.
    pub fetch: FetchConfig,
    /// Base backups.
    pub backup: BackupConfig,
    /// Restores.
    pub restore: RestoreConfig,
    /// The same for two processes exactly when they have read the same of this cluster and its repositories, but for secrets.
    pub fingerprint: String,
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            data_directory,
            connection,
            repositories,
            acknowledge,
            archive,
            fetch,
            backup,
            restore,
            fingerprint,
        } = self;
        f.debug_struct("ClusterConfig")
            .field("name", name)
            .field("data_directory", data_directory)
            .field("connection", &super::redact_connection(connection))
            .field("repositories", repositories)
            .field("acknowledge", acknowledge)
            .field("archive", archive)
            .field("fetch", fetch)
            .field("backup", backup)
            .field("restore", restore)
            .field("fingerprint", fingerprint)
            .finish()
    }
}

/// WAL in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveConfig {
    /// Segments at once.
    pub workers: usize,
    /// Segments taken ahead of the one that is asked for.
    pub look_ahead: usize,
    /// The longest that one push may take.
    pub deadline: Duration,
    /// How often archive_status is read without an event.
    pub rescan_interval: Duration,
    /// Bytes of WAL that may wait before the oldest is let go; none when all of it waits.
    pub queue_limit: Option<u64>,
}

/// WAL out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// The longest that one fetch takes, while nothing comes, before it answers 255.
    pub deadline: Duration,
    /// Bytes of the spool.
    pub prefetch_bytes_max: u64,
    /// Segments at once.
    pub workers: usize,
    /// Whether a segment that does not continue the one before it stops a recovery.
    pub refuse_seams: bool,
}

/// Base backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupConfig {
    /// Files read at once.
    pub workers: usize,
    /// Whether the checkpoint is immediate.
    pub fast_checkpoint: bool,
    /// How long to wait for the last WAL of the backup.
    pub archive_deadline: Duration,
    /// How long one read of the data directory may go unanswered.
    pub read_deadline: Duration,
    /// How many bytes are read per second, at most.
    pub read_limit: Option<u64>,
    /// Bytes of files in a pack.
    pub pack_bytes: u64,
}

/// Restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreConfig {
    /// Packs at once.
    pub workers: usize,
}
