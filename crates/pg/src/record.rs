//! What a WAL segment says about time, read while its bytes stream past: when its transactions ended, the restore
//! points in it, and the moments that checkpoints and restore points tell.
//!
//! A hint, not a check: where the bytes do not look like WAL of the segment they should be of, the walk stops without an
//! error and what was found until then stands. Records are not checksummed here. Memory is bounded by [`HEAD_BYTES`] and
//! [`RESTORE_POINTS_MAX`], whatever the size of records and chunks.
//!
//! A record (`XLogRecord`, src/include/access/xlogrecord.h) starts at a multiple of eight, may go on over any number of
//! pages, each of which begins with a header, and over the end of the segment:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of the whole record, page headers not counted |
//! | 4 | 4 | transaction |
//! | 8 | 8 | position of the record before |
//! | 16 | 1 | flags; the upper four bits belong to the resource manager |
//! | 17 | 1 | resource manager |
//! | 20 | 4 | CRC-32C |
//! | 24 | | headers of blocks and of data, then block data, then main data |

use super::bytes::{i64_at, u32_at, u64_at};
use super::capacity::Capacity;
use super::lsn::{Lsn, SegmentSize};
use super::page::{LONG_HEADER_BYTES, PageHeader, SHORT_HEADER_BYTES, read_long_header};
use super::wal_name::SegmentName;

/// `SizeOfXLogRecord`.
const RECORD_HEADER_BYTES: usize = 24;
/// The most that may stand between a record's header and the main data of a record without blocks: an origin (3), a
/// top-level transaction (5), the long form of the data header (5).
const DATA_HEADERS_MAX: usize = 13;
/// `xl_restore_point`: a time and 64 bytes of name.
const RESTORE_POINT_BYTES: usize = 72;
/// How much of a record is ever kept.
const HEAD_BYTES: usize = RECORD_HEADER_BYTES + DATA_HEADERS_MAX + RESTORE_POINT_BYTES;
/// How many restore points of one segment are kept; later ones are left out.
const RESTORE_POINTS_MAX: usize = 64;
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
/// Block ids that are not blocks, src/include/access/xlogrecord.h.
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;
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

/// Finds the times of one segment, handed in as successive chunks cut anywhere.
#[derive(Debug)]
pub struct CommitTimes {
    start: Option<Lsn>,
    /// Records before this position are passed over.
    from: Lsn,
    /// The transaction that is looked for, and where its end was found.
    sought: Option<u32>,
    ended: Option<Lsn>,
    mark: Option<Mark>,
    capacity: Option<Capacity>,
    segment_bytes: u64,
    /// Known after the first page's header.
    page_bytes: u64,
    magic: u16,
    /// How many bytes of the segment were taken.
    offset: u64,
    at: At,
    /// The part of a header, of a page or of a record, that has arrived.
    partial: Partial,
    record: Record,
    times: Option<(i64, i64)>,
    restore_points: Vec<RestorePoint>,
}

/// Where in the segment's pages the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the header of a page; this many bytes of it have arrived.
    PageHeader(usize),
    /// Behind the header; this many bytes to the next page.
    Content(u64),
    /// Not to be read any further.
    End,
}

/// Where in the stream of records the next content byte lies.
#[derive(Debug)]
enum Record {
    /// In the first bytes of a record, `want` of which are to be kept.
    Head { want: usize },
    /// In bytes that do not matter: `left` of the record, then padding to a multiple of eight.
    Skip { left: u64, padding: u64 },
}

/// The beginning of a record, as far as it has arrived, and the beginning of a page header.
#[derive(Debug)]
struct Partial {
    page: [u8; LONG_HEADER_BYTES],
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    /// Where the record in `head` begins.
    head_start: u64,
}

impl CommitTimes {
    /// For the segment `name` of a cluster with segments of `size`.
    pub fn new(name: SegmentName, size: SegmentSize) -> Self {
        Self::looking_for(name, size, Lsn(0), None)
    }

    /// As [`CommitTimes::new`], passing over what lies before `from`, and looking for the end of transaction `xid`.
    pub fn looking_for(name: SegmentName, size: SegmentSize, from: Lsn, xid: Option<u32>) -> Self {
        let start = name.start(size);
        Self {
            start,
            from,
            sought: xid,
            ended: None,
            mark: None,
            capacity: None,
            segment_bytes: size.bytes(),
            page_bytes: 0,
            magic: 0,
            offset: 0,
            at: if start.is_some() { At::PageHeader(0) } else { At::End },
            partial: Partial { page: [0; LONG_HEADER_BYTES], head: [0; HEAD_BYTES], head_filled: 0, head_start: 0 },
            record: Record::Head { want: RECORD_HEADER_BYTES },
            times: None,
            restore_points: Vec::new(),
        }
    }

    /// Takes the next bytes of the segment. Costs nothing once the walk has stopped.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let taken = match self.at {
                At::End => return,
                At::PageHeader(filled) => self.page_header(filled, chunk),
                At::Content(left) => {
                    let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (content, _) = chunk.split_at(length);
                    self.content(content);
                    if self.at != At::End {
                        let left = left - length as u64;
                        self.at = if left == 0 { At::PageHeader(0) } else { At::Content(left) };
                    }
                    length
                }
            };
            self.offset += taken as u64;
            if self.offset >= self.segment_bytes {
                self.at = At::End;
            }
            chunk = chunk.get(taken..).unwrap_or_default();
        }
    }

    /// The earliest and the latest end of a transaction (commit or abort, prepared ones included) in the segment, in
    /// microseconds since the Unix epoch; `None` when none ended in it. A record that begins in the segment but whose
    /// time lies in the next one is left out.
    pub fn finish(self) -> Option<(i64, i64)> {
        self.times
    }

    /// The same as [`CommitTimes::finish`], so far.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.times
    }

    /// The restore points found so far, in the order of the WAL; at most 64.
    pub fn restore_points(&self) -> &[RestorePoint] {
        &self.restore_points
    }

    /// Where the transaction that was looked for ended; one that was prepared before is not found.
    pub fn ended(&self) -> Option<Lsn> {
        self.ended
    }

    /// The latest moment that a checkpoint or a restore point has told so far.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Takes what a record's `data` says.
    fn take(&mut self, kind: KnownRecord, data: &[u8], lsn: Lsn, xid: Option<u32>) {
        match kind {
            KnownRecord::TransactionEnd => {
                let Some(time) = unix_time(data) else { return };
                let (first, last) = self.times.unwrap_or((time, time));
                self.times = Some((first.min(time), last.max(time)));
                if self.sought.is_some() && self.sought == xid {
                    self.ended = self.ended.or(Some(lsn));
                }
            }
            KnownRecord::RestorePoint => {
                let (Some(time), Some(name)) = (unix_time(data), data.get(8..)) else { return };
                self.marked(Mark { time, lsn });
                if self.restore_points.len() < RESTORE_POINTS_MAX {
                    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.restore_points.push(RestorePoint { name, time, lsn });
                }
            }
            KnownRecord::ParameterChange => {
                if let Some(found) = Capacity::read(data, 0) {
                    self.capacity = Some(self.capacity.map_or(found, |known| known.max(found)));
                }
            }
            KnownRecord::Checkpoint => {
                let time = i64_at(data, CHECKPOINT_TIME_OFFSET).and_then(|seconds| seconds.checked_mul(1_000_000));
                if let Some(time) = time {
                    self.marked(Mark { time, lsn });
                }
            }
        }
    }

    /// The largest sizes that a server was started with, as far as a record says so.
    pub fn capacity(&self) -> Option<Capacity> {
        self.capacity
    }

    fn marked(&mut self, mark: Mark) {
        if self.mark.is_none_or(|latest| latest.time <= mark.time) {
            self.mark = Some(mark);
        }
    }

    /// Takes bytes of a page's header; returns how many.
    fn page_header(&mut self, filled: usize, chunk: &[u8]) -> usize {
        let want = if self.offset - (filled as u64) == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        let taken = chunk.len().min(want - filled);
        let room = self.partial.page.get_mut(filled..filled + taken);
        if let (Some(room), Some(bytes)) = (room, chunk.get(..taken)) {
            room.copy_from_slice(bytes);
        }
        self.at = At::PageHeader(filled + taken);
        if filled + taken == want {
            let page_start = self.offset - filled as u64;
            self.at = match self.open_page(page_start) {
                Some(left) => At::Content(left),
                None => At::End,
            };
        }
        taken
    }

    /// Judges the page header that has arrived; how many bytes of content follow, `None` to stop.
    fn open_page(&mut self, page_start: u64) -> Option<u64> {
        let header = if page_start == 0 {
            let long = read_long_header(&self.partial.page).ok()?;
            if long.segment_size.bytes() != self.segment_bytes {
                return None;
            }
            self.page_bytes = u64::from(long.page_bytes);
            self.magic = long.page.magic;
            long.page
        } else {
            PageHeader::read(&self.partial.page)?
        };
        // A page that was left over when the file was recycled carries its old address.
        let belongs = header.magic == self.magic && Some(header.address.0) == self.start?.0.checked_add(page_start);
        if !belongs || !header.flags_are_known() {
            return None;
        }
        self.resume(if header.is_continuation() { u64::from(header.remaining) } else { 0 });
        let header_bytes = if page_start == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        self.page_bytes.checked_sub(header_bytes as u64)
    }

    /// Brings the record in hand in line with the page: `remaining` bytes of it are still to come. They differ at the
    /// segment's start, and where a crash left a record unfinished (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    fn resume(&mut self, remaining: u64) {
        let expected = match self.record {
            Record::Head { .. } if self.partial.head_filled == 0 => 0,
            Record::Head { .. } => self.total().saturating_sub(self.partial.head_filled as u64),
            Record::Skip { left, .. } => left,
        };
        if remaining != expected {
            self.partial.head_filled = 0;
            self.record = if remaining == 0 { next_record() } else { skip(remaining) };
        }
    }

    /// The length of the record whose beginning is in hand (its first four bytes never cross a page).
    fn total(&self) -> u64 {
        u32_at(&self.partial.head, 0).map_or(0, u64::from)
    }

    /// Takes bytes of a page behind its header.
    fn content(&mut self, content: &[u8]) {
        let mut rest = content;
        while !rest.is_empty() {
            let taken = match &mut self.record {
                Record::Skip { left, padding } => {
                    let length = rest.len() as u64;
                    let of_record = length.min(*left);
                    *left -= of_record;
                    let of_padding = (length - of_record).min(*padding);
                    if *left == 0 {
                        *padding -= of_padding;
                        if *padding == 0 {
                            self.partial.head_filled = 0;
                            self.record = next_record();
                        }
                    }
                    // Both are parts of `rest.len()`.
                    usize::try_from(of_record + of_padding).unwrap_or(rest.len())
                }
                Record::Head { want } => {
                    let want = *want;
                    let filled = self.partial.head_filled;
                    if filled == 0 {
                        self.partial.head_start = self.offset + (content.len() - rest.len()) as u64;
                    }
                    let taken = rest.len().min(want - filled);
                    let room = self.partial.head.get_mut(filled..filled + taken);
                    if let (Some(room), Some(bytes)) = (room, rest.get(..taken)) {
                        room.copy_from_slice(bytes);
                    }
                    self.partial.head_filled += taken;
                    if self.partial.head_filled == want {
                        self.head_arrived(want);
                        if self.at == At::End {
                            return;
                        }
                    }
                    taken
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// `want` bytes of a record are in hand: ask for more, or take what they say and skip the rest.
    fn head_arrived(&mut self, want: usize) {
        let total = self.total();
        let position = self.start.map_or(0, |start| start.0) + self.partial.head_start;
        let previous = u64_at(&self.partial.head, 8).unwrap_or(u64::MAX);
        if total < RECORD_HEADER_BYTES as u64 || previous >= position && position != 0 {
            // Zeros behind the last record, or the remains of an earlier use of the file.
            self.at = At::End;
            return;
        }
        let [.., info, manager] = super::bytes::array::<18>(&self.partial.head, 0).unwrap_or_default();
        let kind = if position < self.from.0 { None } else { KnownRecord::of(manager, info) };
        if want == RECORD_HEADER_BYTES && kind.is_some() {
            let more = usize::try_from(total).unwrap_or(usize::MAX).min(HEAD_BYTES);
            if more > want {
                self.record = Record::Head { want: more };
                return;
            }
        }
        let head = self.partial.head;
        if let (Some(kind), Some(data)) = (kind, main_data(head.get(..want).unwrap_or_default())) {
            self.take(kind, data, Lsn(position), u32_at(&head, 4));
        }
        self.partial.head_filled = 0;
        self.record = skip_behind(total, want as u64);
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

fn next_record() -> Record {
    Record::Head { want: RECORD_HEADER_BYTES }
}

/// The rest of a record of `total` bytes behind its first `taken`.
fn skip_behind(total: u64, taken: u64) -> Record {
    let padding = total.next_multiple_of(8) - total;
    let left = total.saturating_sub(taken);
    if left + padding == 0 { next_record() } else { Record::Skip { left, padding } }
}

/// The last `remaining` bytes of a record that began on an earlier page. Content is a multiple of eight on every page,
/// so that they end as far from a multiple of eight as the record does.
fn skip(remaining: u64) -> Record {
    Record::Skip { left: remaining, padding: remaining.next_multiple_of(8) - remaining }
}

/// The main data (its beginning, when it was cut) of a record without blocks.
fn main_data(head: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_HEADER_BYTES;
    loop {
        at = match *head.get(at)? {
            ID_ORIGIN => at + 3,
            ID_TOPLEVEL_XID => at + 5,
            ID_DATA_SHORT => return head.get(at + 2..),
            ID_DATA_LONG => return head.get(at + 5..),
            _ => return None,
        };
    }
}

/// The `TimestampTz` at the start of `data` as microseconds since the Unix epoch.
fn unix_time(data: &[u8]) -> Option<i64> {
    i64_at(data, 0)?.checked_add(POSTGRES_EPOCH)
}

#[cfg(test)]
mod tests;
