//! The seek table, in the zstd project's own format (contrib/seekable_format/zstd_seekable_compression_format.md, 0.1.1): one
//! entry for every frame before it, header and trailer included (they decompress to nothing); with checksums when the content is plain.

use bytes::Bytes;

use super::frame::stored_max;
use super::skippable::{SKIPPABLE_HEAD, skippable};
use super::{FRAME_BYTES, Fields, FormatError};

/// Magic number of the seek table's skippable frame.
const FRAME_MAGIC: u32 = 0x184D_2A5E;
/// Magic number at its end.
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;
/// Stored length and content length.
const ENTRY_BYTES: usize = 8;
/// The same and a checksum.
const CHECKED_ENTRY_BYTES: usize = 12;
/// The descriptor's only bit in use: entries have checksums.
const CHECKED: u8 = 1 << 7;
/// The longest table that is read: of an object of 5 TiB.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// The checksum of a frame without content: the lower half of XXH64 of nothing.
const CHECKSUM_OF_NOTHING: u32 = 0x51D8_E999;
/// Number of frames, descriptor, magic number.
pub(super) const FOOTER_BYTES: usize = 4 + 1 + 4;

/// Stored lengths of the frames seen so far, and of plain ones the checksums; what they decompress to follows from the length of the content.
#[derive(Debug)]
pub(super) struct SeekTable {
    /// Whether content frames are plain, so that the table holds their checksums. That of a sealed one would tell of its content.
    checked: bool,
    /// Where each frame begins, how long it is, its checksum. Header, content frames, facts, trailer.
    frames: Vec<(u64, u32, u32)>,
    /// Whether a facts frame stands between the last content frame and the trailer.
    has_facts: bool,
    stored_bytes: u64,
}

impl SeekTable {
    /// The table of an object whose content frames are `plain` or sealed.
    pub(super) fn new(plain: bool) -> Self {
        Self { checked: plain, frames: Vec::new(), has_facts: false, stored_bytes: 0 }
    }

    /// One more frame, of `stored` bytes, that has no content.
    pub(super) fn push(&mut self, stored: usize) {
        self.push_checked(stored, CHECKSUM_OF_NOTHING);
    }

    /// One more frame that has no content.
    pub(super) fn push_other(&mut self, stored: &[u8]) {
        self.push(stored.len());
    }

    /// The facts frame.
    pub(super) fn push_facts(&mut self, stored: &[u8]) {
        self.has_facts = true;
        self.push(stored.len());
    }

    /// One more content frame. A plain one ends with its checksum (RFC 8878, 3.1.1).
    pub(super) fn push_content(&mut self, stored: &[u8]) {
        let checksum = stored.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
        self.push_checked(stored.len(), checksum);
    }

    fn push_checked(&mut self, stored: usize, checksum: u32) {
        // A frame is never longer than `stored_max()`, which fits.
        let length = u32::try_from(stored).unwrap_or(u32::MAX);
        self.frames.push((self.stored_bytes, length, checksum));
        self.stored_bytes += stored as u64;
    }

    /// Bytes of all frames so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The frame that describes header, content frames, facts and trailer, or an error when content of that length is not that
    /// many frames.
    pub(super) fn frame(&self, content_bytes: u64) -> Result<Bytes, FormatError> {
        let count = self.frames.len();
        let content_frames = count.saturating_sub(2 + usize::from(self.has_facts));
        if content_frame_count(content_bytes) != content_frames as u64 {
            return Err(FormatError::Trailer("the content has another length"));
        }
        let entry_bytes = if self.checked { CHECKED_ENTRY_BYTES } else { ENTRY_BYTES };
        let mut payload = Vec::with_capacity(count * entry_bytes + FOOTER_BYTES);
        let mut left = content_bytes;
        for (index, (_, stored, checksum)) in self.frames.iter().enumerate() {
            let (content, checksum) = if (1..=content_frames).contains(&index) {
                (left.min(FRAME_BYTES as u64), *checksum)
            } else {
                (0, CHECKSUM_OF_NOTHING)
            };
            left -= content;
            payload.extend_from_slice(&stored.to_le_bytes());
            payload.extend_from_slice(&u32::try_from(content).unwrap_or(u32::MAX).to_le_bytes());
            if self.checked {
                payload.extend_from_slice(&checksum.to_le_bytes());
            }
        }
        payload.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        payload.push(if self.checked { CHECKED } else { 0 });
        payload.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        Ok(skippable(FRAME_MAGIC, &payload))
    }

    /// How long the table is that ends with `footer` (the object's last [`FOOTER_BYTES`] bytes).
    pub(super) fn length_from_footer(footer: &[u8]) -> Result<u64, FormatError> {
        let mut fields = Fields(footer);
        let wrong = FormatError::SeekTable("it does not end as one");
        let (frames, checked) = match (fields.u32(), fields.u8(), fields.u32(), fields.0) {
            (Some(frames), Some(descriptor @ (0 | CHECKED)), Some(FOOTER_MAGIC), []) => (frames, descriptor == CHECKED),
            _ => return Err(wrong),
        };
        match table_bytes(u64::from(frames), checked) {
            bytes if bytes <= TABLE_BYTES_MAX => Ok(bytes),
            _ => Err(FormatError::SeekTable("it is longer than that of any object")),
        }
    }

    /// The stored length of the last frame (the trailer), as the last entry of a table says that ends with `tail`, which need not hold all of it.
    pub(super) fn trailer_bytes(tail: &[u8]) -> Result<u64, FormatError> {
        let short = || FormatError::CutShort("seek table");
        let (entries, footer) = tail.split_last_chunk::<FOOTER_BYTES>().ok_or_else(short)?;
        let entry_bytes = match footer.get(4) {
            Some(0) => ENTRY_BYTES,
            _ => CHECKED_ENTRY_BYTES,
        };
        let at = entries.len().checked_sub(entry_bytes).ok_or_else(short)?;
        let stored = entries.get(at..).and_then(|entry| Fields(entry).u32()).ok_or_else(short)?;
        Ok(u64::from(stored))
    }

    /// Reads a whole table, which must be exactly what is written for these frames, plain or sealed, and this content.
    pub(super) fn parse(frame: &[u8], plain: bool, content_bytes: u64) -> Result<Self, FormatError> {
        let payload = frame.get(SKIPPABLE_HEAD..).unwrap_or_default();
        let entry_bytes = if plain { CHECKED_ENTRY_BYTES } else { ENTRY_BYTES };
        let entries = payload.len().saturating_sub(FOOTER_BYTES) / entry_bytes;
        let mut fields = Fields(payload);
        let mut table = Self::new(plain);
        for _ in 0..entries {
            let (Some(stored), Some(_)) = (fields.u32(), fields.u32()) else { break };
            let checksum = if plain { fields.u32().unwrap_or_default() } else { CHECKSUM_OF_NOTHING };
            let stored = usize::try_from(stored).unwrap_or(usize::MAX);
            if stored > stored_max() {
                return Err(FormatError::SeekTable("a frame in it is longer than any"));
            }
            table.push_checked(stored, checksum);
        }
        table.has_facts = entries as u64 == content_frame_count(content_bytes).saturating_add(3);
        if table.frame(content_bytes)? == frame {
            Ok(table)
        } else {
            Err(FormatError::SeekTable("it does not fit the content"))
        }
    }

    /// Where stored frame `index` (0 is the header) begins, and how long it is.
    pub(super) fn place(&self, index: usize) -> Option<(u64, u32)> {
        self.frames.get(index).map(|(start, length, _)| (*start, *length))
    }

    /// Where the facts frame begins, and how long it is.
    pub(super) fn facts(&self) -> Option<(u64, u32)> {
        let index = self.frames.len().checked_sub(2).filter(|_| self.has_facts)?;
        self.place(index)
    }

    /// Whether `stored` is as long as content frame `number` is, and ends with its checksum, where the table has one.
    pub(super) fn is_of(&self, number: u64, stored: &[u8]) -> bool {
        let entry = usize::try_from(number).ok().and_then(|number| self.frames.get(number.checked_add(1)?));
        entry.is_some_and(|(_, length, checksum)| {
            usize::try_from(*length) == Ok(stored.len())
                && (!self.checked || stored.last_chunk() == Some(&checksum.to_le_bytes()))
        })
    }

    /// How many frames there are, header and trailer included.
    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }
}

/// How many frames content of that length has. Empty content has one.
pub(super) fn content_frame_count(content_bytes: u64) -> u64 {
    content_bytes.div_ceil(FRAME_BYTES as u64).max(1)
}

/// Bytes of the table's frame for so many frames.
fn table_bytes(frames: u64, checked: bool) -> u64 {
    let entry_bytes = if checked { CHECKED_ENTRY_BYTES } else { ENTRY_BYTES };
    (SKIPPABLE_HEAD + FOOTER_BYTES) as u64 + frames * entry_bytes as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_footer_that_claims_a_table_of_gigabytes_is_not_believed() {
        for checked in [false, true] {
            let footer = |frames: u32| {
                let mut footer = frames.to_le_bytes().to_vec();
                footer.push(if checked { CHECKED } else { 0 });
                footer.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
                SeekTable::length_from_footer(&footer)
            };
            assert_eq!(footer(3), Ok(table_bytes(3, checked)));
            assert!(footer(8 << 20).is_err() && footer(u32::MAX).is_err());
        }
    }

    #[test]
    fn a_frame_of_gigabytes_is_not_asked_for() {
        for (longest, is_believed) in [(stored_max(), true), (stored_max() + 1, false), (u32::MAX as usize, false)] {
            let mut table = SeekTable::new(true);
            for length in [30, longest, 90] {
                table.push(length);
            }
            let frame = table.frame(7).expect("a table");
            assert_eq!(SeekTable::parse(&frame, true, 7).is_ok(), is_believed, "{longest}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            stored in proptest::collection::vec((5usize..20_000, any::<u8>()), 3..50),
            last in 1u64..=FRAME_BYTES as u64,
            plain: bool,
            facts: bool,
        ) {
            let facts = facts && stored.len() > 3;
            let content_bytes = (stored.len() as u64 - 3 - u64::from(facts)) * FRAME_BYTES as u64 + last;
            let mut table = SeekTable::new(plain);
            for (at, (length, byte)) in stored.iter().enumerate() {
                if at == 0 || at + 1 == stored.len() {
                    table.push(*length);
                } else if facts && at + 2 == stored.len() {
                    table.push_facts(&vec![0; *length]);
                } else {
                    table.push_content(&vec![*byte; *length]);
                }
            }
            let frame = table.frame(content_bytes).expect("a table");
            prop_assert_eq!(frame.len() as u64, table_bytes(stored.len() as u64, plain));
            let footer = &frame[frame.len() - FOOTER_BYTES..];
            prop_assert_eq!(SeekTable::length_from_footer(footer), Ok(frame.len() as u64));
            prop_assert_eq!(SeekTable::trailer_bytes(&frame), Ok(stored[stored.len() - 1].0 as u64));
            let read = SeekTable::parse(&frame, plain, content_bytes).expect("a table");
            prop_assert!(SeekTable::parse(&frame, !plain, content_bytes).is_err());
            prop_assert_eq!(read.stored_bytes(), table.stored_bytes());
            prop_assert_eq!(read.facts(), table.facts());
            prop_assert_eq!(read.facts().is_some(), facts);
            let (length, byte) = stored[1];
            prop_assert_eq!(read.place(1), Some((stored[0].0 as u64, u32::try_from(length).expect("short"))));
            prop_assert!(read.is_of(0, &vec![byte; length]) && !read.is_of(0, &vec![byte; length + 1]));
            prop_assert_eq!(read.is_of(0, &vec![!byte; length]), !plain);
            prop_assert!(table.frame(content_bytes + FRAME_BYTES as u64).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, content_bytes: u64, framed: bool, plain: bool) {
            let frame = if framed { skippable(FRAME_MAGIC, &bytes).to_vec() } else { bytes };
            let _ = SeekTable::parse(&frame, plain, content_bytes);
            let _ = SeekTable::length_from_footer(&frame);
            let _ = SeekTable::trailer_bytes(&frame);
        }
    }
}
