//! Which line a cluster is on, by what one repository holds: for those who look at an archive without restoring from it.

use super::decide::current;
use super::evidence::Evidence;
use crate::catalogue::backups::{ways, ways_without_backup};
use crate::catalogue::error::CatalogueError;
use crate::catalogue::read::Archive;
use crate::catalogue::way::{Histories, Way};
use walward_pg::{Lineage, SegmentSize, Timeline};

/// Where a cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// The timeline that `restore` goes to when it is asked for the latest point; none when it would ask which is meant, or has no
    /// backup to start from.
    pub current: Option<Timeline>,
    /// What is worth a warning: other lines that the cluster did not go on from, or why it cannot be told which is meant.
    pub remarks: Vec<String>,
}

/// Looks at the lines of `lineage` in `archive`, whose `histories` were read.
pub async fn overview(
    archive: &Archive<'_>,
    lineage: Lineage,
    size: SegmentSize,
    histories: &Histories,
) -> Result<Overview, CatalogueError> {
    let mut unread = Vec::new();
    let facts = archive.facts();
    let own: Vec<_> = facts.iter().filter(|backup| backup.lineage == lineage).collect();
    let evidence = Evidence { archive, lineage, size, backups: &own };
    let (ways, without_backup) = (ways(&own, histories), ways_without_backup(&own, histories));
    let (lines, compared) = evidence.lines(ways, without_backup, &mut unread).await?;
    let (current, remarks) = current(&lines, &compared);
    Ok(Overview { current: current.as_ref().map(Way::target), remarks })
}
