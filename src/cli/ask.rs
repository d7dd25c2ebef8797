//! Questions to the person at the terminal.

use std::io::{self, BufRead, IsTerminal};

use super::arguments::Global;
use super::failure::Failure;
use super::printer::Printer;
use crate::outcome::Exit;

/// Whether somebody can be asked.
pub(super) fn can_ask(global: &Global) -> bool {
    !global.no_input && !global.json && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Goes on when the answer is yes, or `--yes` was given. Without anybody to ask it is refused.
pub(super) fn confirm(global: &Global, printer: &Printer, question: &str) -> Result<(), Failure> {
    if global.yes {
        return Ok(());
    }
    if !can_ask(global) {
        return Err(
            Failure::new(Exit::Refused, "nobody can be asked for confirmation").hint("say --yes if it is meant")
        );
    }
    let answer = ask(printer, &format!("{question} [y/N]"), None)?;
    match answer.to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Refused, "not confirmed; nothing was done")),
    }
}

/// A line from the terminal; the default when it is empty.
pub(super) fn ask(printer: &Printer, question: &str, default: Option<&str>) -> Result<String, Failure> {
    let shown = default.map(|default| format!(" [{default}]")).unwrap_or_default();
    printer.prompt(&format!("{question}{shown}: "))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let line = line.trim();
    Ok(if line.is_empty() { default.unwrap_or_default().to_owned() } else { line.to_owned() })
}
