//! Large files are made durable while others are still being written, so that the sync of the whole file system at the end, which
//! makes everything durable, finds little left to do.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::error::RestoreError;

/// Smaller files are left to the sync at the end: each would cost a commit of the file system's journal.
const FILE_BYTES_MIN: u64 = 8 << 20;
/// Files that wait. A file that finds no place is left to the sync at the end.
const FILES_WAITING_MAX: usize = 32;

type Written = (File, PathBuf);

/// A thread that makes files durable. It ends with the last of them after this is dropped.
#[derive(Debug)]
pub struct EarlySync(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    files: SyncSender<Written>,
    thread: JoinHandle<Result<(), RestoreError>>,
}

impl EarlySync {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (files, waiting) = sync_channel::<Written>(FILES_WAITING_MAX);
        let sync = |(file, path): Written| file.sync_data().map_err(RestoreError::io("sync", &path));
        let work = move || waiting.into_iter().try_for_each(sync);
        let thread = std::thread::Builder::new().name("walward-sync".to_owned()).spawn(work)?;
        Ok(Self(Mutex::new(Some(Running { files, thread }))))
    }

    /// Takes `file`, which is written to its end.
    pub fn offer(&self, file: File, bytes: u64, path: &Path) {
        if bytes < FILE_BYTES_MIN {
            return;
        }
        if let Some(Running { files, .. }) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Refused when too many wait, and after a failure, which is told at the end.
            let _ = files.try_send((file, path.to_path_buf()));
        }
    }

    /// Waits for the files that were taken. Blocking.
    ///
    /// # Errors
    /// One of them is not on the disk. The kernel tells that once: the sync at the end may hear nothing of it.
    pub fn finish(&self) -> Result<(), RestoreError> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        running.map_or(Ok(()), |Running { files, thread }| {
            drop(files);
            thread.join().unwrap_or(Err(RestoreError::Died))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_taken_is_waited_for_and_a_failure_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let early_sync = EarlySync::start().expect("a thread");
        early_sync.offer(File::create(&path).expect("made"), FILE_BYTES_MIN, &path);
        early_sync.finish().expect("durable");

        // What cannot be synced, because it is no file.
        let socket = || File::from(OwnedFd::from(UnixStream::pair().expect("sockets").0));
        let early_sync = EarlySync::start().expect("a thread");
        early_sync.offer(socket(), FILE_BYTES_MIN - 1, &path);
        early_sync.finish().expect("too small to be taken");
        let early_sync = EarlySync::start().expect("a thread");
        early_sync.offer(socket(), FILE_BYTES_MIN, &path);
        let error = early_sync.finish().expect_err("not durable").to_string();
        assert!(error.contains("cannot sync") && error.contains("file"), "{error}");
    }
}
