//! What `restore` is told.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RestoreArguments {
    /// Where the cluster goes; must be empty or not there (default: the cluster's data_directory)
    #[arg(long, alias = "target-dir", value_name = "PATH")]
    pub(in crate::cli) target_directory: Option<PathBuf>,
    /// Recover to this moment; with its zone: "2026-11-21 14:03:00+00"
    #[arg(long = "target-time", alias = "time", value_name = "TIME", group = "target")]
    pub(in crate::cli) time: Option<String>,
    /// Recover to this position: 16/B374D848
    #[arg(long = "target-lsn", alias = "lsn", value_name = "LSN", group = "target")]
    pub(in crate::cli) lsn: Option<String>,
    /// Recover to this transaction
    #[arg(long = "target-xid", alias = "xid", value_name = "XID", group = "target")]
    pub(in crate::cli) xid: Option<u64>,
    /// Recover to this restore point (pg_create_restore_point)
    #[arg(long = "target-name", alias = "name", value_name = "NAME", group = "target")]
    pub(in crate::cli) name: Option<String>,
    /// Recover only until the backup is consistent
    #[arg(long = "target-immediate", alias = "immediate", group = "target")]
    pub(in crate::cli) immediate: bool,
    /// Stop just before the target instead of just after it
    #[arg(long)]
    pub(in crate::cli) exclusive: bool,
    /// `latest` (where the cluster is; refused when that is not clear), `current` (the backup's) or a number
    #[arg(long, default_value = "latest", value_name = "TIMELINE")]
    pub(in crate::cli) timeline: String,
    /// What the server does at the target (default: promote; a standby pauses)
    #[arg(long, value_enum)]
    pub(in crate::cli) action: Option<ActionChoice>,
    /// Make a standby
    #[arg(long, conflicts_with = "action")]
    pub(in crate::cli) standby: bool,
    /// primary_conninfo of the standby
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    pub(in crate::cli) primary_conninfo: Option<String>,
    /// This backup instead of the one that fits the target best
    #[arg(long, value_name = "LABEL")]
    pub(in crate::cli) backup: Option<String>,
    /// A new place for a tablespace: by oid, name or old location; repeatable
    #[arg(long = "tablespace-map", value_name = "OLD=NEW")]
    pub(in crate::cli) tablespace_map: Vec<String>,
    /// A place for pg_wal outside of the data directory, which becomes a link to it
    #[arg(long = "waldir", value_name = "DIRECTORY")]
    pub(in crate::cli) wal_directory: Option<PathBuf>,
    /// Whether the restored server archives (default: in its own place, and as a standby; a copy does not, nor does it follow subscriptions)
    #[arg(long, value_enum)]
    pub(in crate::cli) archive_mode: Option<ArchiveModeChoice>,
    /// Recover the last, unfinished segment of a dead primary as well, if its .partial was archived
    #[arg(long, conflicts_with = "restore_command")]
    pub(in crate::cli) use_partial: bool,
    /// The whole restore_command (default: walward-wal of this installation with this cluster)
    #[arg(long, value_name = "COMMAND")]
    pub(in crate::cli) restore_command: Option<String>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ActionChoice {
    /// Stay read-only at the target
    Pause,
    /// Become a primary on a new timeline
    Promote,
    /// Stop the server
    Shutdown,
}

/// What becomes of `archive_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ArchiveModeChoice {
    /// As in the backup, subscriptions too; for a server that takes the place of the original
    Preserve,
    /// Not at all
    Off,
}
