//! A part of an object's content, without the rest: only the frames that hold it are read. Each was sealed, or carries a checksum, by
//! itself, so that what comes out was written by this repository; whether the object is whole is not looked at.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::frame::decode;
use super::seek_table::content_frame_count;
use super::tail::Tail;
use super::{FRAME_BYTES, FormatError};

/// Where a part of an object's content lies in it.
pub(crate) struct Part {
    /// The stored bytes of its frames.
    pub stored: Range<u64>,
    /// The number of the first frame, and the stored length of each.
    first: u64,
    lengths: Vec<usize>,
    /// Whether the last of them is the content's last.
    is_end: bool,
    /// The part in the content of these frames.
    within: Range<usize>,
}

impl Part {
    /// Finds the bytes `content` of the object's content, which must not be empty.
    pub(crate) fn find(tail: &Tail, content: Range<u64>) -> Result<Self, FormatError> {
        let outside = FormatError::SeekTable("the part lies outside of the content");
        let frame = FRAME_BYTES as u64;
        let Some(end) = content.end.checked_sub(1).filter(|end| *end < tail.summary.content_bytes) else {
            return Err(outside);
        };
        let (first, last) = (content.start / frame, end / frame);
        let mut lengths = Vec::new();
        let mut stored = None::<Range<u64>>;
        for number in first..=last {
            // The table begins with the header.
            let place = usize::try_from(number + 1).ok().and_then(|index| tail.table.place(index));
            let Some((at, length)) = place else { return Err(outside) };
            stored = Some(stored.map_or(at, |stored| stored.start)..at + u64::from(length));
            lengths.push(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let start = usize::try_from(content.start - first * frame).unwrap_or(usize::MAX);
        let length = usize::try_from(content.end.saturating_sub(content.start)).unwrap_or(usize::MAX);
        Ok(Self {
            stored: stored.ok_or(outside)?,
            first,
            lengths,
            is_end: last + 1 == content_frame_count(tail.summary.content_bytes),
            within: start..start.saturating_add(length),
        })
    }

    /// The part's bytes, from `stored`, the bytes of its frames. Computes: not for the runtime's threads.
    pub(crate) fn open(&self, tail: &Tail, mut stored: Bytes) -> Result<Bytes, FormatError> {
        let mut content = BytesMut::new();
        let count = self.lengths.len();
        for ((index, length), number) in self.lengths.iter().enumerate().zip(self.first..) {
            if stored.len() < *length {
                return Err(FormatError::CutShort("content"));
            }
            let frame = stored.split_to(*length);
            let is_last = self.is_end && index + 1 == count;
            content.extend_from_slice(&decode(&tail.context, number, is_last, &frame)?);
        }
        content.freeze().get(self.within.clone()).map(Bytes::copy_from_slice).ok_or(FormatError::CutShort("content"))
    }
}
