//! Lets the agent's user log in as Walward's role: a line at the top of pg_hba.conf, and one in pg_ident.conf.
//!
//! Each file is replaced whole, with its mode; what stood there is kept, byte by byte. Run again, nothing is added. The files lie in
//! folders of the data directory's owner, so that everything is done with the owner's rights ([`Owner::act`]).

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use walward_base::sys::durable;

/// Says whose the lines are.
const REMARK: &str =
    "# Written by `walward setup`: the agent's user may be Walward's role, by the kernel's word (peer).";

/// The lines that let the agent's user in, and the files they belong in.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) hba: (PathBuf, String),
    pub(super) ident: (PathBuf, String),
}

/// A file that was changed.
#[derive(Debug)]
pub(super) struct Change {
    path: PathBuf,
    mode: u32,
    before: String,
    after: String,
}

/// The line of pg_hba.conf.
pub(super) fn hba_line(role: &str, database: &str) -> String {
    format!("local   {database}   {role}   peer   map=walward")
}

/// The line of pg_ident.conf.
pub(super) fn ident_line(user: &str, role: &str) -> String {
    format!("walward   {user}   {role}")
}

/// Whether a name needs no quotes in these files, and means nothing special there.
pub(super) fn is_plain(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    !name.is_empty()
        && name.chars().all(good)
        && !["all", "sameuser", "samerole", "samegroup", "replication"].contains(&name)
}

/// Adds both lines where they are missing, or none. Blocking.
pub(super) fn add(owner: Owner, lines: Lines) -> Result<Vec<Change>, Failure> {
    let added = owner.act(move || {
        // The map first: a line that names a map without entries lets nobody in.
        let mut changes =
            Vec::from_iter(edit(&lines.ident.0, |text| with_line(text, &lines.ident.1, LoginPlace::End))?);
        match edit(&lines.hba.0, |text| with_line(text, &lines.hba.1, LoginPlace::Top)) {
            Ok(change) => changes.extend(change),
            Err(error) => {
                put_back(&changes)?;
                return Err(error);
            }
        }
        Ok(changes)
    });
    Ok(added.context("cannot act as the owner of the data directory")??)
}

/// Takes back what [`add`] did. A file that was changed since is left alone, with an error. Blocking.
pub(super) fn restore(owner: Owner, changes: Vec<Change>) -> Result<(), Failure> {
    let restored = owner.act(move || put_back(&changes));
    Ok(restored.context("cannot act as the owner of the data directory")??)
}

fn put_back(changes: &[Change]) -> anyhow::Result<()> {
    for change in changes.iter().rev() {
        let shown = change.path.display();
        let now = std::fs::read_to_string(&change.path).with_context(|| format!("cannot read {shown}"))?;
        if now != change.after {
            return Err(anyhow!("{shown} was changed meanwhile: take the line out by hand"));
        }
        durable::replace(&change.path, change.before.as_bytes(), change.mode)
            .with_context(|| format!("cannot write {shown}"))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum LoginPlace {
    /// The first line that fits decides (pg_hba.conf).
    Top,
    End,
}

fn with_line(text: &str, line: &str, place: LoginPlace) -> Option<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if text.lines().any(|found| words(found) == words(line)) {
        return None;
    }
    Some(match place {
        LoginPlace::Top => format!("{REMARK}\n{line}\n\n{text}"),
        LoginPlace::End if text.is_empty() || text.ends_with('\n') => format!("{text}{REMARK}\n{line}\n"),
        LoginPlace::End => format!("{text}\n{REMARK}\n{line}\n"),
    })
}

fn edit(path: &Path, change: impl FnOnce(&str) -> Option<String>) -> anyhow::Result<Option<Change>> {
    // Debian's are where they say; elsewhere they may be links.
    let path = std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
    let mut before = String::new();
    let read = File::open(&path).and_then(|mut file| {
        file.read_to_string(&mut before)?;
        file.metadata()
    });
    let facts = read.with_context(|| format!("cannot read {}", path.display()))?;
    let Some(after) = change(&before) else { return Ok(None) };
    if !stays_whose_it_is(&facts) {
        return Err(anyhow!("{} does not belong to the server's own user and group: edit it by hand", path.display()));
    }
    let mode = facts.mode() & 0o7777;
    durable::replace(&path, after.as_bytes(), mode).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(Change { path, mode, before, after }))
}

/// Whether whoever replaces the file lets nobody else in or out: the new file is their own, and of their group.
fn stays_whose_it_is(facts: &Metadata) -> bool {
    let group = rustix::process::getegid().as_raw();
    facts.uid() == rustix::process::geteuid().as_raw() && (facts.gid() == group || facts.mode() & 0o070 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory; another user's when this is root.
    fn data_directory() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        folder
    }

    fn give(path: &Path) {
        if walward_base::sys::identity::is_root() {
            std::os::unix::fs::chown(path, Some(60_007), Some(60_007)).unwrap();
        }
    }

    fn put(path: &Path, content: &str, mode: u32) {
        durable::replace(path, content.as_bytes(), mode).unwrap();
        give(path);
    }

    fn files(folder: &Path) -> (PathBuf, PathBuf) {
        (folder.join("pg_hba.conf"), folder.join("pg_ident.conf"))
    }

    fn lines((hba, ident): &(PathBuf, PathBuf)) -> Lines {
        Lines {
            hba: (hba.clone(), hba_line("walward", "postgres")),
            ident: (ident.clone(), ident_line("postgres", "walward")),
        }
    }

    fn texts((hba, ident): &(PathBuf, PathBuf)) -> (String, String) {
        (std::fs::read_to_string(hba).unwrap(), std::fs::read_to_string(ident).unwrap())
    }

    #[test]
    fn the_lines_are_added_once_and_nothing_else_changes() {
        let folder = data_directory();
        let files = files(folder.path());
        let owner = Owner::of(folder.path());
        let before = "# a remark\nlocal all all peer";
        put(&files.0, before, 0o640);
        put(&files.1, "", 0o600);
        let changes = add(owner, lines(&files)).unwrap();
        let (hba, ident) = texts(&files);
        assert!(hba.ends_with(&format!("{}\n\n{before}", hba_line("walward", "postgres"))), "{hba}");
        assert!(ident.ends_with("walward   postgres   walward\n"), "{ident}");
        let (facts, whose) = (std::fs::metadata(&files.0).unwrap(), std::fs::metadata(folder.path()).unwrap());
        assert_eq!((facts.mode() & 0o7777, facts.uid(), facts.gid()), (0o640, whose.uid(), whose.gid()));
        assert!(add(owner, lines(&files)).unwrap().is_empty());
        assert_eq!(texts(&files), (hba, ident));

        restore(owner, changes).unwrap();
        assert_eq!(texts(&files), (before.to_owned(), String::new()));
        assert_eq!(std::fs::metadata(&files.0).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn what_somebody_wrote_meanwhile_is_not_taken_back() {
        let folder = data_directory();
        let files = files(folder.path());
        put(&files.0, "", 0o600);
        put(&files.1, "", 0o600);
        let changes = add(Owner::of(folder.path()), lines(&files)).unwrap();
        put(&files.0, "mine", 0o600);
        let failure = restore(Owner::of(folder.path()), changes).unwrap_err();
        assert!(failure.message().contains("by hand"), "{}", failure.message());
        assert_eq!(texts(&files).0, "mine");
    }

    #[test]
    fn one_line_is_not_left_without_the_other() {
        let folder = data_directory();
        let files = files(folder.path());
        put(&files.1, "# a map\n", 0o600);
        assert!(add(Owner::of(folder.path()), lines(&files)).is_err(), "there is no pg_hba.conf");
        assert_eq!(std::fs::read_to_string(&files.1).unwrap(), "# a map\n");
    }

    #[test]
    fn names_with_a_meaning_of_their_own_are_left_to_people() {
        assert!(is_plain("walward") && is_plain("backup_role"));
        for name in ["", "all", "a b", "\"x\"", "+group", "/^x", "Walward"] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
