//! Where the files go: is it empty, and is there room?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::contents::Contents;
use super::directory;
use super::error::RestoreError;
use super::journal::Journal;
use super::places::Places;
use super::refusal::Refusal;
use walward_base::sys::disk;

/// What a file system has to take and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpaceNeed {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes to write.
    pub needed_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// Refuses tablespaces' places with something in them. Blocking.
pub fn check_tablespaces(places: &Places) -> Result<(), RestoreError> {
    let holds = |directory: &Path| match directory::enter(directory)? {
        Some(folder) => directory::first_entry(&folder),
        None => Ok(None),
    };
    for tablespace in places.tablespaces() {
        let directory = &tablespace.to;
        if let Some(holds) = holds(directory)? {
            let (directory, name) = (directory.clone(), tablespace.name.clone());
            return Err(Refusal::TablespaceTaken { directory, holds, name }.into());
        }
    }
    if let Some(directory) = places.wal()
        && let Some(holds) = holds(directory)?
    {
        return Err(Refusal::NotEmpty { directory: directory.to_owned(), holds }.into());
    }
    Ok(())
}

/// Bytes to be written under each place. What an unfinished restore wrote is there already.
pub fn needs(contents: &Contents, places: &Places, unfinished: Option<&Journal>) -> Vec<(PathBuf, u64)> {
    let mut needs = BTreeMap::new();
    let is_done = |pack| unfinished.is_some_and(|journal| journal.packs_done.contains(&pack));
    for (path, size) in contents.left(is_done) {
        let place = places.tablespace_of(path).map_or(places.root(), |(tablespace, _)| &tablespace.to);
        let bytes: &mut u64 = needs.entry(place).or_default();
        *bytes = bytes.saturating_add(size);
    }
    // The data directory first: a file system is named by the first place on it.
    let root = (places.root().to_owned(), needs.remove(places.root()).unwrap_or(0));
    std::iter::once(root).chain(needs.into_iter().map(|(path, bytes)| (path.to_owned(), bytes))).collect()
}

/// Compares what is to be written with what is free, by file system. Blocking.
pub fn check_space(needs: &[(PathBuf, u64)]) -> Result<Vec<SpaceNeed>, RestoreError> {
    let mut space: Vec<(u64, SpaceNeed)> = Vec::new();
    for (path, needed_bytes) in needs {
        let there = directory::nearest(path).map_err(RestoreError::io("look at", path))?;
        let device = there.facts().map_err(RestoreError::io("look at", there.path()))?.id.0;
        if let Some((_, known)) = space.iter_mut().find(|(known, _)| *known == device) {
            known.needed_bytes = known.needed_bytes.saturating_add(*needed_bytes);
            continue;
        }
        let free_bytes =
            disk::space_of(&there).map_err(RestoreError::io("ask how much is free at", there.path()))?.free;
        space.push((device, SpaceNeed { path: path.clone(), needed_bytes: *needed_bytes, free_bytes }));
    }
    let space: Vec<SpaceNeed> = space.into_iter().map(|(_, need)| need).collect();
    match space.iter().find(|need| need.needed_bytes > need.free_bytes) {
        Some(SpaceNeed { path, needed_bytes, free_bytes }) => {
            Err(RestoreError::NoSpace { path: path.clone(), needed_bytes: *needed_bytes, free_bytes: *free_bytes })
        }
        None => Ok(space),
    }
}
