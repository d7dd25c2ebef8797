//! What a person types: `walward`. Wiring only; what is done lives in the rooms below.
//!
//! | file | what it knows |
//! |---|---|
//! | `arguments` | the command line |
//! | `exit` | the exit codes; docs/exit-codes.md |
//! | `failure` | from any error to a code, a message and a hint |
//! | `printer` | the one place that writes: data to standard output, everything else to standard error |
//! | `context` | the configuration, the cluster and the repositories that a command is about |
//! | `commands` | one file a command |

mod arguments;
mod commands;
mod context;
mod exit;
mod failure;
mod printer;

use std::ffi::OsString;
use std::io;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command};
pub use exit::Exit;
use failure::Failure;
use printer::Printer;

/// Runs `walward` with `arguments` (the program's name first) and answers its exit code.
pub fn run(arguments: &[OsString]) -> u8 {
    let verb = arguments::wal_verb(arguments);
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are data; clap knows which is which.
            let _ = error.print();
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return verb.code(code);
        }
    };
    log_to_stderr(parsed.global.quiet, parsed.global.verbose);
    let printer = Printer::new(&parsed.global);
    let outcome = execute(parsed, &printer);
    match outcome {
        Ok(exit) => verb.code(exit),
        Err(failure) => {
            printer.failure(&failure);
            verb.code(failure.exit)
        }
    }
}

/// The exit code of a panic: safe for the verb.
pub fn panic_code(arguments: &[OsString]) -> u8 {
    arguments::wal_verb(arguments).code(Exit::Failed)
}

fn execute(arguments: Arguments, printer: &Printer) -> Result<Exit, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        // These need no runtime.
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "walward", &mut script);
            printer.raw(&script)?;
            Ok(Exit::Done)
        }
        Command::Config { command } => commands::config::run(&global, &command, printer),
    }
}

fn log_to_stderr(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info,walward=info",
        (false, 2) => "info,walward=debug",
        (false, _) => "debug,walward=trace",
    };
    let filter = EnvFilter::try_from_env("WALWARD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = printer::stderr_has_colour();
    // Fails only when a test has set one already.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).try_init();
}
