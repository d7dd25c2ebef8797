//! Records as servers of 13 to 18 write them, made by hand.

mod at_once;
mod bounded;
mod chains;
mod chunks;
mod parsing;
mod storing;

use super::*;
use crate::record_layout::{ID_DATA_LONG, ID_DATA_SHORT};
use crate::{Lsn, SegmentName, SegmentSize, Timeline, Walk};

const MAJORS: [u16; 6] = [13, 14, 15, 16, 17, 18];
const MIB: u64 = 1 << 20;

/// The first two pages of segments that real servers wrote, and their versions.
const REAL: [(u16, &[u8]); 4] = [
    (13, include_bytes!("../../../../../tests/fixtures/pg/13/000000010000000000000006.head")),
    (15, include_bytes!("../../../../../tests/fixtures/pg/15/000000010000000000000006.head")),
    (17, include_bytes!("../../../../../tests/fixtures/pg/17/000000010000000000000006.head")),
    (18, include_bytes!("../../../../../tests/fixtures/pg/18/000000010000000000000006.head")),
];

fn name(relation: u32) -> RelationName {
    RelationName { tablespace: 1663, database: 5, relation }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What follows a record's header: headers, then images and data of blocks, then main data.
#[derive(Debug, Clone, Default)]
struct Body {
    headers: Vec<u8>,
    payload: Vec<u8>,
}

/// An image as a block header describes it.
struct Image {
    length: u16,
    hole: u16,
    flags: u8,
    hole_length: Option<u16>,
}

impl Body {
    /// A reference to a block of `name`'s fork, or of the relation before when it is none.
    fn block(
        mut self,
        id: u8,
        fork: u8,
        name: Option<RelationName>,
        block: u32,
        image: Option<&Image>,
        data: u16,
    ) -> Self {
        let flags = [(image.is_some(), 0x10), (data > 0, 0x20), (name.is_none(), 0x80)];
        let flags = flags.into_iter().filter(|(is, _)| *is).fold(fork, |flags, (_, flag)| flags | flag);
        self.headers.extend([id, flags]);
        self.headers.extend(data.to_le_bytes());
        if let Some(image) = image {
            self.headers.extend(image.length.to_le_bytes());
            self.headers.extend(image.hole.to_le_bytes());
            self.headers.push(image.flags);
            self.headers.extend(image.hole_length.iter().flat_map(|length| length.to_le_bytes()));
            self.payload.extend(vec![0xAA; usize::from(image.length)]);
        }
        if let Some(name) = name {
            self.headers.extend(words(&[name.tablespace, name.database, name.relation]));
        }
        self.headers.extend(block.to_le_bytes());
        self.payload.extend(vec![0xBB; usize::from(data)]);
        self
    }

    fn simple(self, id: u8, relation: u32, block: u32) -> Self {
        self.block(id, 0, Some(name(relation)), block, None, 0)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.headers.extend(bytes);
        self
    }

    fn main(self, data: &[u8]) -> Vec<u8> {
        let Self { mut headers, payload } = self;
        if let Ok(length) = u8::try_from(data.len()) {
            headers.extend([ID_DATA_SHORT, length]);
        } else {
            headers.push(ID_DATA_LONG);
            headers.extend(u32::try_from(data.len()).expect("small").to_le_bytes());
        }
        [headers, payload, data.to_vec()].concat()
    }

    fn end(self) -> Vec<u8> {
        [self.headers, self.payload].concat()
    }
}

/// The main data of a transaction's end: its time, flags, database, subtransactions, dropped relations.
fn transaction(subtransactions: u32, drops: &[RelationName]) -> Vec<u8> {
    let mut data = vec![7; 8];
    data.extend(words(&[1 | if subtransactions > 0 { 2 } else { 0 } | if drops.is_empty() { 0 } else { 4 }, 5, 1663]));
    if subtransactions > 0 {
        data.extend(subtransactions.to_le_bytes());
        data.extend((0..subtransactions).flat_map(|number| (1000 + number).to_le_bytes()));
    }
    if !drops.is_empty() {
        data.extend(u32::try_from(drops.len()).expect("small").to_le_bytes());
        data.extend(drops.iter().flat_map(|name| words(&[name.tablespace, name.database, name.relation])));
    }
    data
}

/// A whole record.
fn record(manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
    let mut record = u32::try_from(24 + body.len()).expect("small").to_le_bytes().to_vec();
    record.extend([0; 12]);
    record.extend([info, manager, 0, 0, 0, 0, 0, 0]);
    record.extend(body);
    record
}

/// What `record` changes, handed in as chunks of `chunk` bytes.
fn parsed(major: u16, record: &[u8], chunk: usize) -> Changes {
    let mut changes = Changes::default();
    let mut parser = RecordParser::new(major, Lsn(77));
    record.chunks(chunk).for_each(|chunk| {
        parser.take(chunk, &mut changes);
    });
    parser.finish(&mut changes);
    changes
}

/// The same, with the record of this kind, cut everywhere.
fn read(major: u16, manager: u8, info: u8, body: &[u8]) -> Changes {
    let record = record(manager, info, body);
    let whole = parsed(major, &record, usize::MAX);
    for chunk in [1, 2, 3, 5, 7, 11, 13, 64, 1000] {
        assert_eq!(parsed(major, &record, chunk), whole, "chunks of {chunk}");
    }
    whole
}

/// Changes of relations: blocks and limits.
fn relations(of: &[(RelationName, &[u32], Option<u32>)]) -> Changes {
    let relations = of.iter().map(|(name, blocks, limit)| {
        (*name, RelationChanges { blocks: blocks.iter().copied().collect(), limit: *limit })
    });
    Changes { relations: relations.collect(), ..Changes::default() }
}

fn doubt(doubt: Doubt) -> Changes {
    Changes { doubts: [(doubt, Lsn(77))].into_iter().collect(), ..Changes::default() }
}

/// What the segments of `wal`, which begins at `start`, change.
fn segments(start: u64, segment: u64, wal: &[u8], chunk: usize) -> Vec<SegmentChanges> {
    segments_keeping(1024, start, segment, wal, chunk)
}

fn segments_keeping(kept: usize, start: u64, segment: u64, wal: &[u8], chunk: usize) -> Vec<SegmentChanges> {
    let size = SegmentSize::try_from(segment).expect("a size");
    let parts = wal.chunks(usize::try_from(segment).expect("small")).enumerate();
    let parts = parts.map(|(at, bytes)| {
        let segment_name = SegmentName::from_number(Timeline(1), start / segment + at as u64, size).expect("a name");
        let mut walk = Walk::new(segment_name, size, ((), ChangesObserver::keeping(kept)));
        bytes.chunks(chunk).for_each(|chunk| walk.feed(chunk));
        let (walked, ((), observer)) = walk.finish();
        observer.finish(&walked).expect("a segment")
    });
    parts.collect()
}

fn joined(segments: &[SegmentChanges]) -> Chain {
    let mut chain = Chain::new();
    for segment in segments {
        chain.follow(segment);
    }
    chain
}
