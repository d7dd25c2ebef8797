//! Backups, and the ways through the timelines that they lead to. Pure.

use jiff::Timestamp;

use super::way::{Histories, Way};
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
use walward_repo::manifest::{BackupLabel, Manifest};

/// What is to be known of a backup to tell where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its name.
    pub label: BackupLabel,
    /// What it was taken from.
    pub lineage: Lineage,
    /// The timeline that it ran on.
    pub timeline: Timeline,
    /// Where its WAL begins.
    pub start_lsn: Lsn,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
    /// When it ended, by the server's clock.
    pub stopped: Timestamp,
    /// Size of its WAL segments.
    pub segment_bytes: SegmentSize,
}

impl BackupFacts {
    /// Those of a backup; `None` when its label is none.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        Some(Self {
            label: manifest.label.parse().ok()?,
            lineage: manifest.lineage,
            timeline: manifest.timeline,
            start_lsn: manifest.start_lsn,
            stop_lsn: manifest.stop_lsn,
            stopped: manifest.stopped,
            segment_bytes: manifest.segment_bytes,
        })
    }
}

/// Every way that a backup of `own` leads to, by the timeline that it ends on. Beside them: [`ways_without_backup`].
pub fn ways(own: &[&BackupFacts], histories: &Histories) -> Vec<Way> {
    let to = |timeline: &Timeline| way_to(*timeline, own, histories);
    known(own, histories).iter().filter_map(to).filter(|way| !along(own, way).is_empty()).collect()
}

/// The ways that no backup of `own` leads to: a timeline left its parent before the backups there had ended. The cluster may have gone
/// on there all the same, as when a server was promoted that had not replayed the newest backup to its end.
pub fn ways_without_backup(own: &[&BackupFacts], histories: &Histories) -> Vec<Way> {
    let to = |timeline: &Timeline| way_to(*timeline, own, histories);
    known(own, histories).iter().filter_map(to).filter(|way| along(own, way).is_empty()).collect()
}

/// Every timeline that is known of, in order.
pub fn known(own: &[&BackupFacts], histories: &Histories) -> Vec<Timeline> {
    let ran_on = own.iter().map(|backup| backup.timeline);
    let mut known: Vec<Timeline> = histories.keys().copied().chain([Timeline(1)]).chain(ran_on).collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// The backups of `own` that lie on `way`, with it.
pub fn along<'a>(own: &[&'a BackupFacts], way: &Way) -> Vec<(&'a BackupFacts, Way)> {
    own.iter()
        .filter(|backup| way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn))
        .map(|backup| (*backup, way.clone()))
        .collect()
}

/// The way to `timeline`. One that a backup ran on is known even without its history, which is not in the archive when the
/// server was promoted before it archived: the backup and the WAL after it are all on that timeline.
pub fn way_to(timeline: Timeline, own: &[&BackupFacts], histories: &Histories) -> Option<Way> {
    Way::to(timeline, histories)
        .or_else(|| own.iter().any(|backup| backup.timeline == timeline).then(|| Way::root(timeline, histories)))
}

/// The backup that `backup` builds on, or one before that, which is not among the `known` ones: nothing can be restored without it.
pub fn missing_parent<'a>(known: &[&'a Manifest], backup: &'a Manifest) -> Option<&'a str> {
    let mut next = backup;
    // Whoever builds on itself is not followed for ever.
    for _ in 0..=known.len() {
        let depends_on = next.depends_on.as_ref()?;
        match known.iter().find(|known| depends_on.is(known)) {
            Some(found) => next = found,
            None => return Some(&depends_on.label),
        }
    }
    Some(&next.label)
}
