//! Content by range: which frames hold it, which requests bring them, and how each is opened alone.
//!
//! A frame that is opened here is one that this object's writer sealed in this place, or, in a plain object, one that carries the checksum which the
//! seek table names for this place. The rest of the object is not looked at.

use std::ops::Range;

use bytes::Bytes;

use super::frame::decode;
use super::seek_table::content_frame_count;
use super::tail::Tail;
use super::{FRAME_BYTES, FormatError};

/// Stored bytes that are read and not used, rather than asking twice.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Frames that one request brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The stored bytes to ask for.
    pub stored: Range<u64>,
    /// The frames' numbers, and where each lies in these bytes.
    pub frames: Vec<(u64, Range<usize>)>,
}

impl Tail {
    /// The numbers of the frames that hold the bytes `content` of the content, which must not be empty.
    pub(crate) fn frames_of(&self, content: &Range<u64>) -> Result<Range<u64>, FormatError> {
        let frame = FRAME_BYTES as u64;
        if content.is_empty() || content.end > self.summary.content_bytes {
            return Err(FormatError::SeekTable("the part lies outside of the content"));
        }
        Ok(content.start / frame..content.end.div_ceil(frame))
    }

    /// The requests that bring `frames`, which are in order.
    pub(crate) fn runs(&self, frames: impl IntoIterator<Item = u64>) -> Result<Vec<Run>, FormatError> {
        let mut runs: Vec<Run> = Vec::new();
        for number in frames {
            // The table begins with the header.
            let place = usize::try_from(number + 1).ok().and_then(|index| self.table.place(index));
            let Some((at, length)) = place else {
                return Err(FormatError::SeekTable("the part lies outside of the content"));
            };
            let end = at + u64::from(length);
            match runs.last_mut() {
                Some(run) if at.saturating_sub(run.stored.end) <= GAP_BYTES_MAX => run.stored.end = end,
                _ => runs.push(Run { stored: at..end, frames: Vec::new() }),
            }
            if let Some(run) = runs.last_mut() {
                let place = |at: u64| usize::try_from(at - run.stored.start).unwrap_or(usize::MAX);
                let place = place(at)..place(end);
                run.frames.push((number, place));
            }
        }
        Ok(runs)
    }

    /// The content of frame `number` from its `stored` bytes. Computes: not for the runtime's threads.
    pub(crate) fn open(&self, number: u64, stored: &Bytes) -> Result<Bytes, FormatError> {
        if !self.table.is_of(number, stored) {
            return Err(FormatError::Frame { number, what: "is not the one that the seek table names" });
        }
        let count = content_frame_count(self.summary.content_bytes);
        let content = decode(&self.context, number, number + 1 == count, stored)?;
        let expected = (self.summary.content_bytes - number * FRAME_BYTES as u64).min(FRAME_BYTES as u64);
        if content.len() as u64 == expected {
            Ok(content)
        } else {
            Err(FormatError::Frame { number, what: "is not as long as the trailer says" })
        }
    }
}
