//! Links within the package lead somewhere, and every page of docs/ can be found.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::markdown::{Document, documents, root};

fn external(target: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// Without `.` and `..`, relative to the root; none when it leads out.
fn tidy(path: &Path) -> Option<PathBuf> {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => tidy.push(part),
            Component::ParentDir if !tidy.pop() => return None,
            _ => {}
        }
    }
    Some(tidy)
}

/// The file that a link leads to, and the place in it.
fn aim<'a>(document: &Document, target: &'a str) -> (Option<PathBuf>, Option<&'a str>) {
    let (file, anchor) = match target.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (target, None),
    };
    if file.is_empty() {
        return (Some(document.path.clone()), anchor);
    }
    (tidy(&document.path.parent().unwrap_or(Path::new("")).join(file)), anchor)
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let documents = documents();
    let mut dead = Vec::new();
    let mut checked = 0;
    for document in &documents {
        for (line, target) in document.links.iter().filter(|(_, target)| !external(target)) {
            checked += 1;
            let (file, anchor) = aim(document, target);
            let there = file.as_ref().is_some_and(|file| root().join(file).exists());
            let known = |anchor: &str| {
                documents
                    .iter()
                    .any(|other| Some(&other.path) == file.as_ref() && other.anchors.iter().any(|a| a == anchor))
            };
            if !there || !anchor.is_none_or(known) {
                dead.push(format!("{}:{line}: {target}", document.path.display()));
            }
        }
    }
    assert!(checked > 30, "only {checked} links were found");
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let documents = documents();
    let mut reached = BTreeSet::new();
    let mut open = vec![PathBuf::from("README.md")];
    while let Some(path) = open.pop() {
        let Some(document) = documents.iter().find(|document| document.path == path) else { continue };
        if !reached.insert(path) {
            continue;
        }
        // The table of contents leads to everything, which would prove nothing.
        open.extend(
            document
                .links
                .iter()
                .filter(|(_, target)| !external(target) && document.path != Path::new("docs/SUMMARY.md"))
                .filter_map(|(_, target)| aim(document, target).0),
        );
    }
    for document in documents.iter().filter(|document| document.path.starts_with("docs")) {
        let contents = document.path == Path::new("docs/SUMMARY.md");
        assert!(contents || reached.contains(&document.path), "no page leads to {}", document.path.display());
    }
}

#[test]
fn every_page_stands_in_the_table_of_contents() {
    let documents = documents();
    let contents = documents.iter().find(|document| document.path == Path::new("docs/SUMMARY.md")).unwrap();
    let named: BTreeSet<_> = contents.links.iter().filter_map(|(_, target)| aim(contents, target).0).collect();
    for document in documents.iter().filter(|document| document.path.starts_with("docs")) {
        assert!(
            document.path == contents.path || named.contains(&document.path),
            "docs/SUMMARY.md does not name {}",
            document.path.display()
        );
    }
}
