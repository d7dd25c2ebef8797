//! In folders of other users, root follows nobody's link: what is reached there, is reached by its folder.

use std::collections::BTreeSet;

use super::source::{is_name, sources};

/// Where the product works in folders of other users, with root's rights perhaps: how the path in the house begins.
const IN_FOREIGN_FOLDERS: [&str; 13] = [
    "archive/",
    "backup/",
    "cli/commands/",
    "cli/owner.rs",
    "cli/whose.rs",
    "daemon/",
    "pg/",
    "restore/",
    "setup/",
    "storage/disk.rs",
    "storage/file.rs",
    "base/sys/durable/",
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
const BY_PATH_NEVERTHELESS: [(&str, &[&str], &str); 28] = [
    ("archive/let_go/notes.rs", &["std::fs::read", "std::fs::read_dir"], OWN_SPOOL),
    (
        "archive/fetch/spool.rs",
        &["std::fs::read_dir", "std::fs::remove_file", "std::fs::remove_dir", ".is_file()"],
        OWN_SPOOL,
    ),
    ("cli/commands/keys.rs", &[".exists()"], THERE),
    ("setup/discover.rs", &["std::fs::canonicalize"], "the real name of a place; whose it is, is asked after it"),
    ("cli/commands/setup/file.rs", &[".exists()", "std::fs::metadata", "std::fs::read_to_string"], ROOTS_OWN),
    ("cli/commands/setup/folders.rs", &[".is_dir()"], THERE),
    ("cli/commands/setup/initialise.rs", &[".exists()"], THERE),
    ("cli/commands/setup/login.rs", &[], OWNERS_RIGHTS),
    ("cli/commands/setup/mod.rs", &[".exists()"], THERE),
    ("setup/places.rs", &["std::fs::read_dir", "std::fs::read_link"], SYSTEMS),
    ("setup/places.rs", &[".is_dir()"], THERE),
    ("cli/commands/setup/turn.rs", &["File::open("], ROOTS_OWN),
    ("cli/whose.rs", &["std::fs::canonicalize"], COMPARED),
    ("daemon/log.rs", &["std::fs::metadata"], SYSTEMS),
    ("daemon/request.rs", &["std::fs::canonicalize"], COMPARED),
    ("daemon/spools.rs", &["std::fs::read_dir", "std::fs::remove_dir_all"], OWN_SPOOL),
    ("daemon/status.rs", &["std::fs::read_to_string"], SYSTEMS),
    ("pg/folders.rs", &[".canonicalize()"], COMPARED),
    ("restore/directory.rs", &["std::fs::metadata", "std::fs::read_to_string"], SYSTEMS),
    ("restore/directory.rs", &["std::fs::canonicalize"], COMPARED),
    ("restore/early_sync.rs", &[], OWNERS_RIGHTS),
    ("restore/install.rs", &[], OWNERS_RIGHTS),
    ("restore/unpack.rs", &[], OWNERS_RIGHTS),
    (
        "base/sys/durable/folders.rs",
        &[".canonicalize()"],
        "names for those who watch the steps; the folders are reached by `..`",
    ),
    (
        "base/sys/durable/sync.rs",
        &["File::open("],
        "a file is synced, neither read nor written; nothing is made or changed through a link",
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

#[test]
fn a_call_by_path_is_told_from_one_by_descriptor() {
    let found = |code| calls_by_path(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found("std::fs::read(path)"), ["std::fs::read"]);
    assert_eq!(found("let x = path.is_dir() && File::open(path)"), [".is_dir()", "File::open("]);
    assert_eq!(found("std::os::unix::fs::lchown(path, None, None)"), ["std::os::unix::fs::lchown"]);
    let by_descriptor = "use std::fs::{File, Metadata}; folder.open(name); SourceFile::open(folder, name); std::os::unix::fs::fchown(&file, uid, gid); std::fs::File";
    assert_eq!(found(by_descriptor), [""; 0]);
}
