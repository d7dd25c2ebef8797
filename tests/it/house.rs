//! The rooms of `src/` and the arrows between them. The list of layers is the one in the head of `src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file with comments, strings and characters blanked out, line by line.
struct Source {
    /// Path below `src/`.
    path: PathBuf,
    /// The first part of its module path: `pg`, `repo`, …, `bin`, or `lib` for the root.
    room: String,
    /// How many modules deep the file lies: 1 for `pg/mod.rs`, 2 for `pg/lsn.rs`.
    depth: usize,
    code: String,
}

impl Source {
    /// `code` without `#[cfg(test)]` blocks.
    fn product_code(&self) -> String {
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
fn matching_brace(text: &str) -> usize {
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
fn blank_out(text: &str) -> String {
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
            // A character, not a lifetime: '\…' or a quote right behind one character.
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

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let root = source_folder();
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).unwrap().to_owned();
                let mut modules: Vec<String> =
                    below.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                if modules.last().is_some_and(|last| last == "mod") {
                    modules.pop();
                }
                sources.push(Source {
                    path: below,
                    room: modules[0].clone(),
                    depth: modules.len(),
                    code: blank_out(&fs::read_to_string(&path).unwrap()),
                });
            }
        }
    }
    assert!(sources.len() > 20, "only {} files found under {}", sources.len(), root.display());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The layers from the ground up: one per bullet of the list in the head of `src/lib.rs`.
fn layers() -> Vec<BTreeSet<String>> {
    let text = fs::read_to_string(source_folder().join("lib.rs")).unwrap();
    let layers: Vec<BTreeSet<String>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! - "))
        .map(|bullet| bullet.split("[`").skip(1).filter_map(|rest| rest.split_once("`]")).map(|(n, _)| n.to_owned()))
        .map(Iterator::collect)
        .collect();
    assert!(
        layers.len() >= 6 && layers.iter().all(|layer| !layer.is_empty()),
        "the list in lib.rs is gone: {layers:?}"
    );
    layers
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The first part of each path that begins at the root by `root::` (`crate`, `walward`), groups opened:
/// `crate::{base::X, pg}` gives `base` and `pg`.
fn roots(code: &str, root: &str) -> BTreeSet<String> {
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
fn heads(rest: &str) -> Vec<String> {
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

/// The rooms that `source` names, itself left out.
fn rooms_used(source: &Source, rooms: &BTreeSet<String>) -> BTreeSet<String> {
    let mut used = roots(&source.code, "crate");
    used.extend(roots(&source.code, "walward"));
    // A chain of `super::` that climbs to the root.
    let climb = "super::".repeat(source.depth);
    for (at, _) in source.code.match_indices(&climb) {
        used.extend(heads(&source.code[at + climb.len()..]));
    }
    used.retain(|name| rooms.contains(name) && *name != source.room);
    used
}

#[test]
fn arrows_between_rooms_point_down_and_never_in_a_circle() {
    let layers = layers();
    let level: BTreeMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(level, rooms)| rooms.iter().map(move |room| (room.as_str(), level)))
        .collect();
    let rooms: BTreeSet<String> = level.keys().map(|room| (*room).to_owned()).collect();
    let verbs = ["archive", "backup", "restore", "retention"];

    let mut wrong = Vec::new();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut count = 0;
    for source in sources() {
        if source.room == "lib" || source.room == "bin" {
            continue;
        }
        let Some(own_level) = level.get(source.room.as_str()) else {
            wrong.push(format!("{}: its room is in no layer of src/lib.rs", source.path.display()));
            continue;
        };
        for used in rooms_used(&source, &rooms) {
            count += 1;
            let siblings = verbs.contains(&source.room.as_str()) && verbs.contains(&used.as_str());
            if level[used.as_str()] > *own_level || siblings {
                wrong.push(format!("{}: uses {used}, which is not below it", source.path.display()));
            }
            arrows.entry(source.room.clone()).or_default().insert(used);
        }
    }
    let mut open: BTreeSet<String> = arrows.keys().cloned().collect();
    loop {
        let ground: Vec<String> =
            open.iter().filter(|room| arrows[*room].iter().all(|used| !open.contains(used))).cloned().collect();
        if ground.is_empty() {
            break;
        }
        open.retain(|room| !ground.contains(room));
    }
    if !open.is_empty() {
        wrong.push(format!("a circle: {open:?}"));
    }
    assert!(count > 0, "no arrow found: the reader of `crate::` paths is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_in_the_list_of_layers() {
    let listed: BTreeSet<String> = layers().into_iter().flatten().collect();
    let declared: BTreeSet<String> = fs::read_to_string(source_folder().join("lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, declared);
}

/// Names under which the package's dependencies are used in code.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    assert!(names.contains("tokio"), "the reader of Cargo.toml is broken: {names:?}");
    names
}

/// Uses of a name as the first part of a path (`name::`) or as `extern crate` / `use name;`.
fn uses_crate(code: &str, name: &str) -> bool {
    [format!("{name}::"), format!("use {name};"), format!("use {name} as")].iter().any(|path| {
        code.match_indices(path.as_str())
            .any(|(at, _)| at.checked_sub(1).is_none_or(|b| !is_name(code.as_bytes()[b]) && code.as_bytes()[b] != b':'))
    })
}

#[test]
fn the_client_and_its_wire_use_the_standard_library_only() {
    let dependencies = dependencies();
    let mut seen = 0;
    for source in sources() {
        let client = source.path == Path::new("bin/walward-wal.rs");
        if !client && source.room != "wire" {
            continue;
        }
        seen += 1;
        let code = source.product_code();
        for name in &dependencies {
            assert!(!uses_crate(&code, name), "{} uses {name}", source.path.display());
        }
        for root in ["crate", "walward"] {
            for room in roots(&code, root) {
                assert_eq!(room, "wire", "{} uses {root}::{room}", source.path.display());
            }
        }
    }
    assert!(seen >= 2, "the client or the wire room has gone");
}

#[test]
fn objects_are_named_in_the_repository_room_only() {
    let mut makers = 0;
    for source in sources() {
        let made = source.product_code().contains("ObjectKey::new(");
        makers += usize::from(source.code.contains("ObjectKey::new("));
        assert!(
            !made || source.room == "repo" || source.room == "storage",
            "{} makes an object's name; repo::layout is the place for it",
            source.path.display()
        );
    }
    assert!(makers > 0, "the search for ObjectKey::new is broken");
}

#[test]
fn anyhow_stays_at_the_edges() {
    for source in sources() {
        let edge = ["cli", "daemon", "bin"].contains(&source.room.as_str());
        assert!(edge || !uses_crate(&source.product_code(), "anyhow"), "{} uses anyhow", source.path.display());
    }
}

/// Where the product works in folders of other users, with root's rights perhaps: how the path below `src/` begins.
const IN_FOREIGN_FOLDERS: [&str; 12] = [
    "archive/",
    "backup/",
    "cli/commands/",
    "cli/owner.rs",
    "cli/whose.rs",
    "daemon/",
    "pg/",
    "restore/",
    "storage/file.rs",
    "storage/heir.rs",
    "sys/durable/",
    "wire/",
];

const COMPARED: &str = "two places are compared; nothing is opened by the result";
const THERE: &str = "only whether something is there, which opens nothing and decides nothing that its owner may not";
const OWNERS_RIGHTS: &str = "done with the owner's rights, in a thread that has no other (`Owner::act`)";
const OWN_SPOOL: &str = "root's agent has its spool only where nobody else can change the way (`Folder::enter_own`)";
const SYSTEMS: &str = "a folder or file of the system's: /proc, /etc";
const ROOTS_OWN: &str = "the configuration and the keys: who may change those tells root what to do anyway";
const STD_ONLY: &str =
    "the small client has the standard library only; root is refused where another user has a say on the way";

/// Calls by path that stay there: the file, the calls (none: all of them), and why no link does harm.
const BY_PATH_NEVERTHELESS: [(&str, &[&str], &str); 31] = [
    ("archive/fetch.rs", &["tokio::fs::"], "the type of a file that was opened by its folder"),
    ("archive/queue_limit.rs", &["std::fs::read", "std::fs::read_dir"], OWN_SPOOL),
    (
        "archive/spool.rs",
        &["std::fs::read_dir", "std::fs::remove_file", "std::fs::remove_dir", ".is_file()"],
        OWN_SPOOL,
    ),
    ("cli/commands/keys.rs", &[".exists()"], THERE),
    (
        "cli/commands/setup/discover.rs",
        &["std::fs::canonicalize"],
        "the real name of a place; whose it is, is asked after it",
    ),
    ("cli/commands/setup/file.rs", &[".exists()", "std::fs::metadata", "std::fs::read_to_string"], ROOTS_OWN),
    ("cli/commands/setup/folders.rs", &[".is_dir()"], THERE),
    ("cli/commands/setup/initialise.rs", &[".exists()"], THERE),
    ("cli/commands/setup/login.rs", &[], OWNERS_RIGHTS),
    ("cli/commands/setup/mod.rs", &[".exists()"], THERE),
    ("cli/commands/setup/mod.rs", &["std::fs::canonicalize"], COMPARED),
    ("cli/commands/setup/places.rs", &["std::fs::read_dir", "std::fs::read_link"], SYSTEMS),
    ("cli/commands/setup/places.rs", &[".is_dir()"], THERE),
    ("cli/commands/setup/turn.rs", &["File::open("], ROOTS_OWN),
    ("cli/whose.rs", &["std::fs::canonicalize"], COMPARED),
    ("daemon/log.rs", &["std::fs::metadata"], SYSTEMS),
    ("daemon/request.rs", &["std::fs::canonicalize"], COMPARED),
    ("daemon/services.rs", &["std::fs::canonicalize"], COMPARED),
    ("daemon/services.rs", &["std::fs::read_dir", "std::fs::remove_dir_all"], OWN_SPOOL),
    ("daemon/status.rs", &["std::fs::read_to_string"], SYSTEMS),
    ("daemon/watch.rs", &["tokio::fs::"], COMPARED),
    ("pg/folders.rs", &[".canonicalize()"], COMPARED),
    ("restore/directory.rs", &["std::fs::metadata", "std::fs::read_to_string"], SYSTEMS),
    ("restore/directory.rs", &["std::fs::canonicalize"], COMPARED),
    ("restore/early_sync.rs", &[], OWNERS_RIGHTS),
    ("restore/install.rs", &[], OWNERS_RIGHTS),
    ("restore/unpack.rs", &[], OWNERS_RIGHTS),
    (
        "sys/durable/folders.rs",
        &[".canonicalize()"],
        "names for those who watch the steps; the folders are reached by `..`",
    ),
    ("wire/place.rs", &[], STD_ONLY),
    ("wire/silence.rs", &[], STD_ONLY),
    ("wire/trust.rs", &["use std::fs::{self", ".is_symlink()"], "looks, and says whether what it saw may be believed"),
];

/// What looks a path up as a whole, and so follows whatever links are in it by then.
fn calls_by_path(code: &str) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let on_paths = [
        ".exists()",
        ".try_exists()",
        ".is_dir()",
        ".is_file()",
        ".is_symlink()",
        ".canonicalize()",
        ".read_link()",
        ".read_dir()",
        ".symlink_metadata()",
        "File::open(",
        "File::create(",
        "File::create_new(",
        "File::options(",
        "OpenOptions",
        "DirBuilder",
        "tokio::fs::",
        "use std::fs;",
        "use std::fs::{self",
        "rustix::fs::open(",
        "rustix::fs::CWD",
        "CWD,",
        "statvfs(",
    ];
    // `SourceFile::open` is not `File::open`.
    let begins = |at: usize| at.checked_sub(1).is_none_or(|before| !is_name(code.as_bytes()[before]));
    let is_used = |call: &&&str| code.match_indices(**call).any(|(at, _)| call.starts_with('.') || begins(at));
    found.extend(on_paths.iter().filter(is_used).map(|call| (*call).to_owned()));
    // Functions are small, types are not.
    for (root, harmless) in [("std::fs::", ""), ("std::os::unix::fs::", "fchown")] {
        for (at, _) in code.match_indices(root) {
            let name: String =
                code[at + root.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.starts_with(|first: char| first.is_lowercase()) && name != harmless {
                found.insert(format!("{root}{name}"));
            }
        }
    }
    found
}

#[test]
fn in_folders_of_other_users_nothing_is_reached_by_its_path() {
    let mut seen = 0;
    let mut used = BTreeSet::new();
    for source in sources() {
        let path = source.path.to_str().unwrap();
        if !IN_FOREIGN_FOLDERS.iter().any(|part| path.starts_with(part)) || path.contains("tests") {
            continue;
        }
        seen += 1;
        for call in calls_by_path(&source.product_code()) {
            let allows = |calls: &[&str]| calls.is_empty() || calls.contains(&call.as_str());
            let allowed = BY_PATH_NEVERTHELESS.iter().find(|(file, calls, _)| *file == path && allows(calls));
            let Some((file, calls, _)) = allowed else {
                panic!("{path}: {call} follows links: use sys::folder, which reaches a file by its folder");
            };
            used.insert((*file, *calls));
        }
    }
    assert!(seen > 100, "only {seen} files were looked at");
    for (file, calls, reason) in BY_PATH_NEVERTHELESS {
        assert!(used.contains(&(file, calls)), "{file} {calls:?} needs no exception any more ({reason})");
    }
}

mod reader {
    //! The reader itself: what it must see, and what it must not.
    use super::{blank_out, calls_by_path, heads, roots, uses_crate};

    #[test]
    fn a_call_by_path_is_told_from_one_by_descriptor() {
        let found = |code| calls_by_path(code).into_iter().collect::<Vec<_>>();
        assert_eq!(found("std::fs::read(path)"), ["std::fs::read"]);
        assert_eq!(found("let x = path.is_dir() && File::open(path)"), [".is_dir()", "File::open("]);
        assert_eq!(found("std::os::unix::fs::lchown(path, None, None)"), ["std::os::unix::fs::lchown"]);
        let by_descriptor = "use std::fs::{File, Metadata}; folder.open(name); SourceFile::open(folder, name); std::os::unix::fs::fchown(&file, uid, gid); std::fs::File";
        assert_eq!(found(by_descriptor), [""; 0]);
    }

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        let code =
            blank_out("a // crate::x\n/* crate::y /* z */ */ \"crate::q\\\"\" r#\"crate::w\"# '\"' b 'c' <'d> e");
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
}
