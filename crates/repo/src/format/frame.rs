//! Frames: their boundaries, and content frames made and read. CPU work: runs on the pool.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::context::FrameContext;
use super::crypto::TAG_BYTES;
use super::skippable::{SKIPPABLE_HEAD, begin_skippable};
use super::{FRAME_BYTES, FormatError};
use crate::facts::FACTS_BYTES_MAX;

/// Magic number of an ordinary zstd frame.
pub(super) const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// Magic number of the skippable frame around a sealed content frame.
pub(super) const SEALED_MAGIC: u32 = 0x184D_2A58;

/// Magic number of the skippable frame around the facts of a segment.
pub(super) const FACTS_MAGIC: u32 = 0x184D_2A5A;
/// zstd's level for facts.
const FACTS_LEVEL: i32 = 1;

/// The longest zstd frame that 1 MiB of content can become.
fn compressed_max() -> usize {
    zstd_safe::compress_bound(FRAME_BYTES)
}

/// The longest content frame as stored, sealed or not.
pub(super) fn stored_max() -> usize {
    SKIPPABLE_HEAD + compressed_max() + TAG_BYTES
}

/// Compressors that a thread keeps, each for one level: WAL's and base backups'.
const COMPRESSORS_MAX: usize = 2;

/// A thread's zstd contexts and buffers, made once.
struct Workbench {
    compressors: Vec<(i32, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
    joined: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    static WORKBENCH: RefCell<Workbench> =
        const {
            RefCell::new(Workbench {
                compressors: Vec::new(),
                decompressor: None,
                joined: Vec::new(),
                output: Vec::new(),
            })
        };
}

/// The objects that one content becomes, and how the frames of each are made.
pub(super) struct Recipes {
    /// zstd's levels, and which objects have each.
    by_level: Vec<(i32, Vec<usize>)>,
    contexts: Vec<FrameContext>,
}

impl Recipes {
    /// One object for each context, with its level.
    pub(super) fn new(objects: Vec<(FrameContext, i32)>) -> Self {
        let mut by_level: Vec<(i32, Vec<usize>)> = Vec::new();
        let mut contexts = Vec::with_capacity(objects.len());
        for (at, (context, level)) in objects.into_iter().enumerate() {
            match by_level.iter_mut().find(|(known, _)| *known == level) {
                Some((_, members)) => members.push(at),
                None => by_level.push((level, vec![at])),
            }
            contexts.push(context);
        }
        Self { by_level, contexts }
    }

    /// How the frames of each object are protected.
    pub(super) fn contexts(&self) -> &[FrameContext] {
        &self.contexts
    }
}

/// Makes content frame `number` of `parts`, which together are at most [`FRAME_BYTES`] long, for each object: compressed once
/// a level, sealed for each that is sealed. Plain frames of one level are the same bytes in memory.
pub(super) fn encode(recipes: &Recipes, number: u64, last: bool, parts: &[Bytes]) -> Result<Vec<Bytes>, FormatError> {
    let failed = |what| FormatError::Frame { number, what };
    WORKBENCH.with_borrow_mut(|bench| {
        let Workbench { compressors, joined, output, .. } = bench;
        let plain: &[u8] = if let [one] = parts {
            one
        } else {
            joined.clear();
            for part in parts {
                joined.extend_from_slice(part);
            }
            joined
        };
        let mut stored = vec![Bytes::new(); recipes.contexts.len()];
        for (level, members) in &recipes.by_level {
            output.clear();
            output.reserve(compressed_max());
            compressor(compressors, *level)
                .map_err(|_| failed("cannot be compressed: no memory"))?
                .compress_to_buffer(plain, output)
                .map_err(|_| failed("cannot be compressed"))?;
            let mut compressed = None;
            for at in members {
                let (Some(context), Some(stored)) = (recipes.contexts.get(*at), stored.get_mut(*at)) else { continue };
                let Some(keys) = &context.keys else {
                    *stored = compressed.get_or_insert_with(|| Bytes::copy_from_slice(output)).clone();
                    continue;
                };
                let mut frame = begin_skippable(SEALED_MAGIC, output.len() + TAG_BYTES);
                frame.extend_from_slice(output);
                let sealed = frame.get_mut(SKIPPABLE_HEAD..);
                let tag = sealed.and_then(|sealed| keys.seal(number, &context.associated(last), sealed));
                frame.extend_from_slice(&tag.ok_or_else(|| failed("cannot be encrypted"))?);
                *stored = frame.into();
            }
        }
        Ok(stored)
    })
}

/// Makes the facts frame of each object: a skippable frame around a zstd frame, which is sealed where the object is.
pub(super) fn encode_facts(recipes: &Recipes, facts: &[u8]) -> Result<Vec<Bytes>, FormatError> {
    if facts.len() > FACTS_BYTES_MAX {
        return Err(FormatError::Facts("they are too long"));
    }
    WORKBENCH.with_borrow_mut(|bench| {
        let Workbench { compressors, output, .. } = bench;
        output.clear();
        output.reserve(compressed_max());
        compressor(compressors, FACTS_LEVEL)
            .and_then(|compressor| compressor.compress_to_buffer(facts, output))
            .map_err(|_| FormatError::Facts("they cannot be compressed"))?;
        let frame = |context: &FrameContext| {
            let tag_bytes = if context.keys.is_some() { TAG_BYTES } else { 0 };
            let mut frame = begin_skippable(FACTS_MAGIC, output.len() + tag_bytes);
            frame.extend_from_slice(output);
            if let Some(keys) = &context.keys {
                let sealed = frame.get_mut(SKIPPABLE_HEAD..);
                let tag = sealed.and_then(|sealed| keys.seal_facts(&context.header_payload, sealed));
                frame.extend_from_slice(&tag.ok_or(FormatError::Facts("they cannot be encrypted"))?);
            }
            Ok(frame.into())
        };
        recipes.contexts.iter().map(frame).collect()
    })
}

/// Reads a facts frame, as stored. At most [`FACTS_BYTES_MAX`] come out, whatever the frame claims.
pub(super) fn decode_facts(context: &FrameContext, stored: &[u8]) -> Result<Bytes, FormatError> {
    let wrong = FormatError::Facts;
    let (head, payload) = stored.split_at_checked(SKIPPABLE_HEAD).ok_or(wrong("they are too short"))?;
    if head != begin_skippable(FACTS_MAGIC, payload.len()) || stored.len() > stored_max() {
        return Err(wrong("they are not in a frame of this format"));
    }
    let opened;
    let compressed = match &context.keys {
        None => payload,
        Some(keys) => {
            let (sealed, tag) = payload.split_last_chunk::<TAG_BYTES>().ok_or(wrong("they are too short"))?;
            let mut plain = sealed.to_vec();
            keys.open_facts(&context.header_payload, &mut plain, tag)
                .ok_or(wrong("they are not authentic: they were changed, or belong elsewhere"))?;
            opened = plain;
            &opened
        }
    };
    let mut walk = FrameWalk::default();
    if walk.advance(&|at| peek(compressed, at)).map_err(wrong)? != Walked::Whole(compressed.len()) {
        return Err(wrong("they are not one zstd frame"));
    }
    let size = match zstd_safe::get_frame_content_size(compressed) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        _ => return Err(wrong("they do not say how long they are")),
    };
    if size > FACTS_BYTES_MAX {
        return Err(wrong("they are too long"));
    }
    WORKBENCH.with_borrow_mut(|bench| {
        let decompressor = match &mut bench.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(|_| wrong("they cannot be decompressed: no memory"))?),
        };
        let mut facts = Vec::with_capacity(size);
        let written = decompressor
            .decompress_to_buffer(compressed, &mut facts)
            .map_err(|_| wrong("they cannot be decompressed, or their checksum does not match"))?;
        if written == size { Ok(facts.into()) } else { Err(wrong("they are not as long as they say")) }
    })
}

/// The thread's compressor for `level`.
fn compressor<'a>(
    compressors: &'a mut Vec<(i32, Compressor<'static>)>,
    level: i32,
) -> std::io::Result<&'a mut Compressor<'static>> {
    // The one that was used last stands last.
    let wanted = if let Some(at) = compressors.iter().position(|(at, _)| *at == level) {
        compressors.remove(at)
    } else {
        let mut compressor = Compressor::new(level)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        (level, compressor)
    };
    if compressors.len() >= COMPRESSORS_MAX {
        compressors.remove(0);
    }
    compressors.push(wanted);
    compressors.last_mut().map(|(_, compressor)| compressor).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
}

/// Reads content frame `number`, as stored. At most [`FRAME_BYTES`] come out, whatever the frame claims.
pub(super) fn decode(
    context: &Arc<FrameContext>,
    number: u64,
    last: bool,
    stored: &[u8],
) -> Result<Bytes, FormatError> {
    let wrong = |what| FormatError::Frame { number, what };
    WORKBENCH.with_borrow_mut(|bench| {
        let Workbench { decompressor, output, .. } = bench;
        let compressed: &[u8] = match &context.keys {
            None => stored,
            Some(keys) => {
                let (head, sealed) = stored.split_at_checked(SKIPPABLE_HEAD).ok_or_else(|| wrong("is too short"))?;
                if head != begin_skippable(SEALED_MAGIC, sealed.len()) {
                    return Err(wrong("is not a frame of this format"));
                }
                let (sealed, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or_else(|| wrong("is too short"))?;
                output.clear();
                output.extend_from_slice(sealed);
                keys.open(number, &context.associated(last), output, tag)
                    .ok_or_else(|| wrong("is not authentic: it was changed, or belongs elsewhere"))?;
                output
            }
        };
        // Of a plain object read by range the frame's length is the seek table's word.
        let mut walk = FrameWalk::default();
        if walk.advance(&|at| peek(compressed, at)).map_err(wrong)? != Walked::Whole(compressed.len()) {
            return Err(wrong("is not one zstd frame"));
        }
        let size = match zstd_safe::get_frame_content_size(compressed) {
            Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
            _ => return Err(wrong("does not say how long it is")),
        };
        if size > FRAME_BYTES {
            return Err(wrong("is longer than 1 MiB"));
        }
        if !last && size != FRAME_BYTES {
            return Err(wrong("is shorter than 1 MiB and not the last"));
        }
        if last && size == 0 && number != 0 {
            return Err(wrong("is empty"));
        }
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(|_| wrong("cannot be decompressed: no memory"))?),
        };
        let mut plain = Vec::with_capacity(size);
        let written = decompressor
            .decompress_to_buffer(compressed, &mut plain)
            .map_err(|_| wrong("cannot be decompressed, or its checksum does not match"))?;
        if written != size {
            return Err(wrong("is not as long as it says"));
        }
        Ok(Bytes::from(plain))
    })
}

/// Four bytes at `at`.
pub(super) fn peek(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Finds the end of a plain zstd frame that arrives piece by piece (RFC 8878, section 3.1.1). Only frames of the kind that
/// is written here pass: content size and checksum present, no dictionary.
#[derive(Debug, Default)]
pub(super) struct FrameWalk {
    /// Where the next block header begins; 0 before the frame header was seen.
    at: usize,
    /// The frame's length, once known: it may not have arrived by then.
    whole: Option<usize>,
}

/// How far a walk came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walked {
    /// The frame is this long.
    Whole(usize),
    /// At least this many bytes of the frame are needed to go on.
    Need(usize),
}

impl FrameWalk {
    const CHECKSUM_BYTES: usize = 4;
    const CHECKSUM_FLAG: u8 = 1 << 2;
    const RESERVED_FLAG: u8 = 1 << 3;
    const SINGLE_SEGMENT_FLAG: u8 = 1 << 5;

    /// Goes on. `peek` shows the four bytes at an offset into the frame, when they have arrived: a block header has three,
    /// and after it there are always a block or the checksum.
    pub(super) fn advance(&mut self, peek: &dyn Fn(usize) -> Option<[u8; 4]>) -> Result<Walked, &'static str> {
        if let Some(length) = self.whole {
            return Ok(Walked::Whole(length));
        }
        if self.at == 0 {
            let Some(magic) = peek(0) else { return Ok(Walked::Need(8)) };
            if u32::from_le_bytes(magic) != ZSTD_MAGIC {
                return Err("is not a zstd frame");
            }
            let Some([descriptor, ..]) = peek(4) else { return Ok(Walked::Need(8)) };
            if descriptor & Self::RESERVED_FLAG != 0 || descriptor & 3 != 0 {
                return Err("uses a dictionary or a reserved flag");
            }
            if descriptor & Self::CHECKSUM_FLAG == 0 {
                return Err("has no checksum");
            }
            let single = descriptor & Self::SINGLE_SEGMENT_FLAG != 0;
            let size_field = match (descriptor >> 6, single) {
                (0, false) => return Err("does not say how long it is"),
                (0, true) => 1,
                (1, _) => 2,
                (2, _) => 4,
                _ => 8,
            };
            self.at = 5 + usize::from(!single) + size_field;
        }
        loop {
            let Some([a, b, c, _]) = peek(self.at) else { return Ok(Walked::Need(self.at + 4)) };
            let block = u32::from_le_bytes([a, b, c, 0]);
            let size = match block >> 1 & 3 {
                1 => 1,
                3 => return Err("has a reserved block type"),
                _ => usize::try_from(block >> 3).unwrap_or(usize::MAX),
            };
            self.at += 3 + size;
            // After the last block comes the checksum, after any other at least another block.
            let needed = self.at + Self::CHECKSUM_BYTES;
            if needed > compressed_max() {
                return Err("is longer than 1 MiB can become");
            }
            if block & 1 != 0 {
                self.whole = Some(needed);
                return Ok(Walked::Whole(needed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Arc<FrameContext> {
        Arc::new(FrameContext { header_payload: Bytes::new(), keys: None })
    }

    #[test]
    fn a_frame_that_claims_more_than_1_mib_is_refused() {
        let mut compressor = Compressor::new(1).expect("a compressor");
        compressor.include_checksum(true).expect("a parameter");
        let stored = compressor.compress(&vec![0; FRAME_BYTES + 1]).expect("a frame");
        let error = decode(&plain(), 0, true, &stored).expect_err("too long");
        assert_eq!(error, FormatError::Frame { number: 0, what: "is longer than 1 MiB" });
    }

    #[test]
    fn a_frame_is_as_long_as_1_mib_can_become_and_no_byte_longer() {
        // A header of 14 bytes, and one block that fills the frame up.
        let walked = |length: usize| {
            let mut frame = ZSTD_MAGIC.to_le_bytes().to_vec();
            frame.push(0b1100_0000 | FrameWalk::CHECKSUM_FLAG);
            frame.extend([0; 9]);
            let size = u32::try_from(length - frame.len() - 3 - 4).expect("short");
            frame.extend_from_slice(&((size << 3) | 1).to_le_bytes()[..3]);
            frame.resize(length, 0);
            FrameWalk::default().advance(&|at| peek(&frame, at))
        };
        assert_eq!(walked(compressed_max()), Ok(Walked::Whole(compressed_max())));
        assert_eq!(walked(compressed_max() + 1), Err("is longer than 1 MiB can become"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_end_of_a_frame_is_found_whatever_arrives_at_once(
            content in proptest::collection::vec(any::<u8>(), 0..300_000),
            repeat: bool,
            step in 1usize..100_000,
        ) {
            let content: Vec<u8> = if repeat { content.iter().map(|_| 7).collect() } else { content };
            let recipes = Recipes::new(vec![(FrameContext { header_payload: Bytes::new(), keys: None }, 1)]);
            let stored = encode(&recipes, 0, true, &[content.clone().into()]).expect("a frame").remove(0);
            let mut arrived = 0;
            let mut walk = FrameWalk::default();
            let whole = loop {
                let walked = walk.advance(&|at| peek(&stored[..arrived], at)).expect("a frame");
                match walked {
                    Walked::Whole(length) => {
                        // The answer stays: the rest of the frame may still be on its way.
                        prop_assert_eq!(walk.advance(&|at| peek(&stored, at)), Ok(Walked::Whole(length)));
                        break length;
                    }
                    Walked::Need(length) => {
                        prop_assert!(length > arrived);
                        prop_assert!(length <= stored.len());
                        arrived = (arrived + step).max(length).min(stored.len());
                    }
                }
            };
            prop_assert_eq!(whole, stored.len());
            prop_assert_eq!(decode(&plain(), 0, true, &stored), Ok(content.into()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, after_magic: bool) {
            let mut stored = if after_magic { ZSTD_MAGIC.to_le_bytes().to_vec() } else { Vec::new() };
            stored.extend(bytes);
            let _ = FrameWalk::default().advance(&|at| peek(&stored, at));
            let _ = decode(&plain(), 0, true, &stored);
        }
    }
}
