//! The source tree as the rules read it: comments and strings blanked out, tests left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file with comments, strings and characters blanked out, line by line.
pub struct Source {
    /// Where it lies in the house: `archive/push.rs` below `src/`, `repo/lease.rs` below `crates/repo/src/`.
    pub path: PathBuf,
    /// The first part of its path: a crate's name, a room of `src/`, `bin`, or `lib` for the root.
    pub room: String,
    /// Its module path: `repo`, `lease`; the crate's name, or the room's, comes first.
    pub modules: Vec<String>,
    pub code: String,
}

impl Source {
    /// `code` without `#[cfg(test)]` blocks.
    pub fn product_code(&self) -> String {
        let mut rest = self.code.as_str();
        let mut kept = String::new();
        while let Some(start) = rest.find("#[cfg(test)]") {
            kept.push_str(&rest[..start]);
            let item = &rest[start..];
            // The attribute governs the next item: up to its `;`, or to the end of its block.
            let open = item.find('{').unwrap_or(item.len());
            let end = match item.find(';') {
                Some(semicolon) if semicolon < open => semicolon + 1,
                _ => open + matching_brace(&item[open..]),
            };
            rest = &item[end..];
        }
        kept.push_str(rest);
        kept
    }
}

/// Length of the block that `text`, which begins with `{`, opens with.
pub fn matching_brace(text: &str) -> usize {
    let mut open = 0_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return index + 1;
        }
    }
    text.len()
}

/// `text` with the content of comments, strings and character literals replaced by spaces; lines stay where they are.
pub fn blank_out(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            let mut depth = 0_usize;
            let mut end = 0;
            while end < rest.len() {
                if rest[end..].starts_with(b"/*") {
                    depth += 1;
                    end += 2;
                } else if rest[end..].starts_with(b"*/") {
                    depth -= 1;
                    end += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    end += 1;
                }
            }
            end
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before])) {
            length
        } else if rest[0] == b'"' {
            let mut end = 1;
            while end < rest.len() && rest[end] != b'"' {
                end += if rest[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest[0] == b'\'' {
            // A character, not a lifetime: '\…' or a quote right after one character.
            let after = text[at + 1..].char_indices().nth(1).map_or(0, |(index, _)| index);
            if rest.get(1) == Some(&b'\\') {
                let mut end = 3;
                while end < rest.len() && rest[end] != b'\'' {
                    end += 1;
                }
                end + 1
            } else if after > 0 && rest.get(1 + after) == Some(&b'\'') {
                after + 2
            } else {
                0
            }
        } else {
            0
        };
        if length == 0 {
            at += 1;
        } else {
            let end = (at + length).min(bytes.len());
            blank(&mut out, at, end);
            at = end;
        }
    }
    String::from_utf8(out).expect("only whole characters were replaced")
}

/// Length of the raw string that `text` begins with, if it does.
fn raw_string(text: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') && before != Some(b'b') {
        return None;
    }
    let hashes = text.strip_prefix(b"r")?.iter().take_while(|&&b| b == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [vec![b'"'], vec![b'#'; hashes]].concat();
    let body = &text[2 + hashes..];
    body.windows(close.len()).position(|window| window == close).map(|end| 2 + hashes + end + close.len())
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of the ground, by the names of their folders.
pub fn crates() -> Vec<String> {
    let folders = fs::read_dir(root().join("crates")).unwrap();
    let mut names: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file of the product, in the order of their paths.
pub fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    read(&root().join("src"), None, &mut sources);
    for name in crates() {
        read(&root().join("crates").join(&name).join("src"), Some(&name), &mut sources);
    }
    assert!(sources.len() > 300, "only {} files were found", sources.len());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Every file below `top`, which is the folder of the crate `of`, or `src/`.
fn read(top: &Path, of: Option<&str>, sources: &mut Vec<Source>) {
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "rs") {
                let path = Path::new(of.unwrap_or("")).join(file.strip_prefix(top).unwrap());
                let mut modules: Vec<String> =
                    path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                if modules.last().is_some_and(|last| last == "mod" || (of.is_some() && last == "lib")) {
                    modules.pop();
                }
                let code = blank_out(&fs::read_to_string(&file).unwrap());
                sources.push(Source { path, room: modules[0].clone(), modules, code });
            }
        }
    }
}

pub fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The first part of each path that begins at the root by `root::` (`crate`, `walward`), groups opened:
/// `crate::{base::X, pg}` gives `base` and `pg`.
pub fn roots(code: &str, root: &str) -> BTreeSet<String> {
    let prefix = format!("{root}::");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(&prefix) {
        if at.checked_sub(1).is_some_and(|before| is_name(code.as_bytes()[before]) || code.as_bytes()[before] == b':') {
            continue;
        }
        found.extend(heads(&code[at + prefix.len()..]));
    }
    found
}

/// The names that a path continues with: one, or those of a group.
pub fn heads(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let head = |text: &str| text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    if !rest.starts_with('{') {
        return vec![head(rest)];
    }
    let group = &rest[1..matching_brace(rest) - 1];
    let mut depth = 0;
    group
        .split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(head)
        .filter(|name: &String| !name.is_empty())
        .collect()
}

/// Uses of a name as the first part of a path (`name::`) or as `extern crate` / `use name;`.
pub fn uses_crate(code: &str, name: &str) -> bool {
    [format!("{name}::"), format!("use {name};"), format!("use {name} as")].iter().any(|path| {
        code.match_indices(path.as_str())
            .any(|(at, _)| at.checked_sub(1).is_none_or(|b| !is_name(code.as_bytes()[b]) && code.as_bytes()[b] != b':'))
    })
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let code = blank_out("a // crate::x\n/* crate::y /* z */ */ \"crate::q\\\"\" r#\"crate::w\"# '\"' b 'c' <'d> e");
    for gone in ["crate", "x", "y", "z", "q", "w", "c'"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    assert!(code.contains('a') && code.contains('b') && code.contains("<'d> e"));
}

#[test]
fn groups_are_opened() {
    assert_eq!(heads("{base::{A, B}, pg, repo::C};"), ["base", "pg", "repo"]);
    let found = roots("use crate::{base::X, pg};\n let x = crate::repo::Y; mycrate::no; a::crate::no", "crate");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["base", "pg", "repo"]);
}

#[test]
fn a_crate_is_told_from_a_module_of_the_same_name() {
    assert!(uses_crate("use tar::Builder;", "tar"));
    assert!(!uses_crate("use super::tar::Builder; avatar::x", "tar"));
}
