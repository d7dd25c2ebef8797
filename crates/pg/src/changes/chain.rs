//! Joins what segments change that follow each other: what one leaves open is finished from the next.
//!
//! A record belongs to the segment in which it begins. It may be cut anywhere, in its header too, and go on over any number of segments. What is
//! kept at both sides of a cut is enough for every record whose blocks are at stake; of one that drops hundreds of relations it may not be:
//! that is a doubt then, which goes away when both segments are walked through again and more is kept ([`ChangesObserver::keeping`]).
//!
//! [`ChangesObserver::keeping`]: super::ChangesObserver::keeping

use super::parse::RecordParser;
use super::relations::{Changes, Doubt, Sink};
use super::segment::{Continuation, ContinuationEnd, Entry, Open, SegmentChanges};
use crate::bytes::u32_at;
use crate::lsn::{Lsn, SegmentSize};

/// A stretch of segments, in their order.
#[derive(Debug, Default)]
pub struct Chain {
    changes: Changes,
    /// Where all records are known that begin from there on.
    from: Option<Lsn>,
    /// The version, the size of segments, and where the next one begins.
    next: Option<(u16, SegmentSize, Lsn)>,
    /// The record that the next one must name; unknown at the beginning.
    previous: Option<Lsn>,
    carried: Carried,
}

/// What goes on in the next segment.
#[derive(Debug, Default)]
enum Carried {
    #[default]
    Nothing,
    /// A record that began before the stretch.
    Foreign { left: u32 },
    /// A record of the stretch.
    Record { parser: Box<RecordParser>, left: u32 },
    /// It is not known: the walk through the segment stopped, or the next one does not go on where it ends.
    Unknown,
}

impl Chain {
    /// An empty stretch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next segment. One that does not go on where the stretch ends makes a doubt ([`Doubt::Seam`]).
    pub fn follow(&mut self, segment: &SegmentChanges) {
        self.changes.merge(&segment.changes);
        let is_next = self.next.is_none_or(|next| next == (segment.major, segment.size, segment.start));
        if !is_next {
            self.seam(segment.start);
        }
        let is_first = self.next.is_none();
        self.next = Some((segment.major, segment.size, segment.end()));
        if is_first {
            self.begin(segment);
        } else if !self.enter(segment) {
            self.seam(segment.start);
        }
        let begins = segment.first.map(|(lsn, _)| lsn).or(segment.open.as_ref().map(|open| open.lsn));
        self.from = self.from.or(begins);
        if let (Some((_, named)), Some(expected)) = (segment.first, self.previous)
            && named != expected
        {
            self.seam(segment.start);
        }
        self.previous = segment.last.or(self.previous);
        if segment.changes.doubts.contains_key(&Doubt::Stopped) {
            (self.previous, self.carried) = (None, Carried::Unknown);
        } else if let Some(open) = &segment.open {
            let parser = Box::new(self.carry(segment.major, open));
            self.carried = Carried::Record { parser, left: open.left };
        }
    }

    /// What the stretch changes.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Where the stretch begins: all records are known that begin from there on. `None` when none begins in it.
    pub fn from(&self) -> Option<Lsn> {
        self.from
    }

    /// Where it ends: a record that begins there or later is not known. A doubt may lie before.
    pub fn until(&self) -> Option<Lsn> {
        let end = self.next.map(|(_, _, end)| end)?;
        Some(match &self.carried {
            Carried::Record { parser, .. } if parser.wants() => parser.lsn(),
            _ => end,
        })
    }

    /// What the stretch changes. A record that goes on after its end makes a doubt when what matters of it lies there; see [`Chain::until`].
    pub fn finish(mut self) -> Changes {
        if let Carried::Record { parser, .. } = self.carried {
            parser.finish(&mut self.changes);
        }
        self.changes
    }

    fn seam(&mut self, at: Lsn) {
        if let Carried::Record { parser, .. } = std::mem::replace(&mut self.carried, Carried::Unknown) {
            parser.finish(&mut self.changes);
        }
        self.previous = None;
        self.changes.doubt(Doubt::Seam, at);
    }

    /// Reads again what is kept of a record that goes on.
    fn carry(&mut self, major: u16, open: &Open) -> RecordParser {
        if open.bytes.is_empty() {
            return RecordParser::done(major, open.lsn);
        }
        let mut parser = RecordParser::new(major, open.lsn);
        parser.take(&open.bytes, &mut self.changes);
        let seen = u32_at(&open.bytes, 0).and_then(|total| total.checked_sub(open.left)).map(u64::from);
        let unseen = seen.and_then(|seen| seen.checked_sub(open.bytes.len() as u64));
        parser.pass(unseen.unwrap_or(u64::MAX), &mut self.changes);
        parser
    }

    /// The first segment.
    fn begin(&mut self, segment: &SegmentChanges) {
        match &segment.entry {
            Entry::Continuation(Continuation { end: ContinuationEnd::GoesOn(left), .. }) => {
                self.carried = Carried::Foreign { left: *left };
            }
            Entry::Continuation(_) => {}
            Entry::Record | Entry::Overwrite => self.from = Some(segment.start),
        }
    }

    /// Goes on with what is carried; whether it fits what the segment begins with.
    fn enter(&mut self, segment: &SegmentChanges) -> bool {
        match (std::mem::take(&mut self.carried), &segment.entry) {
            (Carried::Nothing, Entry::Record)
            | (Carried::Foreign { .. } | Carried::Record { .. }, Entry::Overwrite) => true,
            (Carried::Foreign { left }, Entry::Continuation(continuation)) if left == continuation.remaining => {
                if let ContinuationEnd::GoesOn(left) = continuation.end {
                    self.carried = Carried::Foreign { left };
                }
                true
            }
            (Carried::Record { parser, left }, Entry::Continuation(continuation)) if left == continuation.remaining => {
                self.go_on(parser, continuation)
            }
            // There is a doubt already, at an earlier position.
            (Carried::Unknown, entry) => {
                if let Entry::Continuation(Continuation { end: ContinuationEnd::GoesOn(_), .. }) = entry {
                    self.carried = Carried::Unknown;
                }
                true
            }
            (Carried::Record { parser, .. }, _) => {
                parser.finish(&mut self.changes);
                false
            }
            _ => false,
        }
    }

    /// Goes on with a record of the stretch; whether it names the record before it as its predecessor.
    fn go_on(&mut self, mut parser: Box<RecordParser>, continuation: &Continuation) -> bool {
        let left = match continuation.end {
            ContinuationEnd::Void => return true,
            ContinuationEnd::Whole => 0,
            ContinuationEnd::GoesOn(left) => left,
        };
        parser.take(&continuation.bytes, &mut self.changes);
        let here = continuation.remaining.saturating_sub(left);
        parser.pass(u64::from(here).saturating_sub(continuation.bytes.len() as u64), &mut self.changes);
        // A header that the segment's end cut was not compared before.
        let is_next = self.previous.is_none() || parser.previous().is_none() || parser.previous() == self.previous;
        if left > 0 {
            self.carried = Carried::Record { parser, left };
        } else {
            self.previous = Some(parser.lsn());
            parser.finish(&mut self.changes);
        }
        is_next
    }
}
