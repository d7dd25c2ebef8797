//! What makes content and names durable: an fsync of a file or a folder, a sync of a whole file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::folder::Folder;
use super::super::steps::{Step, take};

/// Makes a file's content durable. Blocking.
pub fn sync_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    take(Step::SyncFile(path), || file.sync_all())
}

/// As [`sync_file`], for `name` in a folder that is held open. Blocking.
pub fn sync_file_in(folder: &Folder, name: &OsStr) -> io::Result<()> {
    let file = folder.open(name)?;
    take(Step::SyncFile(&folder.path().join(name)), || file.sync_all())
}

/// Makes a directory's entries durable. Blocking.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    sync_folder(&Folder::enter(path)?)
}

/// As [`sync_directory`], for a folder that is held open. Blocking.
pub fn sync_folder(folder: &Folder) -> io::Result<()> {
    take(Step::SyncFolder(folder.path()), || folder.sync())
}

/// A file system that is written to, opened before the first write. Only so does the sync at the end hear of everything that
/// failed since.
#[derive(Debug)]
pub struct FileSystem {
    within: Folder,
    number: u64,
}

impl FileSystem {
    /// The file system of the folder `within`. To be called before the first write.
    pub fn watch(within: Folder) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        take(Step::WatchFileSystem(within.path(), number), || Ok(()))?;
        Ok(Self { within, number })
    }

    /// Makes everything durable that was written to it: one call instead of an fsync for each of many thousand files. An error says
    /// that something which was written since it is watched may not be. It is said once: the next call may succeed, and then
    /// proves what was written after the failed one, and nothing else. Blocking.
    ///
    /// Linux 5.8 and later report failed writes here; see [`reports_failed_writes`].
    pub fn sync(&self) -> io::Result<()> {
        take(Step::SyncFileSystem(self.within.path(), self.number), || self.within.sync_filesystem())
    }

    /// A folder on it.
    pub fn path(&self) -> &Path {
        self.within.path()
    }
}

/// Whether [`FileSystem::sync`] hears of failed writes: Linux 5.8 and later (735e4ae5ba28, "vfs: track per-sb writeback errors and
/// report them to syncfs"). Before that use an fsync a file.
pub fn reports_failed_writes() -> bool {
    hears_of_failed_writes(&rustix::system::uname().release().to_string_lossy())
}

fn hears_of_failed_writes(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_keep_failed_writes_from_a_sync_of_the_file_system_are_known() {
        for (release, expected) in [
            ("5.8.0", true),
            ("6.1.0-18-amd64", true),
            ("10.0", true),
            ("5.7.19", false),
            ("4.18.0-553.el8_10.x86_64", false),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(hears_of_failed_writes(release), expected, "{release}");
        }
    }
}
