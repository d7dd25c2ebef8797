//! A file of pg_wal as a stream of chunks, read once on a blocking thread, its transaction times taken as it goes by.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::archive::accept::SMALL_FILE_BYTES_MAX;
use walward_base::Locked;
use walward_base::sys::folder::{Facts, Folder, Kind};
use walward_base::sys::piece;
use walward_pg::archive_status::ready_since;
use walward_pg::changes::ChangesObserver;
use walward_pg::{CommitIndex, Observer, SegmentName, SegmentSize, ServerLife, WalFileName, Walk, Walked};
use walward_repo::facts::{Facts as SegmentFacts, Predecessor, StoredChanges};
use walward_repo::format::FRAME_BYTES;

/// Chunks that wait between the reader and the sealer.
const CHUNKS_AHEAD: usize = 2;

/// Of a longer segment it is not found out, while it is archived, what it changes: that would take too much memory.
const CHANGES_SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Which file it was: enough to notice that another one took its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileStamp {
    /// The stamp of the file at `path`; links are not followed. Blocking.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
        };
        let facts = Folder::enter(folder)?.look(name)?;
        if facts.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(facts.into())
    }
}

impl FileStamp {
    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl From<Facts> for FileStamp {
    fn from(facts: Facts) -> Self {
        let Facts { id: (device, inode), bytes, mtime, mtime_nanos, .. } = facts;
        Self { device, inode, bytes, modified: (mtime, i64::from(mtime_nanos)) }
    }
}

/// What one visit to a data directory tells of a file that is to be archived.
#[derive(Debug)]
pub struct FileVisit {
    /// The file.
    pub file: io::Result<FileStamp>,
    /// PostgreSQL has marked it.
    pub marked: bool,
    /// What comes right before it, or its timeline's history, is marked as well: PostgreSQL would ask for that first.
    pub earlier_waits: bool,
    /// The server that runs there, looked at last: what was found before is that server's.
    pub life: Option<ServerLife>,
}

impl FileVisit {
    /// Looks at `name` in `pg_wal`, whose parent is the data directory. Blocking.
    pub fn look(pg_wal: &Path, name: WalFileName) -> Self {
        let file = FileStamp::of(&pg_wal.join(name.to_string()));
        let is_marked = |name| ready_since(pg_wal, name).is_ok();
        let bytes = file.as_ref().map_or(0, FileStamp::bytes);
        let earlier_waits = right_before(name, bytes).into_iter().any(is_marked);
        let life = pg_wal.parent().and_then(|data| ServerLife::read(data).ok().flatten());
        Self { file, marked: is_marked(name), earlier_waits, life }
    }
}

/// The segment before a segment of `bytes`, and the history of its timeline.
fn right_before(name: WalFileName, bytes: u64) -> Vec<WalFileName> {
    let WalFileName::Segment(segment) = name else { return Vec::new() };
    let size = SegmentSize::try_from(bytes).ok();
    let before =
        size.and_then(|size| SegmentName::from_number(segment.timeline, segment.number(size)?.checked_sub(1)?, size));
    before.map(WalFileName::Segment).into_iter().chain([WalFileName::History(segment.timeline)]).collect()
}

/// An opened file of pg_wal.
#[derive(Debug)]
pub struct WalFile {
    name: WalFileName,
    path: PathBuf,
    file: Arc<File>,
    stamp: FileStamp,
    head: Vec<u8>,
}

impl WalFile {
    /// Opens `name` in `folder` and reads its beginning (all of it when it is a small file). Blocking.
    pub fn open(folder: &Path, name: WalFileName) -> io::Result<Self> {
        let path = folder.join(name.to_string());
        let file = Folder::enter(folder)?.open(name.to_string())?;
        let facts = Facts::of(&file)?;
        let head_bytes = match name {
            WalFileName::Segment(_) | WalFileName::Partial(_) => 64,
            WalFileName::History(_) | WalFileName::BackupHistory(..) => SMALL_FILE_BYTES_MAX,
        };
        let mut head = Vec::new();
        (&file).take(head_bytes).read_to_end(&mut head)?;
        Ok(Self { name, path, stamp: facts.into(), file: Arc::new(file), head })
    }

    /// The file's name.
    pub fn name(&self) -> WalFileName {
        self.name
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub fn stamp(&self) -> FileStamp {
        self.stamp
    }

    /// Its length in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Its first bytes; all of them for a history file.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The content from the first byte on, in chunks of [`FRAME_BYTES`]; of a segment, zeros after a segment switch. A file that changes
    /// meanwhile ends the stream with an error.
    pub fn content(&self) -> BoxStream<'static, io::Result<Bytes>> {
        self.stream(self.cleaned(()), |_| {})
    }

    /// As [`WalFile::content`], and a handle to the facts of a segment, which is filled when the stream has ended. `before` says what
    /// comes before a segment; it may block.
    pub fn observed(
        &self,
        before: impl Fn(&Path, SegmentName, SegmentSize) -> Option<Predecessor> + Send + 'static,
    ) -> (BoxStream<'static, io::Result<Bytes>>, FactsHandle) {
        let facts = FactsHandle::default();
        let Some((segment, size)) = self.segment() else { return (self.content(), facts) };
        let (handle, path) = (facts.clone(), self.path.clone());
        let finish = move |walk: Option<Walk<Observers>>| {
            let predecessor = path.parent().and_then(|pg_wal| before(pg_wal, segment, size));
            let (walk, seen) = walk.map(Walk::finish).unzip();
            let (commits, changes) = seen.unzip();
            let changes: Option<ChangesObserver> = changes.flatten();
            let changes = walk.and_then(|walked| changes?.finish(&walked));
            let changes = changes.as_ref().and_then(StoredChanges::of);
            handle.set(SegmentFacts { walk, commits, predecessor, changes });
        };
        let changes = (size.bytes() <= CHANGES_SEGMENT_BYTES_MAX).then(ChangesObserver::default);
        (self.stream(self.cleaned((CommitIndex::default(), changes)), finish), facts)
    }

    /// Reads it whole, on this thread, and answers how far its records reach; `None` for files that are no segments. Blocking.
    ///
    /// # Errors
    /// Also when it changes meanwhile.
    pub fn read_through(&self, take: impl FnMut(Bytes)) -> io::Result<Option<Walked>> {
        Ok(self.observe((), take)?.map(|(walked, ())| walked))
    }

    /// As [`WalFile::read_through`], with an observer of the records.
    pub fn observe<O: Observer>(&self, observer: O, mut take: impl FnMut(Bytes)) -> io::Result<Option<(Walked, O)>> {
        let mut cleaned = self.cleaned(observer);
        read_chunks(&self.file, self.stamp, |chunk| {
            take(cleaned.take(chunk));
            true
        })?;
        Ok(cleaned.walk.map(Walk::finish))
    }

    fn segment(&self) -> Option<(SegmentName, SegmentSize)> {
        match self.name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
                Some((segment, SegmentSize::try_from(self.stamp.bytes).ok()?))
            }
            WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
        }
    }

    fn cleaned<O: Observer>(&self, observer: O) -> Cleaned<O> {
        Cleaned { walk: self.segment().map(|(segment, size)| Walk::new(segment, size, observer)), at: 0 }
    }

    /// Reads it on a blocking thread, which hands the walk over its records to `finish` at the end.
    fn stream<O: Observer + Send + 'static>(
        &self,
        mut cleaned: Cleaned<O>,
        finish: impl FnOnce(Option<Walk<O>>) + Send + 'static,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let file = Arc::clone(&self.file);
        let (bytes, stamp) = (self.stamp.bytes, self.stamp);
        tokio::task::spawn_blocking(move || {
            let result = read_chunks(&file, stamp, |chunk| {
                // The receiver is gone when the upload was given up: nothing is left to do.
                sender.blocking_send(Ok(cleaned.take(chunk))).is_ok()
            });
            finish(cleaned.walk);
            if let Err(error) = result {
                let _ = sender.blocking_send(Err(error));
            }
        });
        // An end that comes too soon is the reader's death, not the end of the file.
        let content = stream::unfold((receiver, bytes), |(mut receiver, left)| async move {
            match receiver.recv().await {
                Some(Ok(chunk)) => {
                    let left = left.saturating_sub(chunk.len() as u64);
                    Some((Ok(chunk), (receiver, left)))
                }
                Some(Err(error)) => Some((Err(error), (receiver, 0))),
                None if left > 0 => Some((Err(io::Error::other("the reader of the file died")), (receiver, 0))),
                None => None,
            }
        });
        content.boxed()
    }
}

/// A segment's content as it is archived. Nothing that is replayed lies after a segment switch, and the server that switched filled the segment with
/// zeros (`CopyXLogRecordToWAL`, src/backend/access/transam/xlog.c). A standby whose connection broke in these zeros keeps what its file held
/// before, for ever: they are put back, so that all servers of a cluster have the same content.
struct Cleaned<O> {
    walk: Option<Walk<O>>,
    /// How many bytes went by.
    at: u64,
}

impl<O: Observer> Cleaned<O> {
    fn take(&mut self, chunk: Bytes) -> Bytes {
        let Some(walk) = self.walk.as_mut() else { return chunk };
        walk.feed(&chunk);
        let begin = self.at;
        self.at += chunk.len() as u64;
        let Some(switched_after) = walk.switched_after().filter(|after| *after < self.at) else { return chunk };
        let kept = usize::try_from(switched_after.saturating_sub(begin)).unwrap_or(usize::MAX);
        if chunk.get(kept..).unwrap_or_default().iter().all(|byte| *byte == 0) {
            return chunk;
        }
        let mut cleaned = Vec::from(chunk);
        cleaned.get_mut(kept..).unwrap_or_default().fill(0);
        cleaned.into()
    }
}

/// Who looks on while the records of a segment go by. Another observer is added here.
type Observers = (CommitIndex, Option<ChangesObserver>);

/// What is known of a segment, once its content has gone by.
#[derive(Debug, Clone, Default)]
pub struct FactsHandle(Arc<Mutex<Option<SegmentFacts>>>);

impl FactsHandle {
    /// `None` for files that are no segments, and before the content has ended.
    pub fn get(&self) -> Option<SegmentFacts> {
        self.0.locked().clone()
    }

    fn set(&self, facts: SegmentFacts) {
        *self.0.locked() = Some(facts);
    }
}

/// Reads the whole file and hands it on until `accept` says no. The file must be at the end what it was at the beginning:
/// a segment that is recycled under the reader would be half one, half the other.
fn read_chunks(file: &File, stamp: FileStamp, mut accept: impl FnMut(Bytes) -> bool) -> io::Result<()> {
    let bytes = stamp.bytes;
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(FRAME_BYTES);
        let chunk = piece::read(file, at, length)?;
        at += length as u64;
        if !accept(chunk) {
            return Ok(());
        }
    }
    if FileStamp::from(Facts::of(file)?) == stamp {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the file changed while it was read"))
    }
}
