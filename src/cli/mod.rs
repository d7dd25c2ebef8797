//! What a person types: `walward`. Wiring only; what is done lives in the rooms below.
//!
//! | file | what it knows |
//! |---|---|
//! | `arguments` | the command line |
//! | `failure` | from any error to a code, a message and a hint |
//! | `printer`, `meter`, `ask` | the places that write to people: data to standard output, everything else to standard error |
//! | `context` | the configuration, the cluster and the repositories that a command is about |
//! | `agent` | questions to the agent |
//! | `arrival` | whether a segment comes through |
//! | `whose` | whether a server is the one of a data directory |
//! | `owner` | whose a data directory is, and what root does for them |
//! | `interrupt` | Ctrl-C and SIGTERM |
//! | `segment_memory`, `shell` | what is said of large segments; commands for PostgreSQL to run |
//! | `manual` | the manual pages |
//! | `commands` | one file or folder a command |

mod agent;
mod arguments;
mod arrival;
mod ask;
mod commands;
mod context;
mod failure;
mod follow;
mod interrupt;
mod manual;
mod meter;
mod owner;
mod printer;
mod programs;
mod segment_memory;
mod whose;

use std::ffi::OsString;
use std::io;

use anyhow::Context as _;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command, WalCommand};
use context::Context;
use failure::Failure;
use printer::Printer;

use crate::config::Looks;
use crate::outcome::Exit;
use walward_base::sys::durable;

/// Threads of the runtime. They only wait for input and output; computing is done elsewhere.
const RUNTIME_THREADS: usize = 2;

/// Runs `walward` with `arguments` (the program's name first) and answers its exit code.
pub fn run(arguments: &[OsString]) -> u8 {
    let verb = arguments::wal_verb(arguments);
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are data; clap knows which is which.
            let _ = error.print();
            if !error.use_stderr() {
                return verb.code(Exit::Done);
            }
            let code = arguments::usage_code(arguments);
            if arguments::asks_for_json(arguments) {
                printer::misunderstood(code, &error.to_string());
            }
            return code;
        }
    };
    walward_base::sys::secrecy::keep_memory_private();
    log_to_stderr(parsed.global.quiet, parsed.global.verbose);
    let printer = Printer::new(&parsed.global);
    match execute(parsed, &printer) {
        Ok(exit) => verb.code(exit),
        Err(failure) => {
            let code = verb.code(failure.exit);
            printer.failure(&failure, code);
            code
        }
    }
}

/// The whole command line, for what describes it.
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// The exit code of a panic: safe for the verb.
pub fn panic_code(arguments: &[OsString]) -> u8 {
    arguments::wal_verb(arguments).code(Exit::Failed)
}

fn execute(arguments: Arguments, printer: &Printer) -> Result<Exit, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "walward", &mut script);
            printer.raw(&script)?;
            Ok(Exit::Done)
        }
        Command::Manual { folder } => {
            for (name, text) in manual::pages(Arguments::command()).context("cannot make the manual pages")? {
                let path = folder.join(name);
                durable::replace(&path, &text, 0o644).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(Exit::Done)
        }
        Command::Config { command } => commands::config::run(&global, &command, printer),
        // PostgreSQL runs it: it needs no configuration, and no repository.
        Command::Wal { command: WalCommand::Recovered(arguments) } => commands::recovered::run(&arguments, printer),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(RUNTIME_THREADS)
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let ended = runtime.block_on(work(&global, command, printer));
            // What still waits (a store's last retry) must not hold the answer up.
            runtime.shutdown_background();
            ended
        }
    }
}

async fn work(global: &arguments::Global, command: Command, printer: &Printer) -> Result<Exit, Failure> {
    if let Command::Setup(arguments) = &command {
        return commands::setup::run(global, arguments, printer).await;
    }
    // Another cluster's file system may hang.
    let looks = Looks::One(global.cluster.clone());
    let context = match command {
        // It has the warnings among its findings. Where no cluster is named it is about all of them, and looks into all of them anyway.
        Command::Check(_) if global.cluster.is_none() => Context::load_quietly(global, Looks::All)?,
        Command::Check(_) => Context::load_quietly(global, looks)?,
        Command::Status | Command::Jobs { .. } => Context::load(global, Looks::Nowhere, printer)?,
        _ => Context::load(global, looks, printer)?,
    };
    match command {
        Command::Setup(_)
        | Command::Config { .. }
        | Command::Completions { .. }
        | Command::Manual { .. }
        | Command::Wal { command: WalCommand::Recovered(_) } => Ok(Exit::Done),
        Command::Check(arguments) => Box::pin(commands::check::run(&context, &arguments, printer)).await,
        Command::Status => tokio::task::block_in_place(|| commands::status::run(&context, printer)),
        Command::Info => commands::info::run(&context, printer).await,
        Command::Backup(arguments) => Box::pin(commands::backup::run(&context, &arguments, printer)).await,
        Command::Restore(arguments) => Box::pin(commands::restore::run(&context, &arguments, printer)).await,
        Command::Repo { command } => commands::repo::run(&context, &command, printer).await,
        Command::Jobs { command } => commands::jobs::run(&context, &command, printer).await,
        Command::Lease { command } => commands::work_leases::run(&context, command, printer).await,
        Command::Keys { command } => commands::keys::run(&context, &command, printer).await,
        Command::Wal { command: WalCommand::List } => commands::wal_list::list(&context, printer).await,
        Command::Wal { command: WalCommand::Gaps(arguments) } => {
            commands::wal_list::list_gaps(&context, &arguments, printer).await
        }
        Command::Wal { command: WalCommand::SetAside(arguments) } => {
            Box::pin(commands::aside::set_aside(&context, &arguments, printer)).await
        }
        Command::Wal { command: WalCommand::ListAside } => commands::aside::list_aside(&context, printer).await,
        Command::Wal { command: WalCommand::RestoreAside(arguments) } => {
            Box::pin(commands::aside::restore_aside(&context, &arguments, printer)).await
        }
        Command::Wal { command: WalCommand::Push(arguments) }
        | Command::ArchivePush(arguments)
        | Command::WalPush(arguments) => commands::wal::push(&context, &arguments, printer).await,
        Command::Wal { command: WalCommand::Fetch(arguments) }
        | Command::ArchiveGet(arguments)
        | Command::WalFetch(arguments) => commands::wal::fetch(&context, &arguments, printer).await,
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
