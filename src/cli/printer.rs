//! The one place that writes: data to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::Global;
use super::failure::Failure;
use crate::outcome::Exit;

/// Writes what a command has to say.
#[derive(Debug, Clone)]
pub(super) struct Printer {
    json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
}

const KEY_LOST: &str = "the slot of the recovery key was made, and the key itself could not be shown and is lost: `walward keys add --recovery` makes \
     another, `walward keys list` shows the slot to remove";

/// How a word is set off on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Bad,
    Strong,
    Faint,
}

impl Printer {
    pub(super) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            colour_out: colour_wanted(io::stdout().is_terminal()),
            colour_err: stderr_has_colour(),
        }
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a bar can be drawn.
    pub(super) fn draws(&self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// A line of data for people.
    pub(super) fn line(&self, text: &str) -> io::Result<()> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Bytes as they are. A reader that has seen enough (`| head`) is no error.
    #[allow(clippy::unused_self, reason = "what is printed goes through a printer, whatever it needs to know")]
    pub(super) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        match write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// A recovery key and the words around it, as text. Nothing shows it again, so a reader that is gone is an error, too.
    #[allow(clippy::unused_self, reason = "what is printed goes through a printer, whatever it needs to know")]
    pub(super) fn recovery_key(&self, text: &str) -> Result<(), Failure> {
        write(text.as_bytes()).map_err(|error| Failure::from(error).hint(KEY_LOST))
    }

    /// The whole answer of `command` as JSON, which `has_key` in it.
    pub(super) fn json_with_key(&self, command: &str, data: impl Serialize, has_key: bool) -> Result<(), Failure> {
        if !has_key {
            return Ok(self.json(command, data)?);
        }
        self.recovery_key(&format!("{}\n", serde_json::to_string_pretty(&with_schema(command, data)?)?))
    }

    /// The whole answer of a command as JSON: the members of `data`, which must be an object, after its schema.
    pub(super) fn json(&self, command: &str, data: impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&with_schema(command, data)?)?;
        self.line(&text)
    }

    /// One event of several, as JSON in one line.
    pub(super) fn json_line(&self, command: &str, data: impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(&with_schema(command, data)?)?;
        self.line(&text)
    }

    /// Something that a person should know and a program need not.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            err(text);
        }
    }

    /// A question, without a line break.
    pub(super) fn prompt(&self, text: &str) -> io::Result<()> {
        let mut err = io::stderr().lock();
        err.write_all(paint(text, Tone::Strong, self.colour_err).as_bytes())?;
        err.flush()
    }

    /// Something that somebody should look at.
    pub(super) fn warning(&self, text: &str) {
        let word = paint("warning:", Tone::Warning, self.colour_err);
        err(&format!("{word} {text}"));
    }

    /// How a command ends whose work is done, so that a report that could not be `printed` does not look like work that failed.
    pub(super) fn done(&self, what: &str, printed: Result<Exit, Failure>) -> Exit {
        printed.unwrap_or_else(|failure| {
            self.warning(&format!("{what}; {}", failure.message()));
            Exit::Warnings
        })
    }

    /// Why the command failed, and so ends with `code`: once, with the causes, then what to do.
    pub(super) fn failure(&self, failure: &Failure, code: u8) {
        let word = paint("walward:", Tone::Bad, self.colour_err);
        let message = failure.message();
        err(&format!("{word} {message}"));
        if let Some(hint) = &failure.hint {
            let word = paint("hint:", Tone::Strong, self.colour_err);
            err(&format!("{word} {hint}"));
        }
        if self.json {
            let data = json!({ "code": code, "error": message, "hint": failure.hint });
            // Standard error has said it already.
            let _ = self.json_line("error", data);
        }
    }

    /// A word set off, when standard output is a terminal.
    pub(super) fn tone(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colour_out)
    }
}

/// The answer of a command line that was not understood, as JSON. `said` is what a person reads: the error, an empty line, how to
/// write it.
pub(super) fn misunderstood(code: u8, said: &str) {
    let (error, hint) = said.split_once("\n\n").unwrap_or((said, ""));
    let in_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = in_one_line(error.strip_prefix("error: ").unwrap_or(error));
    let hint = Some(in_one_line(hint)).filter(|hint| !hint.is_empty());
    let data = with_schema("error", json!({ "code": code, "error": error, "hint": hint }));
    // Standard error has said it already.
    let _ = data.and_then(|data| writeln!(io::stdout().lock(), "{data}"));
}

fn err(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Whether standard error takes colours.
pub(super) fn stderr_has_colour() -> bool {
    colour_wanted(io::stderr().is_terminal())
}

/// Colours only on a terminal, and never against `NO_COLOR` (no-color.org).
fn colour_wanted(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn paint(text: &str, tone: Tone, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warning => "33",
        Tone::Bad => "31",
        Tone::Strong => "1",
        Tone::Faint => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn with_schema(command: &str, data: impl Serialize) -> io::Result<Value> {
    let mut object = serde_json::Map::new();
    object.insert("schema".to_owned(), Value::String(format!("walward.{command}/1")));
    match serde_json::to_value(data)? {
        Value::Object(members) => object.extend(members),
        other => {
            object.insert("data".to_owned(), other);
        }
    }
    Ok(Value::Object(object))
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    // "No space left" alone would be taken for the repository's.
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write the answer to standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_names_its_schema() {
        let value = with_schema("info", json!({ "a": 1 })).unwrap();
        assert_eq!(value, json!({ "schema": "walward.info/1", "a": 1 }));
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(!colour_wanted(false));
        assert_eq!(paint("x", Tone::Bad, false), "x");
    }
}
