//! Frames: a fixed header, a bounded payload, fields that must fill it exactly.

use std::fmt;

/// The protocol's version, in every frame.
pub const VERSION: u8 = 1;
/// Length of a frame's header.
pub const HEADER_BYTES: usize = 8;
/// The longest payload of a request.
pub const REQUEST_BYTES_MAX: u32 = 64 << 10;
/// The longest payload of a reply.
pub const REPLY_BYTES_MAX: u32 = 16 << 20;

const MAGIC: [u8; 2] = *b"WW";

/// Bytes that are not this protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// Not our magic number.
    Magic,
    /// Another version of the protocol: the client and the agent are of different releases.
    Version(u8),
    /// A payload longer than allowed.
    TooLong(u32),
    /// A kind of frame that is not known, or not known here.
    Kind(u8),
    /// The payload ends within a field, or goes on after the last.
    Shape,
    /// A text that is not UTF-8.
    Text,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not the agent's protocol"),
            Self::Version(version) => write!(
                f,
                "protocol version {version} where {VERSION} was expected: the client and the agent are of different releases, restart the agent"
            ),
            Self::TooLong(length) => write!(f, "a frame of {length} bytes is longer than allowed"),
            Self::Kind(kind) => write!(f, "unexpected frame 0x{kind:02x}"),
            Self::Shape => f.write_str("malformed frame"),
            Self::Text => f.write_str("text that is not UTF-8"),
        }
    }
}

impl std::error::Error for WireError {}

/// A frame's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What kind of frame follows.
    pub kind: u8,
    /// Length of its payload in bytes.
    pub length: u32,
}

impl FrameHeader {
    /// Reads a header; `length_max` is [`REQUEST_BYTES_MAX`] or [`REPLY_BYTES_MAX`].
    pub fn parse(bytes: [u8; HEADER_BYTES], length_max: u32) -> Result<Self, WireError> {
        let [m0, m1, version, kind, l0, l1, l2, l3] = bytes;
        if [m0, m1] != MAGIC {
            return Err(WireError::Magic);
        }
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > length_max {
            return Err(WireError::TooLong(length));
        }
        Ok(Self { kind, length })
    }
}

/// Builds one frame.
pub(super) struct FrameWriter(Vec<u8>);

impl FrameWriter {
    pub(super) fn new(kind: u8) -> Self {
        let [m0, m1] = MAGIC;
        Self(vec![m0, m1, VERSION, kind, 0, 0, 0, 0])
    }

    pub(super) fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// A field of more than 4 GiB cannot be framed; it is cut here and the reader refuses the frame as too long anyway.
    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - HEADER_BYTES).unwrap_or(u32::MAX);
        for (place, byte) in self.0.iter_mut().skip(4).zip(length.to_le_bytes()) {
            *place = byte;
        }
        self.0
    }
}

/// Takes a payload apart.
pub(super) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.0.split_first().ok_or(WireError::Shape)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or(WireError::Shape)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| WireError::Shape)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(WireError::Shape)?;
        self.0 = rest;
        Ok(value)
    }

    pub(super) fn text(&mut self) -> Result<String, WireError> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| WireError::Text)
    }

    pub(super) fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Shape) }
    }
}
