//! What a WAL segment says about time, read while its bytes stream past: when its transactions ended, the restore
//! points in it, and the moments that checkpoints and restore points tell.
//!
//! A hint, not a check: where [`super::walk`] stops, what was found until then stands. Memory is bounded by that of the walk and
//! [`RESTORE_POINTS_MAX`].

use super::bytes::i64_at;
use super::capacity::Capacity;
use super::lsn::{Lsn, SegmentSize};
use super::observer::{Observer, Record};
use super::wal_name::SegmentName;
use super::walk::Walk;

/// How many restore points of one segment are kept; later ones are left out.
pub(crate) const RESTORE_POINTS_MAX: usize = 64;
/// `RM_XLOG_ID` and `RM_XACT_ID`, src/include/access/rmgrlist.h.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
/// `XLOG_RESTORE_POINT` and the two kinds of checkpoint, src/include/catalog/pg_control.h.
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_CHECKPOINTS: [u8; 2] = [0x00, 0x10];
/// `XLOG_PARAMETER_CHANGE`, src/include/catalog/pg_control.h.
const XLOG_PARAMETER_CHANGE: u8 = 0x60;
/// Where a checkpoint's time (`CheckPoint.time`, Unix seconds) lies in its record's data, 13 to 18.
const CHECKPOINT_TIME_OFFSET: usize = 64;
/// `XLOG_XACT_OPMASK` and the four ways a transaction ends, src/include/access/xact.h.
const XACT_OPERATION: u8 = 0x70;
const XACT_ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A named restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// When it was made, microseconds since the Unix epoch.
    pub time: i64,
    /// The position of its record.
    pub lsn: Lsn,
}

/// A moment that a record tells although no transaction ends with it: that of a checkpoint or of a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Microseconds since the Unix epoch.
    pub time: i64,
    /// The position of its record.
    pub lsn: Lsn,
}

/// What a record says of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// A transaction ended (was committed or aborted, prepared ones included) at this time.
    End(i64),
    /// A restore point.
    Point(RestorePoint),
    /// A checkpoint.
    Checkpoint(Mark),
    /// The sizes that the server was started with.
    Sizes(Capacity),
}

impl Told {
    /// What `record` says.
    pub(crate) fn by(record: &Record<'_>) -> Option<Self> {
        let (data, lsn) = (record.data?, record.lsn);
        match KnownRecord::of(record.manager, record.info)? {
            KnownRecord::TransactionEnd => unix_time(data).map(Self::End),
            KnownRecord::RestorePoint => {
                let name = data.get(8..)?.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                Some(Self::Point(RestorePoint { name, time: unix_time(data)?, lsn }))
            }
            KnownRecord::ParameterChange => Capacity::read(data, 0).map(Self::Sizes),
            KnownRecord::Checkpoint => {
                let time = i64_at(data, CHECKPOINT_TIME_OFFSET)?.checked_mul(1_000_000)?;
                Some(Self::Checkpoint(Mark { time, lsn }))
            }
        }
    }

    /// Whether records of this kind say anything.
    pub(crate) fn may_be_by(manager: u8, info: u8) -> bool {
        KnownRecord::of(manager, info).is_some()
    }
}

/// The later of two moments; of two at one time the second.
pub(crate) fn later(known: Option<Mark>, found: Mark) -> Mark {
    known.filter(|known| known.time > found.time).unwrap_or(found)
}

/// Finds the times of one segment, handed in as successive chunks cut anywhere.
#[derive(Debug)]
pub struct CommitTimes(Walk<Times>);

#[derive(Debug)]
struct Times {
    /// Records before this position are passed over.
    from: Lsn,
    /// The transaction that is looked for, and where its end was found.
    sought: Option<u32>,
    ended: Option<Lsn>,
    mark: Option<Mark>,
    capacity: Option<Capacity>,
    ends: Option<(i64, i64)>,
    restore_points: Vec<RestorePoint>,
}

impl Observer for Times {
    fn wants(&self, manager: u8, info: u8) -> bool {
        Told::may_be_by(manager, info)
    }

    fn see(&mut self, record: &Record<'_>) {
        if record.lsn < self.from {
            return;
        }
        match Told::by(record) {
            Some(Told::End(time)) => {
                let (first, last) = self.ends.unwrap_or((time, time));
                self.ends = Some((first.min(time), last.max(time)));
                if self.sought == Some(record.xid) {
                    self.ended = self.ended.or(Some(record.lsn));
                }
            }
            Some(Told::Point(point)) => {
                self.mark = Some(later(self.mark, Mark { time: point.time, lsn: point.lsn }));
                if self.restore_points.len() < RESTORE_POINTS_MAX {
                    self.restore_points.push(point);
                }
            }
            Some(Told::Checkpoint(mark)) => self.mark = Some(later(self.mark, mark)),
            Some(Told::Sizes(found)) => {
                self.capacity = Some(self.capacity.map_or(found, |known| known.max(found)));
            }
            None => {}
        }
    }
}

impl CommitTimes {
    /// For the segment `name` of a cluster with segments of `size`.
    pub fn new(name: SegmentName, size: SegmentSize) -> Self {
        Self::looking_for(name, size, Lsn(0), None)
    }

    /// As [`CommitTimes::new`], passing over what lies before `from`, and looking for the end of transaction `xid`.
    pub fn looking_for(name: SegmentName, size: SegmentSize, from: Lsn, xid: Option<u32>) -> Self {
        let times = Times {
            from,
            sought: xid,
            ended: None,
            mark: None,
            capacity: None,
            ends: None,
            restore_points: Vec::new(),
        };
        Self(Walk::new(name, size, times))
    }

    /// Takes the next bytes of the segment. Costs nothing once the walk has stopped.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.0.feed(chunk);
    }

    /// The earliest and the latest end of a transaction (commit or abort, prepared ones included) in the segment, in
    /// microseconds since the Unix epoch; `None` when none ended in it. A record that begins in the segment but whose
    /// time lies in the next one is left out.
    pub fn finish(self) -> Option<(i64, i64)> {
        self.times()
    }

    /// The same as [`CommitTimes::finish`], so far.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.0.observer().ends
    }

    /// The restore points found so far, in the order of the WAL; at most 64.
    pub fn restore_points(&self) -> &[RestorePoint] {
        &self.0.observer().restore_points
    }

    /// Where the transaction that was looked for ended; one that was prepared before is not found.
    pub fn ended(&self) -> Option<Lsn> {
        self.0.observer().ended
    }

    /// The latest moment that a checkpoint or a restore point has told so far.
    pub fn mark(&self) -> Option<Mark> {
        self.0.observer().mark
    }

    /// The largest sizes that a server was started with, as far as a record says so.
    pub fn capacity(&self) -> Option<Capacity> {
        self.0.observer().capacity
    }
}

/// The records that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownRecord {
    TransactionEnd,
    RestorePoint,
    Checkpoint,
    ParameterChange,
}

impl KnownRecord {
    fn of(manager: u8, info: u8) -> Option<Self> {
        match (manager, info & 0xF0) {
            (RM_XACT, _) if XACT_ENDS.contains(&(info & XACT_OPERATION)) => Some(Self::TransactionEnd),
            (RM_XLOG, XLOG_RESTORE_POINT) => Some(Self::RestorePoint),
            (RM_XLOG, XLOG_PARAMETER_CHANGE) => Some(Self::ParameterChange),
            (RM_XLOG, kind) if XLOG_CHECKPOINTS.contains(&kind) => Some(Self::Checkpoint),
            _ => None,
        }
    }
}

/// The `TimestampTz` at the start of `data` as microseconds since the Unix epoch.
fn unix_time(data: &[u8]) -> Option<i64> {
    i64_at(data, 0)?.checked_add(POSTGRES_EPOCH)
}

#[cfg(test)]
mod tests;
