//! A store in a folder of a file system: one file an object, durable through [`walward_base::sys::durable`].
//!
//! Written against the file system rather than through `object_store`, because there: an unmounted disk lists as empty,
//! deletions are not synced, a file that shrinks while it is read never ends, and a body comes in pieces of 8 KiB.
//!
//! Invariants: the root folder is made by [`FileStore::create_root`] alone, so a root that is missing is an error and never
//! "no such object"; a name appears whole and synced; a folder goes with its last object, as on an object store; no symbolic link below
//! the root is followed, because the root's owner need not be who runs this, and no file system mounted below it is entered, so that the
//! identity proves what lies beside it ([`walward_base::sys::folder`]). A file lies in a folder only if that
//! folder was durable: an empty one, which may be left from a sync that failed, is made anew.
//!
//! A crash leaves at most temporary files ([`walward_base::sys::durable::is_temporary_name`]) and empty folders; neither is an object. Those files go
//! when a process writes to their folder for the first time, so that an agent that is killed again and again does not fill the disk
//! with them; and where nothing is written any more, by [`Store::unfinished`].

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::disk::{Disk, Failure, read_piece};
use super::error::shown;
use super::{
    Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Unfinished, Upload,
};
use walward_base::ErrorClass;
use walward_base::sys::durable::NewFile;
use walward_base::sys::piece;
use walward_base::sys::shared::Shared;

/// A body comes in pieces of this many bytes, and an upload goes to the disk in such.
const PIECE_BYTES: usize = 1 << 20;
/// What a disk is asked to fetch ahead of a reader.
const READ_AHEAD_BYTES: u64 = 4 << 20;
/// How many threads of a store may be in the kernel at once. A call that hangs there (a hard NFS mount whose server is
/// gone) cannot be given up: its thread stays. So no more threads than these can be lost to a disk that hangs; further
/// calls wait for a place, and end by their deadlines.
const THREADS_MAX: usize = 8;
/// A folder as a store.
#[derive(Debug, Clone)]
pub(super) struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    disk: Disk,
    threads: Arc<Semaphore>,
}

/// By the root: however many handles there are, a disk that hangs takes no more threads of this process.
static THREADS: Shared<Semaphore> = Shared::new();

impl FileStore {
    /// The store in `root`, known as `url`. Nothing is touched.
    pub(super) fn new(url: String, root: PathBuf) -> Self {
        let threads = THREADS.get(root.display().to_string(), || Semaphore::new(THREADS_MAX));
        Self(Arc::new(Inner { url, disk: Disk::new(root), threads }))
    }

    /// Makes the root folder, and those above it that are missing, for `owner`. Blocking.
    pub(super) fn create_root(&self, owner: Option<(u32, u32)>) -> Result<(), StoreError> {
        self.0.disk.create_root(owner).map_err(|error| StoreError {
            class: ErrorClass::of_io(&error),
            verb: "create",
            key: self.0.url.clone(),
            source: Box::new(error),
        })
    }

    /// Runs `work` on a thread for blocking work and says what was being done if it fails.
    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        path: &str,
        work: impl FnOnce(&Disk) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        blocking(&self.0.threads, move || work(&inner.disk)).await.map_err(|failure| self.error(verb, path, failure))
    }

    fn error(&self, verb: &'static str, path: &str, failure: Failure) -> StoreError {
        StoreError { class: failure.class, verb, key: shown(&self.0.url, path), source: failure.source }
    }
}

/// Runs `work` on a thread for blocking work, in a place of `threads` that is free again when the work has ended: not when
/// its caller has given up.
async fn blocking<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let stopping = || Failure::new(ErrorClass::Cancelled, "the work was given up because the process is stopping");
    let place = Arc::clone(threads).acquire_owned().await.map_err(|_| stopping())?;
    let work = move || {
        let _place = place;
        work()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopping()))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for FileStore {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn creates(&self) -> Creates {
        Creates::Once
    }

    fn can_be_swapped(&self) -> bool {
        true
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        let name = key.clone();
        self.run("write", key.as_str(), move |disk| disk.put_new(&name, &payload)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let name = key.clone();
        let (file, info) = self.run("read", key.as_str(), move |disk| disk.open(&name)).await?;
        let state = (self.clone(), key.clone(), Some(file), 0u64, info.size);
        let body = futures::stream::unfold(state, |(store, key, file, offset, size)| async move {
            let file = file?;
            if offset >= size {
                return None;
            }
            let threads = Arc::clone(&store.0.threads);
            let read = blocking(&threads, move || {
                let length = usize::try_from(size - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
                // The disk goes on while what it gave is being decoded.
                piece::will_read(&file, offset + length as u64, READ_AHEAD_BYTES);
                read_piece(&file, offset, length).map(|bytes| (file, bytes))
            });
            match read.await {
                Ok((file, bytes)) => {
                    let offset = offset + bytes.len() as u64;
                    Some((Ok(bytes), (store, key, Some(file), offset, size)))
                }
                Err(failure) => {
                    let error = store.error("read", key.as_str(), failure);
                    Some((Err(error), (store, key, None, offset, size)))
                }
            }
        });
        Ok(StoredObject { info, body: body.boxed() })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let name = key.clone();
        self.run("read", key.as_str(), move |disk| disk.get_range(&name, range, None)).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        let of = object.clone();
        self.run("read", object.key.as_str(), move |disk| disk.get_range(&of.key, range, Some(&of))).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let name = key.clone();
        self.run("read", key.as_str(), move |disk| disk.get_tail(&name, bytes_max)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        let name = key.clone();
        self.run("look at", key.as_str(), move |disk| disk.open(&name).map(|(_, info)| info)).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let name = folder.cloned();
        self.run("list", folder.map_or("", ObjectKey::as_str), move |disk| disk.list(name.as_ref())).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let name = key.clone();
        self.run("delete", key.as_str(), move |disk| disk.delete(&name)).await
    }

    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        let of = object.clone();
        let remove = move |disk: &Disk| match disk.open(&of.key) {
            Ok((_, now)) if now.is_same(&of) => disk.delete(&of.key).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) if error.class == ErrorClass::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        self.run("delete", object.key.as_str(), remove).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let name = key.clone();
        self.run("keep", key.as_str(), move |disk| disk.keep(&name)).await
    }

    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        self.run("look through", "", move |disk| disk.unfinished(age_min, remove)).await
    }

    async fn start_upload(&self, key: &ObjectKey, _expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        let name = key.clone();
        let file = self.run("write", key.as_str(), move |disk| disk.begin(&name)).await?;
        Ok(Box::new(FileUpload {
            store: self.clone(),
            key: key.clone(),
            file: Some(file),
            written: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }))
    }
}

/// A file that grows under a temporary name.
struct FileUpload {
    store: FileStore,
    key: ObjectKey,
    /// `None` after an error, or when a write was given up half-way: the file is gone then.
    file: Option<NewFile>,
    written: u64,
    /// Not yet handed to the kernel; fewer than [`PIECE_BYTES`] between calls.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

impl FileUpload {
    /// Lets `work` have the file; it comes back only when all went well.
    async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(NewFile) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let result = match self.file.take() {
            Some(mut file) => {
                blocking(&self.store.0.threads, move || {
                    for bytes in &waiting {
                        file.write_all(bytes)?;
                    }
                    Ok(work(file)?)
                })
                .await
            }
            None => Err(Failure::new(ErrorClass::Cancelled, "an earlier write of it failed or was given up")),
        };
        result.map_err(|failure| self.store.error("write", self.key.as_str(), failure))
    }
}

/// Removes a file that shall not be.
async fn removed(threads: Arc<Semaphore>, file: NewFile) -> Result<(), Failure> {
    let remove = move || {
        drop(file);
        Ok(())
    };
    blocking(&threads, remove).await
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.written += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= PIECE_BYTES {
            self.file = Some(self.with_file(Ok).await?);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, StoreError> {
        self.with_file(NewFile::replace).await?;
        Ok(self.written)
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(file) = self.file.take() {
            let _ = removed(Arc::clone(&self.store.0.threads), file).await;
        }
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        // The file is removed with its handle, which may hang: not on a thread of the runtime.
        if let Some(file) = self.file.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let threads = Arc::clone(&self.store.0.threads);
            runtime.spawn(removed(threads, file));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use walward_base::sys::durable;

    use super::*;

    const RUNTIME: &str = "hanging-disk";

    #[tokio::test]
    async fn what_a_killed_writer_left_goes_with_the_next_write_to_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let (key, folder) = (ObjectKey::new("wal/x").unwrap(), root.path().join("wal"));
        std::fs::create_dir(&folder).unwrap();
        let left = File::create(durable::temporary_path(&folder.join("x"))).unwrap();
        left.set_modified(std::time::SystemTime::now() - Duration::from_hours(1)).unwrap();
        drop(left);
        let store = crate::bare_folder(root.path());
        assert_eq!(store.put_new(&key, vec![1].into()).await.unwrap(), Put::Created);
        let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["x"]);
    }

    #[tokio::test]
    async fn what_is_stored_is_its_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let options = crate::StoreOptions::new(format!("file://{}/made", parent.path().display()));
        crate::create_root(&options, "main").unwrap();
        let store = crate::open(&options, "main").unwrap();
        store.put_new(&ObjectKey::new("wal/log/x").unwrap(), vec![1].into()).await.unwrap();
        let mut upload = store.start_upload(&ObjectKey::new("backup/label/pack/00000").unwrap(), 1).await.unwrap();
        upload.write(vec![1].into()).await.unwrap();
        upload.finish().await.unwrap();
        let mode = |path: &str| std::fs::metadata(parent.path().join("made/main").join(path)).unwrap().mode() & 0o7777;
        for path in ["", "wal", "wal/log", "backup", "backup/label", "backup/label/pack"] {
            assert_eq!(mode(path), 0o700, "{path:?}");
        }
        assert_eq!((mode("wal/log/x"), mode("backup/label/pack/00000")), (0o600, 0o600));
    }

    #[tokio::test]
    async fn an_object_that_is_kept_is_the_same_to_who_is_reading_it() {
        let root = tempfile::tempdir().unwrap();
        let store = crate::bare_folder(root.path());
        let key = ObjectKey::new("wal/x").unwrap();
        store.put_new(&key, vec![7; 100].into()).await.unwrap();
        let before = store.head(&key).await.unwrap();
        let inode = || std::fs::metadata(root.path().join("wal/x")).unwrap().ino();
        // Open, so that its inode is not used again.
        let _first = File::open(root.path().join("wal/x")).unwrap();
        let first = inode();
        store.keep(&key).await.unwrap();
        assert_eq!(store.put_new(&key, vec![7; 100].into()).await.unwrap(), Put::Exists);
        assert!(inode() != first);
        assert_eq!(store.head(&key).await.unwrap(), before);
        let none = store.keep(&ObjectKey::new("wal/none").unwrap()).await.unwrap_err();
        assert_eq!(none.class, ErrorClass::NotFound);
    }

    #[tokio::test]
    async fn what_killed_writers_left_anywhere_is_counted_and_goes_when_it_is_old_and_nobody_is_at_it() {
        let root = tempfile::tempdir().unwrap();
        let store = crate::bare_folder(root.path());
        let key = |name: &str| ObjectKey::new(name).unwrap();
        store.put_new(&key("backup/a/pack/00000"), vec![1].into()).await.unwrap();
        let mut working = store.start_upload(&key("backup/a/pack/00001"), 1).await.unwrap();
        working.write(vec![1; PIECE_BYTES].into()).await.unwrap();
        let left = |folder: &str, age: Duration| {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            let path = durable::temporary_path(&root.path().join(folder).join("x"));
            let file = File::create(&path).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            path
        };
        let hour = Duration::from_hours(1);
        let old = [left("backup/a/pack", 3 * hour), left("wal/15-7/00000001/00000000", 3 * hour)];
        let young = left("wal/15-7", hour);
        for entry in std::fs::read_dir(root.path().join("backup/a/pack")).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(std::time::SystemTime::now() - 3 * hour).unwrap();
        }
        let expected = Unfinished { files: 2, bytes: 200 };
        assert_eq!(store.unfinished(2 * hour, false).await.unwrap(), expected);
        assert!(old.iter().all(|path| path.exists()));
        assert_eq!(store.unfinished(2 * hour, true).await.unwrap(), expected);
        assert!(!old.iter().any(|path| path.exists()) && young.exists());
        assert_eq!(store.unfinished(2 * hour, true).await.unwrap(), Unfinished::default());
        assert_eq!(working.finish().await.unwrap(), PIECE_BYTES as u64);
        store.head(&key("backup/a/pack/00001")).await.unwrap();
    }

    /// Root may do what the repository's owner does every day (`keys rotate`, `repo copy`), and must leave it usable for them.
    #[tokio::test]
    async fn what_root_writes_belongs_to_whom_the_repository_belongs_to() {
        let root = tempfile::tempdir().unwrap();
        let given = |path: &Path| std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            given(root.path());
        }
        let store = crate::bare_folder(root.path());
        store.put_new(&ObjectKey::new("wal/log/x").unwrap(), vec![1].into()).await.unwrap();
        let mut upload = store.start_upload(&ObjectKey::new("backup/label/pack/00000").unwrap(), 1).await.unwrap();
        upload.write(vec![1].into()).await.unwrap();
        upload.finish().await.unwrap();
        let owner = |path: &Path| std::fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        let expected = owner(root.path());
        assert_eq!(is_root, expected == (65534, 65534));
        for path in ["wal", "wal/log", "wal/log/x", "backup", "backup/label", "backup/label/pack/00000"] {
            assert_eq!(owner(&root.path().join(path)), expected, "{path}");
        }
    }

    /// The repository's owner need not be who works in it: root runs `check`, `repo copy` and `keys rotate`.
    #[tokio::test]
    async fn what_a_link_in_a_repository_leads_to_is_neither_read_nor_changed_nor_called_absent() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs = outside.path().join("x");
        durable::create(&theirs, b"theirs", 0o600).unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
        link(outside.path(), "wal");
        std::fs::create_dir(root.path().join("keys")).unwrap();
        link(&theirs, "keys/x");
        let store = crate::bare_folder(root.path());
        for name in ["wal/x", "keys/x"] {
            let key = ObjectKey::new(name).unwrap();
            for error in [store.get(&key).await.map(drop), store.head(&key).await.map(drop)] {
                assert_eq!(error.unwrap_err().class, ErrorClass::Permanent, "{name}");
            }
        }
        let wal = ObjectKey::new("wal").unwrap();
        for error in [store.list(None).await.unwrap_err(), store.list(Some(&wal)).await.unwrap_err()] {
            assert!(walward_base::describe(&error).contains("symbolic link"), "{error:?}");
        }
        let new = ObjectKey::new("wal/new").unwrap();
        assert!(store.put_new(&new, vec![1].into()).await.is_err());
        assert!(store.start_upload(&new, 1).await.is_err());
        assert!(store.delete(&ObjectKey::new("wal/x").unwrap()).await.is_err());
        // The name is taken, by whatever it leads to.
        assert!(store.put_new(&ObjectKey::new("keys/x").unwrap(), vec![1].into()).await.is_err());
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    /// `/proc` is a file system of its own wherever there is one; a part of a repository on another disk is no different.
    #[tokio::test]
    async fn a_file_system_mounted_below_a_repository_is_neither_read_nor_written_nor_called_empty() {
        let store = crate::bare_folder(Path::new("/"));
        let key = |text: &str| ObjectKey::new(text).unwrap();
        let object = key("proc/version");
        let errors = [
            store.list(Some(&key("proc"))).await.map(drop).unwrap_err(),
            store.list(Some(&key("proc/self/no-such-folder"))).await.map(drop).unwrap_err(),
            store.get(&object).await.map(drop).unwrap_err(),
            store.head(&key("proc/no-such-file")).await.map(drop).unwrap_err(),
            store.get_range(&object, 0..1).await.map(drop).unwrap_err(),
            store.put_new(&key("proc/walward"), vec![1].into()).await.map(drop).unwrap_err(),
            store.start_upload(&key("proc/walward"), 1).await.map(drop).unwrap_err(),
            store.delete(&key("proc/no-such-file")).await.unwrap_err(),
            store.keep(&object).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.class, ErrorClass::Permanent, "{error:?}");
            assert!(walward_base::describe(&error).contains("/proc is on another file system"), "{error:?}");
        }
    }

    /// A FIFO without a writer: opening it for reading hangs in the kernel, as a file on a disk that is gone does.
    #[test]
    fn a_disk_that_hangs_costs_a_bounded_number_of_threads_and_every_call_ends() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("main").join("hangs");
        std::fs::create_dir(folder.path().join("main")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name(RUNTIME).enable_all().build().unwrap();
        let limits = crate::Limits {
            request_timeout: Duration::from_millis(100),
            retry_deadline: Duration::from_millis(200),
            concurrency: 64,
            ..crate::Limits::default()
        };
        let options =
            crate::StoreOptions { limits, ..crate::StoreOptions::new(format!("file://{}", folder.path().display())) };
        let store = crate::open(&options, "main").unwrap();
        let key = ObjectKey::new("hangs").unwrap();
        runtime.block_on(async {
            for _ in 0..4 {
                let calls = (0..40).map(|_| store.head(&key));
                for answer in futures::future::join_all(calls).await {
                    assert_eq!(answer.unwrap_err().class, ErrorClass::Transient);
                }
            }
        });
        assert_eq!(threads(), 2 + THREADS_MAX);
        // It heals: every waiting open gets its writer, and the places are free again.
        let healed = std::thread::spawn(move || std::fs::OpenOptions::new().write(true).open(fifo).unwrap());
        let file = healed.join().unwrap();
        let other = ObjectKey::new("other").unwrap();
        // On a busy machine a tenth of a second can be too short for a write that nothing holds up any more.
        let written = (0..100).find_map(|_| runtime.block_on(store.put_new(&other, vec![1].into())).ok());
        assert!(written.is_some(), "the places are not free again");
        drop(file);
        runtime.shutdown_timeout(Duration::from_secs(10));
    }

    /// The threads of the test's runtime.
    fn threads() -> usize {
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == RUNTIME)
        };
        std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok).filter(named).count()
    }
}
