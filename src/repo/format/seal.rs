//! Content on its way into an object. Bounded: one frame more than the pool has threads is in work at a time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use super::context::FrameContext;
use super::crypto::ObjectKeys;
use super::digest::{ContentDigest, DigestChain};
use super::header::{Header, Sealed};
use super::seek_table::SeekTable;
use super::trailer::Trailer;
use super::{FRAME_BYTES, FormatError, Spec, Summary, frame};
use crate::repo::error::RepoError;
use crate::repo::keys::MasterKey;
use crate::sys::cpu::{CpuPool, WorkerDied};

/// Content cut into frames. The last frame is known only when the content has ended, so a full one is held back until then.
#[derive(Default)]
struct Cutter {
    parts: Vec<Bytes>,
    held: usize,
    content_bytes: u64,
    ended: bool,
    done: bool,
}

impl Cutter {
    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held += bytes.len();
            self.content_bytes += bytes.len() as u64;
            self.parts.push(bytes);
        }
    }

    /// The next frame's content and whether it is the last.
    fn next(&mut self) -> Option<(Vec<Bytes>, bool)> {
        if self.held > FRAME_BYTES {
            let mut frame = Vec::new();
            let mut missing = FRAME_BYTES;
            let mut taken = 0;
            for part in &mut self.parts {
                if part.len() > missing {
                    if missing > 0 {
                        frame.push(part.split_to(missing));
                    }
                    break;
                }
                missing -= part.len();
                taken += 1;
                frame.push(std::mem::take(part));
            }
            self.parts.drain(..taken);
            self.held -= FRAME_BYTES;
            Some((frame, false))
        } else if self.ended && !self.done {
            self.done = true;
            self.held = 0;
            Some((std::mem::take(&mut self.parts), true))
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Content,
    Trailer,
    SeekTable,
    End,
}

type Encoded = BoxFuture<'static, Result<Result<Bytes, FormatError>, WorkerDied>>;

/// An object being made, in pieces: first [`Sealer::next`] until there is nothing more, then [`Sealer::summary`].
pub(in crate::repo) struct Sealer<'a, F> {
    object: String,
    pool: CpuPool,
    level: i32,
    context: Arc<FrameContext>,
    content: BoxStream<'a, io::Result<Bytes>>,
    commit_times: Option<F>,
    cutter: Cutter,
    frames: FuturesOrdered<Encoded>,
    next_number: u64,
    content_digest: Option<DigestChain<ContentDigest>>,
    stored_digest: Option<DigestChain<Sha256>>,
    table: SeekTable,
    trailer: Option<Trailer>,
    stage: Stage,
}

impl<'a, F: FnOnce() -> Option<(i64, i64)>> Sealer<'a, F> {
    /// Begins the object at `path`, shown as `object` in errors. `master` and a fresh random salt: sealed.
    pub(in crate::repo) fn new(
        object: String,
        path: &str,
        spec: Spec,
        protection: Option<(&MasterKey, [u8; 32])>,
        pool: CpuPool,
        content: BoxStream<'a, io::Result<Bytes>>,
        commit_times: F,
    ) -> Self {
        let keys = protection.map(|(master, salt)| ObjectKeys::derive(master, &salt, path));
        let sealed = protection.map(|(master, salt)| Sealed { key_id: *master.id(), salt });
        let header = Header { kind: spec.kind, sealed, writer: spec.writer };
        let content_digest = ContentDigest::new(keys.as_ref());
        Self {
            object,
            pool,
            level: spec.level.clamp(1, 19),
            context: Arc::new(FrameContext { header_payload: header.payload().into(), keys }),
            content,
            commit_times: Some(commit_times),
            cutter: Cutter::default(),
            frames: FuturesOrdered::new(),
            next_number: 0,
            content_digest: Some(DigestChain::new(content_digest)),
            stored_digest: Some(DigestChain::new(Sha256::new())),
            table: SeekTable::default(),
            trailer: None,
            stage: Stage::Header,
        }
    }

    /// The next stored bytes; `None` when the object is whole.
    pub(in crate::repo) async fn next(&mut self) -> Result<Option<Bytes>, RepoError> {
        match self.stage {
            Stage::Header => {
                self.stage = Stage::Content;
                Ok(Some(self.emit(Header::frame(&self.context.header_payload))))
            }
            Stage::Content => {
                if let Some(stored) = self.next_content_frame().await? {
                    return Ok(Some(self.emit(stored)));
                }
                let trailer = self.make_trailer().await?;
                let stored = trailer.frame(&self.context);
                self.trailer = Some(trailer);
                self.stage = Stage::Trailer;
                self.table.push(stored.len());
                Ok(Some(stored))
            }
            Stage::Trailer => {
                self.stage = Stage::SeekTable;
                let table = self.table.frame(self.cutter.content_bytes);
                table.map(Some).map_err(|error| RepoError::damaged(&self.object, error))
            }
            Stage::SeekTable | Stage::End => {
                self.stage = Stage::End;
                Ok(None)
            }
        }
    }

    /// What the trailer says. `None` before everything came out of [`Self::next`].
    pub(in crate::repo) fn summary(&self) -> Option<Summary> {
        let trailer = self.trailer.as_ref().filter(|_| self.stage == Stage::End)?;
        Some(Summary {
            content_bytes: trailer.content_bytes,
            content_digest: trailer.content_digest,
            stored_bytes: self.table.stored_bytes() + super::seek_table::table_bytes_for(trailer.content_bytes),
            stored_digest: trailer.stored_digest,
            commit_times: trailer.commit_times,
        })
    }

    /// Bytes in front of the trailer pass through here.
    fn emit(&mut self, stored: Bytes) -> Bytes {
        self.table.push(stored.len());
        if let Some(digest) = &mut self.stored_digest {
            digest.push(stored.clone());
        }
        stored
    }

    async fn next_content_frame(&mut self) -> Result<Option<Bytes>, RepoError> {
        let Self { object, pool, content, cutter, frames, content_digest, stored_digest, .. } = self;
        let (Some(content_digest), Some(stored_digest)) = (content_digest, stored_digest) else { return Ok(None) };
        let in_work_max = pool.threads() + 1;
        let waiting_max = in_work_max * FRAME_BYTES;
        loop {
            let has_room = |frames: &FuturesOrdered<Encoded>, digest: &DigestChain<ContentDigest>| {
                frames.len() < in_work_max && digest.waiting_bytes() < waiting_max
            };
            while has_room(frames, content_digest)
                && let Some((parts, last)) = cutter.next()
            {
                for part in &parts {
                    content_digest.push(part.clone());
                }
                let (context, number, level) = (self.context.clone(), self.next_number, self.level);
                self.next_number += 1;
                let pool = pool.clone();
                let job = move || frame::encode(&context, number, last, &parts, level);
                frames.push_back(async move { pool.run(job).await }.boxed());
            }
            if cutter.done && frames.is_empty() {
                return Ok(None);
            }
            let may_read = !cutter.ended && has_room(frames, content_digest);
            tokio::select! {
                biased;
                Some(encoded) = frames.next(), if !frames.is_empty() && stored_digest.waiting_bytes() < waiting_max => {
                    let stored = encoded
                        .map_err(|died| RepoError::worker(object, died))?
                        .map_err(|error| RepoError::damaged(object, error))?;
                    return Ok(Some(stored));
                }
                turned = content_digest.turn(pool), if content_digest.is_busy() => {
                    turned.map_err(|died| RepoError::worker(object, died))?;
                }
                turned = stored_digest.turn(pool), if stored_digest.is_busy() => {
                    turned.map_err(|died| RepoError::worker(object, died))?;
                }
                bytes = content.next(), if may_read => match bytes {
                    Some(Ok(bytes)) => cutter.push(bytes),
                    Some(Err(source)) => return Err(RepoError::Content { object: object.clone(), source }),
                    None => cutter.ended = true,
                },
            }
        }
    }

    async fn make_trailer(&mut self) -> Result<Trailer, RepoError> {
        let died = |died| RepoError::worker(&self.object, died);
        let (Some(content_digest), Some(stored_digest)) = (self.content_digest.take(), self.stored_digest.take())
        else {
            return Err(died(WorkerDied));
        };
        let (content_digest, stored_digest) =
            tokio::try_join!(content_digest.finish(&self.pool), stored_digest.finish(&self.pool)).map_err(died)?;
        Ok(Trailer {
            content_bytes: self.cutter.content_bytes,
            content_digest: content_digest.finish(),
            stored_digest: stored_digest.finalize().into(),
            commit_times: self.commit_times.take().and_then(|ask| ask()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_are_of_1_mib_whatever_the_pieces(pieces in proptest::collection::vec(0usize..1_500_000, 0..6)) {
            let mut cutter = Cutter::default();
            let total: usize = pieces.iter().sum();
            let mut lengths = Vec::new();
            let mut collect = |cutter: &mut Cutter| {
                while let Some((parts, last)) = cutter.next() {
                    lengths.push((parts.iter().map(Bytes::len).sum::<usize>(), last));
                }
            };
            for piece in pieces {
                cutter.push(vec![0; piece].into());
                collect(&mut cutter);
            }
            cutter.ended = true;
            collect(&mut cutter);
            prop_assert_eq!(cutter.content_bytes, total as u64);
            let (last, others) = lengths.split_last().expect("at least one frame");
            prop_assert!(others.iter().all(|frame| *frame == (FRAME_BYTES, false)));
            prop_assert_eq!(*last, (total - others.len() * FRAME_BYTES, true));
            prop_assert!(last.0 <= FRAME_BYTES && (last.0 > 0 || total == 0));
        }
    }
}
