//! What happens in the target directory before the packs and behind them. Blocking.
//!
//! Until `global/pg_control` gets its name, as the last file of all, PostgreSQL refuses to start from the directory. Everything
//! else is durable by then.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::configuration;
use super::contents::{CONTROL_FILE, Contents};
use super::directory::{self, Found, Owner};
use super::error::RestoreError;
use super::journal::Journal;
use super::loan::{self, AUTO_CONF};
use super::places::Places;
use super::plan::check_tablespaces;
use super::refusal::Refusal;
use super::settings::{self, Lending, Setting};
use crate::pg::Lineage;
use crate::sys::durable;
use crate::sys::folder::Folder;

/// What pg_control is called until everything else is durable.
const UNPLACED_CONTROL_FILE: &str = "global/pg_control.walward";

/// A directory that is ready for files.
#[derive(Debug)]
pub struct Prepared {
    /// What is done already.
    pub journal: Journal,
    /// Whom files are given to.
    pub owner: Option<Owner>,
    /// Locks the directory against another restore for as long as it is open.
    pub lock: File,
}

/// The name that a file has while the restore goes on.
pub fn working_path(places: &Places, path: &str) -> Option<PathBuf> {
    places.resolve(if path == CONTROL_FILE { UNPLACED_CONTROL_FILE } else { path })
}

/// Makes the directories, the links of the tablespaces and the journal; or takes up where another run stopped.
pub fn prepare(lineage: Lineage, label: &str, places: &Places, contents: &Contents) -> Result<Prepared, RestoreError> {
    let root = places.root();
    let owner = directory::owner(root)?;
    let found = directory::inspect(root)?;
    let fresh = Journal::new(lineage, label, places.tablespaces());
    let (journal, is_new) = match found {
        Found::Unfinished(journal) => {
            if (journal.lineage, &journal.backup, &journal.tablespaces)
                != (fresh.lineage, &fresh.backup, &fresh.tablespaces)
            {
                let what = format!("backup {}, begun meanwhile", journal.backup);
                return Err(Refusal::OtherRequest { directory: root.to_owned(), what }.into());
            }
            (journal, false)
        }
        Found::Absent | Found::Empty => {
            check_tablespaces(places)?;
            (fresh, true)
        }
    };
    make_place(root, mode_of_root(contents), owner)?;
    let lock = File::open(root).map_err(RestoreError::io("open", root))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Refusal::Busy(root.to_owned()).into()),
        Err(error) => return Err(RestoreError::io("lock", root)(error.into())),
    }
    if is_new {
        journal.write(root)?;
    }
    // Under the lock they can only be what an earlier run left when it was cut; PostgreSQL's manifest does not list them.
    Folder::enter(root)
        .and_then(|root| durable::remove_abandoned(&root, Duration::ZERO))
        .map_err(RestoreError::io("list", root))?;
    for tablespace in places.tablespaces() {
        make_place(&tablespace.to, 0o700, owner)?;
    }
    if let Some(to) = places.wal() {
        make_place(to, 0o700, owner)?;
    }
    for (path, mode) in &contents.directories {
        let place = places.resolve(path).ok_or(RestoreError::Died)?;
        if place != root {
            make_directory(&place, mode | 0o700, owner)?;
        }
        if path == "pg_tblspc" {
            for tablespace in places.tablespaces() {
                link(&tablespace.to, &root.join(path).join(tablespace.oid.to_string()), owner)?;
            }
        }
        if let (Some(to), "pg_wal") = (places.wal(), path.as_str()) {
            link(to, &root.join(path), owner)?;
        }
    }
    Ok(Prepared { journal, owner, lock })
}

/// PostgreSQL takes a data directory with 0700, or with 0750 where the group may read (`checkDataDir`, miscinit.c).
fn mode_of_root(contents: &Contents) -> u32 {
    let listed = ["", ".", "base"].into_iter().find_map(|path| contents.directories.get(path));
    if listed.is_some_and(|mode| mode & 0o050 == 0o050) { 0o750 } else { 0o700 }
}

/// Makes a directory, and those above it that are missing.
fn make_place(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), RestoreError> {
    if let Some(parent) = path.parent() {
        durable::create_dir_all_durable(parent, 0o755).map_err(RestoreError::io("make the directory", parent))?;
    }
    make_directory(path, mode, owner)
}

fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), RestoreError> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(RestoreError::io("make the directory", path))?,
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(RestoreError::io("set the mode of", path))?;
    match owner {
        // Through a link: the data directory itself may be one.
        Some(Owner { uid, gid }) => {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(RestoreError::io("set the owner of", path))
        }
        None => Ok(()),
    }
}

/// Gives a file or a link itself to `owner`.
fn give(path: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    match owner {
        Some(Owner { uid, gid }) => {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(RestoreError::io("set the owner of", path))
        }
        None => Ok(()),
    }
}

fn link(to: &Path, at: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    match std::os::unix::fs::symlink(to, at) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists && std::fs::read_link(at).is_ok_and(|old| old == to) => {}
        other => other.map_err(RestoreError::io("make the link", at))?,
    }
    give(at, owner)
}

/// What is written at the end.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Lines that become comments, and lines that are added, by the file.
    pub changes: BTreeMap<String, (Vec<&'static str>, String)>,
    /// For postgresql.auto.conf.
    pub settings: Vec<Setting>,
    /// Set when they are for this recovery alone.
    pub lending: Option<Lending>,
    /// `recovery.signal` or `standby.signal`.
    pub signal_file: &'static str,
}

/// Writes the recovery settings, makes everything durable, and gives pg_control its name.
pub fn finish(places: &Places, ending: Ending, owner: Option<Owner>) -> Result<(), RestoreError> {
    let root = places.root();
    let Ending { changes, settings, lending, signal_file } = ending;
    for (file, (comments, added)) in &changes {
        let path = places.resolve(file).ok_or(RestoreError::Died)?;
        let mut text = configuration::commented(&read_if_there(&path)?, comments);
        if !added.is_empty() {
            text.extend_from_slice(b"\n# walward restore: this copy lies here\n");
            text.extend_from_slice(added.as_bytes());
        }
        rewrite(&path, &text, owner)?;
    }
    // The signal file first: where there is none, what was lent is taken back.
    for name in ["recovery.signal", "standby.signal"] {
        let path = root.join(name);
        if name == signal_file {
            durable::replace(&path, b"", 0o600).map_err(RestoreError::io("write", &path))?;
            give(&path, owner)?;
        } else {
            // A backup that was taken on a standby brings its own.
            remove_if_there(&path)?;
        }
    }
    write_settings(places, settings, lending.as_ref(), owner)?;
    let others = places.tablespaces().iter().map(|tablespace| tablespace.to.as_path()).chain(places.wal());
    for place in others.chain([root]) {
        Folder::enter(place)
            .and_then(|place| durable::sync_filesystem(&place))
            .map_err(RestoreError::io("sync the file system of", place))?;
    }
    let control_file = root.join(CONTROL_FILE);
    durable::rename(&root.join(UNPLACED_CONTROL_FILE), &control_file)
        .map_err(RestoreError::io("write", &control_file))?;
    Journal::remove(root)
}

fn write_settings(
    places: &Places,
    wanted: Vec<Setting>,
    lending: Option<&Lending>,
    owner: Option<Owner>,
) -> Result<(), RestoreError> {
    let path = places.root().join(AUTO_CONF);
    let text = read_if_there(&path)?;
    let wanted = match lending {
        Some(lending) if lending.in_place => settings::with_silenced(&text, wanted),
        _ => wanted,
    };
    if let Some(lending) = lending {
        let note = places.resolve(loan::NOTE).ok_or(RestoreError::Died)?;
        if let Some(folder) = note.parent().filter(|folder| !folder.is_dir()) {
            make_directory(folder, 0o700, owner)?;
        }
        let loan = settings::lent(&text, &wanted, lending).to_json().map_err(RestoreError::io("write", &note))?;
        rewrite(&note, &loan, owner)?;
    }
    rewrite(&path, &settings::edit(&text, &wanted, lending.is_some()), owner)
}

/// Writes a file anew, with its mode.
fn rewrite(path: &Path, content: &[u8], owner: Option<Owner>) -> Result<(), RestoreError> {
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
    durable::replace(path, content, mode).map_err(RestoreError::io("write", path))?;
    give(path, owner)
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, RestoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RestoreError::io("read", path)(error)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), RestoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RestoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
