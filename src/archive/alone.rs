//! Before a file goes only where nothing was compared: is what lies there what this server wrote?
//!
//! A repository that missed files may have been another server's meanwhile. While the others are away, what this server still has
//! of the timeline in pg_wal is held against it: two lives of a cluster differ from one moment on, so that the last files that
//! both have tell. Where they have none in common nothing can be proven: the file goes there, and is compared with the others when
//! they are back (`comparison.rs`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::archiver::Archiver;
use super::contents;
use super::in_order::Way;
use super::upload::PushError;
use walward_pg::archive_status::list_done;
use walward_pg::{SegmentName, WalFileName};
use walward_repo::{RepoError, stored};

/// How long a repository may take to be compared. One that needs longer is asked again before the next file.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

impl Archiver {
    /// Compares those of `chosen` that missed files, or were the only ones that answered, once until they miss a file again.
    ///
    /// # Errors
    /// One of them holds other content than this server wrote, in a file that `name` comes after.
    pub(super) async fn hold_against_own(&self, name: WalFileName, chosen: &[usize]) -> Result<(), PushError> {
        let unproven: Vec<usize> = {
            let state = self.state();
            chosen.iter().filter(|at| state.unproven.contains(*at)).copied().collect()
        };
        if unproven.is_empty() {
            return Ok(());
        }
        let (way, folder, timeline) =
            (Way::read(self.pg_wal(), name).await?, self.pg_wal().to_path_buf(), name.timeline());
        let listed = tokio::task::spawn_blocking(move || list_done(&folder, timeline)).await;
        let Ok(Ok(done)) = listed else { return Ok(()) };
        let done = done.into_iter().map(|(segment, _)| segment);
        let done: BTreeSet<SegmentName> = done.filter(|done| way.leads_over(WalFileName::Segment(*done))).collect();
        let first = done.first().and_then(|first| first.number(way.size()));
        for at in unproven {
            let Some(lazy) = self.repositories().get(at) else { continue };
            let look = async {
                let Some(first) = first else { return Ok((contents::Contents::default(), true)) };
                let repository = lazy.with_lineage(way.lineage()).await?;
                let there = stored::wal(&repository, way.lineage(), timeline, first, way.size()).await?;
                let common: BTreeSet<SegmentName> = there
                    .into_iter()
                    .filter_map(|file| match file {
                        WalFileName::Segment(segment) => Some(segment).filter(|segment| done.contains(segment)),
                        _ => None,
                    })
                    .collect();
                let found = contents::compare(self.pg_wal(), way.lineage(), &common, &[Some(repository)]).await;
                let all_was_said = common.is_empty() || found.compared > 0;
                Ok::<_, RepoError>((found, all_was_said))
            };
            // What cannot be had now is asked for before the next file.
            let Ok(Ok((found, all_was_said))) = tokio::time::timeout(LOOK_TIME_MAX, look).await else { continue };
            if let Some((segment, repository)) = found.different.into_iter().min() {
                let why = format!(
                    "repository {repository:?}, which can be compared with no other now, holds other content under the name \
                     {segment} than this server has in pg_wal"
                );
                return Err(PushError::Follows { name, earlier: WalFileName::Segment(segment), why });
            }
            if all_was_said {
                self.state().unproven.remove(&at);
            }
        }
        Ok(())
    }
}
