//! Reads an ordinary record whose bytes are all at hand: one that changes nothing but the blocks that it names. Nearly all records are such
//! ones. The layout is that of [`super::parse`], which reads what is passed up here: of a record the two must say the same.

use super::content::{Piece, relation};
use super::parse::{
    BLOCK_ID_MAX, FLAGS, FORK, FORK_MAX, HAS_DATA, HAS_HOLE, HAS_IMAGE, IMAGE_FROM_15, IMAGE_TO_14, NO_BLOCK,
    SAME_RELATION, SPECIAL,
};
use super::relations::{RelationName, Sink};
use crate::record_layout::{
    ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN, ID_TOPLEVEL_XID, RECORD_HEADER_BYTES, RM_BUILT_IN_MAX,
};

/// A relation's tablespace, database and number.
const RELATION_BYTES: usize = 12;

/// Tells `changes` the blocks of a record of a server of version `major`. `None` when the record is no ordinary one or cannot be read: all of it
/// has to be told again, of which nothing or a part was told here.
pub(super) fn tell_blocks(major: u16, record: &[u8], changes: &mut impl Sink) -> Option<()> {
    let (header, mut rest) = record.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let &[.., info, manager, _, _, _, _, _, _] = header;
    let has_unknown_flags = info & 0x0F & !FLAGS != 0;
    if has_unknown_flags || info & SPECIAL != 0 || manager > RM_BUILT_IN_MAX {
        return None;
    }
    if Piece::of(major, manager, info).ok()?.is_some() {
        return None;
    }
    let (mut announced, mut id_min, mut name) = (0, 0, None);
    // The headers go on until what they announce is as long as the rest.
    while rest.len() > announced {
        let (id, after) = rest.split_first()?;
        rest = match *id {
            0..=BLOCK_ID_MAX if *id >= id_min => {
                id_min = *id + 1;
                let block = Block::read(major, after, name)?;
                if block.is_main {
                    changes.block(block.name, block.number);
                }
                announced += block.announced;
                name = Some(block.name);
                block.after
            }
            ID_DATA_SHORT => {
                let (length, after) = after.split_first()?;
                return (announced + usize::from(*length) == after.len()).then_some(());
            }
            ID_DATA_LONG => {
                let (length, after) = after.split_first_chunk()?;
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                return (announced.checked_add(length)? == after.len()).then_some(());
            }
            ID_ORIGIN => after.get(2..)?,
            ID_TOPLEVEL_XID if major >= 14 => after.get(4..)?,
            _ => return None,
        };
    }
    (rest.len() == announced).then_some(())
}

/// What the header of a block says.
struct Block<'a> {
    name: RelationName,
    number: u32,
    is_main: bool,
    /// How many bytes of image and data follow all headers.
    announced: usize,
    /// What comes after this header.
    after: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the header after its id; `before` is the relation of the block before.
    fn read(major: u16, header: &'a [u8], before: Option<RelationName>) -> Option<Self> {
        let (&[flags, low, high], mut after) = header.split_first_chunk()?;
        let data = u16::from_le_bytes([low, high]);
        if flags & FORK > FORK_MAX || (flags & HAS_DATA != 0) != (data > 0) {
            return None;
        }
        let mut announced = usize::from(data);
        if flags & HAS_IMAGE != 0 {
            let length;
            (length, after) = image(major, after)?;
            announced += usize::from(length);
        }
        let name = if flags & SAME_RELATION != 0 {
            before?
        } else {
            let (name, rest) = after.split_first_chunk::<RELATION_BYTES>()?;
            after = rest;
            relation(name, 0).ok()?
        };
        let (number, after) = after.split_first_chunk()?;
        let number = u32::from_le_bytes(*number);
        (number != NO_BLOCK).then_some(Self { name, number, is_main: flags & FORK == 0, announced, after })
    }
}

/// The length of the image that is described at the start of `header`, and what comes after the description.
fn image(major: u16, header: &[u8]) -> Option<(u16, &[u8])> {
    let (&[low, high, hole_low, hole_high, flags], after) = header.split_first_chunk()?;
    let (known, compressed) = if major >= 15 { IMAGE_FROM_15 } else { IMAGE_TO_14 };
    let (methods, has_hole) = (flags & compressed, flags & HAS_HOLE != 0);
    let hole_begins = u16::from_le_bytes([hole_low, hole_high]);
    if flags & !known != 0 || methods.count_ones() > 1 || has_hole != (hole_begins > 0) {
        return None;
    }
    let length = u16::from_le_bytes([low, high]);
    if methods == 0 || !has_hole {
        return Some((length, after));
    }
    let (hole_length, after) = after.split_first_chunk()?;
    (u16::from_le_bytes(*hole_length) > 0).then_some((length, after))
}
