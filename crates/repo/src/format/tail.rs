//! What is known of an object from its end alone: trailer, with the header in it, and seek table, without the content.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::context::FrameContext;
use super::frame::{decode_facts, stored_max};
use super::header::Header;
use super::seek_table::{FOOTER_BYTES, SeekTable};
use super::skippable::SKIPPABLE_HEAD;
use super::trailer::{FRAME_BYTES_MAX as TRAILER_MAX, Trailer};
use super::{FormatError, Kind, Summary};
use crate::error::RepoError;
use crate::facts::Facts;
use crate::keys::Keyring;

/// Bytes at the end of an object in which trailer and seek table lie, unless it has more than some 2,600 frames (2.6 GiB).
pub(crate) const TAIL_BYTES: u64 = 32 << 10;

/// The end of an object, authentic and consistent with its length. The content was not looked at.
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
        let trailer = SeekTable::trailer_bytes(tail)?;
        if trailer > TRAILER_MAX as u64 {
            return Err(FormatError::Trailer("it is too long"));
        }
        Ok(SeekTable::length_from_footer(footer)? + trailer)
    }

    /// Reads the end of the object at `path`: `tail` is exactly trailer and table.
    pub(crate) fn parse(
        tail: &Bytes,
        stored_bytes: u64,
        keyring: Option<&Keyring>,
        path: &str,
        object: &str,
    ) -> Result<Self, RepoError> {
        let damaged = |error| RepoError::damaged(object, error);
        let trailer_bytes = SeekTable::trailer_bytes(tail).map_err(damaged)?;
        let trailer_bytes = usize::try_from(trailer_bytes).ok().filter(|length| *length <= tail.len());
        let trailer_bytes = trailer_bytes.ok_or_else(|| damaged(FormatError::CutShort("trailer")))?;
        let (trailer, table_frame) = (tail.slice(..trailer_bytes), tail.slice(trailer_bytes..));
        let header_payload = Trailer::header_of(&trailer).map_err(damaged)?;
        let header = Header::parse(header_payload).map_err(damaged)?;
        let header_bytes = SKIPPABLE_HEAD + header_payload.len();
        let context = FrameContext::of(&header, Bytes::copy_from_slice(header_payload), keyring, path, object)?;
        let trailer = Trailer::parse(&trailer, &context, |_| Ok(table_frame.clone())).map_err(damaged)?;
        let table = SeekTable::parse(&table_frame, context.keys.is_none(), trailer.content_bytes).map_err(damaged)?;
        let last = table.frames().checked_sub(1).and_then(|last| table.place(last));
        let first = table.place(0);
        let fits = first == u32::try_from(header_bytes).ok().map(|length| (0, length))
            && last.is_some_and(|(_, length)| usize::try_from(length) == Ok(trailer_bytes))
            && table.stored_bytes() + table_frame.len() as u64 == stored_bytes;
        let facts = table.facts();
        if facts.is_some_and(|(_, length)| {
            header.kind != Kind::Segment || length > u32::try_from(stored_max()).unwrap_or(u32::MAX)
        }) {
            return Err(damaged(FormatError::Facts("no object like this has such a frame")));
        }
        if !fits {
            return Err(damaged(FormatError::SeekTable("it does not fit the object's length")));
        }
        let summary = Summary {
            content_bytes: trailer.content_bytes,
            content_digest: trailer.content_digest,
            stored_bytes,
            stored_digest: trailer.stored_digest,
        };
        Ok(Self { header, summary, table, context: Arc::new(context) })
    }

    /// Where the facts frame lies, if there is one.
    pub(crate) fn facts(&self) -> Option<Range<u64>> {
        self.table.facts().map(|(start, length)| start..start + u64::from(length))
    }

    /// The facts in the `stored` bytes of their frame; `None` when they are what was written and cannot be understood, as a later version
    /// may write them. Computes: not for the runtime's threads.
    pub(crate) fn open_facts(&self, stored: &[u8]) -> Result<Option<Facts>, FormatError> {
        decode_facts(&self.context, stored).map(|facts| Facts::decode(&facts).ok())
    }
}
