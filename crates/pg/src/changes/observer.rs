//! Finds what the records of a segment change, while it is walked through.

use super::gathered::Gathered;
use super::parse::RecordParser;
use super::relations::{Doubt, Sink};
use super::segment::{CONTINUED_MAX, Continuation, ContinuationEnd, Entry, Open, SegmentChanges};
use super::stored::STORED_BYTES_MAX;
use super::whole::tell_blocks;
use crate::bytes::u64_at;
use crate::lsn::Lsn;
use crate::observer::{Observer, Record};
use crate::page::LongPageHeader;
use crate::record_layout::RECORD_HEADER_BYTES;
use crate::walk::Walked;

/// Finds what a segment changes. Takes the memory of what it finds, up to some 20 MiB ([`ChangesObserver::default`]), and that of what it keeps
/// at both ends of the segment.
#[derive(Debug)]
pub struct ChangesObserver {
    /// How many bytes are kept of a record's body at an end of the segment.
    kept_max: usize,
    page: Option<LongPageHeader>,
    continuation: Option<Continuation>,
    changes: Gathered,
    hand: Hand,
    /// The record in hand from its start, as far as it was wanted.
    kept: Vec<u8>,
    first: Option<(Lsn, Lsn)>,
    last: Option<Lsn>,
    open: Option<Open>,
}

/// The record in hand.
#[derive(Debug, Default)]
enum Hand {
    #[default]
    None,
    /// One that began in an earlier segment.
    Continuation,
    /// One that began here.
    Record(RecordParser),
}

impl Default for ChangesObserver {
    /// Keeps what is stored: 1,024 bytes at each end, and no changes when they take more than [`STORED_BYTES_MAX`], which makes a doubt
    /// ([`Doubt::TooMuch`]).
    fn default() -> Self {
        Self { changes: Gathered::up_to(STORED_BYTES_MAX), ..Self::keeping(CONTINUED_MAX) }
    }
}

impl ChangesObserver {
    /// Keeps more than is stored, up to this many bytes at each end, and all changes, however many they are: to join from the WAL what is
    /// in doubt without it.
    pub fn keeping(kept_max: usize) -> Self {
        Self {
            kept_max,
            page: None,
            continuation: None,
            changes: Gathered::up_to(usize::MAX),
            hand: Hand::None,
            kept: Vec::new(),
            first: None,
            last: None,
            open: None,
        }
    }

    /// How much memory it takes so far, but for what is kept at the ends.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.changes.memory()
    }

    /// What the segment changes, at the end of the walk. `None`: its first page is not that of a WAL segment, nothing is known.
    pub fn finish(mut self, walked: &Walked) -> Option<SegmentChanges> {
        let page = self.page?;
        if let Some((unknown, _)) = walked.unknown {
            // What the record in hand changes is not known either, although it begins before that.
            let from = match &self.hand {
                Hand::Record(parser) if parser.wants() => parser.lsn().min(unknown),
                _ => unknown,
            };
            self.changes.doubt(Doubt::Stopped, from);
        }
        self.end();
        let entry = match self.continuation {
            Some(continuation) => Entry::Continuation(continuation),
            None if page.page.is_overwrite() => Entry::Overwrite,
            None => Entry::Record,
        };
        Some(SegmentChanges {
            major: page.major,
            start: page.page.address,
            size: page.segment_size,
            entry,
            first: self.first,
            last: self.last,
            open: self.open,
            changes: self.changes.finish(page.page.address),
        })
    }

    /// The record in hand has ended.
    fn end(&mut self) {
        if let Hand::Record(parser) = std::mem::take(&mut self.hand) {
            self.last = Some(parser.lsn());
        }
    }

    /// A record begins at `lsn` with these bytes.
    fn begins(&mut self, lsn: Lsn, bytes: &[u8]) {
        if self.first.is_none() && bytes.len() >= RECORD_HEADER_BYTES {
            self.first = u64_at(bytes, 8).map(|previous| (lsn, Lsn(previous)));
        }
    }
}

impl Observer for ChangesObserver {
    fn wants(&self, _: u8, _: u8) -> bool {
        false
    }

    fn see(&mut self, _: &Record<'_>) {}

    fn open(&mut self, first: &LongPageHeader) -> bool {
        self.page = Some(*first);
        let goes_on = first.page.is_continuation() && first.page.remaining > 0;
        if goes_on {
            self.hand = Hand::Continuation;
            self.continuation =
                Some(Continuation { remaining: first.page.remaining, bytes: Vec::new(), end: ContinuationEnd::Whole });
        }
        goes_on
    }

    fn begin(&mut self, lsn: Lsn, header: &[u8]) -> bool {
        self.end();
        let Some(major) = self.page.map(|page| page.major) else { return false };
        self.begins(lsn, header);
        self.kept.clear();
        self.kept.extend_from_slice(header);
        let mut parser = RecordParser::new(major, lsn);
        let wants = parser.take(header, &mut self.changes);
        self.hand = Hand::Record(parser);
        wants
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        match (&mut self.hand, &mut self.continuation) {
            (Hand::Continuation, Some(continuation)) => {
                keep(&mut continuation.bytes, bytes, self.kept_max);
                continuation.bytes.len() < self.kept_max
            }
            (Hand::Record(parser), _) if parser.wants() => {
                keep(&mut self.kept, bytes, self.kept_max.saturating_add(RECORD_HEADER_BYTES));
                parser.take(bytes, &mut self.changes)
            }
            _ => false,
        }
    }

    fn whole(&mut self, lsn: Lsn, bytes: &[u8]) {
        self.end();
        let Some(major) = self.page.map(|page| page.major) else { return };
        self.begins(lsn, bytes);
        self.last = Some(lsn);
        if tell_blocks(major, bytes, &mut self.changes).is_none() {
            let mut parser = RecordParser::new(major, lsn);
            parser.take(bytes, &mut self.changes);
            parser.finish(&mut self.changes);
        }
    }

    fn void(&mut self) {
        if let (Hand::Continuation, Some(continuation)) = (std::mem::take(&mut self.hand), &mut self.continuation) {
            continuation.end = ContinuationEnd::Void;
        }
    }

    fn cut(&mut self, left: u64) {
        // No record is longer than a u32 says.
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        match (std::mem::take(&mut self.hand), &mut self.continuation) {
            (Hand::Continuation, Some(continuation)) => continuation.end = ContinuationEnd::GoesOn(left),
            (Hand::Record(parser), _) => {
                let bytes = if parser.wants() { std::mem::take(&mut self.kept) } else { Vec::new() };
                self.open = Some(Open { lsn: parser.lsn(), bytes, left });
            }
            _ => {}
        }
    }
}

/// Adds to `kept` what fits.
fn keep(kept: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let room = bytes_max.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
}
