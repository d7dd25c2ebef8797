//! The header frame: what an object is, who wrote it, and from what its key is derived.

use bytes::Bytes;

use super::skippable::{SKIPPABLE_HEAD, skippable};
use super::{FRAME_BYTES_U32, Fields, FormatError, Kind, VERSION};

/// Magic number of the header's skippable frame.
pub(super) const FRAME_MAGIC: u32 = 0x184D_2A57;
/// First bytes of the payload.
const MAGIC: [u8; 8] = *b"WALWARD\0";
/// Bit 0 of the flags: content frames are sealed.
const ENCRYPTED: u8 = 1;
/// Bytes of the payload without the writer's name.
const FIXED_BYTES: usize = 8 + 2 + 1 + 1 + 4 + 16 + 32 + 2 + 4;
/// The longest payload that is read: a later version may have a longer header than this one.
pub(super) const PAYLOAD_MAX: usize = 4096;
/// The longest name of a writer.
const WRITER_MAX: usize = 255;

/// What the header says. Read, not verified: the CRC finds accidents; for sealed objects every frame authenticates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the object is.
    pub kind: Kind,
    /// Key id and salt when the content is sealed.
    pub sealed: Option<Sealed>,
    /// The host that wrote it.
    pub writer: String,
}

/// How a sealed object's key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Which master key.
    pub key_id: [u8; 16],
    /// The salt of its derivation, random for every object.
    pub salt: [u8; 32],
}

impl Header {
    /// The payload of the header's frame. A writer's name that is too long is cut.
    ///
    /// | offset | bytes | field |
    /// |-------:|------:|-------|
    /// |      0 |     8 | `WALWARD\0` |
    /// |      8 |     2 | format version, 1 |
    /// |     10 |     1 | kind |
    /// |     11 |     1 | flags: bit 0 encrypted, others 0 |
    /// |     12 |     4 | content bytes of a frame, 1 MiB |
    /// |     16 |    16 | key id, 0 when plain |
    /// |     32 |    32 | salt, 0 when plain |
    /// |     64 |     2 | length n of the writer's name |
    /// |     66 |     n | the writer's name, UTF-8 |
    /// |   66+n |     4 | CRC-32C of everything before |
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut cut = self.writer.len().min(WRITER_MAX);
        while !self.writer.is_char_boundary(cut) {
            cut -= 1;
        }
        let writer = self.writer.get(..cut).unwrap_or_default().as_bytes();
        let mut payload = Vec::with_capacity(FIXED_BYTES + writer.len());
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&VERSION.to_le_bytes());
        payload.push(self.kind as u8);
        payload.push(if self.sealed.is_some() { ENCRYPTED } else { 0 });
        payload.extend_from_slice(&FRAME_BYTES_U32.to_le_bytes());
        let (key_id, salt) = self.sealed.as_ref().map_or(([0; 16], [0; 32]), |sealed| (sealed.key_id, sealed.salt));
        payload.extend_from_slice(&key_id);
        payload.extend_from_slice(&salt);
        payload.extend_from_slice(&u16::try_from(writer.len()).unwrap_or_default().to_le_bytes());
        payload.extend_from_slice(writer);
        payload.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        payload
    }

    /// Reads a payload.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, FormatError> {
        let short = || FormatError::CutShort("header");
        let (body, stored_crc) = payload.split_last_chunk::<4>().ok_or_else(short)?;
        let mut fields = Fields(body);
        if fields.array() != Some(MAGIC) {
            return Err(FormatError::NoHeader);
        }
        // Every version begins with magic and version and ends with the checksum, so that damage and a newer version
        // are told apart.
        let version = fields.u16().ok_or_else(short)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*stored_crc) {
            return Err(FormatError::Header("its checksum does not match"));
        }
        if version > VERSION {
            return Err(FormatError::Newer(u32::from(version)));
        }
        if version == 0 {
            return Err(FormatError::Header("there is no format version 0"));
        }
        let kind = Kind::from_stored(fields.u8().ok_or_else(short)?).ok_or(FormatError::Header("unknown kind"))?;
        let flags = fields.u8().ok_or_else(short)?;
        if flags & !ENCRYPTED != 0 {
            return Err(FormatError::Header("unknown flags"));
        }
        if fields.u32() != Some(FRAME_BYTES_U32) {
            return Err(FormatError::Header("frames are not of 1 MiB"));
        }
        let key_id = fields.array().ok_or_else(short)?;
        let salt = fields.array().ok_or_else(short)?;
        let sealed = if flags & ENCRYPTED != 0 {
            Some(Sealed { key_id, salt })
        } else if key_id == [0; 16] && salt == [0; 32] {
            None
        } else {
            return Err(FormatError::Header("a plain object with a key"));
        };
        let length = usize::from(fields.u16().ok_or_else(short)?);
        let writer = fields.bytes(length).ok_or_else(short)?;
        if length > WRITER_MAX || !fields.0.is_empty() {
            return Err(FormatError::Header("its length is wrong"));
        }
        let writer = std::str::from_utf8(writer).map_err(|_| FormatError::Header("the writer's name is not UTF-8"))?;
        Ok(Self { kind, sealed, writer: writer.to_owned() })
    }

    /// Reads the header frame at the front of `start`, and says how long it is.
    pub(crate) fn parse_frame(start: &[u8]) -> Result<(Self, Bytes, usize), FormatError> {
        let mut fields = Fields(start);
        let (magic, length) = (fields.u32(), fields.u32());
        if magic != Some(FRAME_MAGIC) {
            return Err(FormatError::NoHeader);
        }
        let length = usize::try_from(length.unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(FormatError::Header("it is too long"));
        }
        let payload = fields.bytes(length).ok_or(FormatError::CutShort("header"))?;
        Ok((Self::parse(payload)?, Bytes::copy_from_slice(payload), SKIPPABLE_HEAD + length))
    }

    /// The whole frame.
    pub(super) fn frame(payload: &[u8]) -> Bytes {
        skippable(FRAME_MAGIC, payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut payload = Header { kind: Kind::Pack, sealed: None, writer: "db1".to_owned() }.payload();
        payload[8] = 2;
        assert_eq!(Header::parse(&payload), Err(FormatError::Header("its checksum does not match")));
        let end = payload.len() - 4;
        let crc = crc32c::crc32c(&payload[..end]).to_le_bytes();
        payload[end..].copy_from_slice(&crc);
        assert_eq!(Header::parse(&payload), Err(FormatError::Newer(2)));
    }

    #[test]
    fn a_long_name_is_cut_between_letters() {
        let header = Header { kind: Kind::Pack, sealed: None, writer: "é".repeat(200) };
        let read = Header::parse(&header.payload()).expect("a header");
        assert_eq!(read.writer, "é".repeat(127));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(kind in 1u8..=5, sealed: Option<([u8; 16], [u8; 32])>, writer in "[a-zé.-]{0,100}") {
            let header = Header {
                kind: Kind::from_stored(kind).expect("a kind"),
                sealed: sealed.map(|(key_id, salt)| Sealed { key_id, salt }),
                writer,
            };
            let payload = header.payload();
            prop_assert_eq!(Header::parse(&payload), Ok(header.clone()));
            let frame = Header::frame(&payload);
            prop_assert_eq!(Header::parse_frame(&frame), Ok((header, payload.into(), frame.len())));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, after_magic: bool) {
            let mut payload = if after_magic { MAGIC.to_vec() } else { Vec::new() };
            payload.extend(bytes);
            let _ = Header::parse(&payload);
            let _ = Header::parse_frame(&Header::frame(&payload));
            let _ = Header::parse_frame(&payload);
        }
    }
}
