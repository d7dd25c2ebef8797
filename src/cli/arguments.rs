//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::DEFAULT_PATH;
use crate::outcome::Exit;
use crate::setup::Takeover;
use walward_wire::EXIT_FETCH_FAILED;

/// Keeps a PostgreSQL cluster recoverable: archives WAL, takes base backups, restores to a point in time.
#[derive(Debug, Parser)]
#[command(name = "walward", version, propagate_version = true, max_term_width = 110)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// The configuration; `conf.d/*.toml` beside it is read too
    #[arg(short, long, global = true, env = "WALWARD_CONFIG", value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// The cluster, by its name in the configuration; needed when there are several
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) cluster: Option<String>,
    /// The repository, by its name in the configuration (default: the cluster's first, or all of them to read)
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) repository: Option<String>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print nothing but data and errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Never ask; what would have to be asked is an error
    #[arg(long, global = true)]
    pub(super) no_input: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
pub(super) struct SetupArguments {
    /// The cluster's data directory; nothing is done for others (default: the clusters that are found on this host)
    #[arg(long, value_name = "PATH")]
    pub(super) data_directory: Option<PathBuf>,
    /// How to reach the one cluster that this is about, as for libpq (default: by its socket, as the role `walward`)
    #[arg(long, value_name = "CONNINFO")]
    pub(super) connection: Option<String>,
    /// Where the repository goes: `file:///path`, `s3://bucket/prefix`, `gs://…`, `az://…`
    #[arg(long, value_name = "URL")]
    pub(super) repository_url: Option<String>,
    /// URL of an S3-compatible server
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// S3 region
    #[arg(long)]
    pub(super) region: Option<String>,
    /// Accept an endpoint without TLS
    #[arg(long)]
    pub(super) allow_http: bool,
    /// S3 access key
    #[arg(long, value_name = "ID")]
    pub(super) access_key_id: Option<String>,
    /// File whose first line is the S3 secret key
    #[arg(long, value_name = "PATH")]
    pub(super) secret_access_key_file: Option<PathBuf>,
    /// How the repository is protected
    #[arg(long, value_enum)]
    pub(super) encryption: Option<EncryptionChoice>,
    /// The key or passphrase file (default: a new key file beside the configuration)
    #[arg(long, value_name = "PATH")]
    pub(super) key_file: Option<PathBuf>,
    /// Where the agent listens
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Every cluster that is found on this host, when there are several or some are configured already
    #[arg(long, conflicts_with = "data_directory")]
    pub(super) all: bool,
    /// Change the server: the role and its grants, its login, the settings of archiving; tell the agent of a new cluster; then see a
    /// segment arrive (default: ask, which --yes does not answer; print what is to be done when nobody can be asked)
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) apply: bool,
    /// How to reach the one server for --apply, as for libpq (default: by its socket, as the owner of the data directory)
    #[arg(long, value_name = "CONNINFO")]
    pub(super) admin_connection: Option<String>,
    /// What becomes of another tool's archive_command or archive_library (default: keep)
    #[arg(long, value_enum)]
    pub(super) archive_command: Option<ArchiveCommandChoice>,
    /// How long the first segment may take to be in every repository
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = walward_base::parse_duration)]
    pub(super) wait: std::time::Duration,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The same as --no-input
    #[arg(long)]
    pub(super) non_interactive: bool,
}

/// What becomes of another tool that archives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ArchiveCommandChoice {
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
pub(super) enum EncryptionChoice {
    /// A file with a random key; made when it is not there
    KeyFile,
    /// A file with a passphrase, which must be there
    PassphraseFile,
    /// Not at all: readable with zstd and tar
    None,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CheckArguments {
    /// One line and the exit codes of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL
    #[arg(long)]
    pub(super) nagios: bool,
    /// Switch WAL and wait until the segment has arrived
    #[arg(long)]
    pub(super) switch_wal: bool,
    /// The last backup may be this old before it is a warning
    #[arg(long, value_name = "DURATION", default_value = "8 days", value_parser = walward_base::parse_duration)]
    pub(super) backup_age: std::time::Duration,
    /// A file may wait this long to be archived before it is a warning
    #[arg(long, value_name = "DURATION", default_value = "5 min", value_parser = walward_base::parse_duration)]
    pub(super) archive_age: std::time::Duration,
}

#[derive(Debug, Clone, Args)]
pub(super) struct BackupArguments {
    /// What kind of backup
    #[arg(long = "type", value_enum, default_value = "full")]
    pub(super) kind: BackupChoice,
    /// Do it in this process instead of asking the agent
    #[arg(long)]
    pub(super) no_agent: bool,
    /// Begin it in the agent and do not wait for its end
    #[arg(long, conflicts_with = "no_agent")]
    pub(super) detach: bool,
}

/// The kinds of backups that this version takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum BackupChoice {
    /// Everything
    Full,
}

#[derive(Debug, Clone, Args)]
pub(super) struct RestoreArguments {
    /// Where the cluster goes; must be empty or not there (default: the cluster's data_directory)
    #[arg(long, alias = "target-dir", value_name = "PATH")]
    pub(super) target_directory: Option<PathBuf>,
    /// Recover to this moment; with its zone: "2026-11-21 14:03:00+00"
    #[arg(long = "target-time", alias = "time", value_name = "TIME", group = "target")]
    pub(super) time: Option<String>,
    /// Recover to this position: 16/B374D848
    #[arg(long = "target-lsn", alias = "lsn", value_name = "LSN", group = "target")]
    pub(super) lsn: Option<String>,
    /// Recover to this transaction
    #[arg(long = "target-xid", alias = "xid", value_name = "XID", group = "target")]
    pub(super) xid: Option<u64>,
    /// Recover to this restore point (pg_create_restore_point)
    #[arg(long = "target-name", alias = "name", value_name = "NAME", group = "target")]
    pub(super) name: Option<String>,
    /// Recover only until the backup is consistent
    #[arg(long = "target-immediate", alias = "immediate", group = "target")]
    pub(super) immediate: bool,
    /// Stop just before the target instead of just after it
    #[arg(long)]
    pub(super) exclusive: bool,
    /// `latest` (where the cluster is; refused when that is not clear), `current` (the backup's) or a number
    #[arg(long, default_value = "latest", value_name = "TIMELINE")]
    pub(super) timeline: String,
    /// What the server does at the target (default: promote; a standby pauses)
    #[arg(long, value_enum)]
    pub(super) action: Option<ActionChoice>,
    /// Make a standby
    #[arg(long, conflicts_with = "action")]
    pub(super) standby: bool,
    /// primary_conninfo of the standby
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    pub(super) primary_conninfo: Option<String>,
    /// This backup instead of the one that fits the target best
    #[arg(long, value_name = "LABEL")]
    pub(super) backup: Option<String>,
    /// A new place for a tablespace: by oid, name or old location; repeatable
    #[arg(long = "tablespace-map", value_name = "OLD=NEW")]
    pub(super) tablespace_map: Vec<String>,
    /// A place for pg_wal outside of the data directory, which becomes a link to it
    #[arg(long = "waldir", value_name = "DIRECTORY")]
    pub(super) wal_directory: Option<PathBuf>,
    /// Whether the restored server archives (default: in its own place, and as a standby; a copy does not, nor does it follow subscriptions)
    #[arg(long, value_enum)]
    pub(super) archive_mode: Option<ArchiveModeChoice>,
    /// Recover the last, unfinished segment of a dead primary as well, if its .partial was archived
    #[arg(long, conflicts_with = "restore_command")]
    pub(super) use_partial: bool,
    /// The whole restore_command (default: walward-wal of this installation with this cluster)
    #[arg(long, value_name = "COMMAND")]
    pub(super) restore_command: Option<String>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ActionChoice {
    /// Stay read-only at the target
    Pause,
    /// Become a primary on a new timeline
    Promote,
    /// Stop the server
    Shutdown,
}

/// What becomes of `archive_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ArchiveModeChoice {
    /// As in the backup, subscriptions too; for a server that takes the place of the original
    Preserve,
    /// Not at all
    Off,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum WalCommand {
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
pub(super) struct GapsArguments {
    /// Compare every segment with the one before it, not only the newest 1024: one small request each
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct SetAsideArguments {
    /// The first file of the life that goes, as the refusal names it: a segment, or a .history
    #[arg(long, value_name = "WAL FILE")]
    pub(super) from: String,
    /// Why, for those who find it later
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Print what would be moved and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct RestoreAsideArguments {
    /// Its name, as `list-aside` shows it
    pub(super) id: String,
}

#[derive(Debug, Clone, Args)]
pub(super) struct PushArguments {
    /// The file, as %p gives it (relative to the data directory, where PostgreSQL runs this)
    pub(super) path: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(super) struct RecoveredArguments {
    /// The data directory (default: this one, in which PostgreSQL runs it)
    pub(super) directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct FetchArguments {
    /// The file's name, as %f gives it
    pub(super) name: String,
    /// Where it goes, as %p gives it
    pub(super) destination: PathBuf,
    /// What to answer when it cannot be found out whether the file exists
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) on_error: OnErrorChoice,
    /// Where a segment is absent, place NAME.partial instead, if that was archived
    #[arg(long)]
    pub(super) use_partial: bool,
}

/// As `walward-wal fetch` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnErrorChoice {
    /// As `retry` where the data directory has a standby.signal, as `abort` anywhere else
    Auto,
    /// 255, after fetch.deadline: PostgreSQL stops
    Abort,
    /// 1, within two seconds; only for a standby, which asks again
    Retry,
    /// As `auto`, but 1 where a segment is missing and later ones are there; only for a recovery with a target
    Target,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum RepoCommand {
    /// Whose repository it is, its lineages, its protection
    Info,
    /// List a folder of the repository
    Ls {
        /// The folder (default: the root)
        folder: Option<String>,
    },
    /// Print an object's content, decrypted and decompressed, verified to its end
    Cat {
        /// The object's name, as `ls` shows it
        key: String,
    },
    /// Try what the store can do: conditional creation, ranges, multipart, its clock
    Probe,
    /// Bring one repository of the cluster up to date from another: histories, WAL, then backups. Run again, it goes on where
    /// it stopped. The second one is made by `walward setup`
    Copy {
        /// The repository to read
        from: String,
        /// The repository to bring up to date
        to: String,
        /// Only one of the two
        #[arg(long, value_enum)]
        only: Option<CopyOnly>,
    },
}

/// What `repo copy` is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CopyOnly {
    /// Histories and WAL
    Wal,
    /// Base backups. Without their WAL they cannot be restored
    Backups,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum JobsCommand {
    /// List the jobs that run, and those that ended since the agent started
    List,
    /// Show how a job goes on until it has ended, and end as it does
    Watch {
        /// Its name, as the list has it
        job: String,
    },
    /// Tell a job to end in order
    Cancel {
        /// Its name, as the list has it
        job: String,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum LeaseCommand {
    /// List who has a lease, or had it last, and whether it holds
    List,
    /// Take the leases away from who has them: for a holder that is gone
    ///
    /// A holder that still works notices within a minute and ends without a backup. Until then two are at work.
    Break,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum KeysCommand {
    /// List the slots of each cluster of a repository
    List,
    /// Add a slot for another secret, for all clusters of the repository unless --cluster names one
    Add {
        #[command(flatten)]
        secret: SecretArguments,
    },
    /// Remove a slot of one cluster; refused when the configuration would then lock a cluster out
    Remove {
        /// Its number, as `list` shows it
        id: u32,
    },
    /// Make new master keys for what is written from now on; the old stay readable
    Rotate,
}

/// Where a secret comes from.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct SecretArguments {
    /// A key file; made when it is not there
    #[arg(long, value_name = "PATH")]
    pub(super) key_file: Option<PathBuf>,
    /// A file whose first line is a passphrase
    #[arg(long, value_name = "PATH")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// A command that prints the secret: program and arguments, split at blanks
    #[arg(long, value_name = "COMMAND")]
    pub(super) command: Option<String>,
    /// A new recovery key for each cluster, printed once
    #[arg(long)]
    pub(super) recovery: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the files; exit 2 when something is wrong
    Check,
    /// Print every value that is in force and where it comes from; secrets are hidden
    Show,
}

/// Whose exit codes PostgreSQL reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalVerb {
    /// `archive_command`: above 125 would restart the archiver silently.
    Push,
    /// `restore_command`: 1 to 125 mean "no such file", which ends a recovery.
    Fetch,
    /// A person's command.
    None,
}

impl WalVerb {
    /// The code to exit with. [`Exit::Absent`] is the only way for a fetch to say that there is no such file.
    pub(super) fn code(self, exit: Exit) -> u8 {
        match (self, exit) {
            (Self::Fetch, Exit::Done | Exit::Absent) => exit.code(),
            (Self::Fetch, _) => EXIT_FETCH_FAILED,
            (Self::Push, exit) if exit.code() > 125 => Exit::Failed.code(),
            (_, exit) => exit.code(),
        }
    }
}

/// Finds out whether this is a push or a fetch before the arguments are parsed (they may be wrong, which must not look like
/// "no such file"). The first words that are neither options nor their values say it.
pub(super) fn wal_verb(arguments: &[OsString]) -> WalVerb {
    let mut words = Vec::new();
    let mut rest = arguments.iter().skip(1).map(|argument| argument.to_str().unwrap_or_default());
    while let Some(argument) = rest.next() {
        match argument {
            "-c" | "--config" | "--cluster" | "--repository" => drop(rest.next()),
            "--" => {}
            option if option.starts_with('-') => {}
            word => words.push(word),
        }
    }
    match (words.first().copied(), words.get(1).copied()) {
        (Some("archive-push" | "wal-push"), _) | (Some("wal"), Some("push")) => WalVerb::Push,
        (Some("archive-get" | "wal-fetch"), _) | (Some("wal"), Some("fetch")) => WalVerb::Fetch,
        // An unknown option may have taken the verb for its value.
        _ if words.contains(&"wal") && words.contains(&"fetch") => WalVerb::Fetch,
        _ => WalVerb::None,
    }
}

/// The code of a command line that cannot be used. One in which a fetch may be meant must not look like "no such file" to PostgreSQL,
/// however it was mistyped; any other is a person's, who is told 2.
pub(super) fn usage_code(arguments: &[OsString]) -> u8 {
    let means_fetch = arguments.iter().skip(1).any(|argument| walward_wire::client::may_mean_fetch(argument));
    if means_fetch { EXIT_FETCH_FAILED } else { wal_verb(arguments).code(Exit::Usage) }
}

/// Whether JSON is asked for by arguments that could not be understood.
pub(super) fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn verb(line: &str) -> WalVerb {
        wal_verb(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_fetch_is_known_before_its_arguments_are_understood() {
        assert_eq!(verb("walward wal fetch"), WalVerb::Fetch);
        assert_eq!(verb("walward -c /x --cluster main wal --frobnicate fetch x"), WalVerb::Fetch);
        assert_eq!(verb("walward --frobnicate y wal fetch x"), WalVerb::Fetch);
        assert_eq!(verb("walward archive-get a b"), WalVerb::Fetch);
        assert_eq!(verb("walward wal-fetch a b"), WalVerb::Fetch);
        assert_eq!(verb("walward --json wal push x"), WalVerb::Push);
        assert_eq!(verb("walward --cluster wal backup"), WalVerb::None);
        assert_eq!(verb("walward"), WalVerb::None);
    }

    #[test]
    fn a_command_line_that_cannot_be_used_is_never_absent_where_a_fetch_may_be_meant() {
        let code = |line: &str| usage_code(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for line in [
            "walward wal fetchh 00000002.history pg_wal/RECOVERYHISTORY",
            "walward --config wal fetch a b",
            "walward --cluster wal fetch a b",
            "walward wall fetch a b",
            "walward archive-gett a b",
            "walward wal-fetchh a b",
            "walward --frobnicate wal-fetch",
            "walward wal fetch",
        ] {
            assert_eq!(code(line), EXIT_FETCH_FAILED, "{line}");
        }
        for line in ["walward", "walward frobnicate", "walward wal push", "walward --cluster wal backup"] {
            assert_eq!(code(line), Exit::Usage.code(), "{line}");
        }
    }

    #[test]
    fn a_fetch_says_absent_in_one_way_only_and_a_push_restarts_no_archiver() {
        for exit in Exit::ALL {
            let fetch = WalVerb::Fetch.code(exit);
            assert!(matches!((exit, fetch), (Exit::Done, 0) | (Exit::Absent, 1) | (_, 255)), "{exit:?}");
            assert_eq!(fetch == 1, exit == Exit::Absent);
            assert!(WalVerb::Push.code(exit) <= 125);
        }
    }
}
