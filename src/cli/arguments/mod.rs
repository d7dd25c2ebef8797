//! The command line.

mod early;
mod repo;
mod restore;
mod wal;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::backup::Wanted;
use crate::config::DEFAULT_PATH;
use crate::setup::Takeover;

pub(in crate::cli) use early::{asks_for_json, usage_code, wal_verb};
pub(in crate::cli) use repo::{CopyOnly, JobsCommand, KeysCommand, LeaseCommand, RepoCommand, SecretArguments};
pub(in crate::cli) use restore::{ActionChoice, ArchiveModeChoice, RestoreArguments};
pub(in crate::cli) use wal::{
    FetchArguments, GapsArguments, OnErrorChoice, PushArguments, RecoveredArguments, RestoreAsideArguments,
    SetAsideArguments, WalCommand,
};

/// Keeps a PostgreSQL cluster recoverable: archives WAL, takes base backups, restores to a point in time.
#[derive(Debug, Parser)]
#[command(name = "walward", version, propagate_version = true, max_term_width = 110)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    pub(in crate::cli) global: Global,
    #[command(subcommand)]
    pub(in crate::cli) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(in crate::cli) struct Global {
    /// The configuration; `conf.d/*.toml` beside it is read too
    #[arg(short, long, global = true, env = "WALWARD_CONFIG", value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(in crate::cli) config: PathBuf,
    /// The cluster, by its name in the configuration; needed when there are several
    #[arg(long, global = true, value_name = "NAME")]
    pub(in crate::cli) cluster: Option<String>,
    /// The repository, by its name in the configuration (default: the cluster's first, or all of them to read)
    #[arg(long, global = true, value_name = "NAME")]
    pub(in crate::cli) repository: Option<String>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(in crate::cli) json: bool,
    /// Print nothing but data and errors
    #[arg(short, long, global = true)]
    pub(in crate::cli) quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(in crate::cli) verbose: u8,
    /// Never ask; what would have to be asked is an error
    #[arg(long, global = true)]
    pub(in crate::cli) no_input: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Find the clusters of this host, write the configuration, make the repository and its keys, and set the server up
    ///
    /// Safe to run again: what is right is not changed, and another tool's archive_command only by --archive-command. After pg_upgrade it adds the new lineage to the repository.
    Setup(SetupArguments),
    /// Try everything that archiving, backup and restore depend on
    Check(CheckArguments),
    /// What the agent is doing
    Status,
    /// What is in the repositories: to which moments one can recover, backups, WAL
    Info,
    /// Take a base backup
    Backup(BackupArguments),
    /// Restore a cluster, to the end of its WAL or to an earlier point
    Restore(RestoreArguments),
    /// WAL: archive, fetch, list
    Wal {
        #[command(subcommand)]
        command: WalCommand,
    },
    /// A repository's own objects
    Repo {
        #[command(subcommand)]
        command: RepoCommand,
    },
    /// The secrets that open an encrypted repository
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// What runs in the agent for longer than a request
    Jobs {
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Who is at work in the repositories
    Lease {
        #[command(subcommand)]
        command: LeaseCommand,
    },
    // For people who come from other tools.
    #[command(hide = true)]
    ArchivePush(PushArguments),
    #[command(hide = true)]
    ArchiveGet(FetchArguments),
    #[command(hide = true)]
    WalPush(PushArguments),
    #[command(hide = true)]
    WalFetch(FetchArguments),
    /// Check or show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: Shell,
    },
    // For packages.
    #[command(hide = true)]
    Manual {
        /// The folder that the manual pages are written to; must be there
        folder: PathBuf,
    },
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SetupArguments {
    /// The cluster's data directory; nothing is done for others (default: the clusters that are found on this host)
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) data_directory: Option<PathBuf>,
    /// How to reach the one cluster that this is about, as for libpq (default: by its socket, as the role `walward`)
    #[arg(long, value_name = "CONNINFO")]
    pub(in crate::cli) connection: Option<String>,
    /// Where the repository goes: `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) repository_url: Option<String>,
    /// URL of an S3-compatible server
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) endpoint: Option<String>,
    /// S3 region
    #[arg(long)]
    pub(in crate::cli) region: Option<String>,
    /// Accept an endpoint without TLS
    #[arg(long)]
    pub(in crate::cli) allow_http: bool,
    /// S3 access key
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) access_key_id: Option<String>,
    /// File whose first line is the S3 secret key
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) secret_access_key_file: Option<PathBuf>,
    /// How the repository is protected
    #[arg(long, value_enum)]
    pub(in crate::cli) encryption: Option<EncryptionChoice>,
    /// The key or passphrase file (default: a new key file beside the configuration)
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) key_file: Option<PathBuf>,
    /// Where the agent listens
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) socket: Option<PathBuf>,
    /// Every cluster that is found on this host, when there are several or some are configured already
    #[arg(long, conflicts_with = "data_directory")]
    pub(in crate::cli) all: bool,
    /// Change the server: the role and its grants, its login, the settings of archiving; tell the agent of a new cluster; then see a
    /// segment arrive (default: ask, which --yes does not answer; print what is to be done when nobody can be asked)
    #[arg(long, conflicts_with = "dry_run")]
    pub(in crate::cli) apply: bool,
    /// How to reach the one server for --apply, as for libpq (default: by its socket, as the owner of the data directory)
    #[arg(long, value_name = "CONNINFO")]
    pub(in crate::cli) admin_connection: Option<String>,
    /// What becomes of another tool's archive_command or archive_library (default: keep)
    #[arg(long, value_enum)]
    pub(in crate::cli) archive_command: Option<ArchiveCommandChoice>,
    /// How long the first segment may take to be in every repository
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = walward_base::parse_duration)]
    pub(in crate::cli) wait: std::time::Duration,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// The same as --no-input
    #[arg(long)]
    pub(in crate::cli) non_interactive: bool,
}

/// What becomes of another tool that archives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ArchiveCommandChoice {
    /// It goes on alone; Walward archives nothing
    Keep,
    /// Every segment goes to Walward, then to the other tool: the way over
    Beside,
    /// Walward takes its place
    Replace,
}

impl From<ArchiveCommandChoice> for Takeover {
    fn from(choice: ArchiveCommandChoice) -> Self {
        match choice {
            ArchiveCommandChoice::Keep => Self::Keep,
            ArchiveCommandChoice::Beside => Self::Beside,
            ArchiveCommandChoice::Replace => Self::Replace,
        }
    }
}

/// How a new repository is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum EncryptionChoice {
    /// A file with a random key; made when it is not there
    KeyFile,
    /// A file with a passphrase, which must be there
    PassphraseFile,
    /// Not at all: readable with zstd and tar
    None,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct CheckArguments {
    /// One line and the exit codes of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL
    #[arg(long)]
    pub(in crate::cli) nagios: bool,
    /// Switch WAL and wait until the segment has arrived
    #[arg(long)]
    pub(in crate::cli) switch_wal: bool,
    /// The last backup may be this old before it is a warning
    #[arg(long, value_name = "DURATION", default_value = "8 days", value_parser = walward_base::parse_duration)]
    pub(in crate::cli) backup_age: std::time::Duration,
    /// A file may wait this long to be archived before it is a warning
    #[arg(long, value_name = "DURATION", default_value = "5 min", value_parser = walward_base::parse_duration)]
    pub(in crate::cli) archive_age: std::time::Duration,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct BackupArguments {
    /// What is stored
    #[arg(long = "type", value_enum, default_value = "full")]
    pub(in crate::cli) kind: BackupChoice,
    /// Do it in this process instead of asking the agent
    #[arg(long)]
    pub(in crate::cli) no_agent: bool,
    /// Begin it in the agent and do not wait for its end
    #[arg(long, conflicts_with = "no_agent")]
    pub(in crate::cli) detach: bool,
}

/// What a backup is to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum BackupChoice {
    /// Everything
    Full,
    /// What changed since the last full backup; everything, with a warning, where that cannot be known
    Diff,
    /// What changed since the last backup of any type; everything, with a warning, where that cannot be known
    Incr,
    /// As incr, without the warning
    Auto,
}

impl From<BackupChoice> for Wanted {
    fn from(choice: BackupChoice) -> Self {
        match choice {
            BackupChoice::Full => Self::Full,
            BackupChoice::Diff => Self::Diff,
            BackupChoice::Incr => Self::Incr,
            BackupChoice::Auto => Self::Auto,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigCommand {
    /// Check the files; exit 2 when something is wrong
    Check,
    /// Print every value that is in force and where it comes from; secrets are hidden
    Show,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
