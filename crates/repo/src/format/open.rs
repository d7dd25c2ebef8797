//! An object on its way back to content: the mirror image of sealing. Frames are decoded several at a time and come out in
//! order.
//!
//! A sealed object is authenticated by its frames' tags (header, order, end) and the trailer's. A plain object by the SHA-256
//! over its stored bytes, besides zstd's checksum of every frame. The digest of the content is not computed again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use super::context::FrameContext;
use super::digest::DigestChain;
use super::frame::{FACTS_MAGIC, FrameWalk, SEALED_MAGIC, Walked, ZSTD_MAGIC, decode, decode_facts, stored_max};
use super::header::{FRAME_MAGIC as HEADER_MAGIC, Header, PAYLOAD_MAX as HEADER_MAX};
use super::incoming::Incoming;
use super::seek_table::SeekTable;
use super::skippable::SKIPPABLE_HEAD;
use super::trailer::{FRAME_BYTES_MAX as TRAILER_MAX, FRAME_MAGIC as TRAILER_MAGIC, Trailer};
use super::{FRAME_BYTES, FormatError, Kind};
use crate::error::RepoError;
use crate::facts::{Facts, Link, Predecessor};
use crate::keys::Keyring;
use walward_base::sys::cpu::{CpuPool, WorkerDied};
use walward_storage::Body;

/// What is expected next.
enum Stage {
    /// Content frame or trailer.
    Frames,
    /// The rest of a plain frame.
    PlainFrame(FrameWalk),
    /// The seek table, which must be these bytes.
    SeekTable(Bytes),
    /// Nothing more.
    End,
}

type Decoded = BoxFuture<'static, Result<Result<Bytes, FormatError>, WorkerDied>>;

/// An object being read.
pub(crate) struct Opener {
    object: String,
    pool: CpuPool,
    body: Body,
    body_ended: bool,
    incoming: Incoming,
    header: Header,
    context: Arc<FrameContext>,
    stage: Stage,
    /// A frame that may be the last one: known when the next begins.
    held: Option<Bytes>,
    /// The facts frame has come: only the trailer may follow.
    has_facts: bool,
    predecessor: Arc<OnceLock<Predecessor>>,
    next_number: u64,
    decoding: FuturesOrdered<Decoded>,
    stored_digest: Option<DigestChain<Sha256>>,
    table: SeekTable,
    trailer: Option<Trailer>,
    content_bytes: u64,
}

impl Opener {
    /// Reads the header of the object at `path`, shown as `object` in errors.
    pub(crate) async fn new(
        object: String,
        path: &str,
        keyring: Option<&Keyring>,
        pool: CpuPool,
        mut body: Body,
    ) -> Result<Self, RepoError> {
        let mut incoming = Incoming::default();
        let damaged = |error| RepoError::damaged(&object, error);
        let frame = loop {
            if let Some(magic) = incoming.peek(0)
                && u32::from_le_bytes(magic) != HEADER_MAGIC
            {
                return Err(damaged(FormatError::NoHeader));
            }
            if let Some(length) = incoming.peek(4) {
                let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                if length > HEADER_MAX {
                    return Err(damaged(FormatError::Header("it is too long")));
                }
                if let Some(frame) = incoming.take(SKIPPABLE_HEAD + length) {
                    break frame;
                }
            }
            match body.next().await {
                Some(bytes) => incoming.push(bytes?),
                None => return Err(damaged(FormatError::CutShort("header"))),
            }
        };
        let (header, header_payload, _) = Header::parse_frame(&frame).map_err(damaged)?;
        let context = FrameContext::of(&header, header_payload, keyring, path, &object)?;
        let mut stored_digest = context.keys.is_none().then(|| DigestChain::new(Sha256::new()));
        let mut table = SeekTable::new(context.keys.is_none());
        table.push(frame.len());
        if let Some(digest) = &mut stored_digest {
            digest.push(frame);
        }
        Ok(Self {
            object,
            pool,
            body,
            body_ended: false,
            incoming,
            header,
            context: Arc::new(context),
            stage: Stage::Frames,
            held: None,
            has_facts: false,
            predecessor: Arc::default(),
            next_number: 0,
            decoding: FuturesOrdered::new(),
            stored_digest,
            table,
            trailer: None,
            content_bytes: 0,
        })
    }

    /// What the header says.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// What the object is and what it continues, once all of it was verified.
    pub(crate) fn link(&self) -> Option<Link> {
        let trailer = self.trailer.as_ref()?;
        Some(Link { digest: trailer.content_digest, predecessor: self.predecessor.get().copied() })
    }

    /// The next content, verified as far as a frame can be. `None` when the whole object was verified.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RepoError> {
        loop {
            let mut hungry = false;
            while self.has_room() && !hungry && !matches!(self.stage, Stage::End) {
                hungry = !self.step().map_err(|error| RepoError::damaged(&self.object, error))?;
            }
            let ended = matches!(self.stage, Stage::End);
            if ended && self.incoming.len() > 0 {
                return Err(RepoError::damaged(&self.object, FormatError::Excess));
            }
            if hungry && self.body_ended {
                return Err(RepoError::damaged(&self.object, FormatError::CutShort(self.missing())));
            }
            if ended && self.body_ended && self.decoding.is_empty() {
                self.check_against_trailer().await?;
                return Ok(None);
            }
            let Self { object, pool, body, incoming, decoding, stored_digest, content_bytes, .. } = self;
            let digesting = stored_digest.as_ref().is_some_and(DigestChain::is_busy);
            let turn = async {
                match stored_digest {
                    Some(digest) => digest.turn(pool).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(decoded) = decoding.next(), if !decoding.is_empty() => {
                    let content = decoded
                        .map_err(|died| RepoError::worker(object, died))?
                        .map_err(|error| RepoError::damaged(object, error))?;
                    *content_bytes += content.len() as u64;
                    if !content.is_empty() {
                        return Ok(Some(content));
                    }
                }
                turned = turn, if digesting => turned.map_err(|died| RepoError::worker(object, died))?,
                bytes = body.next(), if (hungry || ended) && !self.body_ended => match bytes {
                    Some(bytes) => incoming.push(bytes?),
                    None => self.body_ended = true,
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        let in_work_max = self.pool.threads() + 1;
        let waiting = self.stored_digest.as_ref().map_or(0, DigestChain::waiting_bytes);
        self.decoding.len() < in_work_max && waiting < in_work_max * FRAME_BYTES
    }

    fn missing(&self) -> &'static str {
        match self.stage {
            Stage::Frames | Stage::PlainFrame(_) => "content",
            Stage::SeekTable(_) | Stage::End => "seek table",
        }
    }

    /// Takes the next thing out of what has arrived; `false` when more bytes are needed for it.
    fn step(&mut self) -> Result<bool, FormatError> {
        let wrong = |number, what| FormatError::Frame { number, what };
        // The frame that may be held back is the one before.
        let number = self.next_number + u64::from(self.held.is_some());
        match &mut self.stage {
            Stage::Frames => {
                let Some(magic) = self.incoming.peek(0) else { return Ok(false) };
                match (u32::from_le_bytes(magic), self.context.keys.is_some()) {
                    (TRAILER_MAGIC, _) => {
                        let Some(length) = self.incoming.peek(4) else { return Ok(false) };
                        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                        if length > TRAILER_MAX - SKIPPABLE_HEAD {
                            return Err(FormatError::Trailer("it is too long"));
                        }
                        let Some(frame) = self.incoming.take(SKIPPABLE_HEAD + length) else { return Ok(false) };
                        let Some(last) = self.held.take() else {
                            return Err(FormatError::Trailer("there is no content"));
                        };
                        self.table.push(frame.len());
                        let mut table = Bytes::new();
                        let trailer = Trailer::parse(&frame, &self.context, |content_bytes| {
                            table = self.table.frame(content_bytes)?;
                            Ok(table.clone())
                        })?;
                        self.stage = Stage::SeekTable(table);
                        self.trailer = Some(trailer);
                        self.decode(last, true);
                        Ok(true)
                    }
                    (FACTS_MAGIC, _) if !self.has_facts => {
                        if self.held.is_none() || self.header.kind != Kind::Segment {
                            return Err(FormatError::Facts("no object like this has such a frame"));
                        }
                        let Some(length) = self.incoming.peek(4) else { return Ok(false) };
                        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                        if length > stored_max() - SKIPPABLE_HEAD {
                            return Err(FormatError::Facts("they are too long"));
                        }
                        let Some(frame) = self.incoming.take(SKIPPABLE_HEAD + length) else { return Ok(false) };
                        self.take_facts(frame);
                        Ok(true)
                    }
                    (ZSTD_MAGIC, false) if !self.has_facts => {
                        self.stage = Stage::PlainFrame(FrameWalk::default());
                        Ok(true)
                    }
                    (SEALED_MAGIC, true) if !self.has_facts => {
                        let Some(length) = self.incoming.peek(4) else { return Ok(false) };
                        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                        if length > stored_max() - SKIPPABLE_HEAD {
                            return Err(wrong(number, "is longer than 1 MiB can become"));
                        }
                        let Some(frame) = self.incoming.take(SKIPPABLE_HEAD + length) else { return Ok(false) };
                        self.hold(frame);
                        Ok(true)
                    }
                    _ => Err(wrong(number, "is not a frame of this format")),
                }
            }
            Stage::PlainFrame(walk) => {
                let incoming = &self.incoming;
                match walk.advance(&|at| incoming.peek(at)).map_err(|what| wrong(number, what))? {
                    Walked::Need(_) => Ok(false),
                    Walked::Whole(length) => {
                        let Some(frame) = self.incoming.take(length) else { return Ok(false) };
                        self.stage = Stage::Frames;
                        self.hold(frame);
                        Ok(true)
                    }
                }
            }
            Stage::SeekTable(expected) => {
                let Some(found) = self.incoming.take(expected.len()) else { return Ok(false) };
                if found != *expected {
                    return Err(FormatError::SeekTable("it does not describe the frames before it"));
                }
                self.stage = Stage::End;
                Ok(true)
            }
            Stage::End => Ok(false),
        }
    }

    /// A whole content frame has arrived: the one before it was not the last.
    fn hold(&mut self, frame: Bytes) {
        self.table.push_content(&frame);
        if let Some(digest) = &mut self.stored_digest {
            digest.push(frame.clone());
        }
        if let Some(before) = self.held.replace(frame) {
            self.decode(before, false);
        }
    }

    /// The facts frame has arrived. It has no content, and is verified as the content is. What it says is no reason to fail: the WAL is whole
    /// whatever a later version wrote about it.
    fn take_facts(&mut self, frame: Bytes) {
        self.has_facts = true;
        self.table.push_facts(&frame);
        if let Some(digest) = &mut self.stored_digest {
            digest.push(frame.clone());
        }
        let (context, before) = (Arc::clone(&self.context), Arc::clone(&self.predecessor));
        let job = move || {
            let facts = Facts::decode(&decode_facts(&context, &frame)?);
            if let Some(predecessor) = facts.ok().and_then(|facts| facts.predecessor) {
                let _ = before.set(predecessor);
            }
            Ok(Bytes::new())
        };
        self.decoding.push_back(self.pool.start(job).boxed());
    }

    fn decode(&mut self, stored: Bytes, last: bool) {
        let (context, number) = (self.context.clone(), self.next_number);
        self.next_number += 1;
        let job = move || decode(&context, number, last, &stored);
        self.decoding.push_back(self.pool.start(job).boxed());
    }

    /// At the end: what the trailer says of the whole must be what came.
    async fn check_against_trailer(&mut self) -> Result<(), RepoError> {
        let Some(trailer) = &self.trailer else { return Ok(()) };
        if trailer.content_bytes != self.content_bytes {
            let error = FormatError::Trailer("the content has another length");
            return Err(RepoError::damaged(&self.object, error));
        }
        let Some(digest) = self.stored_digest.take() else { return Ok(()) };
        let found = digest.finish(&self.pool).await.map_err(|died| RepoError::worker(&self.object, died))?;
        if <[u8; 32]>::from(found.finalize()) == trailer.stored_digest {
            Ok(())
        } else {
            let error = FormatError::Trailer("the stored bytes have another digest");
            Err(RepoError::damaged(&self.object, error))
        }
    }
}
