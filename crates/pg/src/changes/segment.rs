//! What one segment changes, and what it takes from the segment before and leaves to the next one: enough to join neighbours without their WAL.

use super::relations::Changes;
use crate::lsn::{Lsn, SegmentSize};
use crate::record_layout::RECORD_HEADER_BYTES;

/// How many bytes are stored of what goes on from an earlier segment. The headers of a record's blocks and data have at most 904
/// (33 blocks of 27 bytes, and 13 bytes more; src/include/access/xlogrecord.h), and up to 16 of the record's own header may go on with them.
pub(super) const CONTINUED_MAX: usize = 1024;
/// How many bytes are stored of a record that goes on in the next segment.
pub(super) const OPEN_MAX: usize = RECORD_HEADER_BYTES + 1024;

/// What one segment changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentChanges {
    /// The version that wrote it.
    pub major: u16,
    /// Where it begins.
    pub start: Lsn,
    /// How long it is.
    pub size: SegmentSize,
    /// What it begins with.
    pub entry: Entry,
    /// The first record that begins in it and whose header does not go on in the next segment, and the predecessor that it names.
    pub first: Option<(Lsn, Lsn)>,
    /// The last record that begins and ends in it: the predecessor of the next one.
    pub last: Option<Lsn>,
    /// The record that begins in it and goes on in the next one.
    pub open: Option<Open>,
    /// What its records say, as far as it lies in the segment.
    pub changes: Changes,
}

/// What a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record,
    /// A record that makes void what an earlier segment left open.
    Overwrite,
    /// The rest of a record that began earlier.
    Continuation(Continuation),
}

/// The rest of a record that began in an earlier segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// How many bytes of the record are still to come at the segment's start.
    pub remaining: u32,
    /// The first of them; stored are at most 1,024.
    pub bytes: Vec<u8>,
    /// How it ends.
    pub end: ContinuationEnd,
}

/// How a continuation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContinuationEnd {
    /// With the record.
    Whole,
    /// The record is void.
    Void,
    /// This many bytes go on in the next segment.
    GoesOn(u32),
}

/// A record that goes on in the next segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its position.
    pub lsn: Lsn,
    /// Its first bytes, of which the first four are its length; none when nothing that goes on of it matters. Stored are at most 1,048.
    pub bytes: Vec<u8>,
    /// How many bytes go on.
    pub left: u32,
}

impl SegmentChanges {
    /// Where it ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0.saturating_add(self.size.bytes()))
    }
}
