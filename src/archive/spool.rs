//! The folder where verified segments wait for PostgreSQL. Bounded in bytes; emptied at every start, because after a crash
//! nobody knows whether a file there is whole, and downloading again is cheap.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::shared::Shared;

/// One cluster's spool.
#[derive(Debug)]
pub struct Spool {
    folder: Arc<Folder>,
    bytes_max: u64,
    bytes: Arc<AtomicU64>,
    next: AtomicU64,
}

/// A place in the spool: a path of its own, and bytes that are counted until it is dropped. The file goes with it.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    _folder: Arc<Folder>,
    reserved: u64,
    bytes: Arc<AtomicU64>,
}

/// A spool's folder, which goes with the last of its places.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort, and only when nothing is in it: the next agent clears what stays.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Bytes in use, by the cluster's folder: a spool that is new counts what an older one still holds.
static BYTES: Shared<AtomicU64> = Shared::new();

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
        let of_the_cluster = folder.parent().unwrap_or(folder).display().to_string();
        let bytes = BYTES.get(of_the_cluster, || AtomicU64::new(0));
        Ok(Self { folder: Arc::new(Folder(folder.to_path_buf())), bytes_max, bytes, next: AtomicU64::new(0) })
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
            path: self.folder.0.join(format!("{name}.{number}")),
            _folder: Arc::clone(&self.folder),
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
        let spool = Spool::open(&folder.path().join("main/1"), 30).expect("a spool");
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
    fn a_spool_that_is_replaced_counts_until_it_is_empty_and_its_folder_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str| folder.path().join("main").join(name);
        let old = Spool::open(&of("1"), 30).expect("a spool");
        let place = old.place("a", 16, false).expect("room");
        std::fs::File::create(place.path()).expect("a file");
        let new = Spool::open(&of("2"), 30).expect("a spool");
        assert!(new.place("b", 16, false).is_none());
        drop(old);
        assert!(place.path().exists());
        drop(place);
        assert!(new.place("b", 16, false).is_some() && !of("1").exists());
        drop(new);
        assert!(!of("2").exists());
    }

    #[test]
    fn what_an_earlier_process_left_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = folder.path().join("000000010000000000000001.0");
        std::fs::File::create(&left).expect("a file");
        let _spool = Spool::open(folder.path(), 30).expect("a spool");
        assert!(!left.exists());
    }
}
