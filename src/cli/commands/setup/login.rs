//! Lets the agent's user log in as Walward's role: a line at the top of pg_hba.conf, and one in pg_ident.conf.
//!
//! Each file is replaced whole, with its owner and mode; what stood there is kept, byte by byte. Run again, nothing is added.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::failure::Failure;
use crate::sys::durable;

/// Says whose the lines are.
const REMARK: &str =
    "# Written by `walward setup`: the agent's user may be Walward's role, by the kernel's word (peer).";

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

/// Adds both lines where they are missing. Blocking.
pub(super) fn add(hba: &Path, ident: &Path, hba_line: &str, ident_line: &str) -> Result<(), Failure> {
    // The map first: a line that names a map without entries lets nobody in.
    edit(ident, |text| with_line(text, ident_line, Place::End))?;
    edit(hba, |text| with_line(text, hba_line, Place::Top))
}

#[derive(Clone, Copy)]
enum Place {
    /// The first line that fits decides (pg_hba.conf).
    Top,
    End,
}

fn with_line(text: &str, line: &str, place: Place) -> Option<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if text.lines().any(|found| words(found) == words(line)) {
        return None;
    }
    Some(match place {
        Place::Top => format!("{REMARK}\n{line}\n\n{text}"),
        Place::End if text.is_empty() || text.ends_with('\n') => format!("{text}{REMARK}\n{line}\n"),
        Place::End => format!("{text}\n{REMARK}\n{line}\n"),
    })
}

fn edit(path: &Path, change: impl FnOnce(&str) -> Option<String>) -> Result<(), Failure> {
    // Debian's are where they say; elsewhere they may be links.
    let path = std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(text) = change(&text) else { return Ok(()) };
    let facts = std::fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
    durable::replace(&path, text.as_bytes(), facts.mode() & 0o7777)
        .with_context(|| format!("cannot write {}", path.display()))?;
    // Root's own file would be one that the server cannot read.
    std::os::unix::fs::chown(&path, Some(facts.uid()), Some(facts.gid()))
        .with_context(|| format!("cannot give {} back to its owner", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_added_once_and_nothing_else_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (hba, ident) = (folder.path().join("pg_hba.conf"), folder.path().join("pg_ident.conf"));
        let before = "# a remark\nlocal all all peer";
        durable::create(&hba, before.as_bytes(), 0o640).unwrap();
        durable::create(&ident, b"", 0o600).unwrap();
        let lines = (hba_line("walward", "postgres"), ident_line("postgres", "walward"));
        add(&hba, &ident, &lines.0, &lines.1).unwrap();
        let (first, second) = (std::fs::read_to_string(&hba).unwrap(), std::fs::read_to_string(&ident).unwrap());
        assert!(first.ends_with(&format!("{}\n\n{before}", lines.0)), "{first}");
        assert!(second.ends_with("walward   postgres   walward\n"), "{second}");
        assert_eq!(std::fs::metadata(&hba).unwrap().mode() & 0o7777, 0o640);
        add(&hba, &ident, &lines.0, &lines.1).unwrap();
        assert_eq!((std::fs::read_to_string(&hba).unwrap(), std::fs::read_to_string(&ident).unwrap()), (first, second));
    }

    #[test]
    fn names_with_a_meaning_of_their_own_are_left_to_people() {
        assert!(is_plain("walward") && is_plain("backup_role"));
        for name in ["", "all", "a b", "\"x\"", "+group", "/^x", "Walward"] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
