//! What is made from the programs: the page of commands, that of metrics, the tables of the configuration. And that every JSON schema has its section.
//!
//! `WALWARD_WRITE_DOCS=1 cargo test --test it docs::reference` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use serde_json::json;
use walward::config::keys::{Section, reference};

use super::markdown::{read, root};

/// Holds `page` against what is written there, or writes it.
fn hold(path: &str, page: &str) {
    let file = root().join(path);
    if env::var_os("WALWARD_WRITE_DOCS").is_some() {
        fs::write(&file, page).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let line = page.lines().zip(found.lines()).position(|(a, b)| a != b).unwrap_or_default();
    assert!(
        found == page,
        "{path} is not what the programs say, from line {} on; write it anew with WALWARD_WRITE_DOCS=1 cargo test --test it docs::reference",
        line + 1
    );
}

/// Text for a cell or a paragraph: options and the like were not marked as code, `…` was.
fn prose(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let lines = usage.strip_prefix("Usage: ").unwrap_or(&usage).lines().map(str::trim).collect::<Vec<_>>();
    lines.join("\n")
}

/// `--target-time TIME`, or the name of a positional argument.
fn name(argument: &Arg) -> String {
    let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes = argument.get_num_args().is_none_or(|range| range.takes_values());
    let value = if takes && !value.is_empty() { format!(" {value}") } else { String::new() };
    match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}{value}"),
        (None, Some(long)) => format!("--{long}{value}"),
        _ => value.trim().to_owned(),
    }
}

fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut rows = String::new();
    for argument in arguments.filter(|argument| !argument.is_hide_set()) {
        if ["help", "version"].contains(&argument.get_id().as_str()) {
            continue;
        }
        let mut meaning = prose(&argument.get_help().map(ToString::to_string).unwrap_or_default());
        let takes = argument.get_num_args().is_none_or(|range| range.takes_values());
        let values = argument.get_possible_values();
        for value in values.iter().filter(|_| takes) {
            let help = value.get_help().map(|help| format!(": {}", prose(&help.to_string()))).unwrap_or_default();
            let _ = write!(meaning, "<br>`{}`{help}", value.get_name());
        }
        let default: Vec<_> = argument.get_default_values().iter().filter_map(|value| value.to_str()).collect();
        let default = if takes && !default.is_empty() { format!("`{}`", default.join(" ")) } else { String::new() };
        let _ = writeln!(rows, "| `{}` | {default} | {meaning} |", name(argument));
    }
    if rows.is_empty() { rows } else { format!("\n| | default | |\n|---|---|---|\n{rows}") }
}

fn describe(command: &Command, page: &mut String) {
    let own = command.get_arguments().filter(|argument| !argument.is_global_set());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about = about.split("\n\n").map(prose).collect::<Vec<_>>().join("\n\n");
    let stop = if about.ends_with(['.', ';']) { "" } else { "." };
    let inner: Vec<_> =
        command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help").collect();
    if inner.is_empty() {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        let _ = write!(page, "\n## {name}\n\n{about}{stop}\n\n```text\n{}\n```\n{}", usage(command), table(own));
    }
    for inner in inner {
        describe(inner, page);
    }
}

#[test]
fn the_page_of_commands_is_what_the_programs_take() {
    let mut walward = walward::cli::command_line().disable_help_subcommand(true);
    walward.build();
    let mut page = String::from(
        "# Commands\n\nMade from the programs themselves. `--help` of each command says the same, and so do the manual pages.\n\n\
         ## Options of every walward command\n",
    );
    page.push_str(&table(walward.get_arguments().filter(|argument| argument.is_global_set())));
    page.push_str(
        "\nData goes to standard output, everything else to standard error. How a command ends: [exit codes](exit-codes.md). What `--json`\n\
         prints: [JSON](json.md). `WALWARD_CONFIG` stands for `--config`, `WALWARD_SOCKET` for the agent's socket.\n\n\
         `walward archive-push`, `wal-push`, `archive-get` and `wal-fetch` do as `walward wal push` and `walward wal fetch`, for people who come from\n\
         other tools.\n",
    );
    describe(&walward, &mut page);
    let mut agent = walward::daemon::Arguments::command().bin_name("walwardd").about("The agent.");
    agent.build();
    describe(&agent, &mut page);
    let _ = write!(
        page,
        "\n## walward-wal\n\nThe client that PostgreSQL starts.\n\n```text\n{}\n```\n",
        walward_wire::client::USAGE
    );
    hold("docs/commands.md", &page);
}

#[test]
fn the_page_of_the_configuration_has_every_key_as_it_is() {
    let mut page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for section in [Section::Agent, Section::Repository, Section::Cluster] {
        let heading =
            page.lines().find(|line| line.starts_with(&format!("## `[{}", section.name()))).expect("a heading");
        let at = page.find(heading).unwrap();
        let begin = at + page[at..].find("\n| ").expect("a table") + 1;
        let end = begin + page[begin..].find("\n\n").map_or(page.len() - begin, |end| end + 1);
        page.replace_range(begin..end, &reference(section));
    }
    hold("docs/configuration.md", &page);
}

#[test]
fn the_page_of_metrics_is_what_the_agent_says() {
    let failed = json!({ "transient": 1 });
    let debt = json!({ "files": 0, "oldest_file": null, "oldest_since": "2026-11-21T00:00:00Z", "compared": null, "paid_total": 0,
        "last_error": null, "contradictions_total": 0, "last_contradiction": null, "differs": null });
    let snapshot = json!({
        "schema": "walward.status/1", "version": "1", "host": "h", "pid": 1, "started": "2026-11-21T00:00:00Z",
        "taken": "2026-11-21T00:00:00Z", "resident_bytes": 1,
        "clusters": [{
            "name": "main", "data_directory": "/x", "configuration": null,
            "archive": { "acknowledged_total": 0, "acknowledged_ahead_total": 0, "uploaded_total": 0, "uploaded_bytes_total": 0,
                "upload_seconds_total": 0.0, "failed_total": failed, "last_file": null, "last_acknowledged": "2026-11-21T00:00:00Z",
                "last_error": null, "ready_files": 0, "let_go_total": 0, "last_let_go": null },
            "belief": { "compared": null, "lost_files": 0, "oldest_lost": null, "different_files": 0, "oldest_different": null },
            "ready_files": 0, "oldest_ready_seconds": 0.0, "uploaded_ahead": 0, "uploads_in_flight": 0, "unrecorded_gaps": 0,
            "fetch": { "served_total": 0, "served_prefetched_total": 0, "fallback_total": 0, "fallback_damaged_total": 0,
                "last_fallback": null, "absent_total": 0, "failed_total": failed, "last_file": null, "last_served": null,
                "last_error": null },
            "prefetched": 0, "spool_bytes": 0, "spool_bytes_max": 0,
            "repositories": [{ "name": "s3", "url": "s3://x", "reachable": true, "error": null, "debt": debt }],
            "jobs": []
        }]
    });
    let snapshot = serde_json::from_value(snapshot).unwrap();
    let text = walward::health::render_metrics(&snapshot);
    let mut labels = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let inner = rest.split_once('}').map_or("", |(inner, _)| inner);
        let names: Vec<_> =
            inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| format!("`{label}`")).collect();
        labels.insert(name.to_owned(), names.join(", "));
    }
    let mut page = String::from(
        "# Metrics\n\nWhat `/metrics` says, in Prometheus' text format, when `metrics_listen` is set ([monitoring](how-to/monitoring.md)). Made from the\n\
         agent's own page. No label holds the name of a file or a backup. A metric whose value is not known is left out.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut kind = String::new();
    let mut help = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.insert(name.to_owned(), words.to_owned());
        } else if let Some((name, word)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            word.clone_into(&mut kind);
            let labels = labels.get(name).unwrap_or_else(|| panic!("{name} has no sample"));
            let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {} |", help[name]);
        }
    }
    page.push_str(
        "\nThe label `class` is the class of an error: `transient` (may heal by itself), `denied`, `corrupt`, `not_found`, `permanent`, `cancelled`,\n\
         `no_space`.\n",
    );
    hold("docs/metrics.md", &page);
    // What other pages name is there.
    for path in ["docs/how-to/monitoring.md", "docs/how-to/several-repositories.md"] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        for word in
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("walward_"))
        {
            assert!(help.contains_key(word), "{path} names {word}, which is no metric");
        }
    }
}

#[test]
fn the_schemas_are_what_the_programs_print() {
    let page = |schema: schemars::Schema| serde_json::to_string_pretty(&schema).unwrap() + "\n";
    hold("docs/schemas/status.json", &page(schemars::schema_for!(walward_report::Snapshot)));
    hold("docs/schemas/job.json", &page(schemars::schema_for!(walward_report::Job)));
    hold("docs/schemas/check.json", &page(schemars::schema_for!(walward_report::Findings)));
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// What every answer's `schema` can be, from where it is printed.
#[test]
fn every_json_schema_has_its_section_and_no_other() {
    let mut text = String::new();
    sources(&root().join("src/cli"), &mut text);
    let mut printed = BTreeSet::new();
    for call in ["printer.json(", ".json_with_key(", ".json_line(", "report(printer, ", "Meter::new(printer, "] {
        for rest in text.split(call).skip(1) {
            let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            printed.extend(name.map(|(name, _)| format!("`walward.{name}/1`")));
        }
    }
    let page = read(&root().join("docs/json.md"));
    let text = fs::read_to_string(root().join(&page.path)).unwrap();
    let written: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("## ").map(str::to_owned)).collect();
    assert!(printed.len() > 10, "the search is broken: {printed:?}");
    assert_eq!(printed, written);
}
