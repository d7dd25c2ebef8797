//! What every command answers with `--json` is what docs/json.md says.

use std::collections::BTreeSet;
use std::fs;

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

    let mut seen = BTreeSet::new();
    let mut ask = |code: i32, lines: bool, arguments: &[&str]| {
        let outcome = site.walward(&[&["--json", "--cluster", "main"], arguments].concat());
        let outcome = if arguments[0] == "check" { outcome.expect_healthy() } else { outcome.expect(code) };
        let answers = if lines { outcome.json_lines() } else { vec![outcome.json()] };
        assert!(!answers.is_empty(), "{arguments:?} printed nothing");
        seen.extend(answers.iter().map(|answer| answer["schema"].as_str().expect("a schema").to_owned()));
    };
    ask(0, false, &["setup"]);
    ask(0, true, &["backup"]);
    ask(0, false, &["check", "--switch-wal"]);
    ask(0, false, &["status"]);
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
    ask(0, false, &["config", "check"]);
    ask(0, false, &["config", "show"]);

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let sections = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
    let written: BTreeSet<_> = sections.map(str::to_owned).collect();
    assert_eq!(seen, written);
}
