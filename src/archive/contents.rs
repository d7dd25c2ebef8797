//! Whether what a repository holds under a segment's name is what the server wrote, where the server still has the file.
//!
//! A segment whose mark says `.done` is written no more, and stays in pg_wal until a checkpoint recycles it, mark first. So the newest ones
//! can be held against the repositories by content. One that is recycled while it is read counts as not compared.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tracing::debug;

use super::push::source::{FileStamp, WalFile};
use walward_base::sys::ground::Ground;
use walward_base::{ErrorClass, describe};
use walward_pg::archive_status::is_done;
use walward_pg::{ControlFile, Lineage, SegmentName, ServerLife, WalFileName};
use walward_repo::{Repository, layout};

/// How many segments are read, from the newest one back.
pub const SEGMENTS_READ: usize = 4;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Segments, and repositories that they were compared with.
    pub compared: BTreeSet<(SegmentName, String)>,
    /// Those of `compared` of which the repository holds something else under the name.
    pub different: BTreeSet<(SegmentName, String)>,
    /// Segments that some repository did not let compare.
    pub unanswered: BTreeSet<SegmentName>,
    /// Why, where that may be another time: it is not damaged there.
    pub failure: Option<String>,
}

impl Contents {
    /// Segments that were compared with one repository at least.
    pub fn segments_compared(&self) -> usize {
        self.compared.iter().map(|(segment, _)| segment).collect::<BTreeSet<_>>().len()
    }
}

/// Compares the newest of `held` that are still in `pg_wal` with what `repositories` hold of `lineage`. What cannot be read is left out: that
/// is told where it is needed.
pub async fn compare(
    pg_wal: &Path,
    lineage: Lineage,
    held: &BTreeSet<SegmentName>,
    repositories: &[Option<Repository>],
) -> Contents {
    compare_each(pg_wal, lineage, held.iter().rev().take(SEGMENTS_READ), repositories).await
}

/// The same for all of `segments`.
pub async fn compare_each(
    pg_wal: &Path,
    lineage: Lineage,
    segments: impl Iterator<Item = &SegmentName>,
    repositories: &[Option<Repository>],
) -> Contents {
    let mut contents = Contents::default();
    for segment in segments {
        let (name, folder) = (WalFileName::Segment(*segment), pg_wal.to_path_buf());
        let ground = ground(pg_wal);
        let opened = ground.look(move || WalFile::open(&folder, name));
        let Some(Ok(file)) = opened.await else { continue };
        for repository in repositories.iter().flatten() {
            let key = layout::wal_file(lineage, name);
            let of_repository = (*segment, repository.name().to_owned());
            match repository.has_content(&key, file.bytes(), file.content()).await {
                Ok(true) => drop(contents.compared.insert(of_repository)),
                Ok(false) if still_there(pg_wal, &file, *segment).await => {
                    contents.compared.insert(of_repository.clone());
                    contents.different.insert(of_repository);
                }
                Ok(false) => {}
                // By names, what is missing is found elsewhere.
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) => {
                    contents.unanswered.insert(*segment);
                    if error.class() != ErrorClass::Corrupt {
                        contents.failure = Some(describe(&error));
                    }
                    debug!(%segment, repository = repository.name(), error = describe(&error), "cannot be compared");
                }
            }
        }
    }
    contents
}

/// Whether `repository` has under `name` the very content that the server has in `pg_wal`, and in which life of it; none where the server has
/// no such file, or it cannot be compared now.
pub async fn of_the_server(
    pg_wal: &Path,
    lineage: Lineage,
    name: WalFileName,
    repository: &Repository,
) -> Option<(bool, Option<ServerLife>)> {
    let folder = pg_wal.to_path_buf();
    let open = move || {
        let data_directory = folder.parent()?;
        let is_ours = ControlFile::read(data_directory).is_ok_and(|control| control.lineage() == lineage);
        let life = ServerLife::read(data_directory).ok().flatten();
        is_ours.then(|| WalFile::open(&folder, name).ok()).flatten().map(|file| (file, life))
    };
    let (file, life) = ground(pg_wal).look(open).await??;
    let key = layout::wal_file(lineage, name);
    let is_same = repository.has_content(&key, file.bytes(), file.content()).await.ok()?;
    Some((is_same, life))
}

/// Whether the file is still the one that was opened, and still marked.
async fn still_there(pg_wal: &Path, file: &WalFile, segment: SegmentName) -> bool {
    let (folder, stamp) = (pg_wal.to_path_buf(), file.stamp());
    let look = move || {
        is_done(&folder, WalFileName::Segment(segment))
            && FileStamp::of(&folder.join(segment.to_string())).is_ok_and(|found| found == stamp)
    };
    ground(pg_wal).look(look).await.unwrap_or(false)
}

fn ground(pg_wal: &Path) -> Arc<Ground> {
    Ground::of(pg_wal.parent().unwrap_or(pg_wal))
}
