//! The steps of [`super::durable`], one by one, so that a test can watch them, fail them, and cut the power between two.
//!
//! In production nobody watches, and a step costs one look at a variable more than its system call.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// One change of a file system, or one wait for changes to be durable.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A new, empty file.
    Create(&'a Path),
    /// So many bytes at its end.
    Write(&'a Path, usize),
    /// fsync of a file.
    SyncFile(&'a Path),
    /// Another name, in place of what was there.
    Rename(&'a Path, &'a Path),
    /// Another name, which must be free.
    RenameNew(&'a Path, &'a Path),
    /// A file's name goes.
    Remove(&'a Path),
    /// A new folder.
    MakeFolder(&'a Path),
    /// fsync of a folder: the names in it.
    SyncFolder(&'a Path),
    /// A folder goes.
    RemoveFolder(&'a Path),
    /// A descriptor of the file system, by its number: it hears of what fails from now on.
    WatchFileSystem(&'a Path, u64),
    /// Everything that was written to the file system, by the descriptor of that number.
    SyncFileSystem(&'a Path, u64),
}

/// Who watches.
pub trait Watcher: Send + Sync {
    /// Does the step by calling `act`, or does not; what it returns is the step's outcome.
    fn step(&self, step: Step<'_>, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
}

static WATCHER: OnceLock<Box<dyn Watcher>> = OnceLock::new();

/// Lets `watcher` see every step of this process from now on. The first call holds. For tests.
#[doc(hidden)]
pub fn watch(watcher: Box<dyn Watcher>) {
    let _ = WATCHER.set(watcher);
}

/// Takes one step.
pub(super) fn take(step: Step<'_>, mut act: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match WATCHER.get() {
        None => act(),
        Some(watcher) => watcher.step(step, &mut act),
    }
}
