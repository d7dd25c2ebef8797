//! What lies in the directory of an unfinished restore that neither this backup nor the restore put there. Blocking; reads names only.

use super::contents::Contents;
use super::directory::{self, is_of_nobody, is_own};
use super::error::RestoreError;
use super::places::Places;
use walward_base::sys::folder::{Folder, Kind};

/// How many are named.
const NAMED_MAX: usize = 3;

/// What is worth saying of it, if there is any.
pub fn remark(places: &Places, contents: &Contents) -> Result<Option<String>, RestoreError> {
    let tablespaces = places.tablespaces().iter().map(|tablespace| format!("pg_tblspc/{}", tablespace.oid));
    let mut looking = Looking {
        contents,
        links: tablespaces.chain(places.wal().map(|_| "pg_wal".to_owned())).collect(),
        count: 0,
        named: Vec::new(),
    };
    let tablespaces = places.tablespaces().iter();
    let roots = tablespaces.map(|tablespace| (tablespace.to.as_path(), format!("pg_tblspc/{}", tablespace.oid)));
    let wal = places.wal().map(|wal| (wal, "pg_wal".to_owned()));
    for (place, prefix) in [(places.root(), String::new())].into_iter().chain(roots).chain(wal) {
        if let Some(folder) = directory::enter(place)? {
            looking.directory(&folder, &prefix)?;
        }
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
    links: Vec<String>,
    count: usize,
    named: Vec<String>,
}

impl Looking<'_> {
    /// Looks through a directory, whose path in the backup is `prefix`. One that is not the backup's counts as one name.
    fn directory(&mut self, directory: &Folder, prefix: &str) -> Result<(), RestoreError> {
        for entry in directory.names().map_err(RestoreError::io("list", directory.path()))? {
            let (name, place) = (entry.to_string_lossy(), directory.path().join(&entry));
            let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
            let kind = directory.look(&entry).map_err(RestoreError::io("look at", &place))?.kind;
            if kind == Kind::Folder && self.contents.directories.contains_key(&path) {
                self.directory(&directory.folder(&entry).map_err(RestoreError::io("list", &place))?, &path)?;
                continue;
            }
            let known = (kind == Kind::Link && self.links.contains(&path))
                || (kind == Kind::File && (self.contents.has(&path) || is_own(&path)))
                || is_of_nobody(&name);
            if !known {
                self.count += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(place.display().to_string());
                }
            }
        }
        Ok(())
    }
}
