//! Reads one record as its bytes stream past, for what it changes.
//!
//! A record (`DecodeXLogRecord`, src/backend/access/transam/xlogreader.c, 13 to 18) is its header ([`crate::walk`]), then
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 0 to 32: a block, in ascending order; 253: an origin of 2 bytes; 252: a transaction of 4 bytes (14 and later); 255 or 254: main data, last |
//! | 1 | of a block: fork (lower four bits), 0x10 an image, 0x20 data, 0x80 of the same relation as the block before |
//! | 2 | of a block: length of its data |
//! | 5 | of a block with an image: its length (2), where its hole begins (2), flags (1) |
//! | 2 | of a block with a compressed image with a hole: length of the hole |
//! | 12 | of a block, unless of the same relation: tablespace, database, relation |
//! | 4 | of a block: its number |
//! | 1, 4 | of main data: its length (255: 1 byte, 254: 4 bytes) |
//!
//! until what they announce is as long as the rest: each block's image and data, then the main data. Images are passed over unread. Memory is a
//! field and the numbers of this table, however long the record is. What does not fit makes a doubt.

use super::content::{Next, Piece, Unreadable, relation};
use super::relations::{Doubt, RelationName, Sink};
use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::lsn::Lsn;
use crate::record_layout::{
    ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN, ID_TOPLEVEL_XID, RECORD_HEADER_BYTES, RM_BUILT_IN_MAX, RM_CUSTOM_MIN,
};

/// `XLR_SPECIAL_REL_UPDATE`, and all flags that are not the resource manager's (`XLR_CHECK_CONSISTENCY` is the other).
pub(super) const SPECIAL: u8 = 0x01;
pub(super) const FLAGS: u8 = 0x03;
/// `XLR_MAX_BLOCK_ID`, src/include/access/xlogrecord.h, and the flags of a block there.
pub(super) const BLOCK_ID_MAX: u8 = 32;
pub(super) const FORK: u8 = 0x0F;
pub(super) const FORK_MAX: u8 = 3;
pub(super) const HAS_IMAGE: u8 = 0x10;
pub(super) const HAS_DATA: u8 = 0x20;
pub(super) const SAME_RELATION: u8 = 0x80;
/// Flags of an image: it has a hole; all of them; the methods by which it is compressed. Another table in 13 and 14 than from 15 on.
pub(super) const HAS_HOLE: u8 = 0x01;
pub(super) const IMAGE_TO_14: (u8, u8) = (0x07, 0x02);
pub(super) const IMAGE_FROM_15: (u8, u8) = (0x1F, 0x1C);
/// `InvalidBlockNumber`.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// Reads one record, its header included, handed in as successive chunks cut anywhere.
#[derive(Debug)]
pub struct RecordParser {
    major: u16,
    lsn: Lsn,
    /// The predecessor that its header names.
    previous: Option<Lsn>,
    /// How many bytes of the record have not come yet; of its header only, before that has.
    left: u64,
    /// How many bytes are passed over before the next field.
    gap: u64,
    field: Field,
    /// The part of the field that has arrived.
    partial: [u8; RECORD_HEADER_BYTES],
    filled: usize,
    kind: (u8, u8),
    /// How many bytes of images and data the blocks so far announce.
    announced: u64,
    /// The last block: its id, its flags, its relation.
    id: Option<u8>,
    flags: u8,
    relation: Option<RelationName>,
}

/// The next field that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Header,
    Id,
    Block,
    Image,
    Hole,
    Relation,
    Number,
    Origin,
    Transaction,
    ShortLength,
    LongLength,
    Content(Piece),
    /// Nothing more matters.
    None,
}

impl RecordParser {
    /// For the record at `lsn` of a server of version `major`.
    pub fn new(major: u16, lsn: Lsn) -> Self {
        Self {
            major,
            lsn,
            previous: None,
            left: RECORD_HEADER_BYTES as u64,
            gap: 0,
            field: Field::Header,
            partial: [0; RECORD_HEADER_BYTES],
            filled: 0,
            kind: (0, 0),
            announced: 0,
            id: None,
            flags: 0,
            relation: None,
        }
    }

    /// The same, for a record of which nothing more matters.
    pub(super) fn done(major: u16, lsn: Lsn) -> Self {
        Self { field: Field::None, ..Self::new(major, lsn) }
    }

    /// The position of the record.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The predecessor that the record names, once its header has arrived.
    pub fn previous(&self) -> Option<Lsn> {
        self.previous
    }

    /// Whether what is still to come of the record matters.
    pub fn wants(&self) -> bool {
        self.field != Field::None
    }

    /// Takes the next bytes of the record and adds to `changes` what they say; whether more are wanted.
    pub fn take(&mut self, mut bytes: &[u8], changes: &mut impl Sink) -> bool {
        while self.wants() && !bytes.is_empty() {
            let taken = if self.gap > 0 {
                let length = usize::try_from(self.gap).unwrap_or(usize::MAX).min(bytes.len());
                self.gap -= length as u64;
                self.left = self.left.saturating_sub(length as u64);
                length
            } else {
                self.collect(bytes, changes)
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        self.wants()
    }

    /// Passes over bytes of the record that are not at hand; a doubt when any of them matters.
    pub fn pass(&mut self, bytes: u64, changes: &mut impl Sink) {
        if !self.wants() || bytes == 0 {
            return;
        }
        match self.gap.checked_sub(bytes) {
            Some(gap) => {
                self.gap = gap;
                self.left = self.left.saturating_sub(bytes);
            }
            None => self.give_up(changes),
        }
    }

    /// No more bytes come; a doubt when any matters.
    pub fn finish(mut self, changes: &mut impl Sink) {
        if self.wants() {
            self.give_up(changes);
        }
    }

    fn give_up(&mut self, changes: &mut impl Sink) {
        self.field = Field::None;
        changes.doubt(Doubt::Unreadable, self.lsn);
    }

    /// Takes bytes of the field; returns how many.
    fn collect(&mut self, bytes: &[u8], changes: &mut impl Sink) -> usize {
        let want = self.field.bytes();
        let taken = want.saturating_sub(self.filled).min(bytes.len());
        let room = self.partial.get_mut(self.filled..self.filled + taken);
        if let (Some(room), Some(bytes)) = (room, bytes.get(..taken)) {
            room.copy_from_slice(bytes);
        }
        self.filled += taken;
        self.left = self.left.saturating_sub(taken as u64);
        if self.filled == want {
            self.filled = 0;
            match self.read(changes) {
                Ok((gap, field)) if gap.saturating_add(field.bytes() as u64) <= self.left => {
                    (self.gap, self.field) = (gap, field);
                }
                _ => self.give_up(changes),
            }
        }
        taken
    }

    /// Reads the field that has arrived: which is the next, and how many bytes lie before it.
    fn read(&mut self, changes: &mut impl Sink) -> Result<(u64, Field), Unreadable> {
        let field = match self.field {
            Field::Header => return self.header(changes),
            Field::Id => self.next_of(self.byte(0)?)?,
            Field::Block => self.block()?,
            Field::Image => self.image()?,
            Field::Hole if self.half(0)? > 0 => self.after_image()?,
            Field::Relation => {
                self.relation = Some(relation(&self.partial, 0)?);
                Field::Number
            }
            Field::Number => {
                let (number, name) = (self.word(0)?, self.relation.ok_or(Unreadable)?);
                if number == NO_BLOCK {
                    return Err(Unreadable);
                }
                if self.flags & FORK == 0 {
                    changes.block(name, number);
                }
                self.next_id()?
            }
            Field::Origin | Field::Transaction => self.next_id()?,
            Field::ShortLength => return self.main_data(u64::from(self.byte(0)?)),
            Field::LongLength => return self.main_data(u64::from(self.word(0)?)),
            Field::Content(piece) => return Ok(next(piece.read(&self.partial, self.left, self.lsn, changes)?)),
            Field::Hole | Field::None => return Err(Unreadable),
        };
        Ok((0, field))
    }

    fn header(&mut self, changes: &mut impl Sink) -> Result<(u64, Field), Unreadable> {
        let total = u64::from(self.word(0)?);
        let (info, manager) = (self.byte(16)?, self.byte(17)?);
        self.previous = u64_at(&self.partial, 8).map(Lsn);
        self.left = total.checked_sub(RECORD_HEADER_BYTES as u64).ok_or(Unreadable)?;
        self.kind = (manager, info);
        let is_custom = manager >= RM_CUSTOM_MIN && self.major >= 15;
        if is_custom {
            changes.custom_manager(manager);
        }
        self.content()?;
        if info & SPECIAL != 0 && !Piece::may_be_special(manager, info) {
            changes.doubt(Doubt::Special, self.lsn);
        }
        if info & !FLAGS & 0x0F != 0 || !is_custom && manager > RM_BUILT_IN_MAX {
            return Err(Unreadable);
        }
        Ok((0, self.next_id()?))
    }

    /// The headers go on until what they announce is as long as the rest.
    fn next_id(&self) -> Result<Field, Unreadable> {
        match self.left.cmp(&self.announced) {
            std::cmp::Ordering::Greater => Ok(Field::Id),
            std::cmp::Ordering::Less => Err(Unreadable),
            std::cmp::Ordering::Equal => match self.content()? {
                Some(_) => Err(Unreadable),
                None => Ok(Field::None),
            },
        }
    }

    /// What follows the id.
    fn next_of(&mut self, id: u8) -> Result<Field, Unreadable> {
        match id {
            0..=BLOCK_ID_MAX if self.id.is_none_or(|before| before < id) => {
                self.id = Some(id);
                Ok(Field::Block)
            }
            ID_ORIGIN => Ok(Field::Origin),
            ID_TOPLEVEL_XID if self.major >= 14 => Ok(Field::Transaction),
            ID_DATA_SHORT => Ok(Field::ShortLength),
            ID_DATA_LONG => Ok(Field::LongLength),
            _ => Err(Unreadable),
        }
    }

    fn block(&mut self) -> Result<Field, Unreadable> {
        self.flags = self.byte(0)?;
        let data = self.half(1)?;
        if self.flags & FORK > FORK_MAX || (self.flags & HAS_DATA != 0) != (data > 0) {
            return Err(Unreadable);
        }
        self.announced += u64::from(data);
        if self.flags & HAS_IMAGE != 0 { Ok(Field::Image) } else { self.after_image() }
    }

    fn image(&mut self) -> Result<Field, Unreadable> {
        let (length, hole, flags) = (self.half(0)?, self.half(2)?, self.byte(4)?);
        let (known, compressed) = if self.major >= 15 { IMAGE_FROM_15 } else { IMAGE_TO_14 };
        let (methods, has_hole) = (flags & compressed, flags & HAS_HOLE != 0);
        if flags & !known != 0 || methods.count_ones() > 1 || has_hole != (hole > 0) {
            return Err(Unreadable);
        }
        self.announced += u64::from(length);
        if methods != 0 && has_hole { Ok(Field::Hole) } else { self.after_image() }
    }

    fn after_image(&self) -> Result<Field, Unreadable> {
        match (self.flags & SAME_RELATION != 0, self.relation) {
            (false, _) => Ok(Field::Relation),
            (true, Some(_)) => Ok(Field::Number),
            (true, None) => Err(Unreadable),
        }
    }

    /// The headers end with main data of this length, which follows images and data.
    fn main_data(&self, length: u64) -> Result<(u64, Field), Unreadable> {
        if self.announced + length != self.left {
            return Err(Unreadable);
        }
        match self.content()? {
            Some((wanted, gap, piece)) if wanted.fits(length) => Ok((self.announced + gap, Field::Content(piece))),
            Some(_) => Err(Unreadable),
            None => Ok((0, Field::None)),
        }
    }

    fn content(&self) -> Result<Option<(super::content::Length, u64, Piece)>, Unreadable> {
        let (manager, info) = self.kind;
        Piece::of(self.major, manager, info)
    }

    fn byte(&self, offset: usize) -> Result<u8, Unreadable> {
        array::<1>(&self.partial, offset).map(|[byte]| byte).ok_or(Unreadable)
    }

    fn half(&self, offset: usize) -> Result<u16, Unreadable> {
        u16_at(&self.partial, offset).ok_or(Unreadable)
    }

    fn word(&self, offset: usize) -> Result<u32, Unreadable> {
        u32_at(&self.partial, offset).ok_or(Unreadable)
    }
}

fn next(next: Next) -> (u64, Field) {
    next.map_or((0, Field::None), |(gap, piece)| (gap, Field::Content(piece)))
}

impl Field {
    fn bytes(self) -> usize {
        match self {
            Self::Header => RECORD_HEADER_BYTES,
            Self::Id | Self::ShortLength => 1,
            Self::Block => 3,
            Self::Image => 5,
            Self::Hole | Self::Origin => 2,
            Self::Relation => 12,
            Self::Number | Self::Transaction | Self::LongLength => 4,
            Self::Content(piece) => piece.bytes(),
            Self::None => 0,
        }
    }
}
