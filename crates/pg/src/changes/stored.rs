//! How changes are stored. Equal changes have equal bytes, and what is read is what would be written again; anything else is refused. Reading takes
//! at most some 40 times the memory of the bytes read. Numbers are those of [`super::varint`]; `u8` is one byte.
//!
//! [`Changes`]:
//!
//! | field | what |
//! |---|---|
//! | u8 | version of the layout, 1 |
//! | number | how many doubts; each, ascending: u8 reason ([`Doubt`]), position |
//! | u8 | bit 0: a record says minimal; bit 1: one says another level; for each: position of the first, bytes from there to the last |
//! | number | how many custom resource managers; each, ascending: u8 |
//! | number | how many databases; each, ascending: a name of two numbers |
//! | number | how many relations; each, ascending: a name of three numbers, its limit plus 1 or 0, its blocks |
//!
//! A name is written from the first number on that is another than in the name before (before the first one: zeros): for each equal number
//! a 0, then how much the first other one is larger, then the rest as it is. Blocks:
//!
//! | field | what |
//! |---|---|
//! | number | how many chunks of 65,536 blocks have any |
//! | number | of each chunk: its number less that of the one before less 1 (of the first: its number) |
//! | number | how many blocks it has, less 1 |
//! | 8,192 bytes | a bitmap when it has more than 4,096; the lowest bit of the first byte is the first block |
//! | numbers | else each block's number in the chunk less that of the one before less 1 (of the first: its number) |
//!
//! [`SegmentChanges`]:
//!
//! | field | what |
//! |---|---|
//! | u8 | version of the layout, 1 |
//! | u8 | major version of the server |
//! | u8 | segment size: the power of two |
//! | number | number of the segment |
//! | u8 | it begins with: 0 a record, 1 a record that makes another one void, 2 a continuation to its end, 3 one that is void, 4 one that goes on |
//! | number | of a continuation: bytes still to come |
//! | number | of one that goes on: bytes that go on |
//! | number, bytes | of a continuation: the first bytes |
//! | u8 | bit 0: a first record; bit 1: a last one; bit 2: one goes on in the next segment |
//! | number, number | of the first: how far into the segment it begins; the position of its predecessor |
//! | number | of the last: how far into the segment it begins |
//! | number, number | of the one that goes on: how far into the segment it begins; bytes that go on |
//! | number, bytes | of the one that goes on: the first bytes, none when nothing that goes on matters |
//! | | [`Changes`] |

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::{Bitmap, BlockSet, Chunk, FEW_MAX, WORDS};
use super::levels::{Levels, Said};
use super::relations::{Changes, DatabaseName, Doubt, RelationChanges, RelationName};
use super::segment::{CONTINUED_MAX, Continuation, ContinuationEnd, Entry, OPEN_MAX, Open, SegmentChanges};
use super::varint::{Reader, StoredError, Writer};
use crate::bytes::u32_at;
use crate::lsn::{Lsn, SegmentSize};
use crate::page::magic_of_major;
use crate::record_layout::RM_CUSTOM_MIN;

/// What a segment changes is stored only when it takes no more bytes than this.
pub const STORED_BYTES_MAX: usize = 512 << 10;

const VERSION: u8 = 1;

const ORDER: StoredError = StoredError("they are not in order");
const WRONG: StoredError = StoredError("they contradict themselves");

impl Changes {
    /// As they are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        write_changes(&mut writer, self);
        writer.0
    }

    /// Reads what [`Changes::encode`] writes.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(stored: &[u8]) -> Result<Self, StoredError> {
        whole(stored, read_changes)
    }
}

impl BlockSet {
    /// As a set is stored in the table above.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        write_blocks(&mut writer, self);
        writer.0
    }

    /// Reads what [`BlockSet::encode`] writes from the beginning of `stored`, and leaves there what follows it.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode_first(stored: &mut &[u8]) -> Result<Self, StoredError> {
        let mut reader = Reader(stored);
        let blocks = read_blocks(&mut reader)?;
        *stored = reader.0;
        Ok(blocks)
    }
}

impl SegmentChanges {
    /// As they are stored; what is kept beyond that ([`super::ChangesObserver::keeping`]) is left out. As long as what they say: of a segment of
    /// 16 MiB seldom more than some kilobytes, but no bound is set here.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![VERSION]);
        let [major, ..] = self.major.to_le_bytes();
        let shift = u8::try_from(self.size.bytes().trailing_zeros()).unwrap_or(u8::MAX);
        writer.0.extend([major, shift]);
        writer.number(self.start.segment_number(self.size));
        match &self.entry {
            Entry::Record => writer.0.push(0),
            Entry::Overwrite => writer.0.push(1),
            Entry::Continuation(continuation) => {
                let (kind, goes_on) = match continuation.end {
                    ContinuationEnd::Whole => (2, None),
                    ContinuationEnd::Void => (3, None),
                    ContinuationEnd::GoesOn(left) => (4, Some(left)),
                };
                writer.0.push(kind);
                writer.number(continuation.remaining);
                if let Some(left) = goes_on {
                    writer.number(left);
                }
                writer.bytes(&continuation.bytes, CONTINUED_MAX);
            }
        }
        let has = [self.first.is_some(), self.last.is_some(), self.open.is_some()];
        writer.0.push(has.into_iter().rev().fold(0, |flags, has| flags << 1 | u8::from(has)));
        if let Some((lsn, previous)) = self.first {
            writer.number(lsn.offset_in_segment(self.size));
            writer.number(previous.0);
        }
        if let Some(lsn) = self.last {
            writer.number(lsn.offset_in_segment(self.size));
        }
        if let Some(Open { lsn, bytes, left }) = &self.open {
            writer.number(lsn.offset_in_segment(self.size));
            writer.number(*left);
            writer.bytes(bytes, OPEN_MAX);
        }
        write_changes(&mut writer, &self.changes);
        writer.0
    }

    /// Reads what [`SegmentChanges::encode`] writes.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(stored: &[u8]) -> Result<Self, StoredError> {
        whole(stored, read_segment)
    }
}

fn whole<T>(stored: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T, StoredError>) -> Result<T, StoredError> {
    let mut reader = Reader(stored);
    let value = read(&mut reader)?;
    if reader.0.is_empty() { Ok(value) } else { Err(StoredError("bytes are left over")) }
}

fn version(reader: &mut Reader<'_>) -> Result<(), StoredError> {
    if reader.byte()? == VERSION { Ok(()) } else { Err(StoredError("their version is not known")) }
}

fn read_segment(reader: &mut Reader<'_>) -> Result<SegmentChanges, StoredError> {
    version(reader)?;
    let major = u16::from(reader.byte()?);
    if magic_of_major(major).is_none() {
        return Err(StoredError("no such version of PostgreSQL"));
    }
    let bytes = 1u64.checked_shl(u32::from(reader.byte()?)).unwrap_or(0);
    let size = SegmentSize::try_from(bytes).map_err(|_| StoredError("no such segment size"))?;
    let number = reader.number()?;
    let start = number.checked_add(1).and_then(|next| next.checked_mul(bytes)).ok_or(WRONG)? - bytes;
    let inside = |offset: u64| if offset < bytes { Ok(Lsn(start + offset)) } else { Err(WRONG) };
    let entry = match reader.byte()? {
        0 => Entry::Record,
        1 => Entry::Overwrite,
        kind @ 2..=4 => Entry::Continuation(read_continuation(reader, kind)?),
        _ => return Err(WRONG),
    };
    let flags = reader.byte()?;
    if flags > 7 {
        return Err(WRONG);
    }
    let (mut first, mut last, mut open) = (None, None, None);
    if flags & 1 != 0 {
        first = Some((inside(reader.number()?)?, Lsn(reader.number()?)));
    }
    if flags & 2 != 0 {
        last = Some(inside(reader.number()?)?);
    }
    if flags & 4 != 0 {
        let (lsn, left) = (inside(reader.number()?)?, reader.small()?);
        let bytes = reader.bytes(OPEN_MAX)?;
        let seen = u32_at(&bytes, 0).and_then(|total| total.checked_sub(left)).map(u64::from);
        let fits = bytes.is_empty() || seen.is_some_and(|seen| seen >= bytes.len() as u64);
        if left == 0 || !fits {
            return Err(WRONG);
        }
        open = Some(Open { lsn, bytes, left });
    }
    Ok(SegmentChanges { major, start: Lsn(start), size, entry, first, last, open, changes: read_changes(reader)? })
}

fn read_continuation(reader: &mut Reader<'_>, kind: u8) -> Result<Continuation, StoredError> {
    let remaining: u32 = reader.small()?;
    let end = match kind {
        2 => ContinuationEnd::Whole,
        3 => ContinuationEnd::Void,
        _ => ContinuationEnd::GoesOn(reader.small()?),
    };
    let bytes = reader.bytes(CONTINUED_MAX)?;
    let left = match end {
        ContinuationEnd::GoesOn(0) => return Err(WRONG),
        ContinuationEnd::GoesOn(left) => left,
        _ => 0,
    };
    let here = remaining.checked_sub(left).ok_or(WRONG)?;
    if remaining == 0 || u64::from(here) < bytes.len() as u64 {
        return Err(WRONG);
    }
    Ok(Continuation { remaining, bytes, end })
}

fn write_changes(writer: &mut Writer, changes: &Changes) {
    writer.0.push(VERSION);
    writer.count(changes.doubts.len());
    for (doubt, lsn) in &changes.doubts {
        writer.0.push(*doubt as u8);
        writer.number(lsn.0);
    }
    let Levels { minimal, sufficient } = changes.levels;
    writer.0.push(u8::from(minimal.is_some()) | u8::from(sufficient.is_some()) << 1);
    for said in [minimal, sufficient].into_iter().flatten() {
        writer.number(said.first.0);
        writer.number(said.last.0.saturating_sub(said.first.0));
    }
    writer.count(changes.custom_managers.len());
    writer.0.extend(&changes.custom_managers);
    writer.count(changes.databases.len());
    let mut before = [0; 2];
    for DatabaseName { tablespace, database } in &changes.databases {
        before = write_name(writer, before, [*tablespace, *database]);
    }
    writer.count(changes.relations.len());
    let mut before = [0; 3];
    for (RelationName { tablespace, database, relation }, relation_changes) in &changes.relations {
        before = write_name(writer, before, [*tablespace, *database, *relation]);
        writer.number(relation_changes.limit.map_or(0, |limit| u64::from(limit) + 1));
        write_blocks(writer, &relation_changes.blocks);
    }
}

fn read_changes(reader: &mut Reader<'_>) -> Result<Changes, StoredError> {
    version(reader)?;
    let mut changes = Changes::default();
    for _ in 0..reader.number()? {
        let doubt = Doubt::from_stored(reader.byte()?).ok_or(StoredError("a reason for doubt is not known"))?;
        ascends(changes.doubts.last_key_value().map(|(before, _)| before), &doubt)?;
        changes.doubts.insert(doubt, Lsn(reader.number()?));
    }
    let flags = reader.byte()?;
    if flags > 3 {
        return Err(WRONG);
    }
    let mut said = |bit: u8| {
        if flags & bit == 0 {
            return Ok(None);
        }
        let first = reader.number()?;
        let last = first.checked_add(reader.number()?).ok_or(WRONG)?;
        Ok(Some(Said { first: Lsn(first), last: Lsn(last) }))
    };
    changes.levels = Levels { minimal: said(1)?, sufficient: said(2)? };
    for _ in 0..reader.number()? {
        let manager = reader.byte()?;
        ascends(changes.custom_managers.last(), &manager)?;
        if manager < RM_CUSTOM_MIN {
            return Err(WRONG);
        }
        changes.custom_managers.insert(manager);
    }
    changes.databases = read_databases(reader)?;
    changes.relations = read_relations(reader)?;
    Ok(changes)
}

fn read_databases(reader: &mut Reader<'_>) -> Result<BTreeSet<DatabaseName>, StoredError> {
    let (mut databases, mut before) = (BTreeSet::new(), [0; 2]);
    for _ in 0..reader.number()? {
        before = read_name(reader, before)?;
        let [tablespace, database] = before;
        let name = DatabaseName { tablespace, database };
        ascends(databases.last(), &name)?;
        databases.insert(name);
    }
    Ok(databases)
}

fn read_relations(reader: &mut Reader<'_>) -> Result<BTreeMap<RelationName, RelationChanges>, StoredError> {
    let (mut relations, mut before) = (BTreeMap::new(), [0; 3]);
    for _ in 0..reader.number()? {
        before = read_name(reader, before)?;
        let [tablespace, database, relation] = before;
        let name = RelationName { tablespace, database, relation };
        ascends(relations.last_key_value().map(|(before, _)| before), &name)?;
        let limit = match reader.number()?.checked_sub(1) {
            Some(limit) => Some(u32::try_from(limit).map_err(|_| WRONG)?),
            None => None,
        };
        relations.insert(name, RelationChanges { limit, blocks: read_blocks(reader)? });
    }
    Ok(relations)
}

fn ascends<T: Ord>(before: Option<&T>, next: &T) -> Result<(), StoredError> {
    if before.is_none_or(|before| before < next) { Ok(()) } else { Err(ORDER) }
}

/// Writes a name that comes after `before`; returns it.
fn write_name<const N: usize>(writer: &mut Writer, before: [u32; N], name: [u32; N]) -> [u32; N] {
    let mut is_same = true;
    for (before, number) in before.into_iter().zip(name) {
        writer.number(if is_same { number.saturating_sub(before) } else { number });
        is_same &= number == before;
    }
    name
}

fn read_name<const N: usize>(reader: &mut Reader<'_>, before: [u32; N]) -> Result<[u32; N], StoredError> {
    let (mut name, mut is_same) = ([0; N], true);
    for (number, before) in name.iter_mut().zip(before) {
        let stored: u32 = reader.small()?;
        *number = if is_same { before.checked_add(stored).ok_or(WRONG)? } else { stored };
        is_same &= *number == before;
    }
    Ok(name)
}

fn write_blocks(writer: &mut Writer, blocks: &BlockSet) {
    writer.count(blocks.chunks().len());
    let mut next = 0;
    for (high, chunk) in blocks.chunks() {
        writer.number(u32::from(*high).saturating_sub(next));
        next = u32::from(*high) + 1;
        writer.count(chunk.count().saturating_sub(1));
        match chunk {
            Chunk::Few(few) => {
                let mut next = 0;
                for low in few {
                    writer.number(u32::from(*low).saturating_sub(next));
                    next = u32::from(*low) + 1;
                }
            }
            Chunk::Many(many) => writer.0.extend(many.words().iter().flat_map(|word| word.to_le_bytes())),
        }
    }
}

fn read_blocks(reader: &mut Reader<'_>) -> Result<BlockSet, StoredError> {
    let (mut chunks, mut next) = (Vec::new(), 0);
    for _ in 0..reader.number()? {
        let high = read_half(reader, &mut next)?;
        let count = reader.number()?.saturating_add(1);
        let chunk = if count > FEW_MAX as u64 {
            let bytes = reader.array::<{ 8 * WORDS }>()?;
            let mut words = [0; WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            Chunk::Many(Bitmap::of_words(&words).ok_or(WRONG)?)
        } else {
            let (mut few, mut next) = (Vec::new(), 0);
            for _ in 0..count {
                few.push(read_half(reader, &mut next)?);
            }
            Chunk::Few(few)
        };
        if chunk.count() as u64 != count {
            return Err(WRONG);
        }
        chunks.push((high, chunk));
    }
    BlockSet::of_chunks(chunks).ok_or(WRONG)
}

/// The number that is as much larger than `next` as is stored; the next one is larger.
fn read_half(reader: &mut Reader<'_>, next: &mut u32) -> Result<u16, StoredError> {
    let number =
        reader.small::<u32>()?.checked_add(*next).and_then(|number| u16::try_from(number).ok()).ok_or(WRONG)?;
    *next = u32::from(number) + 1;
    Ok(number)
}
