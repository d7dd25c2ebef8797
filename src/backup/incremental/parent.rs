//! Chooses the backup that another one builds on: the newest that every repository has whole and that lies on the server's own past.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::why_full::WhyFull;
use crate::backup::cleanup;
use crate::backup::error::BackupError;
use crate::backup::reading::Reading;
use crate::catalogue::{Histories, Way};
use walward_base::sys::ground::Steps;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline, TimelineHistory};
use walward_repo::manifest::{BackupLabel, BackupType, CORRUPT_PAGES_MAX, Manifest};
use walward_repo::{RepoError, Repository, layout, stored};

/// So many backups that build on each other are enough.
const CHAIN_MAX: usize = 1000;
/// No more pages of one file are listed as corrupt (`copy.rs`): there may be others.
const LISTED_PAGES_MAX: usize = crate::backup::copy::LISTED_PAGES_MAX;

/// A backup that the server has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// What it is taken from.
    pub lineage: Lineage,
    /// The timeline of its start.
    pub timeline: Timeline,
    /// Where it starts.
    pub start: Lsn,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Size of WAL segments.
    pub segment_bytes: SegmentSize,
}

/// The server's past, as its own history tells it.
///
/// # Errors
/// A data directory that hangs, or a cancellation.
pub async fn way(
    begun: &Begun,
    pg_wal: &Path,
    reading: &Reading,
    cancel: &CancellationToken,
) -> Result<Way, BackupError> {
    let (timeline, pg_wal) = (begun.timeline, pg_wal.to_owned());
    let read = move |steps: &Steps| steps.at(&pg_wal, || TimelineHistory::in_pg_wal(&pg_wal, timeline));
    let history = reading.run(cancel, read).await?;
    let histories: Histories = history.into_iter().map(|history| (timeline, history.parents)).collect();
    Ok(Way::known_to(timeline, &histories))
}

/// The newest backup that one of type `kind` can build on.
///
/// # Errors
/// Why there is none.
pub async fn find(
    repositories: &[Repository],
    kind: BackupType,
    begun: &Begun,
    way: &Way,
) -> Result<Manifest, WhyFull> {
    let mut first = None;
    for label in candidates(repositories, kind).await? {
        let found = match everywhere(repositories, &label).await {
            Ok(Some(found)) => fits(&found, begun, way).map(|()| found),
            Ok(None) => continue,
            Err(why) => Err(why),
        };
        let judged = match found {
            Ok(found) => match whole(repositories, &found).await {
                Ok(()) => keep(repositories, &label).await.map(|()| found),
                Err(why) => Err(why),
            },
            Err(why) => Err(why),
        };
        match judged {
            Ok(found) => return Ok(found),
            Err(why) => {
                first.get_or_insert(WhyFull::Unfit { label: label.to_string(), why });
            }
        }
    }
    Err(first.unwrap_or(WhyFull::NoParent { full: kind == BackupType::Diff }))
}

/// The labels in the first repository, the newest first.
async fn candidates(repositories: &[Repository], kind: BackupType) -> Result<Vec<BackupLabel>, WhyFull> {
    let Some(first) = repositories.first() else { return Ok(Vec::new()) };
    let listed = stored::labels(first).await.map_err(|error| WhyFull::Unfit {
        label: "before".to_owned(),
        why: format!("the backups in repository {} cannot be listed: {}", first.name(), describe(&error)),
    })?;
    let mut labels: Vec<BackupLabel> =
        listed.into_iter().filter(|label| kind == BackupType::Incr || label.kind() == BackupType::Full).collect();
    labels.sort_unstable();
    labels.reverse();
    Ok(labels)
}

/// The first line of the manifest, when every repository has the backup; none when one of them does not.
async fn everywhere(repositories: &[Repository], label: &BackupLabel) -> Result<Option<Manifest>, String> {
    let mut found: Option<Manifest> = None;
    for repository in repositories {
        let head = match stored::head(repository, label).await {
            Ok(head) => head,
            Err(error) if error.class() == ErrorClass::NotFound => return Ok(None),
            Err(error) => {
                return Err(format!(
                    "its manifest in repository {} cannot be read: {}",
                    repository.name(),
                    describe(&error)
                ));
            }
        };
        match &found {
            Some(other) if (other.start_lsn, other.started) != (head.start_lsn, head.started) => {
                return Err(format!("repository {} has another backup of this label", repository.name()));
            }
            Some(_) => {}
            None => found = Some(head),
        }
    }
    Ok(found)
}

/// Whether a backup that has `begun` can build on `parent`, by what its manifest says. Pure.
fn fits(parent: &Manifest, begun: &Begun, way: &Way) -> Result<(), String> {
    let refuse = |why: String| Err(why);
    if parent.lineage != begun.lineage {
        return refuse(format!("it is of {}, and the server is {}", parent.lineage, begun.lineage));
    }
    if parent.segment_bytes != begun.segment_bytes {
        return refuse("WAL segments had another size".to_owned());
    }
    if parent.data_checksums != begun.data_checksums {
        return refuse("data checksums were switched on or off since".to_owned());
    }
    if !way.carries(parent.timeline, parent.start_lsn, parent.stop_lsn) {
        return refuse(format!(
            "it ran on timeline {} up to {}, which the server did not go through to timeline {}",
            parent.timeline, parent.stop_lsn, begun.timeline
        ));
    }
    if parent.stop_lsn > begun.start {
        return refuse(format!("it ended at {}, after this one's start at {}", parent.stop_lsn, begun.start));
    }
    let mut pages: Vec<&str> = parent.corrupt_pages.iter().map(|(path, _)| path.as_str()).collect();
    pages.sort_unstable();
    if pages.len() >= CORRUPT_PAGES_MAX
        || pages.chunk_by(|one, next| one == next).any(|of| of.len() >= LISTED_PAGES_MAX)
    {
        return refuse("more of its pages have wrong checksums than are listed".to_owned());
    }
    Ok(())
}

/// Makes durable that the backup is there: its own last step may have been cut, and what builds on it must not outlive it.
async fn keep(repositories: &[Repository], label: &BackupLabel) -> Result<(), String> {
    for repository in repositories {
        let kept = repository.store().keep(&layout::manifest(label)).await;
        kept.map_err(|error| {
            format!("its manifest in repository {} cannot be kept: {}", repository.name(), describe(&error))
        })?;
    }
    Ok(())
}

/// Whether `parent` and all that it builds on is in every repository, with every object that its manifest lists.
async fn whole(repositories: &[Repository], parent: &Manifest) -> Result<(), String> {
    let mut next = parent.clone();
    for _ in 0..CHAIN_MAX {
        has_objects(repositories, &next).await?;
        let Some(depends_on) = next.depends_on else { return Ok(()) };
        let label = &depends_on.label;
        let parsed: BackupLabel = label.parse().map_err(|_| format!("it builds on {label:?}, which is no backup"))?;
        match everywhere(repositories, &parsed).await? {
            Some(found) if depends_on.is(&found) => next = found,
            Some(_) => return Err(format!("it builds on another backup of the label {label} than is there")),
            None => return Err(format!("it builds on {label}, which is not in every repository")),
        }
    }
    Err(format!("{CHAIN_MAX} backups that build on each other lie before it"))
}

/// Whether the packs of a backup, as long as they are listed, and its block index lie in every repository.
async fn has_objects(repositories: &[Repository], backup: &Manifest) -> Result<(), String> {
    let label: BackupLabel = backup.label.parse().map_err(|_| format!("{:?} is no backup", backup.label))?;
    for repository in repositories {
        let failed = |error: RepoError| {
            format!("whether {label} is whole in repository {} cannot be told: {}", repository.name(), describe(&error))
        };
        // How long they are there is said there.
        let head = stored::head(repository, &label).await.map_err(failed)?;
        cleanup::check_packs(repository, &label, &head.packs).await.map_err(|error| describe(&error))?;
        if head.depends_on.is_some() {
            let index = layout::block_index(&label);
            if !repository.exists(&index).await.map_err(failed)? {
                return Err(format!("{} is not there", repository.shown(&index)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
