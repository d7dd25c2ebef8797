//! Objects as files below a folder, one call at a time. Everything here blocks, and may hang with the disk: [`super::file`] runs it on
//! threads of its own, and says what holds of the files and what a crash leaves behind.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::error::Cause;
use super::store::{REPLACED, length_within};
use super::{Listing, ObjectInfo, ObjectKey, Payload, Put, Unfinished, empty_folders};
use walward_base::ErrorClass;
use walward_base::Locked;
use walward_base::sys::durable::{self, NewFile};
use walward_base::sys::folder::{self, Facts, Folder, Kind};
use walward_base::sys::piece;

/// The owner's alone: a backup shows everything that the database holds, to a group as well as to anybody.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// A younger unfinished file may not have been locked by its writer yet.
const ABANDONED_AGE_MIN: Duration = Duration::from_mins(1);
/// How many folders are remembered as durable.
const FOLDERS_MAX: usize = 10_000;

/// The files below a root.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Folders below the root that this process has synced, with those above them. Folders are made and removed under this lock, so
    /// nobody relies on one that somebody else has made but not synced yet.
    folders: Mutex<HashSet<PathBuf>>,
}

/// Why a blocking call failed, before it is known what it was.
pub(super) struct Failure {
    pub(super) class: ErrorClass,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { class: ErrorClass::of_io(&error), source: Box::new(error) }
    }
}

impl Failure {
    pub(super) fn new(class: ErrorClass, cause: impl Into<String>) -> Self {
        Self { class, source: Box::new(Cause(cause.into())) }
    }
}

impl Disk {
    /// The objects below `root`. Nothing is touched.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, folders: Mutex::default() }
    }

    /// Makes the root folder, and those above it that are missing, for `owner`.
    pub(super) fn create_root(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        durable::create_dir_all_for(&self.root, FOLDER_MODE, owner)
    }

    /// The repository's folder. It is looked for at every use: its file system may be unmounted, or mounted, at any moment.
    fn root(&self) -> Result<Folder, Failure> {
        Folder::enter(&self.root).and_then(Folder::on_one_device).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                ErrorClass::Permanent,
                format!(
                    "the folder {} is missing: is its file system mounted? A new repository's folder is made by setup",
                    self.root.display()
                ),
            ),
            io::ErrorKind::NotADirectory if !folder::followed_no_link(&error) => {
                Failure::new(ErrorClass::Permanent, format!("{} is not a folder", self.root.display()))
            }
            _ => error.into(),
        })
    }

    pub(super) fn open(&self, key: &ObjectKey) -> Result<(File, ObjectInfo), Failure> {
        let file = self.root()?.open_any(key.as_str())?;
        let facts = Facts::of(&file)?;
        if facts.kind == Kind::Folder {
            return Err(Failure { class: ErrorClass::NotFound, source: Box::new(Cause("it is a folder".to_owned())) });
        }
        Ok((file, info(key.clone(), &facts)?))
    }

    /// Begins the file of `key` in a folder that is durable.
    pub(super) fn begin(&self, key: &ObjectKey) -> Result<NewFile, Failure> {
        let (folder, name) = place_of(key);
        // The folder can go between the two steps, with the last object of another writer.
        for _ in 0..10 {
            let root = self.root()?;
            let name = name.to_owned();
            // What root writes belongs to whose repository it is: an agent that is not root must read it.
            let begin = move |folder: &Folder| NewFile::begin_in(folder, &name, FILE_MODE);
            match self.ensure_folder(&root, folder)?.as_its_owner(begin) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.folders.locked().remove(folder);
                }
                result => return Ok(result?),
            }
        }
        Err(Failure::new(ErrorClass::Transient, "its folder is removed again and again"))
    }

    /// Makes `folder`, which lies below `root`, and those above it, and all of them durable.
    fn ensure_folder(&self, root: &Folder, folder: &Path) -> Result<Folder, Failure> {
        let mut folders = self.folders.locked();
        if folders.contains(folder) {
            match root.folder(folder) {
                // Removed with its last object, by another process.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return Ok(found?),
            }
        }
        empty_folders::remove_on_the_way(root, folder);
        let made = durable::make_folders_in(root, folder, FOLDER_MODE)?;
        match durable::remove_abandoned(&made, ABANDONED_AGE_MIN) {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(folder = %made.path().display(), count, "removed unfinished files of killed writers");
            }
            // Nothing depends on it.
            Err(error) => {
                tracing::debug!(folder = %made.path().display(), %error, "cannot look for unfinished files");
            }
        }
        if folders.len() >= FOLDERS_MAX {
            folders.clear();
        }
        folders.insert(folder.to_owned());
        Ok(made)
    }

    pub(super) fn put_new(&self, key: &ObjectKey, payload: &Payload) -> Result<Put, Failure> {
        let mut file = self.begin(key)?;
        for part in &payload.0 {
            file.write_all(part)?;
        }
        match file.place_new() {
            Ok(()) => Ok(Put::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The writer that gave the name may not have synced it: killed in between, an error, or still at it. What is said
                // to exist is as durable as what was created.
                self.keep(key)?;
                Ok(Put::Exists)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the name of an object durable whose content is: its writer made that sure before it gave the name.
    pub(super) fn keep(&self, key: &ObjectKey) -> Result<(), Failure> {
        let (folder, name) = place_of(key);
        let name = name.to_owned();
        Ok(self.root()?.folder(folder)?.as_its_owner(move |folder| durable::name_again(folder, &name))?)
    }

    pub(super) fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        of: Option<&ObjectInfo>,
    ) -> Result<Bytes, Failure> {
        let (file, info) = self.open(key)?;
        if of.is_some_and(|of| !of.is_same(&info)) {
            return Err(Failure::new(ErrorClass::Corrupt, REPLACED));
        }
        let length = length_within(&range, info.size).map_err(|cause| Failure::new(ErrorClass::Corrupt, cause))?;
        read_piece(&file, range.start, length)
    }

    pub(super) fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), Failure> {
        let (file, info) = self.open(key)?;
        let start = info.size.saturating_sub(bytes_max);
        let length = usize::try_from(info.size - start)
            .map_err(|_| Failure::new(ErrorClass::Corrupt, "more was asked for than memory can hold"))?;
        let bytes = read_piece(&file, start, length)?;
        Ok((info, bytes))
    }

    pub(super) fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, Failure> {
        let held = match self.root()?.folder(folder.map_or("", ObjectKey::as_str)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
            other => other?,
        };
        let mut listing = Listing::default();
        for name in held.names()? {
            let Some(name) = name.to_str().filter(|name| !durable::is_temporary_name(name)) else { continue };
            let key = match folder {
                Some(folder) => folder.join(name),
                None => ObjectKey::new(name),
            };
            let Ok(key) = key else { continue };
            match held.look(name) {
                Ok(facts) => match facts.kind {
                    Kind::Folder => listing.folders.push(name.to_owned()),
                    // What is no file is there all the same, and reading it says what is wrong.
                    Kind::File | Kind::Other => listing.objects.push(info(key, &facts)?),
                    // What is after it is not said to be absent.
                    Kind::Link => {
                        let cause = format!(
                            "{} is a symbolic link: nothing below a repository's folder is reached through one. Move \
                             what it leads to into the repository, or mount one file system for the whole repository",
                            held.path().join(name).display()
                        );
                        return Err(Failure::new(ErrorClass::Permanent, cause));
                    }
                },
                // Removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        listing.folders.sort_unstable();
        listing.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listing)
    }

    /// What killed writers left anywhere below the root.
    pub(super) fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, Failure> {
        let mut found = Unfinished::default();
        unfinished_in(&self.root()?, age_min, remove, &mut found)?;
        Ok(found)
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), Failure> {
        let root = self.root()?;
        let (folder, name) = place_of(key);
        let removed = root.folder(folder).and_then(|folder| durable::remove_file_in(&folder, name));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        let mut folders = self.folders.locked();
        for folder in folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty()) {
            // Fails while anything is in it. Need not be durable: an empty folder is not an object.
            if root.remove_folder(folder).is_err() {
                break;
            }
            folders.remove(folder);
        }
        Ok(())
    }
}

/// What killed writers left in `folder` and those in it.
fn unfinished_in(folder: &Folder, age_min: Duration, remove: bool, found: &mut Unfinished) -> Result<(), Failure> {
    let mut others = Vec::new();
    let within = durable::abandoned(folder, age_min, remove, &mut others)?;
    found.files += within.files;
    found.bytes += within.bytes;
    for name in others {
        // Else it is an object, or gone.
        if let Ok(inner) = folder.folder(&name) {
            unfinished_in(&inner, age_min, remove, found)?;
        }
    }
    Ok(())
}

/// The folder of an object below the repository's, and the name in it.
fn place_of(key: &ObjectKey) -> (&Path, &OsStr) {
    let path = Path::new(key.as_str());
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

fn info(key: ObjectKey, facts: &Facts) -> Result<ObjectInfo, Failure> {
    let modified = Timestamp::try_from(facts.modified())
        .map_err(|_| Failure::new(ErrorClass::Permanent, "its modification time is out of range"))?;
    // The inode would tell more, and changes when an object is kept.
    Ok(ObjectInfo { key, size: facts.bytes, modified, tag: None })
}

pub(super) fn read_piece(file: &File, at: u64, length: usize) -> Result<Bytes, Failure> {
    piece::read(file, at, length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::new(ErrorClass::Transient, "it became shorter while it was read"),
        _ => error.into(),
    })
}
