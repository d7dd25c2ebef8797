//! What the commands are told that look after repositories, their keys and leases, and jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Clone, Subcommand)]
pub(in crate::cli) enum RepoCommand {
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
pub(in crate::cli) enum CopyOnly {
    /// Histories and WAL
    Wal,
    /// Base backups. Without their WAL they cannot be restored
    Backups,
}

#[derive(Debug, Clone, Subcommand)]
pub(in crate::cli) enum JobsCommand {
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
pub(in crate::cli) enum LeaseCommand {
    /// List who has a lease, or had it last, and whether it holds
    List,
    /// Take the leases away from who has them: for a holder that is gone
    ///
    /// A holder that still works notices within a minute and ends without a backup. Until then two are at work.
    Break,
}

#[derive(Debug, Clone, Subcommand)]
pub(in crate::cli) enum KeysCommand {
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
pub(in crate::cli) struct SecretArguments {
    /// A key file; made when it is not there
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) key_file: Option<PathBuf>,
    /// A file whose first line is a passphrase
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
    /// A command that prints the secret: program and arguments, split at blanks
    #[arg(long, value_name = "COMMAND")]
    pub(in crate::cli) command: Option<String>,
    /// A new recovery key for each cluster, printed once
    #[arg(long)]
    pub(in crate::cli) recovery: bool,
}
