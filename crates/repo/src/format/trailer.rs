//! The trailer frame: what is known of the whole content once it has gone by.

use bytes::Bytes;

use super::context::FrameContext;
use super::crypto::{check_trailer_seal, trailer_seal};
use super::skippable::{SKIPPABLE_HEAD, skippable};
use super::{Fields, FormatError};

/// Magic number of the trailer's skippable frame.
pub(super) const FRAME_MAGIC: u32 = 0x184D_2A59;
/// Bytes of the payload in front of the seal.
const BODY_BYTES: usize = 8 + 32 + 32 + 1 + 8 + 8;
/// Bytes of the payload.
pub(super) const PAYLOAD_BYTES: usize = BODY_BYTES + 32;
/// Bytes of the frame.
pub(super) const FRAME_BYTES: usize = SKIPPABLE_HEAD + PAYLOAD_BYTES;

/// What the trailer says. A parsed one is authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trailer {
    pub content_bytes: u64,
    pub content_digest: [u8; 32],
    pub stored_digest: [u8; 32],
    pub commit_times: Option<(i64, i64)>,
}

impl Trailer {
    /// The whole frame.
    ///
    /// Its payload:
    ///
    /// | offset | bytes | field |
    /// |-------:|------:|-------|
    /// |      0 |     8 | content bytes |
    /// |      8 |    32 | content digest |
    /// |     40 |    32 | SHA-256 of all stored bytes before this frame |
    /// |     72 |     1 | 1 when there are commit times, else 0 |
    /// |     73 |     8 | first commit time, microseconds since 1970, else 0 |
    /// |     81 |     8 | last commit time, likewise |
    /// |     89 |    32 | SHA-256, or HMAC when encrypted, of the header's payload and everything before |
    pub(super) fn frame(&self, context: &FrameContext) -> Bytes {
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        payload.extend_from_slice(&self.content_bytes.to_le_bytes());
        payload.extend_from_slice(&self.content_digest);
        payload.extend_from_slice(&self.stored_digest);
        payload.push(u8::from(self.commit_times.is_some()));
        let (first, last) = self.commit_times.unwrap_or_default();
        payload.extend_from_slice(&first.to_le_bytes());
        payload.extend_from_slice(&last.to_le_bytes());
        let seal = trailer_seal(context.keys.as_ref(), &context.header_payload, &payload);
        payload.extend_from_slice(&seal);
        skippable(FRAME_MAGIC, &payload)
    }

    /// Reads and authenticates the whole frame.
    pub(super) fn parse(frame: &[u8], context: &FrameContext) -> Result<Self, FormatError> {
        let short = || FormatError::CutShort("trailer");
        let mut fields = Fields(frame);
        if fields.u32() != Some(FRAME_MAGIC) {
            return Err(FormatError::Trailer("its magic number is wrong"));
        }
        if fields.u32().and_then(|length| usize::try_from(length).ok()) != Some(PAYLOAD_BYTES) {
            return Err(FormatError::Trailer("its length is wrong"));
        }
        let (body, seal) = fields.0.split_last_chunk::<32>().ok_or_else(short)?;
        if body.len() != BODY_BYTES {
            return Err(short());
        }
        check_trailer_seal(context.keys.as_ref(), &context.header_payload, body, seal)?;
        let mut fields = Fields(body);
        let content_bytes = fields.u64().ok_or_else(short)?;
        let content_digest = fields.array().ok_or_else(short)?;
        let stored_digest = fields.array().ok_or_else(short)?;
        let has_times = fields.u8().ok_or_else(short)?;
        let times = (fields.i64().ok_or_else(short)?, fields.i64().ok_or_else(short)?);
        let commit_times = match (has_times, times) {
            (0, (0, 0)) => None,
            (1, times) => Some(times),
            _ => return Err(FormatError::Trailer("its commit times contradict each other")),
        };
        Ok(Self { content_bytes, content_digest, stored_digest, commit_times })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> FrameContext {
        FrameContext { header_payload: Bytes::from_static(b"header"), keys: None }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            content_bytes: u64,
            content_digest: [u8; 32],
            stored_digest: [u8; 32],
            commit_times: Option<(i64, i64)>,
        ) {
            let trailer = Trailer { content_bytes, content_digest, stored_digest, commit_times };
            let frame = trailer.frame(&context());
            prop_assert_eq!(frame.len(), FRAME_BYTES);
            prop_assert_eq!(Trailer::parse(&frame, &context()), Ok(trailer));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, framed: bool) {
            let frame = if framed { skippable(FRAME_MAGIC, &bytes).to_vec() } else { bytes };
            prop_assert!(Trailer::parse(&frame, &context()).is_err());
        }
    }
}
