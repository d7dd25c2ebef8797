//! The object format, version 1: header, content frames, trailer, seek table. See FORMAT.md.

use bytes::Bytes;

/// Uncompressed bytes in every content frame but the last, which may hold fewer.
pub const FRAME_BYTES: usize = 1 << 20;

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
    /// SHA-256 of the content; HMAC-SHA-256 under the master key's digest key when encrypted, so that equal content can be
    /// told by who has the key and by nobody else.
    pub content_digest: [u8; 32],
    /// Length of the stored object in bytes, all of it.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes before the trailer: an object can be verified without a key.
    pub stored_digest: [u8; 32],
    /// Facts of a WAL segment: first and last commit (or abort) time in it, microseconds since the Unix epoch; none if no transaction ended in it.
    pub commit_times: Option<(i64, i64)>,
}

/// A piece of content on its way, at most [`FRAME_BYTES`] long when it comes out of an object.
pub type Chunk = Bytes;
