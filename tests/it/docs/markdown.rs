//! As much of Markdown as our documents use.

use std::fs;
use std::path::{Path, PathBuf};

/// A document, taken apart.
pub struct Document {
    /// Relative to the root of the package.
    pub path: PathBuf,
    /// Targets of links and pictures, with their lines.
    pub links: Vec<(usize, String)>,
    /// What stands between backticks, with the lines where it begins. Line breaks are blanks.
    pub spans: Vec<(usize, String)>,
    /// Blocks of code, fenced or indented.
    pub blocks: Vec<Block>,
    /// What a link can lead to within the document.
    pub anchors: Vec<String>,
}

pub struct Block {
    /// Of its first line of code, counted from 1.
    pub line: usize,
    /// What stands after the fence; empty for indented blocks.
    pub language: String,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document of the package.
pub fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    for folder in ["docs", "src", "crates", "packaging", "fuzz", "benches"] {
        find(&root().join(folder), &mut paths);
    }
    paths.sort();
    let documents: Vec<Document> = paths.iter().map(|path| read(path)).collect();
    assert!(documents.len() > 10, "only {} documents found", documents.len());
    documents
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            find(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

pub fn read(path: &Path) -> Document {
    let text = fs::read_to_string(path).unwrap();
    parse(path.strip_prefix(root()).unwrap_or(path).to_owned(), &text)
}

pub fn parse(path: PathBuf, text: &str) -> Document {
    let (prose, blocks) = split(text);
    let (bare, spans) = spans(&prose);
    let mut anchors: Vec<String> = Vec::new();
    for line in prose.lines().filter(|line| line.starts_with('#')) {
        let anchor = anchor(line.trim_start_matches('#').trim());
        let again = anchors.iter().filter(|other| **other == anchor).count();
        anchors.push(if again == 0 { anchor } else { format!("{anchor}-{again}") });
    }
    Document { path, links: links(&bare), spans, blocks, anchors }
}

/// The text with its blocks of code emptied, line for line, and the blocks.
fn split(text: &str) -> (String, Vec<Block>) {
    let mut prose = String::new();
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence = None;
    // Of the line before: nothing, or code.
    let (mut blank, mut indented) = (true, false);
    for (number, line) in text.lines().enumerate() {
        let inner = line.trim_start();
        if let Some(indent) = fence {
            if inner.starts_with("```") {
                fence = None;
            } else if let Some(block) = blocks.last_mut() {
                block.text.push_str(line.get(indent..).unwrap_or(inner));
                block.text.push('\n');
            }
        } else if let Some(language) = inner.strip_prefix("```") {
            fence = Some(line.len() - inner.len());
            blocks.push(Block { line: number + 2, language: language.trim().to_owned(), text: String::new() });
            (blank, indented) = (true, false);
        } else if line.len() - inner.len() >= 4 && !inner.is_empty() && (blank || indented) {
            if !indented {
                blocks.push(Block { line: number + 1, language: String::new(), text: String::new() });
            }
            let block = blocks.last_mut().expect("one was just opened");
            block.text.push_str(inner);
            block.text.push('\n');
            indented = true;
        } else {
            prose.push_str(line);
            indented &= line.is_empty();
            blank = line.is_empty();
        }
        prose.push('\n');
    }
    assert!(fence.is_none(), "a fence is not closed");
    (prose, blocks)
}

/// The text with its spans of code emptied, and the spans.
fn spans(prose: &str) -> (String, Vec<(usize, String)>) {
    let mut bare = String::new();
    let mut found = Vec::new();
    let mut rest = prose;
    while let Some(start) = rest.find('`') {
        bare.push_str(&rest[..start]);
        let ticks = rest[start..].bytes().take_while(|byte| *byte == b'`').count();
        let body = &rest[start + ticks..];
        // A span does not reach over the end of its paragraph.
        let paragraph = body.find("\n\n").unwrap_or(body.len());
        let Some(end) = body[..paragraph].find(&"`".repeat(ticks)) else {
            bare.push_str(&rest[start..start + ticks]);
            rest = body;
            continue;
        };
        let line = bare.matches('\n').count() + 1;
        found.push((line, body[..end].split_whitespace().collect::<Vec<_>>().join(" ")));
        bare.extend(body[..end].chars().filter(|c| *c == '\n'));
        rest = &body[end + ticks..];
    }
    bare.push_str(rest);
    (bare, found)
}

fn links(bare: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = bare[at..].find("](") {
        let from = at + start + 2;
        let end = bare[from..].find(')').expect("a link is not closed");
        found.push((bare[..from].matches('\n').count() + 1, bare[from..from + end].trim().to_owned()));
        at = from + end;
    }
    found
}

/// The anchor of a heading, as GitHub and mdbook make it.
fn anchor(heading: &str) -> String {
    // Of a link only its text shows.
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, target)) = rest.split_once("](") {
        text.push_str(before);
        rest = target.split_once(')').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn a_document_is_taken_apart() {
    let text = "# One `two`\n\nSee [a `b`](c.md#d) and `walward\nwal list`.\n\n```sh\nwalward info\n```\n\n    walward status\n\n1. list\n\n       walward backup\n\n## One two\n";
    let document = parse("x.md".into(), text);
    assert_eq!(document.links, [(3, "c.md#d".to_owned())]);
    assert_eq!(
        document.spans.iter().map(|(_, span)| span.as_str()).collect::<Vec<_>>(),
        ["two", "b", "walward wal list"]
    );
    let blocks: Vec<_> = document.blocks.iter().map(|block| (block.line, block.text.as_str())).collect();
    assert_eq!(blocks, [(7, "walward info\n"), (10, "walward status\n"), (14, "walward backup\n")]);
    assert_eq!(document.anchors, ["one-two", "one-two-1"]);
    assert_eq!(anchor("The [format](x.md), version 1"), "the-format-version-1");
}
