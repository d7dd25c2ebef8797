//! What happens in the target directory before the packs and after them. Blocking.
//!
//! Until `global/pg_control` gets its name, as the last file of all, PostgreSQL refuses to start from the directory. Everything
//! else is durable by then.

use std::collections::{BTreeMap, HashSet};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::apart;
use super::configuration;
use super::contents::{CONTROL_FILE, Contents};
use super::directory::{self, Owner, SIGNAL_FILES, TargetState, UNPLACED_CONTROL_FILE};
use super::error::RestoreError;
use super::journal::Journal;
use super::loan::{self, AUTO_CONF};
use super::places::Places;
use super::proof::Proof;
use super::refusal::Refusal;
use super::settings::{self, Lending, Setting};
use super::space::check_tablespaces;
use walward_base::sys::durable::{self, FileSystem};
use walward_base::sys::folder::Folder;
use walward_pg::Lineage;

/// A directory that is ready for files.
#[derive(Debug)]
pub struct Prepared {
    /// What is done already, and what will be.
    pub proof: Proof,
    /// Lock the data directory and the tablespaces' against another restore for as long as they are open.
    pub locks: Vec<Folder>,
}

/// The name that a file has while the restore goes on.
pub fn working_path(places: &Places, path: &str) -> Option<PathBuf> {
    places.resolve(if path == CONTROL_FILE { UNPLACED_CONTROL_FILE } else { path })
}

/// What only root can do: makes the data directory and those of pg_wal and the tablespaces where they are missing, and gives them to their owner, as
/// whom everything else is done. One that is there and empty is given, too; one with something in it is left as it is. None when this is
/// not root.
///
/// Root reaches each of them by [`Folder::enter`], which no other user's link leads elsewhere, and gives away what it holds open.
pub fn make_for_owner(places: &Places) -> Result<Option<Owner>, RestoreError> {
    let Some(owner) = directory::owner(places.root())? else { return Ok(None) };
    for place in places.roots() {
        let failed = |verb| RestoreError::io(verb, place);
        if let Some(parent) = place.parent() {
            // The owner has to get through, whatever root's umask.
            durable::create_dir_all_as_said(parent, 0o755).map_err(RestoreError::io("make the directory", parent))?;
        }
        durable::create_dir_all_durable(place, 0o700).map_err(failed("make the directory"))?;
        let folder = Folder::enter(place).map_err(failed("look at"))?;
        let is_owners = folder.facts().map_err(failed("look at"))?.uid == owner.uid;
        if !is_owners && directory::first_entry(&folder)?.is_none() {
            folder.give(owner.uid, owner.gid).map_err(failed("set the owner of"))?;
        }
    }
    Ok(Some(owner))
}

/// Makes the directories, the links of the tablespaces and the journal; or takes up where another run stopped.
///
/// What the plan saw may have changed since: another restore may have begun, ended, or its server started. So all is looked at again
/// once the directories are locked, and nothing that was there is touched before.
pub fn prepare(lineage: Lineage, label: &str, places: &Places, contents: &Contents) -> Result<Prepared, RestoreError> {
    let root = places.root();
    let owner = directory::owner(root)?;
    // Leaves no empty directories where it can be seen at once that the answer is no.
    take_up(lineage, label, places)?;
    let locks = places.roots().map(|place| lock_place(place, owner)).collect::<Result<Vec<_>, _>>()?;
    let file_systems = watch(&locks)?;
    let unfinished = take_up(lineage, label, places)?;
    // Under the lock they can only be what an earlier run left when it was cut; PostgreSQL's manifest does not list them.
    Folder::enter(root)
        .and_then(|root| durable::remove_abandoned(&root, Duration::ZERO))
        .map_err(RestoreError::io("list", root))?;
    let journal = if let Some(journal) = unfinished {
        journal
    } else {
        let journal = Journal::new(lineage, label, places);
        journal.write(root)?;
        journal
    };
    let directories_done = journal.directories_done;
    let mut proof = Proof::new(root.to_owned(), journal, file_systems);
    set_attributes(root, mode_of_root(contents), owner)?;
    for tablespace in places.tablespaces() {
        set_attributes(&tablespace.to, 0o700, owner)?;
    }
    if let Some(to) = places.wal() {
        set_attributes(to, 0o700, owner)?;
    }
    if !directories_done {
        remove_directories(places, contents)?;
    }
    make_directories(places, contents, owner)?;
    if !directories_done {
        proof.directories()?;
    }
    Ok(Prepared { proof, locks })
}

/// The journal of the unfinished restore that is gone on with, if there is one.
fn take_up(lineage: Lineage, label: &str, places: &Places) -> Result<Option<Journal>, RestoreError> {
    let root = places.root();
    apart::check_there(places)?;
    match directory::inspect(root)? {
        TargetState::Unfinished(journal) => {
            let same = (journal.lineage, journal.backup.as_str()) == (lineage, label);
            if !same || journal.differs(places).is_some() {
                let what = format!("backup {}, begun meanwhile", journal.backup);
                return Err(Refusal::OtherRequest { directory: root.to_owned(), what }.into());
            }
            Ok(Some(journal))
        }
        TargetState::Absent | TargetState::Empty => check_tablespaces(places).map(|()| None),
    }
}

/// Makes a directory where it is missing, with those above it, and locks it.
fn lock_place(path: &Path, owner: Option<Owner>) -> Result<Folder, RestoreError> {
    let failed = |verb| RestoreError::io(verb, path);
    if let Some(parent) = path.parent() {
        // Where root restores for another user, that user has to get through, whatever root's umask.
        let make = if owner.is_some() { durable::create_dir_all_as_said } else { durable::create_dir_all_durable };
        make(parent, 0o755).map_err(RestoreError::io("make the directory", parent))?;
    }
    durable::create_dir_all_durable(path, 0o700).map_err(failed("make the directory"))?;
    let lock = Folder::enter(path).map_err(failed("open"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Refusal::Busy(path.to_owned()).into()),
        Err(error) => return Err(failed("lock")(error.into())),
    }
    // What is locked must be what the path leads to.
    let locked = rustix::fs::fstat(&lock).map_err(io::Error::from).map_err(failed("look at"))?;
    let there = std::fs::metadata(path).map_err(failed("look at"))?;
    let is_there = (locked.st_dev, locked.st_ino) == (there.dev(), there.ino());
    if is_there { Ok(lock) } else { Err(Refusal::Busy(path.to_owned()).into()) }
}

/// The file systems of the directories, each once.
fn watch(places: &[Folder]) -> Result<Vec<FileSystem>, RestoreError> {
    let (mut devices, mut file_systems) = (HashSet::new(), Vec::new());
    for place in places {
        let failed = |verb| RestoreError::io(verb, place.path());
        if devices.insert(place.facts().map_err(failed("look at"))?.id.0) {
            file_systems.push(FileSystem::watch(place.clone()).map_err(failed("open"))?);
        }
    }
    Ok(file_systems)
}

/// Removes the directories and links that an earlier run made and did not prove to be durable. No file of the backup is in them yet.
fn remove_directories(places: &Places, contents: &Contents) -> Result<(), RestoreError> {
    let unless_gone = |path: &Path, outcome: io::Result<()>| match outcome {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(RestoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    };
    let tablespaces = places.tablespaces().iter().map(|tablespace| format!("pg_tblspc/{}", tablespace.oid));
    for link in tablespaces.chain(places.wal().map(|_| "pg_wal".to_owned())) {
        let link = places.root().join(link);
        if link.is_symlink() {
            unless_gone(&link, std::fs::remove_file(&link))?;
        }
    }
    for path in contents.directories.keys().rev() {
        let place = places.resolve(path).ok_or(RestoreError::Died)?;
        if !places.roots().any(|root| root == place) {
            unless_gone(&place, std::fs::remove_dir(&place))?;
        }
    }
    Ok(())
}

fn make_directories(places: &Places, contents: &Contents, owner: Option<Owner>) -> Result<(), RestoreError> {
    for (path, mode) in &contents.directories {
        let place = places.resolve(path).ok_or(RestoreError::Died)?;
        if place != places.root() {
            make_directory(&place, mode | 0o700, owner)?;
        }
        if path == "pg_tblspc" {
            for tablespace in places.tablespaces() {
                link(&tablespace.to, &place.join(tablespace.oid.to_string()), owner)?;
            }
        }
        if let (Some(to), "pg_wal") = (places.wal(), path.as_str()) {
            link(to, &places.root().join(path), owner)?;
        }
    }
    Ok(())
}

/// PostgreSQL takes a data directory with 0700, or with 0750 where the group may read (`checkDataDir`, miscinit.c).
fn mode_of_root(contents: &Contents) -> u32 {
    let listed = ["", ".", "base"].into_iter().find_map(|path| contents.directories.get(path));
    if listed.is_some_and(|mode| mode & 0o050 == 0o050) { 0o750 } else { 0o700 }
}

fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), RestoreError> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(RestoreError::io("make the directory", path))?,
    }
    set_attributes(path, mode, owner)
}

fn set_attributes(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), RestoreError> {
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
/// What is left to say, if anything.
pub fn finish(
    places: &Places,
    ending: Ending,
    owner: Option<Owner>,
    proof: &mut Proof,
) -> Result<Option<String>, RestoreError> {
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
    for name in SIGNAL_FILES {
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
    proof.sync()?;
    let control_file = root.join(CONTROL_FILE);
    place_control_file(root).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Refusal::Overtaken(control_file.clone()).into(),
        _ => RestoreError::io("write", &control_file)(error),
    })?;
    // All is durable by now, and a server may have been started.
    Ok(Journal::remove(root).err().map(|error| {
        let error = walward_base::describe(&error);
        format!("the restore is finished, but {error}; remove that file, should it be there after a power cut")
    }))
}

/// Unless there is another one.
fn place_control_file(root: &Path) -> io::Result<()> {
    let name = |path: &'static str| path.rsplit_once('/').map_or(path, |(_, name)| name);
    let global = Folder::enter(root)?.folder("global")?;
    durable::rename_new_in(&global, name(UNPLACED_CONTROL_FILE), name(CONTROL_FILE))
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
    let note = places.resolve(loan::NOTE).ok_or(RestoreError::Died)?;
    // One of an earlier run into this directory lends what this one keeps.
    remove_if_there(&note)?;
    if let Some(lending) = lending {
        if let Some(folder) = note.parent().filter(|folder| !folder.is_dir()) {
            make_directory(folder, 0o700, owner)?;
        }
        let loan = settings::lent(&text, &wanted, lending).to_json().map_err(RestoreError::io("write", &note))?;
        rewrite(&note, &loan, owner)?;
    }
    rewrite(&path, &settings::edit(&text, &wanted, lending.is_some()), owner)
}

/// Writes a file anew, with its mode.
pub(super) fn rewrite(path: &Path, content: &[u8], owner: Option<Owner>) -> Result<(), RestoreError> {
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
    durable::replace(path, content, mode).map_err(RestoreError::io("write", path))?;
    give(path, owner)
}

pub(super) fn read_if_there(path: &Path) -> Result<Vec<u8>, RestoreError> {
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
