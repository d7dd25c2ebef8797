//! The stretches of time to which one can recover: how far each backup's WAL carries it, and when the last transaction of that ended.

use std::ops::Range;

use jiff::Timestamp;
use serde::Serialize;

use super::backups::BackupFacts;
use super::inventory::Inventory;
use super::moments::{LastCommit, last_commit};
use super::reach::{Reach, reach, segment_before};
use super::way::{Histories, Way};
use walward_pg::SegmentName;

/// How far one backup's WAL carries a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The way that recovery takes.
    pub way: Way,
    /// How far that is there.
    pub reach: Reach,
    /// Whether that is enough to make the backup consistent.
    pub consistent: bool,
}

/// A stretch of time without a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The first moment to which one can recover: the end of the oldest backup in it.
    pub from: Timestamp,
    /// The end of the last transaction; none when there was none since.
    pub to: Option<Timestamp>,
    /// Whether WAL comes after the window's end, on its way: then the end is a hole.
    pub ends_in_gap: bool,
}

/// How far recovery from `backup` goes on the way of the cluster to timeline `line`, or on the backup's own timeline when it is not on
/// that way or does not become consistent on it. A timeline without its history is taken for a first one.
pub fn carried(backup: &BackupFacts, line: &Way, histories: &Histories, inventory: &Inventory) -> Carried {
    let reached = |way: Way| {
        let reach = reach(&way, backup.start_lsn, backup.segment_bytes, inventory);
        let consistent = reach.present.end > segment_before(backup.stop_lsn, backup.segment_bytes);
        Carried { way, reach, consistent }
    };
    let on_line = line.carries(backup.timeline, backup.start_lsn, backup.stop_lsn).then(|| reached(line.clone()));
    on_line.filter(|carried| carried.consistent).unwrap_or_else(|| reached(Way::known_to(backup.timeline, histories)))
}

/// The windows of backups that ended at the times given. Backups whose WAL ends at the same segment of the same way share one. `read`
/// answers the first and last commit time of a segment, microseconds since the Unix epoch.
pub async fn windows<E, F, R>(backups: Vec<(Carried, &BackupFacts)>, read: F) -> Result<Vec<Window>, E>
where
    F: Fn(SegmentName) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
{
    let mut groups: Vec<(Carried, &BackupFacts, Timestamp)> = Vec::new();
    for (carried, backup) in backups.into_iter().filter(|(carried, _)| carried.consistent) {
        let same = |other: &Carried| other.reach.present.end == carried.reach.present.end && other.way == carried.way;
        match groups.iter_mut().find(|(other, ..)| same(other)) {
            Some((_, _, from)) => *from = (*from).min(backup.stopped),
            None => groups.push((carried, backup, backup.stopped)),
        }
    }
    let mut windows = Vec::new();
    for (carried, backup, from) in groups {
        let present: Range<u64> = carried.reach.present.clone();
        let read = |number| {
            let name = carried.way.segment(number, backup.segment_bytes);
            let times = name.map(&read);
            async move {
                match times {
                    Some(times) => times.await,
                    None => Ok(None),
                }
            }
        };
        let to = match last_commit(present, &read).await? {
            LastCommit::At(_, last) => Timestamp::from_microsecond(last).ok(),
            LastCommit::Never | LastCommit::NotFound => None,
        };
        let ends_in_gap = carried.reach.goes_on.is_some();
        windows.push(Window { from, to: to.filter(|to| *to > from), ends_in_gap });
    }
    windows.sort_by_key(|window| window.from);
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::convert::Infallible;
    use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
    use walward_repo::manifest::{BackupLabel, BackupType};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(number: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + 40)
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(timeline: u32, start: Lsn, stop: Lsn, stopped: i64) -> BackupFacts {
        BackupFacts {
            label: BackupLabel::new(second(stopped), BackupType::Full),
            lineage: Lineage { major: 15, system_identifier: 7 },
            timeline: Timeline(timeline),
            start_lsn: start,
            stop_lsn: stop,
            stopped: second(stopped),
            segment_bytes: SIZE,
        }
    }

    fn wal(segments: &[(u32, u64)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (timeline, number) in segments {
            inventory.timelines.entry(Timeline(*timeline)).or_default().segments.insert(*number);
        }
        inventory
    }

    /// Timeline 2 left timeline 1 in segment 5.
    fn histories() -> Histories {
        Histories::from([(Timeline(2), vec![(Timeline(1), at(5))])])
    }

    fn carry(backup: &BackupFacts, line: u32, inventory: &Inventory) -> (u32, std::ops::Range<u64>, bool) {
        let line = Way::known_to(Timeline(line), &histories());
        let carried = carried(backup, &line, &histories(), inventory);
        (carried.way.target().0, carried.reach.present, carried.consistent)
    }

    #[test]
    fn a_backup_that_is_consistent_only_on_its_own_timeline_counts() {
        let backup = backup(1, at(4), at(5), 0);
        assert_eq!(carry(&backup, 2, &wal(&[(1, 4), (1, 5), (2, 6)])), (1, 4..6, true));
        assert!(!carry(&backup, 2, &wal(&[(1, 4), (2, 6)])).2);
    }

    #[test]
    fn a_backup_reaches_over_switches_until_the_first_hole() {
        let wal = wal(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6), (2, 8)]);
        assert_eq!(carry(&backup(1, at(3), at(4), 0), 2, &wal), (2, 3..7, true));
        // Taken on timeline 1 after it was left.
        assert_eq!(carry(&backup(1, at(6), at(7), 0), 2, &wal), (1, 6..7, false));
    }

    #[test]
    fn a_stop_at_a_segment_boundary_needs_no_next_segment() {
        assert!(carry(&backup(1, at(3), Lsn(4 * SIZE.bytes()), 0), 1, &wal(&[(1, 3)])).2);
    }

    #[test]
    fn backups_whose_wal_ends_at_one_segment_share_a_window_and_an_end_at_a_hole_is_told() {
        let wal = wal(&[(1, 2), (1, 3), (1, 4), (1, 6), (1, 7)]);
        let backups = [(2, 2, 20), (3, 3, 30), (4, 5, 45), (6, 6, 60)]
            .map(|(start, stop, stopped)| backup(1, at(start), at(stop), stopped));
        let line = Way::known_to(Timeline(1), &Histories::new());
        let carried = backups.iter().map(|backup| (carried(backup, &line, &Histories::new(), &wal), backup)).collect();
        // Segment n ends with a commit at second 10 n + 9; the last one is quiet.
        let read = |name: SegmentName| {
            let number = i64::try_from(name.number(SIZE).unwrap()).unwrap();
            async move { Ok::<_, Infallible>((number != 7).then_some((number * 10_000_000, (number * 10 + 9) * 1_000_000))) }
        };
        let Ok(windows) = block_on(windows(carried, read));
        let told: Vec<_> = windows
            .iter()
            .map(|window| (window.from, window.to.map(Timestamp::as_second), window.ends_in_gap))
            .collect();
        assert_eq!(told, [(second(20), Some(49), true), (second(60), Some(69), false)]);
    }
}
