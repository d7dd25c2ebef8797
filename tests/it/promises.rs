//! What the documents claim to be tested is.

use std::collections::BTreeMap;
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

/// Every test function by its name: the parts of the paths that lead to it, such as `archive`, `tests`, `several`.
fn tests() -> BTreeMap<String, Vec<Vec<String>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates", "tests"] {
        read(&root.join(folder), &mut files);
    }
    let mut tests: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let way = file.strip_prefix(root).unwrap().with_extension("");
        let mut way: Vec<_> = way.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if text.contains("\nmod tests {") {
            way.push("tests".to_owned());
        }
        let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        let written = text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1));
        let written = written.filter_map(|part| Some(name(part.split_once("fn ")?.1)));
        // A scenario for all versions is a module of its name.
        for test in written.chain(text.split("on_every_version!(").skip(1).map(name)) {
            tests.entry(test).or_default().push(way.clone());
        }
    }
    tests
}

/// Whether a test that lies at `way` can be called by the names before its own: all of them are on the way, in their order.
fn leads(names: &[&str], way: &[String]) -> bool {
    let mut way = way.iter();
    names.iter().all(|name| way.any(|part| part == name))
}

#[test]
fn a_test_is_named_by_where_it_lies() {
    let way: Vec<_> = ["src", "archive", "tests", "several"].map(str::to_owned).into();
    for names in [&["archive"][..], &["archive", "several"], &["archive", "tests", "several"], &[]] {
        assert!(leads(names, &way), "{names:?}");
    }
    for names in [&["storage"][..], &["several", "archive"], &["archive", "tests", "several", "more"]] {
        assert!(!leads(names, &way), "{names:?}");
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    let tests = tests();
    assert!(tests.len() > 200 && tests.contains_key("every_test_that_a_document_names_exists"), "the search is broken");
    let mut claimed = 0;
    let mut wrong = Vec::new();
    for document in ["docs/reliability.md", "docs/threat-model.md", "docs/comparison.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        for quoted in
            text.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains("::") && !quoted.ends_with("::"))
        {
            let mut names: Vec<_> = quoted.split("::").collect();
            let name = names.pop().unwrap();
            claimed += 1;
            if !tests.get(name).is_some_and(|ways| ways.iter().any(|way| leads(&names, way))) {
                wrong.push(format!("{document} names {quoted}, which is no test there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(claimed > 50, "only {claimed} tests are named");
}

#[test]
fn every_module_and_function_that_the_page_on_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates"] {
        read(&root.join(folder), &mut files);
    }
    let way = |file: &PathBuf| -> Vec<String> {
        let way = file.strip_prefix(root).unwrap().with_extension("");
        way.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod" && part != "src").collect()
    };
    let modules: Vec<(Vec<String>, String)> =
        files.iter().map(|file| (way(file), fs::read_to_string(file).unwrap())).collect();
    let text = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let is_module = |quoted: &&str| {
        quoted.contains("::")
            && quoted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    let told: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_module).collect();
    assert!(told.len() > 20, "only {} modules are named", told.len());
    for quoted in told {
        let names: Vec<_> = quoted.split("::").map(str::to_owned).collect();
        let (last, rooms) = names.split_last().unwrap();
        let declared = [format!("pub fn {last}("), format!("pub async fn {last}(")];
        let is_there = modules.iter().any(|(way, text)| {
            // A function is called by the room that passes it on.
            let passes_on =
                way.iter().any(|part| *part == rooms[0]) && declared.iter().any(|words| text.contains(words));
            way.ends_with(&names) || passes_on
        });
        assert!(is_there, "docs/architecture.md names {quoted}, which is no module or function there");
    }
}
