//! What is known of an object from its ends alone: header, trailer and seek table, without the content.

use std::sync::Arc;

use super::context::FrameContext;
use super::header::{Header, PAYLOAD_MAX};
use super::seek_table::{FOOTER_BYTES, SeekTable};
use super::skippable::SKIPPABLE_HEAD;
use super::trailer::{FRAME_BYTES as TRAILER_BYTES, Trailer};
use super::{Fields, FormatError, Summary};
use crate::error::RepoError;
use crate::keys::Keyring;

/// Bytes at the front of an object in which the header lies.
pub(crate) const HEAD_BYTES: u64 = (SKIPPABLE_HEAD + PAYLOAD_MAX) as u64;

/// Bytes at the end of an object in which trailer and seek table lie, unless it has more than some 4,000 frames (4 GiB).
pub(crate) const TAIL_BYTES: u64 = 32 << 10;

/// The ends of an object, consistent with each other and with its length. The content was not looked at.
pub(crate) struct Tail {
    /// What the header says.
    pub header: Header,
    /// What the trailer says.
    pub summary: Summary,
    /// Where each frame lies.
    pub(super) table: SeekTable,
    /// How they are protected.
    pub(super) context: Arc<FrameContext>,
}

impl Tail {
    /// How many bytes trailer and seek table have, as the object's last bytes say.
    pub(crate) fn length(tail: &[u8]) -> Result<u64, FormatError> {
        let footer = tail.last_chunk::<FOOTER_BYTES>().ok_or(FormatError::CutShort("seek table"))?;
        Ok(SeekTable::length_from_footer(footer)? + TRAILER_BYTES as u64)
    }

    /// Reads the ends of the object at `path`: `head` begins with the header's frame, `tail` is exactly trailer and table.
    pub(crate) fn parse(
        head: &[u8],
        tail: &[u8],
        stored_bytes: u64,
        keyring: Option<&Keyring>,
        path: &str,
        object: &str,
    ) -> Result<Self, RepoError> {
        let damaged = |error| RepoError::damaged(object, error);
        let (header, header_payload, header_bytes) = Header::parse_frame(head).map_err(damaged)?;
        let context = FrameContext::of(&header, header_payload, keyring, path, object)?;
        let mut fields = Fields(tail);
        let trailer = fields.bytes(TRAILER_BYTES).ok_or_else(|| damaged(FormatError::CutShort("trailer")))?;
        let trailer = Trailer::parse(trailer, &context).map_err(damaged)?;
        let table = SeekTable::parse(fields.0, trailer.content_bytes).map_err(damaged)?;
        let last = table.frames().checked_sub(1).and_then(|last| table.place(last));
        let first = table.place(0);
        let fits = first == u32::try_from(header_bytes).ok().map(|length| (0, length))
            && last.is_some_and(|(_, length)| usize::try_from(length) == Ok(TRAILER_BYTES))
            && table.stored_bytes() + fields.0.len() as u64 == stored_bytes;
        if !fits {
            return Err(damaged(FormatError::SeekTable("it does not fit the object's length")));
        }
        let summary = Summary {
            content_bytes: trailer.content_bytes,
            content_digest: trailer.content_digest,
            stored_bytes,
            stored_digest: trailer.stored_digest,
            commit_times: trailer.commit_times,
        };
        Ok(Self { header, summary, table, context: Arc::new(context) })
    }
}
