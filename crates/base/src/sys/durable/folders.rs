//! Folders that survive a power cut.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use super::super::folder::Folder;
use super::super::steps::{Step, take};
use super::sync::sync_folder;

/// Makes `path` and the folders above it that are missing, each with `mode` (less the umask), and all of them durable. Blocking.
///
/// A folder that is there already keeps its mode. Its name is made durable, too, as are those above it on the same file
/// system: whoever made it may have been killed before that. What was made and could not be synced is removed again: a second sync
/// would say nothing.
pub fn create_dir_all_durable(path: &Path, mode: u32) -> io::Result<()> {
    create_dir_all(path, mode, false, None)
}

/// As [`create_dir_all_durable`], but the folders that are made have `mode` as it is, whatever the umask. Blocking.
pub fn create_dir_all_as_said(path: &Path, mode: u32) -> io::Result<()> {
    create_dir_all(path, mode, true, None)
}

/// As [`create_dir_all_as_said`]; the folders that root makes where root alone has a say are given to `owner` (user and group). In a folder of
/// another user each belongs to that user: there root gives nothing, because what it made may be something else by then. Blocking.
pub fn create_dir_all_for(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    create_dir_all(path, mode, true, owner)
}

fn create_dir_all(path: &Path, mode: u32, as_said: bool, owner: Option<(u32, u32)>) -> io::Result<()> {
    let (above, missing) = nearest(path)?;
    let mut fresh = Vec::new();
    let done = make_below(&above, missing, (mode, as_said), owner, &mut fresh);
    let done = done.and_then(|folder| sync_above(&folder, path));
    unless_made(done, &fresh)
}

/// Makes the folders of `path`, which lies below `root`, that are missing, each with `mode` (less the umask), and their names
/// durable; answers the last one. Those that root makes in another user's folder are that user's. Blocking.
///
/// No symbolic link is followed on the way. What was made and could not be synced is removed again.
pub fn make_folders_in(root: &Folder, path: &Path, mode: u32) -> io::Result<Folder> {
    let mut fresh = Vec::new();
    let done = make_below(root, path, (mode, false), None, &mut fresh);
    unless_made(done, &fresh)
}

/// Removes the `fresh` folders, the innermost first, when the end was not reached.
fn unless_made<T>(done: io::Result<T>, fresh: &[(Folder, OsString)]) -> io::Result<T> {
    done.inspect_err(|_| {
        for (folder, name) in fresh.iter().rev() {
            if take(Step::RemoveFolder(&folder.path().join(name)), || folder.remove_folder(name)).is_err() {
                break;
            }
        }
    })
}

/// What was made comes to the end of `fresh`, with the folder that it is in.
fn make_below(
    root: &Folder,
    path: &Path,
    (mode, as_said): (u32, bool),
    owner: Option<(u32, u32)>,
    fresh: &mut Vec<(Folder, OsString)>,
) -> io::Result<Folder> {
    let mut folder = root.clone();
    for name in path {
        let inner = match folder.folder(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let place = folder.path().join(name);
                let make = || {
                    let name = name.to_owned();
                    folder.as_its_owner(move |folder| folder.make_folder(name, mode))
                };
                match take(Step::MakeFolder(&place), make) {
                    // Somebody else made it in between.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => folder.folder(name)?,
                    other => {
                        other?;
                        fresh.push((folder.clone(), name.to_owned()));
                        made(&folder, name, as_said.then_some(mode), owner)?
                    }
                }
            }
            other => other?,
        };
        // Its name may not be durable although it was there: whoever made it may have been killed before that.
        sync_folder(&folder)?;
        folder = inner;
    }
    Ok(folder)
}

/// The folder `name` that was just made in `folder`, with its mode and owner. In another user's folder something else may have the name by now: there
/// nothing is done that this user may not do.
fn made(folder: &Folder, name: &OsStr, mode: Option<u32>, owner: Option<(u32, u32)>) -> io::Result<Folder> {
    let named = name.to_owned();
    folder.as_its_owner(move |folder| {
        let inner = folder.folder(&named)?;
        mode.map_or(Ok(()), |mode| inner.set_mode(mode))
    })?;
    let inner = folder.folder(name)?;
    if let Some((uid, gid)) = owner.filter(|_| folder.is_roots_alone().unwrap_or(false)) {
        // Where root may not give files away (NFS) it stays root's.
        let _ = inner.give(uid, gid);
    }
    Ok(inner)
}

/// The nearest folder at or above `path` that is there, and what is missing below it.
fn nearest(path: &Path) -> io::Result<(Folder, &Path)> {
    for above in path.ancestors() {
        let place = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match Folder::enter(place) {
            // A file in the place of a folder is no folder that is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return Ok((other?, path.strip_prefix(above).unwrap_or(Path::new("")))),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Makes the names of the folders above `folder`, which is at `path`, durable, as far as they are on its file system.
fn sync_above(folder: &Folder, path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    let mut device = folder.facts()?.id.0;
    let mut inner = folder.clone();
    for above in path.ancestors().skip(1) {
        let outer = inner.above(above)?;
        let found = outer.facts()?.id.0;
        // A mount point was not made by us.
        if found != device {
            break;
        }
        device = found;
        match sync_folder(&outer) {
            // Nor was anything by us in a folder that we may not even list.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            other => other?,
        }
        inner = outer;
    }
    Ok(())
}
