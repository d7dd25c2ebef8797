//! No file of a room needs, by way of others, itself: files that need one another are one idea in two places, or two ideas that
//! have not been told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::{Source, crates, is_name, matching_brace, sources};

/// A path in the code, its names from left to right.
type Names = Vec<String>;

/// A module: what it declares, and what it takes from others.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Names that are made here: types, functions, constants, macros.
    made: BTreeSet<String>,
    /// Names that come from elsewhere, and their paths there.
    taken: BTreeMap<String, Names>,
    /// `use path::*`.
    globs: Vec<Names>,
    /// Every path that the code of the product names, those of `use` included but for `pub use`.
    named: Vec<Names>,
}

/// The modules of the whole house by their paths.
struct House {
    modules: BTreeMap<Names, Module>,
    ground: Vec<String>,
}

impl House {
    fn read() -> Self {
        let mut modules = BTreeMap::new();
        for source in sources() {
            let is_test = source.path.iter().any(|part| part == "tests" || part == "tests.rs");
            if !is_test {
                modules.insert(source.modules.clone(), module(&source));
            }
        }
        Self { modules, ground: crates() }
    }

    /// Where a path begins that is written in the module `at`: a module's path, and the names that are left.
    fn begin<'a>(&self, at: &[String], path: &'a [String]) -> Option<(Names, &'a [String])> {
        let (head, rest) = path.split_first()?;
        let crate_of = || if self.ground.contains(&at[0]) { at[..1].to_vec() } else { Vec::new() };
        match head.as_str() {
            "crate" => Some((crate_of(), rest)),
            "self" => Some((at.to_vec(), rest)),
            "super" => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let above = at.len().checked_sub(up)?;
                Some((at[..above].to_vec(), &path[up..]))
            }
            _ => match head.strip_prefix("walward_") {
                Some(name) if self.ground.iter().any(|of| of == name) => Some((vec![name.to_owned()], rest)),
                _ => Some((at.to_vec(), path)),
            },
        }
    }

    /// The file in which stands what `path`, written in the module `at`, means. `None`: nothing of the house.
    fn file(&self, at: &[String], path: &[String], depth: usize) -> Option<&Path> {
        let (mut here, mut rest) = self.begin(at, path)?;
        if depth > 12 {
            return None;
        }
        while let Some((name, after)) = rest.split_first() {
            let below = [&here[..], std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&below) {
                (here, rest) = (below, after);
                continue;
            }
            let module = self.modules.get(&here)?;
            if module.made.contains(name) {
                return Some(&module.file);
            }
            if let Some(origin) = module.taken.get(name) {
                if here == at && depth > 0 && origin.first() == path.first() {
                    return None;
                }
                return self.file(&here, &[origin, after].concat(), depth + 1);
            }
            return module.globs.iter().find_map(|from| self.file(&here, &[&from[..], rest].concat(), depth + 1));
        }
        self.modules.get(&here).map(|module| module.file.as_path())
    }
}

fn module(source: &Source) -> Module {
    let code = source.product_code();
    let mut module = Module { file: source.path.clone(), ..Module::default() };
    for word in ["struct", "enum", "trait", "fn", "type", "const", "static", "union", "macro_rules!"] {
        for (at, _) in code.match_indices(word) {
            let begins = at.checked_sub(1).is_none_or(|before| !is_name(code.as_bytes()[before]));
            let name: String = code[at + word.len()..].trim_start().chars().take_while(|c| is_name_char(*c)).collect();
            if begins && code[at + word.len()..].starts_with(char::is_whitespace) && !name.is_empty() {
                module.made.insert(name);
            }
        }
    }
    let mut rest = code.as_str();
    let mut plain = String::new();
    while let Some(at) = next_use(rest) {
        plain.push_str(&rest[..at]);
        let line = rest[..at].rsplit('\n').next().unwrap_or_default();
        let passes_on = line.contains("pub");
        let statement = &rest[at + "use".len()..];
        let end = statement.find(';').unwrap_or(statement.len());
        for (path, as_name) in leaves(&statement[..end]) {
            if !passes_on {
                module.named.push(path.iter().filter(|name| *name != "*").cloned().collect());
            }
            match as_name.as_str() {
                "*" => module.globs.push(path[..path.len() - 1].to_vec()),
                "_" => {}
                _ => drop(module.taken.insert(as_name, path)),
            }
        }
        rest = &statement[end..];
    }
    plain.push_str(rest);
    // Who may see a thing is not what it needs.
    module.named.extend(paths(&plain.replace("pub(in crate::", "pub(")));
    module
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where the next `use` statement begins.
fn next_use(code: &str) -> Option<usize> {
    code.match_indices("use").map(|(at, _)| at).find(|&at| {
        let before = at.checked_sub(1).is_none_or(|before| code.as_bytes()[before].is_ascii_whitespace());
        before && code[at + 3..].starts_with(char::is_whitespace)
    })
}

/// The leaves of a `use` tree: a path, and the name that it has here.
fn leaves(tree: &str) -> Vec<(Names, String)> {
    fn walk(tree: &str, before: &[String], found: &mut Vec<(Names, String)>) {
        let tree = tree.trim();
        if let Some(open) = tree.find('{') {
            let prefix: Names =
                tree[..open].split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
            let prefix = [before, &prefix].concat();
            let group = &tree[open..];
            let group = &group[1..matching_brace(group) - 1];
            let mut depth = 0;
            let parts = group.split(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                c == ',' && depth == 0
            });
            parts.filter(|part| !part.trim().is_empty()).for_each(|part| walk(part, &prefix, found));
            return;
        }
        let (path, renamed) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim())));
        let mut names: Names = path.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        if names.last().is_some_and(|last| last == "self") && !(names.len() == 1 && before.is_empty()) {
            names.pop();
        }
        let path = [before, &names].concat();
        let Some(last) = path.last() else { return };
        let name = renamed.unwrap_or(last).to_owned();
        found.push((path, name));
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// Every path of two names and more in `code`.
fn paths(code: &str) -> Vec<Names> {
    let mut found = Vec::new();
    let bytes = code.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !is_name(bytes[at]) {
            at += 1;
            continue;
        }
        let continues = at >= 2 && &bytes[at - 2..at] == b"::" || at >= 1 && bytes[at - 1] == b'.';
        let mut names = Vec::new();
        loop {
            let end = at + bytes[at..].iter().take_while(|byte| is_name(**byte)).count();
            names.push(code[at..end].to_owned());
            at = end;
            if bytes.get(at..at + 2) != Some(b"::") || !bytes.get(at + 2).is_some_and(|byte| is_name(*byte)) {
                break;
            }
            at += 2;
        }
        if names.len() > 1 && !continues {
            found.push(names);
        }
    }
    found
}

/// The files that need one another: every group of them, in which each leads to each.
fn circles(arrows: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let reach = |from: &PathBuf| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&PathBuf> = arrows.get(from).into_iter().flatten().collect();
        while let Some(file) = open.pop() {
            if seen.insert(file.clone()) {
                open.extend(arrows.get(file).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> = arrows.keys().map(|file| (file, reach(file))).collect();
    let mut found = BTreeSet::new();
    for (file, leads_to) in &reached {
        if leads_to.contains(*file) {
            let group = leads_to.iter().filter(|other| reached.get(other).is_some_and(|r| r.contains(*file)));
            found.insert(group.cloned().collect::<BTreeSet<_>>());
        }
    }
    found.into_iter().collect()
}

fn arrows_inside_rooms() -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let house = House::read();
    let mut arrows: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (at, module) in &house.modules {
        for path in &module.named {
            // A name that was taken by `use` is looked up where it comes from.
            let Some(file) = house.file(at, path, 0) else { continue };
            if file != module.file && file.iter().next() == module.file.iter().next() {
                arrows.entry(module.file.clone()).or_default().insert(file.to_owned());
            }
        }
    }
    arrows
}

#[test]
fn no_files_of_a_room_need_one_another() {
    let arrows = arrows_inside_rooms();
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    assert!(count > 500, "only {count} arrows between files were found: the reader of paths is broken");
    let circles = circles(&arrows);
    let told: Vec<String> = circles
        .iter()
        .map(|circle| {
            let inside = |file: &PathBuf| -> Vec<String> {
                arrows[file].intersection(circle).map(|to| to.display().to_string()).collect()
            };
            let lines: Vec<String> =
                circle.iter().map(|file| format!("  {} needs {}", file.display(), inside(file).join(", "))).collect();
            lines.join("\n")
        })
        .collect();
    assert!(told.is_empty(), "files that need one another:\n{}", told.join("\n\n"));
}

#[test]
fn a_circle_is_found_and_what_leads_to_it_is_not_in_it() {
    let file = |name: &str| PathBuf::from(name);
    let arrows =
        [("a", ["b"]), ("b", ["c"]), ("c", ["b"])].map(|(from, to)| (file(from), to.map(file).into_iter().collect()));
    assert_eq!(circles(&arrows.into_iter().collect()), [[file("b"), file("c")].into_iter().collect()]);
}

#[test]
fn paths_and_use_trees_are_read() {
    let text = |names: &Names| names.join("::");
    assert_eq!(paths("a::b(x.c::d, e) + f::g::<T>::h()").iter().map(text).collect::<Vec<_>>(), ["a::b", "f::g"]);
    let found = leaves("super::{self, b::{C, d as e}, f::*}");
    let found: Vec<(String, &str)> = found.iter().map(|(path, name)| (text(path), name.as_str())).collect();
    let expected = [("super", "super"), ("super::b::C", "C"), ("super::b::d", "e"), ("super::f::*", "*")];
    assert_eq!(found, expected.map(|(path, name)| (path.to_owned(), name)));
}
