//! Brings the notes of WAL that was let go to the repositories, as soon as they can be reached.
//!
//! What still lies in pg_wal is archived after all, so that the gap is no larger than it must be. Then each repository is told
//! which of the files it lacks, and the note is forgotten. A crash anywhere leaves the note, and everything is done again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::limiter::QueueLimit;
use crate::archive::push::archiver::Archiver;
use walward_base::describe;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;
use walward_pg::{SegmentSize, WalFileName};
use walward_repo::gap::{self, Gap};
use walward_repo::{LazyRepository, RepoError, layout, stored};

/// How often the repositories are tried while there are notes; doubled up to [`PAUSE_MAX`] while that leads to nothing.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_mins(2);

impl Archiver {
    /// Settles notes until `closing` is cancelled.
    pub async fn settle_gaps(&self, closing: CancellationToken) {
        let Some(limit) = self.queue_limit() else { return };
        let mut pause = PAUSE;
        loop {
            let left = tokio::select! {
                () = closing.cancelled() => return,
                left = self.settle_all(limit) => left,
            };
            pause = if left { pause.saturating_mul(2).min(PAUSE_MAX) } else { PAUSE };
            tokio::select! {
                () = closing.cancelled() => return,
                () = limit.healed.notified() => pause = PAUSE,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tries every note once; whether any is left.
    pub(in crate::archive) async fn settle_all(&self, limit: &QueueLimit) -> bool {
        let notes = match limit.notes.all().await {
            Ok(notes) => notes,
            Err(error) => {
                error!(%error, "cannot read the notes of gaps");
                return true;
            }
        };
        let mut left = false;
        for note in notes {
            left |= !self.settle(limit, &note).await;
        }
        left
    }

    /// Whether every repository was told of `note`, which is forgotten then.
    async fn settle(&self, limit: &QueueLimit, note: &Gap) -> bool {
        self.archive_late(note).await;
        for repository in self.repositories() {
            if let Err(error) = tell(repository, note).await {
                let (class, error) = (error.class(), describe(&error));
                debug!(repository = repository.name(), error_class = %class, error, "cannot tell a repository of a gap yet");
                return false;
            }
        }
        match limit.notes.settled(note).await {
            Ok(()) => {
                info!(first = %note.first, last = %note.last, "a gap is recorded in every repository");
                true
            }
            Err(error) => {
                debug!(%error, "cannot forget the note of a gap");
                false
            }
        }
    }

    /// What was let go and still lies in pg_wal under its name.
    async fn archive_late(&self, note: &Gap) {
        let (pg_wal, range) = (self.pg_wal().to_path_buf(), (note.first, note.last));
        let ground = Ground::of(self.data_directory());
        let left = ground.look(move || {
            let names = Folder::enter(&pg_wal)?.names()?.into_iter().filter_map(|name| name.to_str()?.parse().ok());
            Ok::<BTreeSet<WalFileName>, std::io::Error>(names.filter(|name| gap::covers(range, *name)).collect())
        });
        for name in left.await.and_then(Result::ok).unwrap_or_default() {
            let archived = match self.stand_alone(name, false).await {
                Ok(()) => self.archive_again(name).await,
                Err(error) => Err(error),
            };
            match archived {
                Ok(()) => info!(segment = %name, "archived after all: it had been let go and still lay in pg_wal"),
                // The next would meet the same store.
                Err(error) if error.is_the_stores() => return,
                Err(error) => {
                    debug!(segment = %name, error_class = %error.class(), error = describe(error.as_ref()), "cannot be archived after all");
                }
            }
        }
    }
}

/// Tells one repository which of the files it lacks. Writes nothing when it lacks none.
async fn tell(lazy: &Arc<LazyRepository>, note: &Gap) -> Result<(), RepoError> {
    let repository = lazy.with_lineage(note.lineage).await?;
    // Neither an unmounted disk nor an emptied bucket is told.
    repository.confirm_alive().await?;
    let size = repository.identity().find(note.lineage).map_or(SegmentSize::DEFAULT, |entry| entry.segment_bytes);
    let missing = match (note.first, note.last) {
        (WalFileName::Segment(first), WalFileName::Segment(last)) => {
            let from = first.number(size).unwrap_or(0);
            let held: BTreeSet<WalFileName> =
                stored::wal(&repository, note.lineage, first.timeline, from, size).await?.into_iter().collect();
            let range = std::iter::successors(Some(first), |name| name.next(size)).take_while(|name| *name <= last);
            runs(range.map(WalFileName::Segment), &held)
        }
        (first, _) => {
            let is_held = repository.exists(&layout::wal_file(note.lineage, first)).await?;
            if is_held { Vec::new() } else { vec![(first, first)] }
        }
    };
    for (first, last) in missing {
        gap::record(&repository, &Gap { first, last, ..note.clone() }).await?;
    }
    repository.confirm_alive().await
}

/// The first and last of each run of `names` that is not `held`.
fn runs(names: impl Iterator<Item = WalFileName>, held: &BTreeSet<WalFileName>) -> Vec<(WalFileName, WalFileName)> {
    let mut runs: Vec<(WalFileName, WalFileName)> = Vec::new();
    let mut open = false;
    for name in names {
        match runs.last_mut() {
            _ if held.contains(&name) => open = false,
            Some((_, last)) if open => *last = name,
            _ => {
                runs.push((name, name));
                open = true;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_told() {
        let name = |n: u32| -> WalFileName { format!("0000000100000000000000{n:02X}").parse().unwrap() };
        let told = |held: &[u32]| {
            let held = held.iter().map(|n| name(*n)).collect();
            runs((3..=9).map(name), &held)
        };
        assert_eq!(told(&[]), [(name(3), name(9))]);
        assert_eq!(told(&[3, 5, 6, 9]), [(name(4), name(4)), (name(7), name(8))]);
        assert_eq!(told(&[3, 4, 5, 6, 7, 8, 9]), []);
    }
}
