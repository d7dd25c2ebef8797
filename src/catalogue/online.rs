//! Where the archive of one repository goes on after a segment that it has not: asked while a server waits for the answer.

use super::inventory::Inventory;
use super::reach::goes_on_after;
use super::way::{Histories, Way};
use walward_base::ErrorClass;
use walward_pg::{Lineage, SegmentName, SegmentSize, TimelineHistory};
use walward_repo::{RepoError, Repository, stored};

/// As [`goes_on_after`], for a server that asks for `segment` and whose way is its own to know: by later segments of the timeline, by
/// the `histories` that it has itself, and by those of later timelines that are archived. These are read only where nothing else tells.
///
/// # Errors
/// What cannot be read. A history that is damaged may say that the timeline was left later.
pub async fn goes_on(
    repository: &Repository,
    lineage: Lineage,
    segment: SegmentName,
    size: SegmentSize,
    mut histories: Histories,
) -> Result<Option<SegmentName>, RepoError> {
    let (timeline, Some(number)) = (segment.timeline, segment.number(size)) else { return Ok(None) };
    let mut inventory = Inventory::default();
    inventory.add(stored::wal(repository, lineage, timeline, number, size).await?, size);
    let next = |histories: &Histories| goes_on_after(&Way::root(timeline, histories), number, size, &inventory);
    if let Some(found) = next(&histories) {
        return Ok(Some(found));
    }
    for later in stored::timelines(repository, lineage).await?.into_iter().filter(|later| *later > timeline) {
        let text = match stored::history(repository, lineage, later).await {
            Ok(text) => text,
            // It was removed since it was listed.
            Err(error) if error.class() == ErrorClass::NotFound => continue,
            Err(error) => return Err(error),
        };
        let history = TimelineHistory::parse(later, &text)
            .map_err(|error| RepoError::damaged_text(&format!("{:08X}.history", later.0), &error.to_string()))?;
        histories.insert(later, history.parents);
    }
    Ok(next(&histories))
}
