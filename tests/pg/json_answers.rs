//! What every command answers with `--json` is what docs/json.md says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::support::{Site, SiteOptions, StoreKind};

#[test]
fn every_answer_is_in_the_reference_and_every_schema_of_it_is_an_answer() {
    let mut site = Site::prepare(SiteOptions { store: StoreKind::File, encrypted: true, ..SiteOptions::default() });
    let second = site.room.make_folder("second");
    let text = site.config_text().replace("[\"store\"]", "[\"store\", \"second\"]");
    let table = format!("\n[repository.second]\nurl = \"file://{}\"\nencryption = \"none\"\n", second.display());
    site.write_config(&format!("{text}{table}"));
    site.set_up("main");
    site.cluster.start(&site.room);
    site.start_agent();

    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut ask = |code: i32, lines: bool, arguments: &[&str]| {
        let outcome = site.walward(&[&["--json", "--cluster", "main"], arguments].concat());
        let outcome = if arguments[0] == "check" { outcome.expect_healthy() } else { outcome.expect(code) };
        let answers = if lines { outcome.json_lines() } else { vec![outcome.json()] };
        assert!(!answers.is_empty(), "{arguments:?} printed nothing");
        for answer in &answers {
            members(answer, seen.entry(answer["schema"].as_str().expect("a schema").to_owned()).or_default());
        }
        answers.last().cloned().expect("an answer")
    };
    ask(0, false, &["setup"]);
    ask(0, true, &["backup"]);
    ask(0, false, &["check", "--switch-wal"]);
    ask(0, false, &["status"]);
    let jobs = ask(0, false, &["jobs", "list"]);
    ask(0, false, &["jobs", "cancel", jobs["jobs"][0]["id"].as_str().expect("a name")]);
    ask(0, false, &["info"]);
    let target = site.room.join("restored");
    let restore = ["restore", "--target-directory", target.to_str().expect("UTF-8")];
    ask(0, false, &[&restore[..], &["--dry-run"]].concat());
    ask(0, true, &restore);
    ask(0, false, &["wal", "recovered", target.to_str().expect("UTF-8")]);
    ask(14, true, &["restore", "--backup", "20200101T000000Z-full", "--target-directory", "/nonexistent/x"]);
    ask(0, false, &["-v", "wal", "list"]);
    ask(0, false, &["wal", "gaps"]);
    ask(0, false, &["repo", "info"]);
    ask(0, false, &["repo", "ls"]);
    ask(0, false, &["repo", "probe"]);
    ask(0, true, &["repo", "copy", "store", "second"]);
    let passphrase = site.room.write("passphrase", "correct horse battery staple\n");
    ask(0, false, &["keys", "add", "--passphrase-file", passphrase.to_str().expect("UTF-8")]);
    ask(0, false, &["keys", "list"]);
    ask(0, false, &["--yes", "keys", "remove", "3"]);
    ask(0, false, &["keys", "rotate"]);
    // A copy's timeline.
    let history = site.put_wal("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    site.walward(&["--cluster", "main", "wal", "push", history.to_str().expect("UTF-8")]).expect(0);
    fs::remove_file(&history).expect("the server has it no more");
    let moved = ask(0, false, &["--yes", "wal", "set-aside", "--from", "00000002.history"]);
    ask(0, false, &["wal", "list-aside"]);
    ask(0, false, &["--yes", "wal", "restore-aside", moved["set_aside"][0]["id"].as_str().expect("an id")]);
    ask(0, false, &["lease", "list"]);
    ask(0, false, &["--yes", "lease", "break"]);
    ask(0, false, &["config", "check"]);
    ask(0, false, &["config", "show"]);

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let sections: BTreeMap<String, &str> = page
        .split("\n## `")
        .skip(1)
        .filter_map(|section| section.split_once('`').map(|(name, text)| (name.to_owned(), text)))
        .collect();
    assert_eq!(seen.keys().collect::<Vec<_>>(), sections.keys().collect::<Vec<_>>());
    // Other answers have members that depend on what happened.
    let always = |schema: &str| schema.starts_with("walward.keys-") || schema == "walward.error/1";
    for (schema, text) in sections.into_iter().filter(|(schema, _)| always(schema)) {
        for member in promised(text) {
            assert!(seen[&schema].contains(member), "no {schema} has the {member:?} that docs/json.md promises");
        }
    }
}

/// The names of all members, at whatever depth.
fn members(answer: &Value, names: &mut BTreeSet<String>) {
    match answer {
        Value::Object(object) => {
            for (name, value) in object {
                names.insert(name.clone());
                members(value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| members(value, names)),
        _ => {}
    }
}

/// The members that the tables of a section name first; and those of a slot, none of which may be missing.
fn promised(section: &str) -> impl Iterator<Item = &str> {
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.flat_map(|row| {
        let first = row.strip_prefix("| `").and_then(|_| row.trim_start_matches("| ").split(" | ").next());
        let slots = row.split_once("`slots`, each ").and_then(|(_, each)| each.split(';').next());
        first.into_iter().chain(slots).flat_map(|text| text.split('`').skip(1).step_by(2))
    })
}

/// The disk behind standard output is full: the report is lost, the backup is not.
#[test]
fn a_backup_whose_progress_cannot_be_printed_is_taken_all_the_same() {
    let site = Site::start(SiteOptions::default());
    for (number, more) in [&[][..], &["--no-agent"]].into_iter().enumerate() {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = site.walward_command(&[&["--json", "--cluster", "main", "backup"], more].concat());
        let output = command.stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        for text in ["the work goes on", "is taken", "standard output"] {
            assert!(said.contains(text), "{text}: {said}");
        }
        let info = site.walward(&["--json", "--cluster", "main", "info"]).expect(0).json();
        assert_eq!(info["repositories"][0]["backups"].as_array().map(Vec::len), Some(number + 1), "{info:#}");
    }
}

/// A recovery key is shown once: one that could not be printed must not look like one that somebody has.
#[test]
fn a_recovery_key_that_could_not_be_shown_is_told_with_what_makes_another() {
    let site = Site::start(SiteOptions { encrypted: true, ..SiteOptions::default() });
    for json in [&[][..], &["--json"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = site.walward_command(&[json, &["--cluster", "main", "keys", "add", "--recovery"]].concat());
        let output = command.stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is lost") && said.contains("keys add --recovery"), "{said}");
    }
    site.walward(&["--cluster", "main", "keys", "add", "--recovery"]).expect(0);
}
