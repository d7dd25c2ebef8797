//! What looks on while [`Walk`](crate::Walk) goes through the records of a segment.

use super::bytes::{array, u32_at};
use super::lsn::Lsn;
use super::page::LongPageHeader;
use super::record_layout::{HEAD_BYTES, ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN, ID_TOPLEVEL_XID, RECORD_HEADER_BYTES};

/// A record that goes by.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// Its transaction; 0 when it has none.
    pub xid: u32,
    /// Its resource manager.
    pub manager: u8,
    /// Its flags.
    pub info: u8,
    /// The beginning of its main data, when the observer wanted it and the record has no blocks.
    pub data: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// The record at `lsn` that begins with `head`: its header, and as much of what follows as is wanted.
    pub(crate) fn of(lsn: Lsn, head: &'a [u8]) -> Self {
        let [.., info, manager] = array::<18>(head, 0).unwrap_or_default();
        Self { lsn, xid: u32_at(head, 4).unwrap_or_default(), manager, info, data: main_data(head) }
    }
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

/// What is shown the records of a segment, in their order, and makes something of them.
pub trait Observer {
    /// Whether the data of such records is needed.
    fn wants(&self, manager: u8, info: u8) -> bool;

    /// A record of the segment. It is whole, or goes on in the next segment.
    fn see(&mut self, record: &Record<'_>);

    /// The segment's first page. Whether the bytes are wanted that go on in the segment from a record of an earlier one: they are then the first
    /// that [`Observer::take`] is given.
    fn open(&mut self, first: &LongPageHeader) -> bool {
        let _ = first;
        false
    }

    /// A record begins, with this header of 24 bytes, fewer only where the segment ends in it. Whether what follows the header is wanted.
    fn begin(&mut self, lsn: Lsn, header: &[u8]) -> bool {
        let _ = (lsn, header);
        false
    }

    /// The next bytes of the record in hand. Whether more are wanted; the rest is passed over otherwise. An observer that wants no more is given
    /// what another one wants.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let _ = bytes;
        false
    }

    /// A record of which all bytes are at hand, its header included: most records lie whole on a page. Comes in place of [`Observer::begin`],
    /// [`Observer::take`] and [`Observer::see`], and must make of the record what they would.
    fn whole(&mut self, lsn: Lsn, bytes: &[u8]) {
        let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else { return };
        if self.begin(lsn, header) && !rest.is_empty() {
            self.take(rest);
        }
        let Record { manager, info, .. } = Record::of(lsn, header);
        let shown = if self.wants(manager, info) { HEAD_BYTES } else { RECORD_HEADER_BYTES };
        self.see(&Record::of(lsn, bytes.get(..shown).unwrap_or(bytes)));
    }

    /// The record in hand is void: a crash left it unfinished, and recovery went on after it.
    fn void(&mut self) {}

    /// The segment ends, and `left` bytes of the record in hand go on in the next one.
    fn cut(&mut self, left: u64) {
        let _ = left;
    }
}

impl Observer for () {
    fn wants(&self, _: u8, _: u8) -> bool {
        false
    }

    fn see(&mut self, _: &Record<'_>) {}
}

impl<A: Observer> Observer for Option<A> {
    fn wants(&self, manager: u8, info: u8) -> bool {
        self.as_ref().is_some_and(|observer| observer.wants(manager, info))
    }

    fn see(&mut self, record: &Record<'_>) {
        if let Some(observer) = self {
            observer.see(record);
        }
    }

    fn open(&mut self, first: &LongPageHeader) -> bool {
        self.as_mut().is_some_and(|observer| observer.open(first))
    }

    fn begin(&mut self, lsn: Lsn, header: &[u8]) -> bool {
        self.as_mut().is_some_and(|observer| observer.begin(lsn, header))
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        self.as_mut().is_some_and(|observer| observer.take(bytes))
    }

    fn whole(&mut self, lsn: Lsn, bytes: &[u8]) {
        if let Some(observer) = self {
            observer.whole(lsn, bytes);
        }
    }

    fn void(&mut self) {
        if let Some(observer) = self {
            observer.void();
        }
    }

    fn cut(&mut self, left: u64) {
        if let Some(observer) = self {
            observer.cut(left);
        }
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn wants(&self, manager: u8, info: u8) -> bool {
        self.0.wants(manager, info) || self.1.wants(manager, info)
    }

    fn see(&mut self, record: &Record<'_>) {
        self.0.see(record);
        self.1.see(record);
    }

    fn open(&mut self, first: &LongPageHeader) -> bool {
        self.0.open(first) | self.1.open(first)
    }

    fn begin(&mut self, lsn: Lsn, header: &[u8]) -> bool {
        self.0.begin(lsn, header) | self.1.begin(lsn, header)
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        self.0.take(bytes) | self.1.take(bytes)
    }

    fn whole(&mut self, lsn: Lsn, bytes: &[u8]) {
        self.0.whole(lsn, bytes);
        self.1.whole(lsn, bytes);
    }

    fn void(&mut self) {
        self.0.void();
        self.1.void();
    }

    fn cut(&mut self, left: u64) {
        self.0.cut(left);
        self.1.cut(left);
    }
}
