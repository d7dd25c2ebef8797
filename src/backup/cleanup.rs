//! What a backup that failed or was killed leaves behind, and removing it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;

use super::error::BackupError;
use super::packs::Work;
use walward_repo::manifest::{BackupLabel, Pack};
use walward_repo::remains::{self, Verdict};
use walward_repo::{RepoError, Repository, layout};
use walward_storage::{ObjectInfo, StoreError, Unfinished};

/// How long removing may take for one repository. What is left then has no manifest, and a later backup removes it by its age.
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
/// was, the answer may have been lost and the backup may be whole: it stays, and if it has no manifest a later backup removes it.
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

/// Removes what backups that were killed left in `repositories`, whose leases must be held: packs without a manifest, and files that
/// were never finished, both only when they are old. Best effort.
pub async fn remove_remains(repositories: &[Repository]) {
    futures::future::join_all(repositories.iter().map(|repository| async move {
        let name = repository.name();
        match tokio::time::timeout(TIME_MAX, remove_remains_from(repository)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let (class, error): (_, &dyn std::error::Error) = (error.class(), &error);
                tracing::warn!(repository = name, error_class = %class, error, "left what killed backups left behind");
            }
            Err(_) => {
                tracing::warn!(repository = name, "left what killed backups left behind: removing takes too long");
            }
        }
    }))
    .await;
}

async fn remove_remains_from(repository: &Repository) -> Result<(), RepoError> {
    // The lease was just written: that is the store's time.
    let Some(now) = remains::store_time(repository).await? else { return Ok(()) };
    for found in remains::find(repository).await? {
        if found.judge(now) != Verdict::Removable {
            continue;
        }
        // A manifest may have come since the packs were listed.
        let Some(found) = remains::look_at(repository, found.label).await? else { continue };
        let (label, bytes) = (found.label.clone(), found.bytes());
        let count = remove_objects(repository, found.packs).await?;
        tracing::info!(repository = repository.name(), backup = %label, count, bytes, "removed what a killed backup left");
    }
    let Unfinished { files, bytes } = repository.store().unfinished(remains::REMOVED_AGE_MIN, true).await?;
    if files > 0 {
        tracing::info!(repository = repository.name(), files, bytes, "removed files that were never finished");
    }
    Ok(())
}

/// That every pack that a manifest will name is there: one that was removed since, however that came, makes no backup.
pub async fn check_packs(repository: &Repository, label: &BackupLabel, packs: &[Pack]) -> Result<(), BackupError> {
    let listed =
        repository.store().list(Some(&layout::packs(label))).await.map_err(|error| BackupError::Repository {
            doing: format!("list the packs of backup {label} in"),
            repository: repository.name().to_owned(),
            source: RepoError::from(error),
        })?;
    let sizes: HashMap<_, _> = listed.objects.into_iter().map(|object| (object.key, object.size)).collect();
    let there = |pack: &&Pack| sizes.get(&layout::pack(label, pack.number)) == Some(&pack.stored_bytes);
    match packs.iter().find(|pack| !there(pack)) {
        None => Ok(()),
        Some(pack) => Err(BackupError::PackGone { repository: repository.name().to_owned(), pack: pack.number }),
    }
}

async fn remove_from(repository: &Repository, label: &BackupLabel) -> Result<usize, StoreError> {
    let store = repository.store();
    let mut objects = store.list(Some(&layout::packs(label))).await?.objects;
    let index = layout::block_index(label);
    let beside = store.list(Some(&layout::backup_root(label))).await?.objects;
    objects.extend(beside.into_iter().filter(|object| object.key == index));
    remove_objects(repository, objects).await
}

async fn remove_objects(repository: &Repository, packs: Vec<ObjectInfo>) -> Result<usize, StoreError> {
    let store = repository.store();
    let count = packs.len();
    let mut removals = futures::stream::iter(packs)
        .map(|pack| async move { store.delete(&pack.key).await })
        .buffer_unordered(REMOVED_AT_ONCE);
    while let Some(removed) = removals.next().await {
        removed?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::Encryption;
    use walward_repo::lease;
    use walward_repo::leases::{Leases, TERMS};
    use walward_storage::ObjectKey;

    async fn repository(root: &std::path::Path) -> Repository {
        let (store, pool) = (walward_storage::bare_folder(root), CpuPool::new(1).unwrap());
        Repository::create("r", store, "main", &Encryption::None, &[], pool, Timestamp::now()).await.unwrap().0
    }

    #[tokio::test]
    async fn only_old_packs_without_a_manifest_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path()).await;
        let label = |day: u8| -> BackupLabel { format!("202611{day}T064158Z-full").parse().unwrap() };
        let put = async |key: &ObjectKey, age: Duration| {
            repository.store().put_new(key, vec![1, 2].into()).await.unwrap();
            let file = std::fs::File::options().write(true).open(root.path().join(key.as_str())).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        };
        let (old, young) = (remains::REMOVED_AGE_MIN + Duration::from_hours(1), Duration::from_hours(2));
        for (day, age, finished) in [(21, old, true), (22, old, false), (23, young, false), (24, old, false)] {
            put(&layout::pack(&label(day), 0), age).await;
            put(&layout::pack(&label(day), 1), if day == 24 { young } else { age }).await;
            if finished {
                put(&layout::manifest(&label(day)), age).await;
            }
        }
        // Of no backup that this version knows.
        put(&ObjectKey::new("backup/later-kind/pack/00000").unwrap(), old).await;
        remove_remains(std::slice::from_ref(&repository)).await;
        assert!(
            root.path().join(layout::pack(&label(22), 0).as_str()).exists(),
            "without a lease the time is not known"
        );
        let never = tokio_util::sync::CancellationToken::new();
        let leases =
            Leases::take(std::slice::from_ref(&repository), (lease::Work::Backup, "db1"), TERMS, || true, &never);
        let leases = leases.await.unwrap();
        remove_remains(std::slice::from_ref(&repository)).await;
        leases.release().await;
        let there = |day| (0..2).filter(|n| root.path().join(layout::pack(&label(day), *n).as_str()).exists()).count();
        assert_eq!([21, 22, 23, 24].map(there), [2, 0, 2, 2]);
        assert!(!root.path().join(layout::backup_root(&label(22)).as_str()).exists());
        assert!(root.path().join("backup/later-kind/pack/00000").exists());
    }

    #[tokio::test]
    async fn a_manifest_is_not_written_when_a_pack_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path()).await;
        let label: BackupLabel = "20261121T064158Z-full".parse().unwrap();
        let pack = |number, stored_bytes| Pack { number, content_bytes: 9, stored_bytes, stored_sha256: String::new() };
        repository.store().put_new(&layout::pack(&label, 0), vec![1, 2].into()).await.unwrap();
        check_packs(&repository, &label, &[pack(0, 2)]).await.unwrap();
        for packs in [vec![pack(0, 2), pack(1, 2)], vec![pack(0, 3)]] {
            let error = check_packs(&repository, &label, &packs).await.unwrap_err();
            assert!(matches!(error, BackupError::PackGone { .. }), "{error}");
        }
    }
}
