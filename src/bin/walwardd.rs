//! `walwardd`: the agent.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use walward::daemon::{Arguments, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "walwardd: {}", walward_base::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
