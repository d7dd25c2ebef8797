//! What a backup that failed leaves behind, and removing it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;

use super::error::BackupError;
use super::packs::Work;
use crate::repo::manifest::BackupLabel;
use crate::repo::{RepoError, Repository, layout};
use crate::storage::StoreError;

/// How long removing may take for one repository. What is left then is unreferenced, and found by its age.
const TIME_MAX: Duration = Duration::from_mins(2);
/// How many objects are removed at once.
const REMOVED_AT_ONCE: usize = 8;

/// Whether anything of a backup of this label is in any of the repositories.
pub async fn is_taken(repositories: &[Repository], label: &BackupLabel) -> Result<bool, BackupError> {
    let failed = |repository: &Repository, source: StoreError| BackupError::Repository {
        doing: format!("look for backup {label} in"),
        repository: repository.name().to_owned(),
        source: RepoError::from(source),
    };
    for repository in repositories {
        let store = repository.store();
        for folder in [layout::backup_root(label), layout::packs(label)] {
            let listing = store.list(Some(&folder)).await.map_err(|error| failed(repository, error))?;
            if !listing.objects.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Removes the packs of a backup that failed, best effort, from every repository in which its manifest was not begun. Where it
/// was, the answer may have been lost and the backup may be whole: it stays, and if it has no manifest it is found by its age.
pub async fn remove(work: &Work) {
    let manifests_begun = work.manifests_begun.load(Ordering::Relaxed);
    let (left, removed) = work.targets.split_at(manifests_begun.min(work.targets.len()));
    for target in left {
        let name = target.repository.name();
        tracing::warn!(repository = name, "the backup may be whole in this repository, and stays");
    }
    futures::future::join_all(removed.iter().map(|target| async {
        let name = target.repository.name();
        let label = &work.label;
        match tokio::time::timeout(TIME_MAX, remove_from(&target.repository, label)).await {
            Ok(Ok(count)) => tracing::info!(repository = name, count, "removed the packs of a failed backup"),
            Ok(Err(error)) => {
                let (class, error): (_, &dyn std::error::Error) = (error.class, &error);
                tracing::warn!(repository = name, error_class = %class, error, "left packs of a failed backup");
            }
            Err(_) => {
                tracing::warn!(repository = name, "left packs of a failed backup: removing takes too long");
            }
        }
    }))
    .await;
}

async fn remove_from(repository: &Repository, label: &BackupLabel) -> Result<usize, StoreError> {
    let store = repository.store();
    let packs = store.list(Some(&layout::packs(label))).await?.objects;
    let count = packs.len();
    let mut removals = futures::stream::iter(packs)
        .map(|pack| async move { store.delete(&pack.key).await })
        .buffer_unordered(REMOVED_AT_ONCE);
    while let Some(removed) = removals.next().await {
        removed?;
    }
    Ok(count)
}
