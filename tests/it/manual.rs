//! The manual pages say what the programs say. They are made by `walward manual`, as the packages do it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use walward::config::keys::Section;

use crate::client_program::walward_wal;

fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn walward(arguments: &[&str]) -> String {
    output(env!("CARGO_BIN_EXE_walward"), arguments)
}

/// Every page by its file name, without what troff needs to show a character as it is.
fn pages() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    walward(&["manual", folder.path().to_str().unwrap()]);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap().replace("\\-", "-");
    let pages = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    pages.map(|entry| (entry.file_name().into_string().unwrap(), read(&entry.path()))).collect()
}

/// The commands below `path`, as the help lists them.
fn commands(path: &[&str]) -> Vec<String> {
    let help = walward(&[path, &["-h"]].concat());
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A meaning that goes on in a second line is indented further.
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The options that a help text has at the beginning of a line, by their long names.
fn options(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.filter_map(|line| line.split([' ', '=', ',', '.']).find(|word| word.starts_with("--")));
    words.map(str::to_owned).collect()
}

fn holds_options(page: &str, text: &str, help: &str) {
    let options = options(help);
    assert!(options.len() >= 2, "the reader of help texts is broken: {help}");
    for option in options {
        assert!(text.contains(&option), "{page} lacks {option}");
    }
}

#[test]
fn every_command_of_the_help_has_a_page_with_its_options_and_no_page_is_about_anything_else() {
    let mut pages = pages();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let page = format!("{}.1", [&["walward"], &words[..]].concat().join("-"));
        // The page of this name is the client's.
        if page != "walward-wal.1" {
            let text = pages.remove(&page).unwrap_or_else(|| panic!("{page} is missing"));
            holds_options(&page, &text, &walward(&[&words[..], &["--help"]].concat()));
            seen += 1;
        }
        open.extend(commands(&words).into_iter().map(|command| [&path[..], &[command]].concat()));
    }
    assert!(seen > 15, "the reader of commands is broken: {seen}");
    let rest: Vec<&str> = pages.keys().map(String::as_str).collect();
    assert_eq!(rest, ["walward-wal.1", "walward.toml.5", "walwardd.8"]);
}

#[test]
fn the_pages_of_the_agent_and_the_client_have_their_options() {
    let pages = pages();
    let client = &pages["walward-wal.1"];
    holds_options("walward-wal.1", client, &output(walward_wal(), &["--help"]));
    for command in commands(&["wal"]) {
        assert!(client.contains(&format!("walward-wal-{command}(1)")), "walward-wal.1 does not lead to {command}");
    }
    holds_options("walwardd.8", &pages["walwardd.8"], &output(env!("CARGO_BIN_EXE_walwardd"), &["--help"]));
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_its_meaning() {
    let pages = pages();
    let text = &pages["walward.toml.5"];
    let plain = text.replace("\\fB", "`").replace("\\fR", "`").replace("\\*(Aq", "'");
    for section in [Section::Agent, Section::Repository, Section::Cluster] {
        for key in section.keys() {
            assert!(plain.contains(&format!("`{}` (", key.name)), "{} is missing", key.name);
            assert!(plain.contains(key.meaning), "the meaning of {} is missing", key.name);
        }
    }
}

/// What a page says must be typed is typed here: as far as the command line, which refuses what it does not know.
#[test]
fn the_commands_that_the_pages_show_exist() {
    let mut seen = 0;
    for (page, text) in pages() {
        let text = text.replace("\\*(Aq", "'").replace("\\e\n", " ").replace("\\\\\n", " ");
        // What is to be typed is indented.
        let typed = text.lines().filter_map(|line| line.strip_prefix("    "));
        let typed = typed.map(|line| line.strip_prefix("sudo -u postgres ").unwrap_or(line));
        for line in typed.filter(|line| line.starts_with("walward ")) {
            let line = line.split(" > ").next().unwrap();
            // At `--help`, the last word, it stops before anything is done.
            let shell = format!("set -- {line}; shift; exec \"$0\" \"$@\" --help");
            let output = Command::new("sh").args(["-c", &shell, env!("CARGO_BIN_EXE_walward")]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: {line}: {said}");
            seen += 1;
        }
    }
    assert!(seen > 10, "the reader of examples is broken: {seen}");
}
