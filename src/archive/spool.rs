//! The folder where verified segments wait for PostgreSQL. Bounded in bytes; emptied at every start, because after a crash
//! nobody knows whether a file there is whole, and downloading again is cheap.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One cluster's spool.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    bytes: Arc<AtomicU64>,
    next: AtomicU64,
}

/// A place in the spool: a path of its own, and bytes that are counted until it is dropped. The file goes with it.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    reserved: u64,
    bytes: Arc<AtomicU64>,
}

impl Spool {
    /// An empty spool in `folder`, which is made, or emptied of what an earlier process left. Blocking.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        // WAL is nobody else's to read. The clients of an agent that runs as root must get through to their own files.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder)?;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_path_buf(), bytes_max, bytes: Arc::default(), next: AtomicU64::new(0) })
    }

    /// A place for a file of at most `bytes`, or `None` when the spool would grow beyond its bound. `always`: what PostgreSQL
    /// waits for is never refused.
    pub fn place(&self, name: &str, bytes: u64, always: bool) -> Option<Place> {
        let admitted = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            let then = now.saturating_add(bytes);
            (always || then <= self.bytes_max).then_some(then)
        });
        admitted.ok()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            path: self.folder.join(format!("{name}.{number}")),
            reserved: bytes,
            bytes: Arc::clone(&self.bytes),
        })
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// The most bytes it holds.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

impl Place {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already when the client moved it.
        let _ = std::fs::remove_file(&self.path);
        self.bytes.fetch_sub(self.reserved, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_gives_back_what_was_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(folder.path(), 30).expect("a spool");
        let first = spool.place("a", 16, false).expect("room");
        assert!(spool.place("b", 16, false).is_none());
        let urgent = spool.place("b", 16, true).expect("always room for what PostgreSQL waits for");
        assert_eq!(spool.bytes(), 32);
        std::fs::File::create(first.path()).expect("a file");
        let path = first.path().to_path_buf();
        drop((first, urgent));
        assert_eq!(spool.bytes(), 0);
        assert!(!path.exists());
    }

    #[test]
    fn what_an_earlier_process_left_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = folder.path().join("000000010000000000000001.0");
        std::fs::File::create(&left).expect("a file");
        Spool::open(folder.path(), 30).expect("a spool");
        assert!(!left.exists());
    }
}
