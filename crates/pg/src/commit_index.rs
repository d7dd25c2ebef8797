//! Where in a segment its transactions ended, and when: the index by which a moment is found without reading the segment.

use super::lsn::Lsn;
use super::observer::{Observer, Record};
use super::record::{Mark, RESTORE_POINTS_MAX, RestorePoint, Told, later};

/// An index has fewer entries than this.
pub const COMMITS_MAX: usize = 512;

/// Ends of transactions that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commits {
    /// The position of the last one's record.
    pub lsn: Lsn,
    /// The earliest time, microseconds since the Unix epoch.
    pub first: i64,
    /// The latest.
    pub last: i64,
    /// How many they are.
    pub count: u32,
}

/// What the records of a segment say of moments. While there are fewer than [`COMMITS_MAX`] ends of transactions, each has its own entry; of
/// more, as many stand together as must, in powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitIndex {
    /// Ends of transactions (commit or abort, prepared ones included), in the order of the WAL.
    pub commits: Vec<Commits>,
    /// Restore points, in the order of the WAL; at most 64.
    pub restore_points: Vec<RestorePoint>,
    /// Whether there were more of them.
    pub restore_points_left_out: bool,
    /// The latest moment that a checkpoint or a restore point tells.
    pub mark: Option<Mark>,
    /// The highest transaction that a record names, in the circular order of transactions.
    pub highest_xid: Option<u32>,
    /// How many ends of transactions an entry has.
    each: u32,
}

impl CommitIndex {
    /// An index as it was stored.
    pub fn stored(
        commits: Vec<Commits>,
        restore_points: Vec<RestorePoint>,
        restore_points_left_out: bool,
        mark: Option<Mark>,
        highest_xid: Option<u32>,
    ) -> Self {
        let each = commits.iter().map(|commits| commits.count).max().unwrap_or(0);
        Self { commits, restore_points, restore_points_left_out, mark, highest_xid, each }
    }

    /// The earliest and the latest end of a transaction.
    pub fn times(&self) -> Option<(i64, i64)> {
        let first = self.commits.iter().map(|commits| commits.first).min()?;
        let last = self.commits.iter().map(|commits| commits.last).max()?;
        Some((first, last))
    }

    fn ended(&mut self, lsn: Lsn, time: i64) {
        self.each = self.each.max(1);
        match self.commits.last_mut() {
            Some(open) if open.count < self.each => {
                let (first, last) = (open.first.min(time), open.last.max(time));
                *open = Commits { lsn, first, last, count: open.count + 1 };
            }
            _ => self.commits.push(Commits { lsn, first: time, last: time, count: 1 }),
        }
        if self.commits.len() >= COMMITS_MAX {
            let pairs = self.commits.chunks(2).filter_map(|pair| {
                let last = *pair.last()?;
                Some(pair.iter().rev().skip(1).fold(last, |both, one| Commits {
                    lsn: both.lsn,
                    first: both.first.min(one.first),
                    last: both.last.max(one.last),
                    count: both.count + one.count,
                }))
            });
            self.commits = pairs.collect();
            self.each = self.each.saturating_mul(2);
        }
    }
}

impl Observer for CommitIndex {
    fn wants(&self, manager: u8, info: u8) -> bool {
        Told::may_be_by(manager, info)
    }

    fn see(&mut self, record: &Record<'_>) {
        // Numbers below 3 are no transactions of the server's.
        if record.xid >= 3 {
            let highest = self.highest_xid.unwrap_or(record.xid);
            let is_later = record.xid.wrapping_sub(highest) < 1 << 31;
            self.highest_xid = Some(if is_later { record.xid } else { highest });
        }
        match Told::by(record) {
            Some(Told::End(time)) => self.ended(record.lsn, time),
            Some(Told::Point(point)) => {
                self.mark = Some(later(self.mark, Mark { time: point.time, lsn: point.lsn }));
                if self.restore_points.len() < RESTORE_POINTS_MAX {
                    self.restore_points.push(point);
                } else {
                    self.restore_points_left_out = true;
                }
            }
            Some(Told::Checkpoint(mark)) => self.mark = Some(later(self.mark, mark)),
            Some(Told::Sizes(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_end_of_a_transaction_is_in_the_entry_of_its_place(times in prop::collection::vec(0i64..1000, 0..3000)) {
            let mut index = CommitIndex::default();
            for (at, time) in times.iter().enumerate() {
                index.ended(Lsn(at as u64), *time);
            }
            prop_assert!(index.commits.len() < COMMITS_MAX);
            let mut rest = times.as_slice();
            for commits in &index.commits {
                let (here, later) = rest.split_at(usize::try_from(commits.count).expect("small"));
                prop_assert_eq!(Some(commits.first), here.iter().min().copied());
                prop_assert_eq!(Some(commits.last), here.iter().max().copied());
                prop_assert_eq!(commits.lsn.0, (times.len() - later.len() - 1) as u64);
                rest = later;
            }
            prop_assert!(rest.is_empty());
            prop_assert!(times.len() >= COMMITS_MAX || index.commits.iter().all(|commits| commits.count == 1));
            prop_assert_eq!(index.times(), times.iter().min().copied().zip(times.iter().max().copied()));
        }
    }

    #[test]
    fn the_highest_transaction_is_the_latest_around_the_circle() {
        let mut index = CommitIndex::default();
        for (xid, highest) in
            [(0, None), (u32::MAX - 5, Some(u32::MAX - 5)), (2, Some(u32::MAX - 5)), (7, Some(7)), (5, Some(7))]
        {
            index.see(&Record { lsn: Lsn(0), xid, manager: 10, info: 0, data: None });
            assert_eq!(index.highest_xid, highest);
        }
    }
}
