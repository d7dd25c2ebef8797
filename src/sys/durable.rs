//! Writes that survive a power cut: temporary name, write, fsync, rename, fsync of the folder.
//!
//! After an fsync error the file is not trusted again: it is removed and the error returned
//! (PostgreSQL's "fsyncgate", 2018: a second fsync may succeed without having written).

use std::io;
use std::path::Path;

/// Makes `path` with `content`; fails with [`io::ErrorKind::AlreadyExists`] when it is there. Blocking.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let _ = (path, content, mode);
    todo!()
}

/// Makes `path` with `content`, in place of what was there, if anything: readers see the old or the new, whole. Blocking.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let _ = (path, content, mode);
    todo!()
}

/// Renames within one file system, after an fsync of the file, and fsyncs the target's folder. Blocking.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let _ = (from, to);
    todo!()
}

/// Makes a directory's entries durable. Blocking.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let _ = path;
    todo!()
}
