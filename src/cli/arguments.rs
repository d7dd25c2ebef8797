//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::exit::Exit;
use crate::config::DEFAULT_PATH;
use crate::wire::EXIT_FETCH_FAILED;

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
    /// The repository, by its name in the configuration (default: the cluster's first)
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
    fn a_fetch_says_absent_in_one_way_only_and_a_push_restarts_no_archiver() {
        for exit in Exit::ALL {
            let fetch = WalVerb::Fetch.code(exit);
            assert!(matches!((exit, fetch), (Exit::Done, 0) | (Exit::Absent, 1) | (_, 255)), "{exit:?}");
            assert_eq!(fetch == 1, exit == Exit::Absent);
            assert!(WalVerb::Push.code(exit) <= 125);
        }
    }
}
