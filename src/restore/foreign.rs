//! What lies in the directory of an unfinished restore that neither this backup nor the restore put there. Blocking; reads names only.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::contents::Contents;
use super::directory::{is_of_nobody, is_own};
use super::error::RestoreError;
use super::places::Places;

/// How many are named.
const NAMED_MAX: usize = 3;

/// What is worth saying of it, if there is any.
pub fn remark(places: &Places, contents: &Contents) -> Result<Option<String>, RestoreError> {
    let files = contents.packs.values().flatten().map(|file| &*file.path);
    let tablespaces = places.tablespaces().iter().map(|tablespace| format!("pg_tblspc/{}", tablespace.oid));
    let mut looking = Looking {
        contents,
        files: files.collect(),
        links: tablespaces.chain(places.wal().map(|_| "pg_wal".to_owned())).collect(),
        count: 0,
        named: Vec::new(),
    };
    looking.directory(places.root(), "")?;
    for tablespace in places.tablespaces() {
        looking.directory(&tablespace.to, &format!("pg_tblspc/{}", tablespace.oid))?;
    }
    if let Some(wal) = places.wal() {
        looking.directory(wal, "pg_wal")?;
    }
    let Looking { count, named, .. } = looking;
    Ok((count > 0).then(|| {
        let more = if count > named.len() { ", …" } else { "" };
        format!(
            "the unfinished restore's directory holds {count} names that are not of this backup, and they stay: {}{more}; look at \
             them before the server starts",
            named.join(", ")
        )
    }))
}

struct Looking<'a> {
    contents: &'a Contents,
    files: HashSet<&'a str>,
    links: Vec<String>,
    count: usize,
    named: Vec<String>,
}

impl Looking<'_> {
    /// Looks through a directory, whose path in the backup is `prefix`. One that is not the backup's counts as one name.
    fn directory(&mut self, directory: &Path, prefix: &str) -> Result<(), RestoreError> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(RestoreError::io("list", directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(RestoreError::io("list", directory))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().map_err(RestoreError::io("look at", directory))?;
            if kind.is_dir() && self.contents.directories.contains_key(&path) {
                self.directory(&entry.path(), &path)?;
                continue;
            }
            let known = (kind.is_symlink() && self.links.contains(&path))
                || (kind.is_file() && (self.files.contains(&*path) || is_own(&path)))
                || is_of_nobody(&name);
            if !known {
                self.count += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(entry.path().display().to_string());
                }
            }
        }
        Ok(())
    }
}
