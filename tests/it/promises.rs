//! What the documents claim to be tested is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of every test function, and of every scenario for all versions.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        read(&root.join(folder), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        for part in text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1)) {
            names.extend(part.split_once("fn ").map(|(_, rest)| name(rest)));
        }
        names.extend(text.split("on_every_version!(").skip(1).map(name));
    }
    names
}

#[test]
fn every_test_that_a_document_names_exists() {
    let tests = tests();
    assert!(tests.len() > 200 && tests.contains("every_test_that_a_document_names_exists"), "the search is broken");
    let mut claimed = 0;
    for document in ["docs/reliability.md", "docs/threat-model.md", "docs/comparison.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        for quoted in
            text.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains("::") && !quoted.ends_with("::"))
        {
            let name = quoted.rsplit("::").next().unwrap();
            claimed += 1;
            assert!(tests.contains(name), "{document} names {quoted}, which is no test");
        }
    }
    assert!(claimed > 50, "only {claimed} tests are named");
}
