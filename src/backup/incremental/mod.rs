//! What a differential or an incremental backup builds on, and what changed since.
//!
//! A doubt costs bytes, never correctness: where it is not known of a file what changed, it is stored whole; where it is not known of the cluster, the
//! backup becomes a full one and says why ([`WhyFull`]).
//!
//! | file | what it does |
//! |---|---|
//! | `wanted` | which type is asked for |
//! | `why_full` | why it became a full one |
//! | `parent` | chooses the backup to build on |
//! | `changes` | finds in the WAL what changed since |
//! | `since` | which blocks of a file are stored (pure) |

mod changes;
mod parent;
mod since;
mod wanted;
mod why_full;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::reading::Reading;
pub use parent::Begun;
pub use since::{ParentFiles, Since};
use walward_pg::Lineage;
use walward_repo::manifest::{BackupType, Manifest};
use walward_repo::{Repository, stored};
pub use wanted::Wanted;
pub use why_full::WhyFull;

/// What a backup builds on.
#[derive(Debug)]
pub struct Basis {
    /// The parent.
    pub parent: Manifest,
    /// Differential or incremental.
    pub kind: BackupType,
    /// What changed since.
    pub since: Since,
    /// The resource managers of extensions that wrote WAL since: whether they change files in ways of their own is not known.
    pub custom_managers: Vec<u8>,
}

/// The sizes that a cluster counts in.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks in a whole file of a relation.
    pub segment_blocks: u32,
}

/// Finds the backup that one which has `begun` builds on, and what changed since, or why it has to be a full one.
///
/// # Errors
/// A data directory that hangs, or a cancellation.
pub async fn basis(
    repositories: &[Repository],
    wanted: Wanted,
    begun: &Begun,
    sizes: Sizes,
    (pg_wal, reading, cancel): (&Path, &Reading, &CancellationToken),
) -> Result<Result<Basis, WhyFull>, BackupError> {
    let Some(kind) = wanted.builds_on() else { return Ok(Err(WhyFull::Asked)) };
    let way = parent::way(begun, pg_wal, reading, cancel).await?;
    let parent = match parent::find(repositories, kind, begun, &way).await {
        Ok(parent) => parent,
        Err(why) => return Ok(Err(why)),
    };
    let stretch = changes::Stretch { way: &way, from: parent.start_lsn, to: begun.start, size: begun.segment_bytes };
    let changes = match changes::find(repositories, begun.lineage, &stretch, (pg_wal, reading, cancel)).await? {
        Ok(changes) => changes,
        Err(why) => return Ok(Err(why)),
    };
    let files = match files(repositories, begun.lineage, &parent, sizes).await {
        Ok(files) => files,
        Err(why) => return Ok(Err(why)),
    };
    let custom_managers = changes.custom_managers.iter().copied().collect();
    let since = Since::new(files, changes, &parent.corrupt_pages, sizes.block_bytes, sizes.segment_blocks);
    Ok(Ok(Basis { parent, kind, since, custom_managers }))
}

/// The files that the parent restores, from the first repository that can give its manifest.
async fn files(
    repositories: &[Repository],
    lineage: Lineage,
    parent: &Manifest,
    sizes: Sizes,
) -> Result<ParentFiles, WhyFull> {
    let unreadable = |why: String| WhyFull::Unfit { label: parent.label.clone(), why };
    let label = parent.label.parse().map_err(|_| unreadable("it has no label of a backup".to_owned()))?;
    let mut failure = None;
    for repository in repositories {
        let mut files = ParentFiles::default();
        match stored::each_entry(repository, &label, |entry| files.add(entry, sizes.block_bytes)).await {
            Ok(head)
                if head.lineage == lineage && (head.start_lsn, head.started) == (parent.start_lsn, parent.started) =>
            {
                return Ok(files);
            }
            Ok(_) => {}
            Err(error) => failure = Some(walward_base::describe(&error)),
        }
    }
    Err(unreadable(failure.unwrap_or_else(|| "its manifest changed meanwhile".to_owned())))
}
