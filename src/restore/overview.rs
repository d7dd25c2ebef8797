//! Which line a cluster is on, by what one repository holds: for those who look at an archive without restoring from it.

use super::choose;
use super::error::RestoreError;
use super::evidence::Evidence;
use super::facts::Archive;
use super::lines;
use super::request::TargetTimeline;
use super::timelines::Way;
use walward_pg::{Lineage, SegmentSize, Timeline};
use walward_repo::Repository;

/// Where a cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// The timeline that `restore` goes to when it is asked for the latest point; none when it would ask which is meant, or has no
    /// backup to start from.
    pub current: Option<Timeline>,
    /// What is worth a warning: other lines that the cluster did not go on from, or why it cannot be told which is meant.
    pub remarks: Vec<String>,
}

/// Looks at the lines of `lineage` in `repository`.
pub async fn overview(repository: &Repository, lineage: Lineage, size: SegmentSize) -> Result<Overview, RestoreError> {
    let archive = Archive::open(std::slice::from_ref(repository)).await?;
    let mut unread = Vec::new();
    let histories = archive.histories(lineage, TargetTimeline::Current, &mut unread).await?;
    let facts = archive.facts();
    let own: Vec<_> = facts.iter().filter(|backup| backup.lineage == lineage).collect();
    let evidence = Evidence { archive: &archive, lineage, size, backups: &own };
    let (ways, without_backup) = (choose::ways(&own, &histories), choose::ways_without_backup(&own, &histories));
    let (lines, compared) = evidence.lines(ways, without_backup, &mut unread).await?;
    let (current, remarks) = lines::current(&lines, &compared);
    Ok(Overview { current: current.as_ref().map(Way::target), remarks })
}
