//! Fields of the log have one name each, and docs/logging.md lists them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The names of the fields that the macros of `tracing` set in `text`.
fn fields(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "error_span!("] {
        for (at, _) in text.match_indices(name) {
            let before = text[..at].bytes().next_back();
            if before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && byte != b'_') {
                let arguments = arguments(&text[at + name.len()..]);
                let fields = arguments.iter().take_while(|argument| !argument.starts_with('"'));
                found.extend(fields.map(|field| {
                    let name = field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
                    name.to_owned()
                }));
                // A span begins with its name.
                if name == "error_span!(" {
                    let fields = arguments.iter().skip(1);
                    found.extend(fields.map(|field| field.split('=').next().unwrap().trim().to_owned()));
                }
            }
        }
    }
    found
}

/// What stands between the commas of a call, up to its closing bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut found = vec![String::new()];
    for character in text.chars() {
        match character {
            _ if quoted => {
                quoted = escaped || character != '"';
                escaped = !escaped && character == '\\';
            }
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(character);
    }
    found.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_field_of_the_log_is_documented_and_every_documented_field_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates"] {
        sources(&root.join(folder), &mut files);
    }
    let mut used: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        used.extend(fields(&fs::read_to_string(&file).unwrap()).into_iter().map(|field| (field, file.clone())));
    }
    assert!(used.len() > 20, "the search is broken: {used:?}");

    let text = fs::read_to_string(root.join("docs/logging.md")).unwrap();
    let mut listed = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let fields = names(cells[1]);
        let journal: Vec<String> = fields.iter().map(|field| format!("WALWARD_{}", field.to_uppercase())).collect();
        assert_eq!(names(cells[2]), journal, "{row}");
        listed.extend(fields);
    }
    for (field, file) in &used {
        assert!(listed.contains(field), "{} logs {field:?}, which docs/logging.md does not list", file.display());
    }
    let gone: Vec<_> = listed.iter().filter(|field| !used.contains_key(*field)).collect();
    assert!(gone.is_empty(), "docs/logging.md lists {gone:?}, which nothing logs");
}

#[test]
fn fields_are_read_as_the_macros_read_them() {
    let text = r#"
        tracing::warn!(cluster = self.cluster, %error, ?x, uid = f(a, "b, \" c"), "a text, with = {x}", 3);
        error!("only text, a = b");
        let s = error_span!("cluster", cluster = name);
        my_debug!(nothing = 1);
    "#;
    let found: Vec<String> = fields(text).into_iter().collect();
    assert_eq!(found, ["cluster", "error", "uid", "x"]);
}
