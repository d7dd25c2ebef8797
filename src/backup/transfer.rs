//! Brings one repository's backups into another: packs and the block index, sealed anew, then the manifest, which says how they are stored
//! there. A backup comes after the one that it builds on.
//!
//! A copy that is cut leaves packs without a manifest, as a backup does. The next run finds them, and uses those whose content is
//! right; a backup into that repository removes them once they are old ([`super::cleanup`]). The lease keeps backups, and other copies, away from the repository that is written.

use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use super::error::BackupError;
use walward_base::{ErrorClass, describe, hex};
use walward_repo::entries::Entries;
use walward_repo::format::{Kind, Spec, Summary};
use walward_repo::manifest::{BackupLabel, DependsOn, Manifest, Pack, StoredIndex};
use walward_repo::transfer::{TransferError, copy_over, same_content};
use walward_repo::{RepoError, Repository, layout, stored};
use walward_storage::ObjectKey;

/// Packs that are copied at the same time.
const PACKS_AT_ONCE: usize = 2;
/// About how many bytes of a manifest are handed over at once.
const MANIFEST_CHUNK_BYTES: usize = 1 << 20;

/// What became of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CopiedBackup {
    /// It is there now.
    Copied {
        /// Packs that an earlier run had brought.
        packs_reused: usize,
        /// Bytes of its packs as they are stored there.
        stored_bytes: u64,
    },
    /// It was there.
    There,
    /// Another backup has its label there.
    Contradiction,
    /// The backup that it builds on is not there.
    WithoutParent {
        /// That backup's label.
        parent: String,
    },
    /// It is not what was written, where it is.
    Damaged {
        /// How it shows.
        why: String,
    },
}

/// The finished backups of `from`, the oldest first. What cannot be read to its first line is among them, and found damaged
/// when it is copied.
pub async fn copyable(from: &Repository) -> Result<Vec<(BackupLabel, u64)>, BackupError> {
    let failed = |source| at(from, "list the backups in", source);
    let mut found = Vec::new();
    let mut labels = stored::labels(from).await.map_err(failed)?;
    labels.sort_unstable();
    for label in labels {
        match stored::head(from, &label).await {
            Ok(head) => found.push((label, head.stored_bytes)),
            // Begun and not finished.
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) if error.class() == ErrorClass::Corrupt => found.push((label, 0)),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}

/// Copies one backup, unless it is there. Call under [`super::with_lease`]. `on_pack` hears of the bytes of each pack that is there, as
/// stored where it comes from.
pub async fn copy_backup(
    from: &Repository,
    to: &Repository,
    label: &BackupLabel,
    (level, host): (i32, &str),
    mut on_pack: impl FnMut(u64),
) -> Result<CopiedBackup, BackupError> {
    let (head, entries) = match stored::manifest(from, label).await {
        Ok(manifest) => manifest,
        Err(error) if error.class() == ErrorClass::Corrupt => {
            return Ok(CopiedBackup::Damaged { why: describe(&error) });
        }
        Err(error) => return Err(at(from, "read a manifest in", error)),
    };
    match stored::head(to, label).await {
        Ok(there) if is_the_same(&head, &there) => {
            keep(to, &layout::manifest(label)).await.map_err(|source| at(to, "keep a manifest in", source))?;
            return Ok(CopiedBackup::There);
        }
        Ok(_) => return Ok(CopiedBackup::Contradiction),
        Err(error) if error.class() == ErrorClass::NotFound => {}
        Err(error) => return Err(at(to, "read a manifest in", error)),
    }
    if let Some(parent) = missing_parent(from, to, &head).await? {
        return Ok(CopiedBackup::WithoutParent { parent });
    }
    let mut copies = stream::iter(&head.packs)
        .map(|pack| async move { (pack.stored_bytes, copy_pack(from, to, label, level, pack).await) })
        .buffered(PACKS_AT_ONCE);
    let mut packs = Vec::new();
    let mut packs_reused = 0;
    while let Some((bytes, copied)) = copies.next().await {
        match copied {
            Ok((pack, reused)) => {
                packs.push(pack);
                packs_reused += usize::from(reused);
                on_pack(bytes);
            }
            Err(error) => return damaged(from, to, error),
        }
    }
    drop(copies);
    let depends_on = match head.depends_on {
        None => None,
        Some(depends_on) => match copy_index(from, to, label, level, depends_on).await {
            Ok(listed) => Some(listed),
            Err(error) => return damaged(from, to, error),
        },
    };
    let stored_bytes = packs.iter().map(|pack| pack.stored_bytes).sum();
    let head = Manifest { stored_bytes, packs, depends_on, ..head };
    write_manifest(to, label, level, host, head, entries).await?;
    Ok(CopiedBackup::Copied { packs_reused, stored_bytes })
}

/// What it means that an object could not be copied.
fn damaged(from: &Repository, to: &Repository, error: TransferError) -> Result<CopiedBackup, BackupError> {
    match error {
        error @ TransferError::From { .. } if error.class() == ErrorClass::Corrupt => {
            Ok(CopiedBackup::Damaged { why: describe(&error) })
        }
        TransferError::From { source, .. } => Err(at(from, "copy a backup from", source)),
        TransferError::To { source, .. } => Err(at(to, "copy a backup to", source)),
    }
}

/// Whether two manifests are of one backup: everything but how its packs and its block index are stored.
fn is_the_same(one: &Manifest, other: &Manifest) -> bool {
    let lengths = |manifest: &Manifest| -> Vec<_> {
        let index = manifest.depends_on.iter().map(|depends_on| (u32::MAX, depends_on.index.content_bytes));
        manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).chain(index).collect()
    };
    let parent = |manifest: &Manifest| -> Option<_> {
        let of = manifest.depends_on.as_ref()?;
        Some((of.label.clone(), of.timeline, of.start_lsn, of.started, of.changes, of.block_bytes))
    };
    let facts =
        |manifest: &Manifest| Manifest { packs: Vec::new(), stored_bytes: 0, depends_on: None, ..manifest.clone() };
    lengths(one) == lengths(other) && parent(one) == parent(other) && facts(one) == facts(other)
}

/// The backup that this one builds on, when `to` does not have the same.
async fn missing_parent(from: &Repository, to: &Repository, head: &Manifest) -> Result<Option<String>, BackupError> {
    let Some(depends_on) = &head.depends_on else { return Ok(None) };
    let missing = Ok(Some(depends_on.label.clone()));
    let Ok(parent) = depends_on.label.parse() else { return missing };
    let mut heads = Vec::new();
    for repository in [from, to] {
        match stored::head(repository, &parent).await {
            Ok(head) => heads.push(head),
            Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => return missing,
            Err(error) => return Err(at(repository, "read a manifest in", error)),
        }
    }
    match heads.as_slice() {
        [theirs, ours] if depends_on.is(theirs) && is_the_same(theirs, ours) => {
            keep(to, &layout::manifest(&parent)).await.map_err(|source| at(to, "keep a manifest in", source))?;
            Ok(None)
        }
        _ => missing,
    }
}

/// Copies the block index; what the manifest says of it there.
async fn copy_index(
    from: &Repository,
    to: &Repository,
    label: &BackupLabel,
    level: i32,
    depends_on: DependsOn,
) -> Result<DependsOn, TransferError> {
    let listed = (Kind::BlockIndex, depends_on.index.stored_sha256.as_str());
    let (summary, _) = copy_object(from, to, &layout::block_index(label), level, listed).await?;
    let index = StoredIndex {
        content_bytes: summary.content_bytes,
        stored_bytes: summary.stored_bytes,
        stored_sha256: hex::encode(&summary.stored_digest),
    };
    Ok(DependsOn { index, ..depends_on })
}

/// Copies one pack, or finds it there; how it is stored, and whether it was there.
async fn copy_pack(
    from: &Repository,
    to: &Repository,
    label: &BackupLabel,
    level: i32,
    listed: &Pack,
) -> Result<(Pack, bool), TransferError> {
    let key = layout::pack(label, listed.number);
    let (summary, reused) = copy_object(from, to, &key, level, (Kind::Pack, &listed.stored_sha256)).await?;
    let pack = Pack {
        number: listed.number,
        content_bytes: summary.content_bytes,
        stored_bytes: summary.stored_bytes,
        stored_sha256: hex::encode(&summary.stored_digest),
    };
    Ok((pack, reused))
}

/// Copies one object of a backup, which its manifest lists with this kind and digest, or finds it there; and whether it was there.
async fn copy_object(
    from: &Repository,
    to: &Repository,
    key: &ObjectKey,
    level: i32,
    (kind, stored_sha256): (Kind, &str),
) -> Result<(Summary, bool), TransferError> {
    let failed = |source| TransferError::From { repository: from.name().to_owned(), source };
    // Another object in the place of the one that the manifest names would be verified and wrong.
    let found = from.read_summary(key).await.map_err(failed)?;
    if found.kind != kind || hex::encode(&found.summary.stored_digest) != stored_sha256 {
        return Err(failed(RepoError::damaged_text(&from.shown(key), "it is not the object that the manifest lists")));
    }
    match same_content(from, to, key).await? {
        Some(summary) => {
            let failed = |source| TransferError::To { repository: to.name().to_owned(), source };
            keep(to, key).await.map_err(failed)?;
            Ok((summary, true))
        }
        None => Ok((copy_over(from, to, level, key).await?, false)),
    }
}

/// Makes durable what an earlier run brought: its last step may have failed.
async fn keep(to: &Repository, key: &ObjectKey) -> Result<(), RepoError> {
    Ok(to.store().keep(key).await?)
}

async fn write_manifest(
    to: &Repository,
    label: &BackupLabel,
    level: i32,
    host: &str,
    head: Manifest,
    entries: Entries,
) -> Result<(), BackupError> {
    let expected_bytes = 200 + 130 * entries.len() as u64;
    let first = std::iter::once_with(move || serde_json::to_vec(&head));
    let listed = (0u32..).map_while(move |number| Some(serde_json::to_vec(&entries.get(number)?)));
    let mut lines = first.chain(listed);
    let chunks = std::iter::from_fn(move || {
        let mut chunk = Vec::new();
        while chunk.len() < MANIFEST_CHUNK_BYTES {
            match lines.next() {
                Some(Ok(line)) => {
                    chunk.extend(line);
                    chunk.push(b'\n');
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None => break,
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk.into()))
    });
    let spec = Spec { kind: Kind::Manifest, level, writer: host.to_owned() };
    let content = stream::iter(chunks).boxed();
    let written = to.upload(&layout::manifest(label), spec, content, expected_bytes).await;
    written.map(|_| ()).map_err(|source| at(to, "write a manifest to", source))
}

fn at(repository: &Repository, doing: &str, source: RepoError) -> BackupError {
    BackupError::Repository { doing: doing.to_owned(), repository: repository.name().to_owned(), source }
}

#[cfg(test)]
mod tests;
