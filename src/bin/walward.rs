//! `walward`: what a person types.

use std::process::ExitCode;

use walward::cli;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // A panic must never look like "absent" to a recovery that runs `walward wal fetch`.
    let ended = std::panic::catch_unwind(|| cli::run(&arguments));
    ExitCode::from(ended.unwrap_or_else(|_| cli::panic_code(&arguments)))
}
