//! What looks on while [`Walk`](crate::Walk) goes through the records of a segment.

use super::lsn::Lsn;
use super::page::LongPageHeader;

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

    fn void(&mut self) {
        self.0.void();
        self.1.void();
    }

    fn cut(&mut self, left: u64) {
        self.0.cut(left);
        self.1.cut(left);
    }
}
