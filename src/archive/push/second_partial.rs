//! A partial segment of which the archive has another server's: is all that it holds archived elsewhere?
//!
//! PostgreSQL makes one when it is promoted in the middle of a segment, and begins its own timeline with a copy of that segment up to the end of
//! recovery (`XLogInitNewTimeline`, src/backend/access/transam/xlog.c). Of two servers that were promoted in one segment, one after the other,
//! each has what it had received. What the second one has is in its own timeline as well, unless recovery ended before all that it had
//! received: at a recovery target.

use std::io;
use std::path::Path;

use super::source::WalFile;
use walward_base::sys::folder::Folder;
use walward_pg::archive_status::ready_since;
use walward_pg::{Lsn, Observer, Record, SegmentName, SegmentSize, TimelineHistory, WalFileName};

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All of it is in the server's own timeline as well.
    InOwnTimeline,
    /// From this position on it is nowhere else.
    Beyond(Lsn),
    /// Nobody but a person asks for it, or nothing says where the server's timeline begins.
    Unknown,
}

/// Looks. Blocking; reads a segment.
///
/// # Errors
/// pg_wal, or the segment, cannot be read.
pub fn look(pg_wal: &Path, segment: SegmentName) -> io::Result<Held> {
    let name = WalFileName::Partial(segment);
    // What a person saved from a dead server has no mark.
    match ready_since(pg_wal, name) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Held::Unknown),
        Err(error) => return Err(error),
    }
    let file = WalFile::open(pg_wal, name)?;
    let size = SegmentSize::try_from(file.bytes()).map_err(io::Error::other)?;
    let Some(end) = end_of_recovery(pg_wal, segment, size)? else { return Ok(Held::Unknown) };
    let walked = file.observe(From { end, first: None }, |_| {})?;
    Ok(match walked.and_then(|(_, from)| from.first) {
        Some(first) => Held::Beyond(first),
        None => Held::InOwnTimeline,
    })
}

/// Where the server's own timeline left that of `segment`, when it did so within it: by the newest history in pg_wal.
fn end_of_recovery(pg_wal: &Path, segment: SegmentName, size: SegmentSize) -> io::Result<Option<Lsn>> {
    let mut newest = None;
    Folder::enter(pg_wal)?.each_name(|name| {
        if let Some(Ok(WalFileName::History(timeline))) = name.to_str().map(str::parse) {
            newest = newest.max(Some(timeline));
        }
    })?;
    let history = newest.and_then(|timeline| TimelineHistory::in_pg_wal(pg_wal, timeline));
    let end = history.and_then(|history| history.switch_of(segment.timeline));
    Ok(end.filter(|end| Some(end.segment_number(size)) == segment.number(size)))
}

/// The first whole record from `end` on.
struct From {
    end: Lsn,
    first: Option<Lsn>,
}

impl Observer for From {
    fn wants(&self, _: u8, _: u8) -> bool {
        false
    }

    fn see(&mut self, record: &Record<'_>) {
        if record.lsn >= self.end {
            self.first.get_or_insert(record.lsn);
        }
    }
}
