//! A skippable frame of zstd (RFC 8878, 3.1.2): a magic number, a length, and a payload that `zstd -d` passes over.

use bytes::Bytes;

/// Magic number and length in front of a skippable frame's payload.
pub(super) const SKIPPABLE_HEAD: usize = 8;

/// A skippable frame around a short payload.
pub(super) fn skippable(magic: u32, payload: &[u8]) -> Bytes {
    let mut frame = begin_skippable(magic, payload.len());
    frame.extend_from_slice(payload);
    frame.into()
}

/// The head of a skippable frame, with room for a payload of `length` bytes.
pub(super) fn begin_skippable(magic: u32, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SKIPPABLE_HEAD + length);
    frame.extend_from_slice(&magic.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame
}
