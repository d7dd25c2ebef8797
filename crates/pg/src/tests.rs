//! WAL as a server lays it out, for this crate's tests.

use crate::page::magic_of_major;
use crate::record_layout::{ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN};

/// Writes records as PostgreSQL lays them out, over pages and segments.
pub(crate) struct Writer {
    /// The version that writes.
    pub(crate) major: u16,
    pub(crate) wal: Vec<u8>,
    pub(crate) start: u64,
    pub(crate) segment: u64,
    pub(crate) page: u64,
    /// Where the last record begins.
    pub(crate) previous: u64,
    /// Whether recovery goes on at the next page after a torn record.
    pub(crate) overwrites: bool,
}

impl Writer {
    pub(crate) fn new(start: u64, segment: u64, page: u64) -> Self {
        Self { major: 15, wal: Vec::new(), start, segment, page, previous: 0, overwrites: false }
    }

    fn header(&mut self, remaining: usize) {
        let at = self.start + self.wal.len() as u64;
        let long = at.is_multiple_of(self.segment);
        let overwrites = if std::mem::take(&mut self.overwrites) { 8 } else { 0 };
        let info = u16::from(remaining > 0) | if long { 2 } else { 0 } | overwrites;
        self.wal.extend(magic_of_major(self.major).expect("supported").to_le_bytes());
        self.wal.extend(info.to_le_bytes());
        self.wal.extend(1u32.to_le_bytes());
        self.wal.extend(at.to_le_bytes());
        self.wal.extend(u32::try_from(remaining).expect("small").to_le_bytes());
        self.wal.extend([0; 4]);
        if long {
            self.wal.extend(42u64.to_le_bytes());
            self.wal.extend(u32::try_from(self.segment).expect("small").to_le_bytes());
            self.wal.extend(u32::try_from(self.page).expect("small").to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for (done, byte) in bytes.iter().enumerate() {
            if (self.wal.len() as u64).is_multiple_of(self.page) {
                self.header(if done == 0 { 0 } else { bytes.len() - done });
            }
            self.wal.push(*byte);
        }
        while !self.wal.len().is_multiple_of(8) {
            self.wal.push(0);
        }
    }

    pub(crate) fn record(&mut self, manager: u8, info: u8, body: &[u8]) {
        self.record_of(0, manager, info, body);
    }

    /// A commit of transaction `xid`.
    pub(crate) fn commit_of(&mut self, xid: u32, time: i64) {
        let body = [&[ID_DATA_SHORT, 8], &time.to_le_bytes()[..]].concat();
        self.record_of(xid, 1, 0, &body);
    }

    pub(crate) fn record_of(&mut self, xid: u32, manager: u8, info: u8, body: &[u8]) {
        let mut record = u32::try_from(24 + body.len()).expect("small").to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        let at = self.start + self.wal.len() as u64;
        let header = if at.is_multiple_of(self.segment) { 40 } else { 24 };
        self.previous = if at.is_multiple_of(self.page) { at + header } else { at };
        record.extend([info, manager, 0, 0]);
        record.extend(crc32c::crc32c_append(crc32c::crc32c(body), &record).to_le_bytes());
        record.extend(body);
        self.bytes(&record);
    }

    /// A commit at `time` (microseconds since 2000) with `extra` bytes of subtransactions and the like.
    pub(crate) fn commit(&mut self, time: i64, extra: usize) {
        let data = 8 + extra;
        let mut body = vec![ID_ORIGIN, 0, 0];
        if data < 256 {
            body.extend([ID_DATA_SHORT, u8::try_from(data).expect("small")]);
        } else {
            body.push(ID_DATA_LONG);
            body.extend(u32::try_from(data).expect("small").to_le_bytes());
        }
        body.extend(time.to_le_bytes());
        body.extend(vec![0xEE; extra]);
        self.record(1, 0x80, &body);
    }
}
