//! The backups that a backup builds on, looked through one after the other, the newest first.

use super::blocking::blocking;
use super::chosen::Chosen;
use super::contents::Contents;
use super::error::RestoreError;
use super::pack_id::PackId;
use crate::catalogue::{BackupContents, Copy};
use walward_repo::manifest::{BackupLabel, Manifest, Pack};

/// So many backups may build on each other; more than a backup is ever built on.
const LEVELS_MAX: usize = 1002;

/// A backup that packs are fetched of.
#[derive(Debug, Clone)]
pub struct Source {
    /// The backup.
    pub label: BackupLabel,
    /// The repositories that have it, by their place in the list, with their own manifests.
    pub copies: Vec<Copy>,
}

/// What a pack's manifest says of it, in the first repository that has it.
pub fn listed(sources: &[Source], pack: PackId) -> Option<&Pack> {
    let source = sources.get(usize::try_from(pack.level).ok()?)?;
    source.copies.first()?.packs.get(&pack.number)
}

/// Takes from the backups that the one of `manifest` builds on what it does not have. Each is let go of before the next one is read: a
/// list of files may be long.
///
/// # Errors
/// One of them is in no repository, is another than was built on, or cannot be trusted.
pub async fn follow(
    chosen: &Chosen<'_>,
    manifest: &Manifest,
    mut contents: Contents,
    itself: Source,
    warnings: &mut Vec<String>,
) -> Result<(Contents, Vec<Source>), RestoreError> {
    let mut sources = vec![itself];
    let mut last = manifest.clone();
    while contents.needs_parent() {
        let refused = |why: &str| RestoreError::Manifest { label: last.label.clone(), why: why.to_owned() };
        let Some(depends_on) = last.depends_on.clone() else {
            return Err(refused("it has only some blocks of a file, and builds on no other backup"));
        };
        if sources.len() >= LEVELS_MAX {
            return Err(refused("too many backups build on each other"));
        }
        let found = chosen.parent_of(&last, &depends_on, warnings).await?;
        let BackupContents { manifest, entries, blocks, copies } = found;
        let label = manifest.label.parse().map_err(|_| refused("it builds on a backup without a label"))?;
        (contents, last) = blocking(move || {
            contents.build_on(&manifest, &entries, blocks)?;
            Ok((contents, manifest))
        })
        .await?;
        sources.push(Source { label, copies });
    }
    Ok((contents, sources))
}
