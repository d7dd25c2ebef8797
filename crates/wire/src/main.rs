//! `walward-wal`: the client that PostgreSQL starts for every WAL file. std and `wire` only.

use std::io::Write;
use std::process::ExitCode;

use walward_wire::client::{Command, USAGE, ask_with_partial, failure_code, parse_arguments, usage_code};

fn main() -> ExitCode {
    // A panic must look like a failure and never like "absent" (exit 101 would). Nothing may be running afterwards.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("internal error: {panic}"));
        std::process::exit(i32::from(failure_code(std::env::args_os().skip(1), 1)));
    }));
    let directory = std::env::current_dir().unwrap_or_default();
    match parse_arguments(std::env::args_os().skip(1), &directory) {
        Ok(Command::Help) => print(USAGE),
        Ok(Command::Version) => print(concat!("walward-wal ", env!("CARGO_PKG_VERSION"))),
        Ok(Command::Ask { socket, silence_max, request, use_partial }) => {
            let (code, text) = ask_with_partial(&socket, silence_max, request, use_partial);
            say(&text);
            ExitCode::from(code)
        }
        Err(wrong) => {
            say(&format!("{wrong} (walward-wal --help)"));
            ExitCode::from(usage_code(&std::env::args_os().skip(1).collect::<Vec<_>>()))
        }
    }
}

fn print(text: &str) -> ExitCode {
    let written = std::io::stdout().write_all(format!("{text}\n").as_bytes());
    ExitCode::from(u8::from(written.is_err()))
}

/// One line on standard error, which PostgreSQL puts into its log. A closed standard error is not a reason to fail.
fn say(text: &str) {
    if !text.is_empty() {
        let _ = std::io::stderr().write_all(format!("walward-wal: {text}\n").as_bytes());
    }
}
