//! The seek table, in the zstd project's own format (contrib/seekable_format/zstd_seekable_compression_format.md, 0.1.1): one
//! entry for every frame before it, header and trailer included (they decompress to nothing), without checksums.

use bytes::Bytes;

use super::skippable::{SKIPPABLE_HEAD, skippable};
use super::{FRAME_BYTES, Fields, FormatError};

/// Magic number of the seek table's skippable frame.
const FRAME_MAGIC: u32 = 0x184D_2A5E;
/// Magic number at its end.
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;
/// Compressed and decompressed size.
const ENTRY_BYTES: usize = 8;
/// The longest table that is read: of an object of 8 TiB.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// Number of frames, descriptor, magic number.
pub(super) const FOOTER_BYTES: usize = 4 + 1 + 4;

/// Compressed lengths of the frames seen so far; what they decompress to follows from the length of the content.
#[derive(Debug, Default)]
pub(super) struct SeekTable {
    /// Header, content frames, trailer.
    stored: Vec<u32>,
    stored_bytes: u64,
}

impl SeekTable {
    /// One more frame.
    pub(super) fn push(&mut self, stored: usize) {
        // A frame is never longer than `stored_max()`, which fits.
        self.stored.push(u32::try_from(stored).unwrap_or(u32::MAX));
        self.stored_bytes += stored as u64;
    }

    /// Bytes of all frames so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The frame that describes header, content frames and trailer, or an error when content of that length is not that
    /// many frames.
    pub(super) fn frame(&self, content_bytes: u64) -> Result<Bytes, FormatError> {
        let content_frames = self.stored.len().saturating_sub(2);
        if content_frame_count(content_bytes) != content_frames as u64 {
            return Err(FormatError::Trailer("the content has another length"));
        }
        let mut payload = Vec::with_capacity(self.stored.len() * ENTRY_BYTES + FOOTER_BYTES);
        let mut left = content_bytes;
        for (index, stored) in self.stored.iter().enumerate() {
            let content = if (1..=content_frames).contains(&index) { left.min(FRAME_BYTES as u64) } else { 0 };
            left -= content;
            payload.extend_from_slice(&stored.to_le_bytes());
            payload.extend_from_slice(&u32::try_from(content).unwrap_or(u32::MAX).to_le_bytes());
        }
        payload.extend_from_slice(&u32::try_from(self.stored.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.push(0);
        payload.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        Ok(skippable(FRAME_MAGIC, &payload))
    }

    /// How long the table is that ends with `footer` (the object's last [`FOOTER_BYTES`] bytes).
    pub(super) fn length_from_footer(footer: &[u8]) -> Result<u64, FormatError> {
        let mut fields = Fields(footer);
        match (fields.u32(), fields.u8(), fields.u32(), fields.0) {
            (Some(frames), Some(0), Some(FOOTER_MAGIC), []) => match table_bytes(u64::from(frames)) {
                bytes if bytes <= TABLE_BYTES_MAX => Ok(bytes),
                _ => Err(FormatError::SeekTable("it is longer than that of any object")),
            },
            _ => Err(FormatError::SeekTable("it does not end as one")),
        }
    }

    /// Reads a whole table, which must be exactly what is written for these frames and this content.
    pub(super) fn parse(frame: &[u8], content_bytes: u64) -> Result<Self, FormatError> {
        let payload = frame.get(SKIPPABLE_HEAD..).unwrap_or_default();
        let entries = payload.len().saturating_sub(FOOTER_BYTES) / ENTRY_BYTES;
        let mut fields = Fields(payload);
        let mut table = Self::default();
        for _ in 0..entries {
            let (Some(stored), Some(_)) = (fields.u32(), fields.u32()) else { break };
            table.push(usize::try_from(stored).unwrap_or(usize::MAX));
        }
        if table.frame(content_bytes)? == frame {
            Ok(table)
        } else {
            Err(FormatError::SeekTable("it does not fit the content"))
        }
    }

    /// Where stored frame `index` (0 is the header) begins, and how long it is.
    pub(super) fn place(&self, index: usize) -> Option<(u64, u32)> {
        let length = *self.stored.get(index)?;
        let start = self.stored.get(..index)?.iter().map(|length| u64::from(*length)).sum();
        Some((start, length))
    }

    /// How many frames there are, header and trailer included.
    pub(super) fn frames(&self) -> usize {
        self.stored.len()
    }
}

/// How many frames content of that length has. Empty content has one.
pub(super) fn content_frame_count(content_bytes: u64) -> u64 {
    content_bytes.div_ceil(FRAME_BYTES as u64).max(1)
}

/// Bytes of the table's frame for so many frames.
fn table_bytes(frames: u64) -> u64 {
    (SKIPPABLE_HEAD + FOOTER_BYTES) as u64 + frames * ENTRY_BYTES as u64
}

/// Bytes of the table's frame behind content of that length.
pub(super) fn table_bytes_for(content_bytes: u64) -> u64 {
    table_bytes(content_frame_count(content_bytes) + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_footer_that_claims_a_table_of_gigabytes_is_not_believed() {
        let footer = |frames: u32| {
            let mut footer = frames.to_le_bytes().to_vec();
            footer.push(0);
            footer.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
            SeekTable::length_from_footer(&footer)
        };
        assert_eq!(footer(3), Ok(table_bytes(3)));
        assert!(footer(8 << 20).is_err() && footer(u32::MAX).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            stored in proptest::collection::vec(1usize..1_100_000, 3..50),
            last in 1u64..=FRAME_BYTES as u64,
        ) {
            let content_bytes = (stored.len() as u64 - 3) * FRAME_BYTES as u64 + last;
            let mut table = SeekTable::default();
            for length in &stored {
                table.push(*length);
            }
            let frame = table.frame(content_bytes).expect("a table");
            prop_assert_eq!(frame.len() as u64, table_bytes_for(content_bytes));
            let footer = &frame[frame.len() - FOOTER_BYTES..];
            prop_assert_eq!(SeekTable::length_from_footer(footer), Ok(frame.len() as u64));
            let read = SeekTable::parse(&frame, content_bytes).expect("a table");
            prop_assert_eq!(read.stored_bytes(), table.stored_bytes());
            prop_assert_eq!(read.place(1), Some((stored[0] as u64, u32::try_from(stored[1]).expect("short"))));
            prop_assert!(table.frame(content_bytes + FRAME_BYTES as u64).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, content_bytes: u64, framed: bool) {
            let frame = if framed { skippable(FRAME_MAGIC, &bytes).to_vec() } else { bytes };
            let _ = SeekTable::parse(&frame, content_bytes);
            let _ = SeekTable::length_from_footer(&frame);
        }
    }
}
