//! Walks the records of one WAL segment while its bytes stream past, and shows each to an [`Observer`].
//!
//! Strict: a page must be the next of this segment, what goes on from an earlier page must be as long as the record said, and every record must name
//! the one before it as its predecessor. Where that does not hold the walk stops and says where and why ([`Walked`]): what
//! comes after is unknown, never "nothing". Records' own checksums are not computed. Memory is bounded by [`HEAD_BYTES`],
//! whatever the size of records and chunks.
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

use super::bytes::{array, u32_at, u64_at};
use super::lsn::{Lsn, SegmentSize};
use super::observer::{Observer, Record};
use super::page::{LONG_HEADER_BYTES, PageHeader, SHORT_HEADER_BYTES, read_long_header};
use super::record_layout::{HEAD_BYTES, RECORD_HEADER_BYTES, RM_BUILT_IN_MAX, RM_CUSTOM_MIN};
use super::wal_name::SegmentName;

/// No record is longer (`XLogRecordMaxSize`, and what fits into memory at once before 16).
const RECORD_BYTES_MAX: u64 = 1 << 30;
/// `RM_XLOG_ID`, src/include/access/rmgrlist.h, and `XLOG_SWITCH`, src/include/catalog/pg_control.h.
const RM_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;

/// Why a walk stopped before the end. Stored; the numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unknown {
    /// The bytes end.
    Short = 1,
    /// A page is not the next one of this segment.
    Page = 2,
    /// Zeros where a record should be, and no record before them that ends the segment.
    Zeros = 3,
    /// A page says that another number of bytes goes on than the record has left.
    Continuation = 4,
    /// A record does not name the one before it as its predecessor.
    Previous = 5,
    /// No record looks like that.
    Record = 6,
}

impl Unknown {
    /// The reason with this number.
    pub fn from_stored(number: u8) -> Option<Self> {
        [Self::Short, Self::Page, Self::Zeros, Self::Continuation, Self::Previous, Self::Record]
            .into_iter()
            .find(|reason| *reason as u8 == number)
    }
}

/// How far a walk came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// From where on nothing is known, and why; `None`: every record of the segment was seen.
    pub unknown: Option<(Lsn, Unknown)>,
    /// The first record that begins in the segment, and the predecessor that it names.
    pub first: Option<(Lsn, Lsn)>,
    /// The last record that begins in it, as far as the walk came.
    pub last: Option<Lsn>,
}

/// A walk through one segment, handed in as successive chunks cut anywhere.
#[derive(Debug)]
pub struct Walk<O> {
    observer: O,
    start: Option<Lsn>,
    segment_bytes: u64,
    /// Known after the first page's header.
    page_bytes: u64,
    magic: u16,
    /// How many bytes of the segment were taken.
    offset: u64,
    at: At,
    unknown: Option<(Lsn, Unknown)>,
    /// The part of a header, of a page or of a record, that has arrived.
    partial: Partial,
    record: Part,
    /// The observer wants the next bytes of the record in hand.
    is_wanted: bool,
    first: Option<(Lsn, Lsn)>,
    last: Option<Lsn>,
    /// The last record that is whole, which the next one must name.
    previous: Option<u64>,
    /// A record ended the segment, which its checksum proves.
    is_switched: bool,
    /// How many bytes it ends after.
    switched_after: Option<u64>,
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
enum Part {
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
    /// How much of the record in `head` an observer is shown, once that has arrived.
    shown: Option<usize>,
}

impl<O: Observer> Walk<O> {
    /// For the segment `name` of a cluster with segments of `size`.
    pub fn new(name: SegmentName, size: SegmentSize, observer: O) -> Self {
        let start = name.start(size);
        let mut walk = Self {
            observer,
            start,
            segment_bytes: size.bytes(),
            page_bytes: 0,
            magic: 0,
            offset: 0,
            at: At::PageHeader(0),
            unknown: None,
            partial: Partial {
                page: [0; LONG_HEADER_BYTES],
                head: [0; HEAD_BYTES],
                head_filled: 0,
                head_start: 0,
                shown: None,
            },
            record: next_record(),
            is_wanted: false,
            first: None,
            last: None,
            previous: None,
            is_switched: false,
            switched_after: None,
        };
        if start.is_none() {
            walk.stop(0, Unknown::Page);
        }
        walk
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
            if self.offset >= self.segment_bytes && self.at != At::End {
                self.at = At::End;
                self.cut();
            }
            chunk = chunk.get(taken..).unwrap_or_default();
        }
    }

    /// At the end of the segment: what has begun goes on in the next one.
    fn cut(&mut self) {
        let filled = self.partial.head_filled;
        let left = match self.record {
            Part::Head { .. } if filled == 0 => 0,
            Part::Head { want } => {
                let total = self.total();
                if want == RECORD_HEADER_BYTES {
                    // Of the header only the length is sure to be there.
                    if let Err(why) = judge_length(total) {
                        self.stop(self.partial.head_start, why);
                        return;
                    }
                    self.observer.begin(Lsn(self.position()), self.partial.head.get(..filled).unwrap_or_default());
                }
                total.saturating_sub(filled as u64)
            }
            Part::Skip { left, .. } => left,
        };
        if left > 0 {
            self.observer.cut(left);
        }
        self.show();
    }

    /// After how many bytes a segment switch ends, once it has gone by. Replay goes on with the next segment, and the server that switched
    /// wrote nothing but zeros after it; a standby may have what its file held before.
    pub fn switched_after(&self) -> Option<u64> {
        self.switched_after
    }

    /// What the observer is by now.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// At the end of what there is of the segment.
    pub fn finish(mut self) -> (Walked, O) {
        if self.at != At::End {
            self.stop(self.offset, Unknown::Short);
        }
        (Walked { unknown: self.unknown, first: self.first, last: self.last }, self.observer)
    }

    /// From `offset` on nothing is known.
    fn stop(&mut self, offset: u64, why: Unknown) {
        let start = self.start.map_or(0, |start| start.0);
        self.unknown = Some((Lsn(start.saturating_add(offset)), why));
        self.at = At::End;
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
            match self.open_page(page_start) {
                Ok(left) => self.at = At::Content(left),
                Err(why) => self.stop(page_start, why),
            }
        }
        taken
    }

    /// Judges the page header that has arrived; how many bytes of content follow.
    fn open_page(&mut self, page_start: u64) -> Result<u64, Unknown> {
        let mut first = None;
        let header = if page_start == 0 {
            let long = read_long_header(&self.partial.page).map_err(|_| Unknown::Page)?;
            if long.segment_size.bytes() != self.segment_bytes {
                return Err(Unknown::Page);
            }
            self.page_bytes = u64::from(long.page_bytes);
            self.magic = long.page.magic;
            first = Some(long);
            long.page
        } else {
            let short = self.partial.page.get(..SHORT_HEADER_BYTES).unwrap_or_default();
            if short.iter().all(|byte| *byte == 0) {
                return Err(Unknown::Zeros);
            }
            PageHeader::read(short).ok_or(Unknown::Page)?
        };
        // A page that was left over when the file was recycled carries its old address.
        let belongs = header.magic == self.magic
            && self.start.and_then(|start| start.0.checked_add(page_start)) == Some(header.address.0);
        if !belongs || !header.flags_are_known() {
            return Err(Unknown::Page);
        }
        let remaining = if header.is_continuation() { u64::from(header.remaining) } else { 0 };
        match first {
            // What began in an earlier segment.
            Some(first) => {
                self.record = if remaining == 0 { next_record() } else { skip(remaining) };
                self.is_wanted = self.observer.open(&first) && remaining > 0;
            }
            None => self.resume(remaining, header.is_overwrite())?,
        }
        let header_bytes = if page_start == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        self.page_bytes.checked_sub(header_bytes as u64).ok_or(Unknown::Page)
    }

    /// Holds the page's word that `remaining` bytes of a record go on here against the record in hand.
    fn resume(&mut self, remaining: u64, is_overwrite: bool) -> Result<(), Unknown> {
        let expected = match self.record {
            Part::Head { .. } if self.partial.head_filled == 0 => 0,
            Part::Head { .. } => self.total().saturating_sub(self.partial.head_filled as u64),
            Part::Skip { left, .. } => left,
        };
        if remaining == expected {
            return Ok(());
        }
        if !is_overwrite || remaining != 0 {
            return Err(Unknown::Continuation);
        }
        // A crash left the record unfinished, and recovery went on after it: the record is void for everyone, and no predecessor.
        if !matches!(self.record, Part::Head { want: RECORD_HEADER_BYTES }) {
            self.observer.void();
        }
        self.partial.head_filled = 0;
        self.partial.shown = None;
        self.record = next_record();
        Ok(())
    }

    /// The length of the record whose beginning is in hand (its first four bytes never cross a page).
    fn total(&self) -> u64 {
        u32_at(&self.partial.head, 0).map_or(0, u64::from)
    }

    /// Takes bytes of a page after its header.
    fn content(&mut self, content: &[u8]) {
        let mut rest = content;
        while !rest.is_empty() {
            let taken = match &mut self.record {
                Part::Skip { left, padding } => {
                    let length = rest.len() as u64;
                    let of_record = length.min(*left);
                    *left -= of_record;
                    let of_padding = (length - of_record).min(*padding);
                    let (left, mut still) = (*left, *padding);
                    if self.is_wanted && of_record > 0 {
                        let bytes = usize::try_from(of_record).ok().and_then(|length| rest.get(..length));
                        self.is_wanted = self.observer.take(bytes.unwrap_or_default());
                    }
                    if left == 0 {
                        still -= of_padding;
                        *padding = still;
                        self.whole(still == 0);
                    }
                    // Both are parts of `rest.len()`.
                    usize::try_from(of_record + of_padding).unwrap_or(rest.len())
                }
                Part::Head { want } => {
                    let want = *want;
                    let filled = self.partial.head_filled;
                    if filled == 0 {
                        rest = self.whole_records(content, rest);
                        self.partial.head_start = self.offset + (content.len() - rest.len()) as u64;
                    }
                    let taken = rest.len().min(want - filled);
                    let room = self.partial.head.get_mut(filled..filled + taken);
                    if let (Some(room), Some(bytes)) = (room, rest.get(..taken)) {
                        room.copy_from_slice(bytes);
                        if self.is_wanted && want > RECORD_HEADER_BYTES {
                            self.is_wanted = self.observer.take(bytes);
                        }
                    }
                    self.partial.head_filled += taken;
                    if self.partial.head_filled == want {
                        self.head_arrived(want);
                    }
                    taken
                }
            };
            if self.at == At::End {
                let after = self.offset + (content.len() - rest.len() + taken) as u64;
                self.switched_after = Some(after).filter(|_| self.is_switched);
                return;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Shows the records that lie whole at the beginning of `rest`, the last bytes of `content`, without copying them; what remains after them.
    /// A record that is not as it should be remains too, and so does a segment switch: both are dealt with where the others are.
    fn whole_records<'a>(&mut self, content: &[u8], mut rest: &'a [u8]) -> &'a [u8] {
        let begin = self.start.map_or(0, |start| start.0) + self.offset;
        while let Some(header) = rest.first_chunk::<RECORD_HEADER_BYTES>() {
            let (total, previous) = (u32_at(header, 0).unwrap_or(0), u64_at(header, 8).unwrap_or(0));
            let [.., info, manager] = array::<18>(header, 0).unwrap_or_default();
            let total = usize::try_from(total).unwrap_or(usize::MAX);
            let padded = total.checked_next_multiple_of(8).unwrap_or(usize::MAX);
            let (Some(record), Some(after)) = (rest.get(..total), rest.get(padded..)) else { break };
            let is_switch = manager == RM_XLOG && info & 0xF0 == XLOG_SWITCH;
            let lsn = Lsn(begin + (content.len() - rest.len()) as u64);
            if is_switch || self.judge(total as u64, lsn.0, previous, manager).is_err() {
                break;
            }
            self.first = self.first.or(Some((lsn, Lsn(previous))));
            self.last = Some(lsn);
            self.previous = Some(lsn.0);
            self.observer.whole(lsn, record);
            rest = after;
        }
        rest
    }

    /// The position of the record in hand.
    fn position(&self) -> u64 {
        self.start.map_or(0, |start| start.0) + self.partial.head_start
    }

    /// `want` bytes of a record are in hand: ask for more, or skip the rest.
    fn head_arrived(&mut self, want: usize) {
        let total = self.total();
        let [.., info, manager] = array::<18>(&self.partial.head, 0).unwrap_or_default();
        if want == RECORD_HEADER_BYTES {
            let position = self.position();
            let previous = u64_at(&self.partial.head, 8).unwrap_or(u64::MAX);
            if let Err(why) = self.judge(total, position, previous, manager) {
                self.stop(self.partial.head_start, why);
                return;
            }
            self.first = self.first.or(Some((Lsn(position), Lsn(previous))));
            self.last = Some(Lsn(position));
            let header = self.partial.head.get(..want).unwrap_or_default();
            self.is_wanted = self.observer.begin(Lsn(position), header);
            if self.observer.wants(manager, info) {
                let more = usize::try_from(total).unwrap_or(usize::MAX).min(HEAD_BYTES);
                if more > want {
                    self.record = Part::Head { want: more };
                    return;
                }
            }
        }
        self.partial.shown = Some(want);
        let padding = total.next_multiple_of(8) - total;
        let left = total.saturating_sub(want as u64);
        self.record = Part::Skip { left, padding };
        if left == 0 {
            self.whole(padding == 0);
        }
    }

    fn judge(&self, total: u64, position: u64, previous: u64, manager: u8) -> Result<(), Unknown> {
        judge_length(total)?;
        let is_known = manager <= RM_BUILT_IN_MAX || manager >= RM_CUSTOM_MIN;
        if !is_known {
            return Err(Unknown::Record);
        }
        // Of the first record of the segment the predecessor lies in an earlier one.
        let is_next = self.previous.map_or(previous < position || position == 0, |last| last == previous);
        if is_next { Ok(()) } else { Err(Unknown::Previous) }
    }

    /// All bytes of the record in hand were seen, and when `is_aligned`, the padding after it.
    fn whole(&mut self, is_aligned: bool) {
        if self.partial.shown.is_some() {
            self.previous = Some(self.position());
            let [.., info, manager] = array::<18>(&self.partial.head, 0).unwrap_or_default();
            self.show();
            if manager == RM_XLOG && info & 0xF0 == XLOG_SWITCH {
                // The rest of the segment belongs to it.
                self.is_switched = self.is_a_proven_switch();
                self.at = At::End;
                return;
            }
        }
        if is_aligned {
            self.partial.head_filled = 0;
            self.record = next_record();
        }
    }

    /// Whether the record in hand, which is a segment switch, has no data and the checksum of one: CRC-32C over the header without it
    /// (`ReserveXLogSwitch` and `CopyXLogRecordToWAL`, src/backend/access/transam/xlog.c).
    fn is_a_proven_switch(&self) -> bool {
        let head = self.partial.head.get(..RECORD_HEADER_BYTES - 4).unwrap_or_default();
        self.total() == RECORD_HEADER_BYTES as u64
            && u32_at(&self.partial.head, RECORD_HEADER_BYTES - 4) == Some(crc32c::crc32c(head))
    }

    /// Shows the record in hand to the observer, once.
    fn show(&mut self) {
        let Some(shown) = self.partial.shown.take() else { return };
        let head = self.partial.head.get(..shown).unwrap_or_default();
        self.observer.see(&Record::of(Lsn(self.position()), head));
    }
}

/// Whether a record may be this long.
fn judge_length(total: u64) -> Result<(), Unknown> {
    match total {
        0 => Err(Unknown::Zeros),
        _ if (RECORD_HEADER_BYTES as u64..=RECORD_BYTES_MAX).contains(&total) => Ok(()),
        _ => Err(Unknown::Record),
    }
}

fn next_record() -> Part {
    Part::Head { want: RECORD_HEADER_BYTES }
}

/// The last `remaining` bytes of a record that began on an earlier page. Content is a multiple of eight on every page,
/// so that they end as far from a multiple of eight as the record does.
fn skip(remaining: u64) -> Part {
    Part::Skip { left: remaining, padding: remaining.next_multiple_of(8) - remaining }
}
