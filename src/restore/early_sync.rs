//! Large files are made durable while others are still being written, so that the sync of the whole file system at the end, which
//! makes everything durable, finds little left to do. On a kernel whose sync of a file system keeps quiet about failed writes each
//! file is made durable as it is finished.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::directory::Owner;
use super::error::RestoreError;
use walward_base::Locked;
use walward_base::sys::{durable, identity};

/// Smaller files are left to the sync at the end: each would cost a commit of the file system's journal.
const FILE_BYTES_MIN: u64 = 8 << 20;
/// Files that wait. A file that finds no place is left to the sync at the end.
const FILES_WAITING_MAX: usize = 32;

type Written = (File, PathBuf);

/// A thread that makes files durable. When this is dropped it leaves those that wait.
#[derive(Debug)]
pub struct EarlySync {
    running: Mutex<Option<Running>>,
    given_up: Arc<AtomicBool>,
    /// Files are synced one by one, before anything is said of them.
    one_by_one: bool,
}

#[derive(Debug)]
struct Running {
    files: SyncSender<Written>,
    thread: JoinHandle<Result<(), RestoreError>>,
}

impl EarlySync {
    /// Starts the thread, which has the rights of `owner`.
    ///
    /// # Errors
    /// There is no room for another thread.
    pub fn start(owner: Option<Owner>) -> std::io::Result<Self> {
        let (files, waiting) = sync_channel::<Written>(FILES_WAITING_MAX);
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&given_up);
        let work = move || {
            if let Some(Owner { uid, gid }) = owner {
                identity::stay_user(uid, gid)
                    .map_err(RestoreError::io("act as the owner of", Path::new("the files")))?;
            }
            waiting.into_iter().take_while(|_| !stop.load(Ordering::Relaxed)).try_for_each(sync)
        };
        let thread = std::thread::Builder::new().name("walward-sync".to_owned()).spawn(work)?;
        let one_by_one = !durable::reports_failed_writes();
        Ok(Self { running: Mutex::new(Some(Running { files, thread })), given_up, one_by_one })
    }

    /// Takes `file`, which is written to its end.
    ///
    /// # Errors
    /// A file that was taken before is not on the disk.
    pub fn offer(&self, file: File, bytes: u64, path: &Path) -> Result<(), RestoreError> {
        if self.one_by_one {
            return sync((file, path.to_path_buf()));
        }
        if bytes < FILE_BYTES_MIN {
            return Ok(());
        }
        let offered = match &*self.running.locked() {
            Some(Running { files, .. }) => files.try_send((file, path.to_path_buf())),
            None => Ok(()),
        };
        match offered {
            // The thread ends early only after a failure.
            Err(TrySendError::Disconnected(_)) => self.finish(),
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
        }
    }

    /// Waits for the files that were taken. Blocking.
    ///
    /// # Errors
    /// One of them is not on the disk. The kernel tells that once: the sync at the end may hear nothing of it.
    pub fn finish(&self) -> Result<(), RestoreError> {
        let running = self.running.locked().take();
        running.map_or(Ok(()), |Running { files, thread }| {
            drop(files);
            thread.join().unwrap_or(Err(RestoreError::Died))
        })
    }
}

impl Drop for EarlySync {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// A file that could not be synced is removed: its pages look right, and are not on the disk.
fn sync((file, path): Written) -> Result<(), RestoreError> {
    file.sync_data().map_err(|error| {
        let _ = std::fs::remove_file(&path);
        RestoreError::io("sync", &path)(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What cannot be synced, because it is no file.
    fn socket() -> File {
        File::from(OwnedFd::from(UnixStream::pair().expect("sockets").0))
    }

    impl EarlySync {
        /// One whose thread has ended with a failure that nobody was told of.
        pub fn failed() -> Self {
            let early_sync = Self::start(None).expect("a thread");
            early_sync.offer(socket(), FILE_BYTES_MIN, Path::new("/nonexistent/file")).expect("taken");
            let ended = |early_sync: &Self| {
                early_sync
                    .running
                    .lock()
                    .expect("no panic")
                    .as_ref()
                    .is_some_and(|running| running.thread.is_finished())
            };
            while !ended(&early_sync) {
                std::thread::yield_now();
            }
            early_sync
        }
    }

    #[test]
    fn where_a_sync_of_the_file_system_would_say_nothing_every_file_is_synced_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut early_sync = EarlySync::start(None).expect("a thread");
        early_sync.one_by_one = true;
        File::create(&path).expect("made");
        early_sync.offer(File::open(&path).expect("there"), 0, &path).expect("durable");
        assert!(early_sync.offer(socket(), 0, &path).is_err() && !path.exists());
    }

    #[test]
    fn what_was_taken_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let early_sync = EarlySync::start(None).expect("a thread");
        early_sync.offer(File::create(&path).expect("made"), FILE_BYTES_MIN, &path).expect("taken");
        early_sync.offer(socket(), FILE_BYTES_MIN - 1, &path).expect("too small to be taken");
        early_sync.finish().expect("durable");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_cannot_be_synced_is_removed_and_ends_the_restore() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let early_sync = EarlySync::start(None).expect("a thread");
        File::create(&path).expect("made");
        early_sync.offer(socket(), FILE_BYTES_MIN, &path).expect("taken");
        let error = loop {
            match early_sync.offer(File::open(folder.path()).expect("there"), FILE_BYTES_MIN, folder.path()) {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("cannot sync") && error.contains("file"), "{error}");
        assert!(!path.exists());
        early_sync.finish().expect("it was told");
    }
}
