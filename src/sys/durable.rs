//! Writes that survive a power cut: temporary name, write, fsync, rename, fsync of the folder.
//!
//! After an fsync error the file is not trusted again: it is removed and the error returned
//! (PostgreSQL's "fsyncgate", 2018: a second fsync may succeed without having written).
//!
//! A crash leaves at most a file `.walward-<pid>-<random>.tmp` beside the target ([`is_temporary_name`]); nobody reads it
//! and anybody may remove it. Its writer holds a lock on it for as long as it lives: [`remove_abandoned`] takes only the others.
// The functions that clippy.toml bans elsewhere are banned in favour of this file.
#![allow(clippy::disallowed_methods)]

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock};
use rustix::io::Errno;

use super::steps::{Step, take};

/// Makes `path` with `content`; fails with [`io::ErrorKind::AlreadyExists`] when it is there. Blocking.
///
/// `mode` is taken as it is, whatever the umask.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = NewFile::begin(path, mode)?;
    file.write_all(content)?;
    file.place_new()
}

/// Makes `path` with `content`, in place of what was there, if anything: readers see the old or the new, whole. Blocking.
///
/// `mode` is taken as it is, whatever the umask.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = NewFile::begin(path, mode)?;
    file.write_all(content)?;
    file.replace()
}

/// Renames within one file system, after an fsync of the file, and fsyncs the target's folder. Blocking.
///
/// What was at `to` is replaced. If the fsync of the file fails nothing is renamed.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    sync_file(from)?;
    give_name(from, to)?;
    sync_parent(to)
}

/// As [`rename`], but fails with [`io::ErrorKind::AlreadyExists`], and changes nothing, when `to` is there. Blocking.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    sync_file(from)?;
    give_new_name(from, to)?;
    sync_parent(to)
}

/// Removes the file and fsyncs its folder, so that it does not come back after a power cut. Blocking.
pub fn remove_file(path: &Path) -> io::Result<()> {
    take(Step::Remove(path), || std::fs::remove_file(path))?;
    sync_parent(path)
}

/// Makes a file's content durable. Blocking.
pub fn sync_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    take(Step::SyncFile(path), || file.sync_all())
}

/// Makes a directory's entries durable. Blocking.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    take(Step::SyncFolder(path), || directory.sync_all())
}

/// Makes `path` and the folders above it that are missing, each with `mode` (less the umask), and all of them durable. Blocking.
///
/// A folder that is there already keeps its mode. Its name is made durable, too, as are those above it on the same file
/// system: whoever made it may have been killed before that.
pub fn create_dir_all_durable(path: &Path, mode: u32) -> io::Result<()> {
    create_dir_all(path, mode)?;
    let path = path.canonicalize()?;
    let mut device = std::fs::metadata(&path)?.dev();
    for parent in path.ancestors().skip(1) {
        let above = std::fs::metadata(parent)?.dev();
        // A mount point was not made by us.
        if above != device {
            break;
        }
        device = above;
        match sync_directory(parent) {
            // Nor was anything by us in a folder that we may not even list.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            other => other?,
        }
    }
    Ok(())
}

fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    match make_folder(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(error);
            };
            create_dir_all(parent, mode)?;
            match make_folder(path, mode) {
                // Somebody else made it in between.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                other => other,
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Makes everything durable that was written to the file system of `path`: one call instead of an fsync for each of
/// many thousand files. Blocking. Linux 5.8 and later report write errors here; before that use an fsync a file.
pub fn sync_filesystem(path: &Path) -> io::Result<()> {
    let within = File::open(path)?;
    take(Step::SyncFileSystem(path), || Ok(rustix::fs::syncfs(&within)?))
}

/// Whether `name` (a file's name without its folder) is one that only this module gives to unfinished files.
pub fn is_temporary_name(name: &str) -> bool {
    name.strip_prefix(".walward-").and_then(|rest| rest.strip_suffix(".tmp")).is_some()
}

/// Removes the unfinished files in `folder` whose writers are gone, and answers how many. Where the file system knows no locks
/// none is. Need not be durable: they mean nothing. Blocking.
///
/// Those younger than `age_min` stay: where others write to the folder, one of them may have made a file and not locked it yet.
pub fn remove_abandoned(folder: &Path, age_min: Duration) -> io::Result<u64> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_temporary_name) {
            continue;
        }
        // Placed or removed by its writer since, or another user's.
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if !metadata.is_file() || age.unwrap_or_default() < age_min {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && std::fs::remove_file(entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// A name for an unfinished file beside `path`, that nobody else uses.
pub fn temporary_path(path: &Path) -> PathBuf {
    let name = format!(".walward-{}-{:016x}.tmp", std::process::id(), rand::random::<u64>());
    path.with_file_name(name)
}

/// A file on its way: written under a temporary name beside its target, removed unless it is placed. Blocking throughout.
///
/// After an error of any method the file is given up.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    /// `None` once it has its final name.
    temporary: Option<PathBuf>,
    target: PathBuf,
    mode: u32,
}

impl NewFile {
    /// Begins the file that shall be `target`. Its folder must exist.
    ///
    /// `mode` is taken as it is, whatever the umask; until it is placed only its owner can read the file.
    pub fn begin(target: &Path, mode: u32) -> io::Result<Self> {
        if target.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"));
        }
        let path = temporary_path(target);
        let mut file = None;
        take(Step::Create(&path), || {
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            // Where it fails nobody else gets one either.
            let _ = flock(&opened, FlockOperation::NonBlockingLockExclusive);
            file = Some(opened);
            Ok(())
        })?;
        match file {
            Some(file) => Ok(Self { file, temporary: Some(path), target: target.to_owned(), mode }),
            None => Err(io::Error::other("the file was not made")),
        }
    }

    /// Appends `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { file, temporary, target, .. } = self;
        take(Step::Write(temporary.as_ref().unwrap_or(target), bytes.len()), || file.write_all(bytes))
    }

    /// Makes it another user's or group's while it has no name that anybody knows: under its own it is never somebody else's. Only
    /// root may give it to a user.
    pub fn give(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        fchown(&self.file, uid, gid)
    }

    /// Makes it durable under its name; fails with [`io::ErrorKind::AlreadyExists`] when that is taken.
    pub fn place_new(self) -> io::Result<()> {
        self.place(give_new_name)
    }

    /// Makes it durable under its name, in place of what was there, if anything.
    pub fn replace(self) -> io::Result<()> {
        self.place(give_name)
    }

    fn place(mut self, name: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(self.mode))?;
        if let Some(temporary) = &self.temporary {
            take(Step::SyncFile(temporary), || self.file.sync_all())?;
            name(temporary, &self.target)?;
        }
        self.temporary = None;
        sync_parent(&self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Gives the file `from` the name `to`, atomically, in place of what is there.
fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    take(Step::Rename(from, to), || std::fs::rename(from, to))
}

/// Gives the file `from` the name `to`, atomically, unless `to` is there.
fn give_new_name(from: &Path, to: &Path) -> io::Result<()> {
    take(Step::RenameNew(from, to), || place_new(from, to))
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    take(Step::MakeFolder(path), || DirBuilder::new().mode(mode).create(path))
}

fn place_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // NFS and others have no RENAME_NOREPLACE; link(2) refuses an existing name everywhere.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// fsyncs the folder that holds `path`.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn create_never_overwrites_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        create(&path, b"first", 0o640).unwrap();
        assert_eq!(create(&path, b"second", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(names(folder.path()), ["object"]);
    }

    #[test]
    fn of_many_creators_exactly_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|n| {
                    let path = &path;
                    scope.spawn(move || create(path, &[n; 10_000], 0o600).is_ok().then_some(n))
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), vec![winners[0]; 10_000]);
        assert_eq!(names(folder.path()), ["object"]);
    }

    #[test]
    fn only_what_a_writer_that_is_gone_left_unfinished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("object");
        let (killed, young, other) = (temporary_path(&target), temporary_path(&target), folder.path().join("other"));
        let mut working = NewFile::begin(&target, 0o600).unwrap();
        working.write_all(b"half").unwrap();
        let at_work = working.temporary.clone().unwrap();
        let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
        for path in [&killed, &young, &other] {
            File::create(path).unwrap();
        }
        for path in [&killed, &at_work, &other] {
            File::options().write(true).open(path).unwrap().set_modified(an_hour_ago).unwrap();
        }
        assert_eq!(remove_abandoned(folder.path(), Duration::from_mins(1)).unwrap(), 1);
        assert!(!killed.exists() && young.exists() && at_work.exists() && other.exists());
        assert_eq!(remove_abandoned(folder.path(), Duration::ZERO).unwrap(), 1);
        assert!(!young.exists() && at_work.exists());
        working.place_new().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"half");
    }

    #[test]
    fn replace_puts_the_new_in_place_of_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        replace(&path, b"old", 0o600).unwrap();
        replace(&path, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(folder.path()), ["object"]);
    }

    #[test]
    fn a_failed_replace_leaves_the_old_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(names(folder.path()), ["folder"]);
        assert!(create(Path::new("/"), b"x", 0o600).is_err());
    }

    #[test]
    fn a_missing_folder_is_an_error_not_a_new_folder() {
        let folder = tempfile::tempdir().unwrap();
        let error = create(&folder.path().join("gone/object"), b"x", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn rename_new_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        create(&from, b"from", 0o600).unwrap();
        create(&to, b"to", 0o600).unwrap();
        assert_eq!(rename_new(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(folder.path()), ["from", "to"]);
        rename(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"from");
        assert_eq!(names(folder.path()), ["to"]);
    }

    #[test]
    fn folders_are_made_with_their_mode_and_an_existing_one_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        create_dir_all_durable(&path, 0o700).unwrap();
        create_dir_all_durable(&path, 0o755).unwrap();
        assert_eq!(std::fs::metadata(root.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        create(&path.join("file"), b"", 0o600).unwrap();
        assert!(create_dir_all_durable(&path.join("file/d"), 0o700).is_err());
        sync_filesystem(&path).unwrap();
    }

    #[test]
    fn temporary_names_are_known_again() {
        let path = temporary_path(Path::new("/a/b"));
        assert_eq!(path.parent(), Some(Path::new("/a")));
        assert!(is_temporary_name(path.file_name().unwrap().to_str().unwrap()));
        assert!(!is_temporary_name("000000010000000000000001"));
    }
}
