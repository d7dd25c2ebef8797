//! The object format, version 1: header, content frames, trailer, seek table; byte by byte in FORMAT.md.
//!
//! An object is a sequence of zstd frames, so that `zstd -d` of a plain object gives its content. Content is cut into
//! frames of [`FRAME_BYTES`]; each is compressed (and sealed) by itself on the [`walward_base::sys::cpu::CpuPool`], several at a
//! time, in order. What a reader emits was verified frame by frame; the object as a whole is verified when the end is
//! reached, and a stream of content ends without an error only then.

mod context;
mod crypto;
mod digest;
mod frame;
mod header;
mod incoming;
mod open;
mod range;
mod seal;
mod seek_table;
mod skippable;
mod tail;
mod trailer;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use digest::ContentDigest;
pub(super) use digest::DigestChain;
pub(super) use open::Opener;
pub(super) use range::Run;
pub(super) use seal::{Object, Sealer};
pub(super) use tail::{TAIL_BYTES, Tail};

/// Version of the object format that is written, and the newest that is read.
pub const VERSION: u16 = 1;

/// Uncompressed bytes in every content frame but the last, which may hold fewer.
pub const FRAME_BYTES: usize = 1 << 20;

/// [`FRAME_BYTES`] as stored and counted.
const FRAME_BYTES_U32: u32 = 1 << 20;

/// What an object is. Stored; the numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A WAL segment, whole or partial.
    Segment = 1,
    /// A timeline history file.
    History = 2,
    /// A backup history file.
    BackupHistory = 3,
    /// A part of a base backup: a tar stream.
    Pack = 4,
    /// A backup's manifest.
    Manifest = 5,
    /// Which blocks an incremental backup stores.
    BlockIndex = 6,
}

impl Kind {
    fn from_stored(number: u8) -> Option<Self> {
        [Self::Segment, Self::History, Self::BackupHistory, Self::Pack, Self::Manifest, Self::BlockIndex]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// How content becomes an object.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What the object is.
    pub kind: Kind,
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// Who writes: the host's name, at most 255 bytes. Shown when somebody else finds the name taken.
    pub writer: String,
}

/// What the trailer says of the whole content. Authenticated when the object is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Length of the content in bytes.
    pub content_bytes: u64,
    /// BLAKE3 of the content. In an encrypted object it is encrypted, so that who has the key can tell equal content, in any repository
    /// and under any master key, and nobody else.
    pub content_digest: [u8; 32],
    /// Length of the stored object in bytes, all of it.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes before the trailer: an object can be verified without a key.
    pub stored_digest: [u8; 32],
}

/// A piece of content on its way, at most [`FRAME_BYTES`] long when it comes out of an object.
pub type Chunk = Bytes;

/// How bytes fail to be an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A version that this code does not know.
    #[error("it has format version {0}")]
    Newer(u32),
    /// Something else entirely.
    #[error("it does not begin with a walward header")]
    NoHeader,
    /// The header contradicts itself or the format.
    #[error("its header is invalid: {0}")]
    Header(&'static str),
    /// A content frame is not what was written.
    #[error("its content frame {number} {what}")]
    Frame {
        /// Counted from 0.
        number: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The facts of a segment are not what was written.
    #[error("its facts are invalid: {0}")]
    Facts(&'static str),
    /// The trailer contradicts itself, the header or the content.
    #[error("its trailer is invalid: {0}")]
    Trailer(&'static str),
    /// The seek table is not the one that belongs to the frames.
    #[error("its seek table is invalid: {0}")]
    SeekTable(&'static str),
    /// Bytes are missing at the end.
    #[error("it ends in the middle of its {0}")]
    CutShort(&'static str),
    /// Bytes that belong to nothing.
    #[error("bytes follow its end")]
    Excess,
    /// A text (JSON) object that is not what was written.
    #[error("{0}")]
    Text(String),
}

/// Reads fixed-size little-endian fields from the front of a slice. `None`: too short.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
