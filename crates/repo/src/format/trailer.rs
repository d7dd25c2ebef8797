//! The trailer frame: what is known of the whole content once it has gone by.

use bytes::Bytes;

use super::context::FrameContext;
use super::crypto::{TAG_BYTES, open_trailer, seal_trailer};
use super::header::PAYLOAD_MAX as HEADER_MAX;
use super::skippable::{SKIPPABLE_HEAD, skippable};
use super::{Fields, FormatError};

/// Magic number of the trailer's skippable frame.
pub(super) const FRAME_MAGIC: u32 = 0x184D_2A59;
/// Bytes of the payload in front of the header.
const FIXED_BYTES: usize = 8 + 32 + 32 + 2;
const SEAL_BYTES: usize = TAG_BYTES;
/// Where the content digest stands.
const DIGEST: std::ops::Range<usize> = 8..8 + 32;
/// Bytes of the longest frame that is read.
pub(super) const FRAME_BYTES_MAX: usize = SKIPPABLE_HEAD + FIXED_BYTES + HEADER_MAX + SEAL_BYTES;

/// What the trailer says. A parsed one is authentic, and so is the seek table after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trailer {
    pub content_bytes: u64,
    pub content_digest: [u8; 32],
    pub stored_digest: [u8; 32],
}

impl Trailer {
    /// How long the frame of an object is.
    pub(super) fn frame_bytes(context: &FrameContext) -> usize {
        SKIPPABLE_HEAD + FIXED_BYTES + context.header_payload.len() + SEAL_BYTES
    }

    /// The whole frame, in front of `table`.
    ///
    /// Its payload:
    ///
    /// | offset | bytes | field |
    /// |-------:|------:|-------|
    /// |      0 |     8 | content bytes |
    /// |      8 |    32 | content digest: BLAKE3 of the content, encrypted in a sealed object |
    /// |     40 |    32 | SHA-256 of all stored bytes before this frame |
    /// |     72 |     2 | length h of the header's payload |
    /// |     74 |     h | the header's payload |
    /// |   74+h |    16 | half of SHA-256 of everything before and the seek table; in a sealed object AES-GCM's tag over these |
    pub(super) fn frame(&self, context: &FrameContext, table: &[u8]) -> Bytes {
        let header = &context.header_payload;
        let mut payload = Vec::with_capacity(FIXED_BYTES + header.len() + SEAL_BYTES);
        payload.extend_from_slice(&self.content_bytes.to_le_bytes());
        payload.extend_from_slice(&[0; 32]);
        payload.extend_from_slice(&self.stored_digest);
        // A header has at most `HEADER_MAX` bytes.
        payload.extend_from_slice(&u16::try_from(header.len()).unwrap_or(u16::MAX).to_le_bytes());
        payload.extend_from_slice(header);
        let mut digest = self.content_digest;
        let (before, after) = around_digest(&payload);
        let seal = seal_trailer(context.keys.as_ref(), &mut digest, [before, after, table]);
        if let Some(place) = payload.get_mut(DIGEST) {
            place.copy_from_slice(&digest);
        }
        payload.extend_from_slice(&seal);
        skippable(FRAME_MAGIC, &payload)
    }

    /// The payload of the object's header, as the trailer repeats it: what must be known before the trailer can be authenticated.
    pub(super) fn header_of(frame: &[u8]) -> Result<&[u8], FormatError> {
        let (body, _) = body_and_seal(frame)?;
        body.get(FIXED_BYTES..).ok_or(FormatError::CutShort("trailer"))
    }

    /// Reads the whole frame and authenticates it together with the seek table that belongs after it, which `table` gives or
    /// makes for content of a length.
    pub(super) fn parse(
        frame: &[u8],
        context: &FrameContext,
        table: impl FnOnce(u64) -> Result<Bytes, FormatError>,
    ) -> Result<Self, FormatError> {
        let short = || FormatError::CutShort("trailer");
        let (body, seal) = body_and_seal(frame)?;
        let mut fields = Fields(body);
        let content_bytes = fields.u64().ok_or_else(short)?;
        let content_digest = fields.array().ok_or_else(short)?;
        let stored_digest = fields.array().ok_or_else(short)?;
        let header_bytes = fields.u16().ok_or_else(short)?;
        if fields.0 != context.header_payload || usize::from(header_bytes) != fields.0.len() {
            return Err(FormatError::Trailer("it is of another object: it repeats another header"));
        }
        let (before, after) = around_digest(body);
        let covered = [before, after, &table(content_bytes)?];
        let content_digest = open_trailer(context.keys.as_ref(), content_digest, covered, seal)?;
        Ok(Self { content_bytes, content_digest, stored_digest })
    }
}

/// What the seal covers before and after the content digest.
fn around_digest(body: &[u8]) -> (&[u8], &[u8]) {
    (body.get(..DIGEST.start).unwrap_or_default(), body.get(DIGEST.end..).unwrap_or_default())
}

/// The payload of the frame, which must be all of `frame`, in front of the seal, and the seal.
fn body_and_seal(frame: &[u8]) -> Result<(&[u8], &[u8; SEAL_BYTES]), FormatError> {
    let mut fields = Fields(frame);
    if fields.u32() != Some(FRAME_MAGIC) {
        return Err(FormatError::Trailer("its magic number is wrong"));
    }
    let length = fields.u32().and_then(|length| usize::try_from(length).ok());
    if length != Some(fields.0.len()) || frame.len() > FRAME_BYTES_MAX {
        return Err(FormatError::Trailer("its length is wrong"));
    }
    fields.0.split_last_chunk().ok_or(FormatError::CutShort("trailer"))
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
            table: Vec<u8>,
        ) {
            let trailer = Trailer { content_bytes, content_digest, stored_digest };
            let frame = trailer.frame(&context(), &table);
            prop_assert_eq!(frame.len(), Trailer::frame_bytes(&context()));
            prop_assert_eq!(Trailer::header_of(&frame), Ok(&b"header"[..]));
            let mut other = table.clone();
            other.push(0);
            let read = |table: Vec<u8>| Trailer::parse(&frame, &context(), |_| Ok(table.into()));
            prop_assert_eq!(read(table), Ok(trailer));
            prop_assert!(read(other).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, framed: bool) {
            let frame = if framed { skippable(FRAME_MAGIC, &bytes).to_vec() } else { bytes };
            let _ = Trailer::header_of(&frame);
            prop_assert!(Trailer::parse(&frame, &context(), |_| Ok(Bytes::new())).is_err());
        }
    }
}
