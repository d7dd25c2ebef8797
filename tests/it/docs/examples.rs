//! The examples for containers: their configuration and their commands. `scripts/examples.sh` checks their syntax.

use std::fs;

use super::commands::{Given, judge, ours, settings};
use super::markdown::root;
use super::{configuration, shell};

/// The text of a block that begins with `key: |`, without its indentation.
fn block(text: &str, key: &str) -> String {
    let (_, rest) = text.split_once(&format!("{key}: |\n")).expect("the block is there");
    let indent = rest.len() - rest.trim_start_matches(' ').len();
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with(&" ".repeat(indent)));
    lines.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Commands as lists of words (`command:`, `args:`, `CMD`), as settings of PostgreSQL, and in comments.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.find('[').and_then(|at| serde_json::from_str::<Vec<String>>(&line[at..]).ok()) {
            found.push(words);
        } else if let Some(command) = line.split_once("_command=").map(|(_, command)| command) {
            found.extend(shell::commands(command));
        } else if let Some(comment) = line.strip_prefix("#   ") {
            found.extend(shell::commands(comment));
        }
        found.extend(settings(line).into_iter().flat_map(shell::commands));
    }
    found.iter().filter_map(|words| ours(words)).collect()
}

#[test]
fn the_examples_for_containers_hold_what_the_programs_take() {
    let folder = root().join("packaging/examples");
    let manifests = fs::read_to_string(folder.join("kubernetes.yaml")).unwrap();
    configuration::judge(&block(&manifests, "walward.toml")).unwrap();
    let container = fs::read_to_string(folder.join("Containerfile")).unwrap();
    let commands: Vec<_> = [commands(&manifests), commands(&container)].concat();
    assert!(commands.len() >= 6, "only {commands:?} were found");
    for words in commands {
        judge(&words, Given::Whole).unwrap();
    }
}
