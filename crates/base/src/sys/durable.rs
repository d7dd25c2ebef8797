//! Writes that survive a power cut: temporary name, write, fsync, rename, fsync of the folder.
//!
//! After an fsync error nothing is trusted that it was to make durable (PostgreSQL's "fsyncgate", 2018: Linux reports a failed
//! write-back once to every descriptor that was open by then, forgets which pages were dirty, and a second fsync succeeds without
//! having written). Hence three rules:
//!
//! - a descriptor is opened before the change that it makes durable, so that it hears of every error since: [`NewFile`] syncs the
//!   descriptor that it wrote through, the folder of a new name is held open before the name is given, and a [`FileSystem`] before
//!   the first write to it;
//! - a file has its own name only after its content is durable. So of a file that is there by its name the content is durable,
//!   and the name may not be: the one who gave it may have failed at the sync of the folder, or been killed before it;
//! - nobody syncs again what another sync may have failed for: it is made anew. [`NewFile::replace`] does so by itself,
//!   [`name_again`] for a name that was found, and [`make_folders_in`] removes the folders that it could not sync.
//!
//! | file | |
//! |---|---|
//! | `new_file.rs` | a file on its way to its name |
//! | `folders.rs` | folders that survive a power cut |
//! | `sync.rs` | what makes content and names durable: fsync and syncfs |
//! | `temporary.rs` | the names of unfinished files, and what becomes of abandoned ones |
//!
//! A crash leaves at most a file `.walward-<pid>-<random>.tmp` beside the target ([`is_temporary_name`]); nobody reads it
//! and anybody may remove it. Its writer holds a lock on it for as long as it lives: [`remove_abandoned`] takes only the others.
// The functions that clippy.toml bans elsewhere are banned in favour of this file.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

mod folders;
mod new_file;
mod sync;
mod temporary;

pub use folders::{create_dir_all_as_said, create_dir_all_durable, create_dir_all_for, make_folders_in};
pub use new_file::NewFile;
pub use sync::{FileSystem, reports_failed_writes, sync_directory, sync_file, sync_file_in, sync_folder};
pub use temporary::{Abandoned, abandoned, is_temporary_name, remove_abandoned, temporary_path};

use super::folder::Folder;
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

/// As [`replace`], for `name` in a folder that is held open; `owner` has it from the beginning. Blocking.
pub fn replace_in(folder: &Folder, name: &str, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = NewFile::begin_in(folder, OsStr::new(name), mode)?;
    if let Some((uid, gid)) = owner {
        file.give(Some(uid), Some(gid))?;
    }
    file.write_all(content)?;
    file.replace()
}

/// Renames within one folder, after an fsync of the file, and fsyncs the folder. Blocking.
///
/// What was at `to` is replaced. If the fsync of the file fails nothing is renamed.
pub fn rename_in(folder: &Folder, from: &str, to: &str) -> io::Result<()> {
    sync_file_in(folder, OsStr::new(from))?;
    let (place, target) = (folder.path().join(from), folder.path().join(to));
    take(Step::Rename(&place, &target), || folder.rename(OsStr::new(from), OsStr::new(to)))?;
    sync_folder(folder)
}

/// As [`replace`], but only in place of the file that `seen` is: one that another process edits too, by the same way. `false`, and
/// nothing was changed, when `path` names another file by now; the caller reads again. `seen` is open, so that no other file can
/// have its number. Blocking.
pub fn replace_seen(path: &Path, seen: &File, content: &[u8], mode: u32) -> io::Result<bool> {
    let mut file = NewFile::begin(path, mode)?;
    file.write_all(content)?;
    match file.replace_seen(seen) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// Renames within one file system, after an fsync of the file, and fsyncs the target's folder. Blocking.
///
/// What was at `to` is replaced. If the fsync of the file fails nothing is renamed.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    sync_file(from)?;
    let folder = Folder::of(to)?.0;
    take(Step::Rename(from, to), || std::fs::rename(from, to))?;
    sync_folder(&folder)
}

/// As [`rename_in`], but fails with [`io::ErrorKind::AlreadyExists`], and changes nothing, when `to` is there. Where the folder cannot
/// be synced the file gets its old name back, as far as that goes. Blocking.
pub fn rename_new_in(folder: &Folder, from: &str, to: &str) -> io::Result<()> {
    sync_file_in(folder, OsStr::new(from))?;
    let name = |from: &str, to: &str| {
        let (place, target) = (folder.path().join(from), folder.path().join(to));
        take(Step::RenameNew(&place, &target), || folder.rename_new(OsStr::new(from), OsStr::new(to)))
    };
    name(from, to)?;
    sync_folder(folder).inspect_err(|_| {
        let _ = name(to, from);
    })
}

/// Makes the name of a file in `folder` durable that is there already, whoever gave it: the same bytes under the same name, with its
/// mode, owner and time, in a file of their own. The name is there all the while. Blocking.
///
/// An fsync of the folder would not do: where an earlier one failed it succeeds, and keeps nothing.
pub fn name_again(folder: &Folder, name: &OsStr) -> io::Result<()> {
    const PIECE_BYTES: usize = 1 << 20;
    let mut found = folder.open(name)?;
    let metadata = found.metadata()?;
    let mut copy = NewFile::begin_in(folder, name, metadata.mode() & 0o7777)?;
    let length = usize::try_from(metadata.len()).map_or(PIECE_BYTES, |length| length.clamp(1, PIECE_BYTES));
    let mut piece = vec![0; length];
    loop {
        let length = found.read(&mut piece)?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else { break };
        copy.write_all(read)?;
    }
    copy.resemble(&metadata)?;
    copy.replace()
}

/// Removes the file and fsyncs its folder, so that it does not come back after a power cut. Blocking.
pub fn remove_file(path: &Path) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    remove_file_in(&folder, name)
}

/// As [`remove_file`], for `name` in a folder that is held open. Blocking.
pub fn remove_file_in(folder: &Folder, name: &OsStr) -> io::Result<()> {
    take(Step::Remove(&folder.path().join(name)), || folder.remove_file(name))?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

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
    fn a_file_that_another_process_replaced_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        create(&path, b"first", 0o600).unwrap();
        let seen = File::open(&path).unwrap();
        replace(&path, b"theirs", 0o600).unwrap();
        assert!(!replace_seen(&path, &seen, b"ours", 0o600).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        let seen = File::open(&path).unwrap();
        assert!(replace_seen(&path, &seen, b"ours", 0o640).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"ours");
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
        let at_work = folder.path().join(&names(folder.path())[0]);
        let held = Folder::enter(folder.path()).unwrap();
        let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
        for path in [&killed, &young, &other] {
            File::create(path).unwrap();
        }
        for path in [&killed, &at_work, &other] {
            File::options().write(true).open(path).unwrap().set_modified(an_hour_ago).unwrap();
        }
        assert_eq!(remove_abandoned(&held, Duration::from_mins(1)).unwrap(), 1);
        assert!(!killed.exists() && young.exists() && at_work.exists() && other.exists());
        assert_eq!(remove_abandoned(&held, Duration::ZERO).unwrap(), 1);
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
    fn rename_puts_one_file_in_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::enter(folder.path()).unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "b", "c"] {
            create(&path(name), name.as_bytes(), 0o600).unwrap();
        }
        rename(&path("a"), &path("b")).unwrap();
        assert_eq!(
            (std::fs::read(path("b")).unwrap(), names(folder.path())),
            (b"a".to_vec(), vec!["b".into(), "c".into()])
        );
        rename_in(&held, "b", "c").unwrap();
        assert_eq!((std::fs::read(path("c")).unwrap(), names(folder.path())), (b"a".to_vec(), vec!["c".into()]));
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
        FileSystem::watch(Folder::enter(&path).unwrap()).unwrap().sync().unwrap();
    }

    #[test]
    fn folders_have_the_mode_that_was_said_whatever_the_umask() {
        let root = tempfile::tempdir().unwrap();
        create_dir_all_as_said(&root.path().join("a/b"), 0o777).unwrap();
        for path in ["a", "a/b"] {
            let mode = std::fs::metadata(root.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o777, "{path}");
        }
    }

    #[test]
    fn a_name_that_is_made_again_is_the_same_file_to_whoever_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).take((2 << 20) + 7).collect();
        create(&path, &content, 0o640).unwrap();
        let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
        File::options().write(true).open(&path).unwrap().set_modified(an_hour_ago).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        let held = Folder::enter(folder.path()).unwrap();
        name_again(&held, OsStr::new("object")).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert_eq!(
            (after.mode(), after.uid(), after.mtime(), after.mtime_nsec()),
            (before.mode(), before.uid(), before.mtime(), before.mtime_nsec())
        );
        assert_ne!(after.ino(), before.ino());
        assert_eq!(names(folder.path()), ["object"]);
        assert_eq!(name_again(&held, OsStr::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn rename_new_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::enter(folder.path()).unwrap();
        create(&folder.path().join("from"), b"from", 0o600).unwrap();
        create(&folder.path().join("to"), b"to", 0o600).unwrap();
        assert_eq!(rename_new_in(&held, "from", "to").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(folder.path().join("to")).unwrap(), b"to");
        rename_new_in(&held, "from", "new").unwrap();
        assert_eq!(names(folder.path()), ["new", "to"]);
    }
}
