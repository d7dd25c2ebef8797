//! Every command of ours in a document is one that the programs take.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, CommandFactory};

use super::markdown::{documents, root};
use super::shell;

const PROGRAMS: [&str; 3] = ["walward", "walwardd", "walward-wal"];

/// Blocks of code with commands in them. Indented ones have no language.
const SCRIPTS: [&str; 3] = ["", "sh", "console"];

/// Whether a command is given whole, or only named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Whole,
    InPart,
}

/// What is wrong with a command of ours.
pub(super) fn judge(words: &[String], given: Given) -> Result<(), String> {
    let error = match words[0].as_str() {
        "walward-wal" => {
            let arguments = words[1..].iter().map(Into::into);
            return match walward_wire::client::parse_arguments(arguments, Path::new("/")) {
                Err(wrong) if given == Given::Whole || wrong.contains("unknown") => Err(wrong),
                _ => Ok(()),
            };
        }
        "walwardd" => walward::daemon::Arguments::command().try_get_matches_from(words).err(),
        _ => walward::cli::command_line().try_get_matches_from(words).err(),
    };
    let Some(error) = error else { return Ok(()) };
    let incomplete = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Ok(()),
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::TooFewValues => true,
        // An option without its value.
        ErrorKind::InvalidValue => {
            error.get(ContextKind::InvalidValue).is_none_or(|value| value.to_string().is_empty())
        }
        _ => false,
    };
    if incomplete && given == Given::InPart { Ok(()) } else { Err(error.to_string()) }
}

/// The words of a command of ours.
pub(super) fn ours(words: &[String]) -> Option<Vec<String>> {
    let words = shell::program(words);
    let program = words.first()?.rsplit('/').next()?;
    // A path to a folder of that name is no command.
    let command = PROGRAMS.contains(&program) && (words[0] == program || words[0].contains("/bin/"));
    command.then(|| std::iter::once(program.to_owned()).chain(words[1..].iter().cloned()).collect())
}

/// What PostgreSQL is told to run: the texts of `archive_command` and `restore_command`.
pub(super) fn settings(text: &str) -> Vec<&str> {
    let quoted = text.split("_command = '").skip(1);
    quoted.filter_map(|rest| rest.split_once('\'').map(|(command, _)| command)).collect()
}

/// What systemd is told to run.
fn starts(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('=').map(|(_, command)| command))
}

fn subcommands() -> BTreeSet<String> {
    walward::cli::command_line().get_subcommands().map(|inner| inner.get_name().to_owned()).collect()
}

#[test]
fn every_command_in_a_document_is_understood() {
    let subcommands = subcommands();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for document in documents() {
        let mut check = |line: usize, words: &[String], given: Given| {
            checked += 1;
            if let Err(error) = judge(words, given) {
                let first = error.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
                wrong.push(format!("{}:{line}: {}\n    {first}", document.path.display(), words.join(" ")));
            }
        };
        for block in &document.blocks {
            let script = if SCRIPTS.contains(&block.language.as_str()) { &block.text } else { "" };
            let inner = settings(&block.text).into_iter().chain(starts(&block.text)).flat_map(shell::commands);
            for words in shell::commands(script).into_iter().chain(inner).filter_map(|words| ours(&words)) {
                check(block.line, &words, Given::Whole);
            }
        }
        // Texts of the formats begin with our name, too.
        let spans = if document.path.starts_with("crates") { &[][..] } else { &document.spans };
        for (line, span) in spans {
            for command in settings(span).into_iter().flat_map(shell::commands).filter_map(|words| ours(&words)) {
                check(*line, &command, Given::Whole);
            }
            let mut words: Vec<String> = shell::commands(span).into_iter().next().unwrap_or_default();
            words.retain(|word| word != "…");
            if let Some(words) = ours(&words) {
                check(*line, &words, Given::InPart);
            } else if words.len() > 1
                && subcommands.contains(&words[0])
                && words[1].starts_with(|c: char| c == '-' || c.is_ascii_lowercase())
            {
                // Named without its program: `check --switch-wal`.
                words.insert(0, "walward".to_owned());
                check(*line, &words, Given::InPart);
            }
        }
    }
    assert!(checked > 50, "only {checked} commands were found");
    assert!(wrong.is_empty(), "{} of {checked} commands do not exist:\n{}", wrong.len(), wrong.join("\n"));
}

fn options(command: &Command, found: &mut BTreeSet<String>) {
    for argument in command.get_arguments() {
        let longs = argument.get_long().into_iter().chain(argument.get_all_aliases().unwrap_or_default());
        found.extend(longs.map(|long| format!("--{long}")));
    }
    for inner in command.get_subcommands() {
        options(inner, found);
    }
}

#[test]
fn every_option_that_is_named_alone_exists() {
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    options(&walward::cli::command_line(), &mut known);
    options(&walward::daemon::Arguments::command(), &mut known);
    let mut others = walward_wire::client::USAGE.to_owned();
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        others.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    }
    let others: BTreeSet<&str> = others.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).collect();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for document in documents() {
        // Other tools' options stand there.
        if ["docs/moving-over.md", "docs/comparison.md"].iter().any(|other| document.path == Path::new(other)) {
            continue;
        }
        for (line, span) in document.spans.iter().filter(|(_, span)| span.starts_with("--")) {
            let option = span.split(['=', ' ']).next().unwrap_or_default();
            checked += 1;
            if !known.contains(option) && !others.contains(option) {
                wrong.push(format!("{}:{line}: {span}", document.path.display()));
            }
        }
    }
    assert!(checked > 20, "only {checked} options were found");
    assert!(wrong.is_empty(), "options that do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn what_does_not_exist_is_noticed() {
    let words = |text: &str| ours(&shell::commands(text)[0]).unwrap();
    assert!(judge(&words("walward restore --frobnicate"), Given::InPart).is_err());
    assert!(judge(&words("walward expire"), Given::InPart).is_err());
    assert!(judge(&words("walward wal push"), Given::Whole).is_err());
    assert!(judge(&words("walward restore --target-time"), Given::InPart).is_ok());
    assert!(judge(&words("walward backup --type snapshot"), Given::InPart).is_err());
    assert!(judge(&words("/usr/bin/walward-wal push --frobnicate %p"), Given::InPart).is_err());
    assert!(judge(&words("walwardd --frobnicate"), Given::InPart).is_err());
    assert_eq!(settings("restore_command = 'walward-wal fetch %f %p'"), ["walward-wal fetch %f %p"]);
}
