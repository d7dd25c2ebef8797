//! What the `wal` commands are told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Clone, Subcommand)]
pub(in crate::cli) enum WalCommand {
    /// Archive one file, in this process; for archive_command where there is no agent
    Push(PushArguments),
    /// Fetch one file, in this process; for restore_command where there is no agent
    Fetch(FetchArguments),
    /// Take the settings of a recovery that has ended out of postgresql.auto.conf; what `restore` makes recovery_end_command
    Recovered(RecoveredArguments),
    /// List the ranges of WAL in the repositories; each file with -v
    List,
    /// List what is missing between the first and the last segment, and what does not continue what lies before it; exit 3 when something is
    Gaps(GapsArguments),
    /// Move a life of the cluster out of the archive: a file, all WAL that follows it, and the backups that need any of it
    ///
    /// For two servers that wrote the same WAL: the agent names the file that it refuses. Nothing is deleted: everything stays in the repository,
    /// below aside/, and `restore-aside` puts it back. In every repository of the cluster unless --repository names one. What was cut is taken up
    /// by the same command again. See "When two servers wrote the same WAL".
    SetAside(SetAsideArguments),
    /// List what was set aside
    ListAside,
    /// Put back what was set aside; refused where another life's files have its names by now
    RestoreAside(RestoreAsideArguments),
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct GapsArguments {
    /// Compare every segment with the one before it, not only the newest 1024: one small request each
    #[arg(long)]
    pub(in crate::cli) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SetAsideArguments {
    /// The first file of the life that goes, as the refusal names it: a segment, or a .history
    #[arg(long, value_name = "WAL FILE")]
    pub(in crate::cli) from: String,
    /// Why, for those who find it later
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    /// Print what would be moved and do nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RestoreAsideArguments {
    /// Its name, as `list-aside` shows it
    pub(in crate::cli) id: String,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct PushArguments {
    /// The file, as %p gives it (relative to the data directory, where PostgreSQL runs this)
    pub(in crate::cli) path: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RecoveredArguments {
    /// The data directory (default: this one, in which PostgreSQL runs it)
    pub(in crate::cli) directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct FetchArguments {
    /// The file's name, as %f gives it
    pub(in crate::cli) name: String,
    /// Where it goes, as %p gives it
    pub(in crate::cli) destination: PathBuf,
    /// What to answer when it cannot be found out whether the file exists
    #[arg(long, value_enum, default_value = "auto")]
    pub(in crate::cli) on_error: OnErrorChoice,
    /// Where a segment is absent, place NAME.partial instead, if that was archived
    #[arg(long)]
    pub(in crate::cli) use_partial: bool,
}

/// As `walward-wal fetch` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum OnErrorChoice {
    /// As `retry` where the data directory has a standby.signal, as `abort` anywhere else
    Auto,
    /// 255, after fetch.deadline: PostgreSQL stops
    Abort,
    /// 1, within two seconds; only for a standby, which asks again
    Retry,
    /// As `auto`, but 1 where a segment is missing and later ones are there; only for a recovery with a target
    Target,
}
