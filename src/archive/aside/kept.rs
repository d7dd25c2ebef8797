//! What the server whose life is kept has in its `pg_wal`: files of the archive with the same content are its own, and stay.
//!
//! PostgreSQL sends a file once. What was acknowledged and then moved would be missing for good, above all a history, without which
//! nobody finds its timeline. So each file that would go is held against the file of its name, by content.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};

use super::AsideError;
use crate::archive::push::source::{FileStamp, WalFile};
use walward_base::sys::folder::Folder;
use walward_base::{ErrorClass, describe};
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
}

impl KeptServer {
    /// Reads the data directory; `None` where there is none. Blocking.
    ///
    /// # Errors
    /// [`AsideError::Server`] when it cannot be read: what is not seen may be the server's own.
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
        let opened = tokio::task::spawn_blocking(move || WalFile::open(&folder, name)).await;
        let file = match opened.map_err(|error| failed(io::Error::other(error)))? {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(false)),
            opened => opened.map_err(failed)?,
        };
        let key = layout::wal_file(self.lineage, name);
        match repository.has_content(&key, file.bytes(), file.content().0).await {
            Ok(is_same) => Ok(Ok(is_same)),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(Ok(false)),
            Err(error) if error.class() == ErrorClass::Corrupt => Ok(Err(describe(&error))),
            // It is written, or was recycled meanwhile.
            Err(RepoError::Content { .. }) if self.has_changed(&file).await => Ok(Ok(false)),
            Err(error) => Err(super::failed(repository, "compare a file with the server's")(error)),
        }
    }

    async fn has_changed(&self, file: &WalFile) -> bool {
        let (path, stamp) = (file.path().to_path_buf(), file.stamp());
        let looked = tokio::task::spawn_blocking(move || FileStamp::of(&path).is_ok_and(|now| now == stamp));
        !looked.await.unwrap_or(true)
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
        Self { pg_wal: pg_wal.to_path_buf(), lineage, size, history, redo, names, is_in_recovery: false }
    }
}
