//! What the server whose life is kept has in its `pg_wal`: files of the archive with the same content are its own, and stay.
//!
//! PostgreSQL sends a file once. What was acknowledged and then moved would be missing for good, above all a history, without which
//! nobody finds its timeline. So each file that would go is held against the file of its name, by content.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::AsideError;
use crate::archive::push::source::{FileStamp, WalFile};
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::{Ground, NotDone};
use walward_base::{ErrorClass, describe};
use walward_pg::archive_status::{done_path, is_done};
use walward_pg::{
    ClusterState, ControlFile, Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName,
};
use walward_repo::{RepoError, Repository, layout};

/// Files that are read and compared at once.
const READS_AT_ONCE: usize = 4;
/// A history has a line of some 60 bytes for each promotion.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// A server's data directory, as far as it tells whose a file of the archive is.
#[derive(Debug, Clone)]
pub struct KeptServer {
    pg_wal: PathBuf,
    lineage: Lineage,
    size: SegmentSize,
    /// Of the timeline that it writes.
    history: TimelineHistory,
    /// The segment that its last checkpoint began in: everything before it was finished.
    redo: u64,
    /// What lies in `pg_wal`.
    names: BTreeSet<WalFileName>,
    /// It replays what others wrote: what it has may come from the archive.
    is_in_recovery: bool,
    /// How long one look at its files may take; none: as long as it takes.
    limit: Option<Duration>,
}

impl KeptServer {
    /// Reads the data directory, whose file system may take `limit` for each look, now and later; `None` where there is none.
    ///
    /// # Errors
    /// [`AsideError::Server`] when it cannot be read, and [`AsideError::Hangs`]: what is not seen may be the server's own.
    pub async fn look(data_directory: &Path, limit: Duration) -> Result<Option<Self>, AsideError> {
        let directory = data_directory.to_owned();
        let kept = answered(data_directory, data_directory, Some(limit), move || Self::read(&directory)).await??;
        Ok(kept.map(|kept| Self { limit: Some(limit), ..kept }))
    }

    /// As [`KeptServer::look`], for as long as it takes. Blocking.
    ///
    /// # Errors
    /// [`AsideError::Server`].
    pub fn read(data_directory: &Path) -> Result<Option<Self>, AsideError> {
        let failed = |source| AsideError::Server { path: data_directory.to_path_buf(), source };
        let folder = match Folder::enter(data_directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.map_err(failed)?,
        };
        match folder.look("global/pg_control") {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.map_err(failed)?,
        };
        let control = ControlFile::read(data_directory).map_err(|error| failed(io::Error::other(error)))?;
        let pg_wal = data_directory.join("pg_wal");
        let folder = Folder::enter(&pg_wal).map_err(failed)?;
        let names = folder.names().map_err(failed)?;
        let file = WalFileName::History(control.timeline).to_string();
        let history = match folder.read(&file, HISTORY_BYTES_MAX) {
            Ok(bytes) => TimelineHistory::parse(control.timeline, &String::from_utf8_lossy(&bytes))
                .map_err(|error| failed(io::Error::other(error)))?,
            Err(error) if error.kind() == ErrorKind::NotFound => TimelineHistory::root(control.timeline),
            Err(error) => return Err(failed(error)),
        };
        Ok(Some(Self {
            pg_wal,
            lineage: control.lineage(),
            size: control.segment_size,
            history,
            redo: control.redo.segment_number(control.segment_size),
            names: names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect(),
            is_in_recovery: matches!(control.state, ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery),
            limit: None,
        }))
    }

    /// Whether what it has tells whose the files of `lineage` are.
    pub fn is_witness(&self, lineage: Lineage) -> bool {
        self.lineage == lineage && !self.is_in_recovery
    }

    /// Whether it replays what others wrote.
    pub fn is_in_recovery(&self) -> bool {
        self.is_in_recovery
    }

    /// Which of `names` have the content in `repository` that they have here. What cannot be compared, because the archive's file is
    /// damaged, is told in `warnings`.
    pub(super) async fn own(
        &self,
        repository: &Repository,
        names: impl IntoIterator<Item = WalFileName>,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeSet<WalFileName>, AsideError> {
        let here = names.into_iter().filter(|name| self.names.contains(name));
        let compared: Vec<_> = stream::iter(here)
            .map(async |name| self.is_own(repository, name).await.map(|is_own| (name, is_own)))
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut own = BTreeSet::new();
        for (name, is_own) in compared {
            match is_own {
                Ok(true) => drop(own.insert(name)),
                Ok(false) => {}
                Err(why) => warnings.push(format!("{name} is damaged, and moved as if another server wrote it: {why}")),
            }
        }
        Ok(own)
    }

    async fn is_own(&self, repository: &Repository, name: WalFileName) -> Result<Result<bool, String>, AsideError> {
        let folder = self.pg_wal.clone();
        let failed = |source| AsideError::Server { path: self.pg_wal.join(name.to_string()), source };
        let path = self.pg_wal.join(name.to_string());
        let file = match self.answered(&path, move || WalFile::open(&folder, name)).await? {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(false)),
            opened => opened.map_err(failed)?,
        };
        let key = layout::wal_file(self.lineage, name);
        let content = in_time(file.content(), self.limit.unwrap_or(Duration::MAX));
        match repository.has_content(&key, file.bytes(), content).await {
            Ok(is_same) => Ok(Ok(is_same)),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(Ok(false)),
            Err(error) if error.class() == ErrorClass::Corrupt => Ok(Err(describe(&error))),
            // It is written, or was recycled meanwhile.
            Err(RepoError::Content { .. }) if self.has_changed(&file).await? => Ok(Ok(false)),
            Err(error) => Err(super::failed(repository, "compare a file with the server's")(error)),
        }
    }

    async fn has_changed(&self, file: &WalFile) -> Result<bool, AsideError> {
        let (path, stamp) = (file.path().to_path_buf(), file.stamp());
        self.answered(file.path(), move || !FileStamp::of(&path).is_ok_and(|now| now == stamp)).await
    }

    async fn answered<T: Send + 'static>(
        &self,
        path: &Path,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AsideError> {
        answered(self.pg_wal.parent().unwrap_or(&self.pg_wal), path, self.limit, look).await
    }

    /// Whether it has written a file of this name and has it no more: what was archived is recycled. The archive's may be the one.
    pub(super) fn has_recycled(&self, name: WalFileName) -> bool {
        let wrote = |segment: SegmentName| {
            let number = segment.number(self.size);
            number.is_some_and(|number| number < self.redo && self.leads_over(number) == segment.timeline)
        };
        !self.names.contains(&name)
            && match name {
                WalFileName::History(timeline) => timeline > Timeline(1) && self.history.begin_of(timeline).is_some(),
                WalFileName::Segment(segment) => wrote(segment),
                // No recovery needs these.
                WalFileName::BackupHistory(..) | WalFileName::Partial(_) => false,
            }
    }

    fn leads_over(&self, number: u64) -> Timeline {
        self.history.required_timeline_for_segment(number, self.size)
    }

    /// One that has `names` in `pg_wal`.
    #[cfg(test)]
    pub(super) fn new(
        pg_wal: &Path,
        (lineage, size): (Lineage, SegmentSize),
        history: TimelineHistory,
        redo: u64,
        names: BTreeSet<WalFileName>,
    ) -> Self {
        let pg_wal = pg_wal.to_path_buf();
        Self { pg_wal, lineage, size, history, redo, names, is_in_recovery: false, limit: None }
    }
}

/// Whether the server of `data_directory` marked `name` as archived, where its file system answers within `limit`.
///
/// # Errors
/// [`AsideError::Hangs`].
pub async fn is_archived(data_directory: &Path, name: WalFileName, limit: Duration) -> Result<bool, AsideError> {
    let pg_wal = data_directory.join("pg_wal");
    let mark = done_path(&pg_wal, name);
    answered(data_directory, &mark, Some(limit), move || is_done(&pg_wal, name)).await
}

/// What `look` says about `path`, on a thread of the data directory's ground and within `limit`.
async fn answered<T: Send + 'static>(
    data_directory: &Path,
    path: &Path,
    limit: Option<Duration>,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AsideError> {
    let died = || {
        let source = io::Error::other("there is no thread for it, or it died");
        AsideError::Server { path: path.to_owned(), source }
    };
    let Some(limit) = limit else {
        return Ground::of(data_directory).look(look).await.ok_or_else(died);
    };
    let at = path.to_owned();
    let never = CancellationToken::new();
    let looked = Ground::of(data_directory).work(limit, &never, move |steps| steps.at(&at, look)).await;
    looked.map_err(|why| match why {
        NotDone::Hangs(step) => AsideError::Hangs { path: step.path, limit },
        NotDone::NoThread | NotDone::Cancelled | NotDone::Died => died(),
    })
}

/// `content`, with an error where a piece of it takes longer than `limit`.
fn in_time(content: BoxStream<'static, io::Result<Bytes>>, limit: Duration) -> BoxStream<'static, io::Result<Bytes>> {
    let next = move |content: Option<BoxStream<'static, io::Result<Bytes>>>| async move {
        let mut content = content?;
        match tokio::time::timeout(limit, content.next()).await {
            Ok(piece) => piece.map(|piece| (piece, Some(content))),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    };
    stream::unfold(Some(content), next).boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_look_or_a_piece_of_a_file_that_hangs_is_told_and_not_waited_for() {
        let (data, file) = (Path::new("/aside/hung"), Path::new("/aside/hung/pg_wal/file"));
        assert_eq!(answered(data, file, Some(LIMIT), || 7).await.expect("answered"), 7);
        let (release, held) = sync_channel::<()>(1);
        match answered(data, file, Some(LIMIT), move || held.recv().is_ok()).await {
            Err(AsideError::Hangs { path, limit }) => assert_eq!((path.as_path(), limit), (file, LIMIT)),
            other => panic!("{other:?}"),
        }
        drop(release);
        let pieces = stream::iter([Ok(Bytes::from_static(b"a"))]).chain(stream::pending()).boxed();
        let pieces: Vec<_> = in_time(pieces, LIMIT).collect().await;
        match pieces.as_slice() {
            [Ok(first), Err(error)] => assert_eq!((&first[..], error.kind()), (&b"a"[..], ErrorKind::TimedOut)),
            other => panic!("{other:?}"),
        }
    }
}
