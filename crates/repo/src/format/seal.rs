//! Content on its way into an object. Bounded: one frame more than the pool has threads is in work at a time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use super::context::FrameContext;
use super::crypto::ObjectKeys;
use super::digest::{ContentDigest, DigestChain, turn_any};
use super::frame::Recipes;
use super::header::{Header, Sealed};
use super::seek_table::SeekTable;
use super::trailer::Trailer;
use super::{FRAME_BYTES, FormatError, Spec, Summary, frame};
use crate::error::RepoError;
use crate::facts::Facts;
use crate::keys::MasterKey;
use walward_base::sys::cpu::{CpuPool, WorkerDied};

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
    Facts,
    Trailer,
    SeekTable,
    End,
}

type Encoded = BoxFuture<'static, Result<Result<Vec<Bytes>, FormatError>, WorkerDied>>;

/// One of the objects that a content becomes.
pub(crate) struct Object<'k> {
    /// Its name.
    pub path: &'k str,
    /// What it is, how it is compressed, who writes it.
    pub spec: Spec,
    /// A master key and a fresh random salt: sealed.
    pub protection: Option<(&'k MasterKey, [u8; 32])>,
}

/// Content on its way into one or several objects, in pieces: first [`Sealer::next`] until there is nothing more, then
/// [`Sealer::summaries`]. Digested once and compressed once a level, however many objects there are.
pub(crate) struct Sealer<'a, F> {
    /// The content, as errors show it.
    shown: String,
    pool: CpuPool,
    recipes: Arc<Recipes>,
    content: BoxStream<'a, io::Result<Bytes>>,
    facts: Option<F>,
    cutter: Cutter,
    frames: FuturesOrdered<Encoded>,
    next_number: u64,
    /// Until the content has ended.
    content_digest: Option<DigestChain<ContentDigest>>,
    objects: Vec<Making>,
    stage: Stage,
}

/// What is known of an object that is being made.
struct Making {
    stored_digest: Option<DigestChain<Sha256>>,
    table: SeekTable,
    /// The table as it is stored, once the trailer is made.
    table_frame: Bytes,
    trailer: Option<Trailer>,
}

impl<'a, F: FnOnce() -> Option<Facts>> Sealer<'a, F> {
    /// Begins `objects` of one content, shown as `shown` in errors.
    pub(crate) fn new(
        shown: String,
        objects: Vec<Object<'_>>,
        pool: CpuPool,
        content: BoxStream<'a, io::Result<Bytes>>,
        facts: F,
    ) -> Self {
        let mut recipes = Vec::with_capacity(objects.len());
        let mut making = Vec::with_capacity(objects.len());
        for Object { path, spec, protection } in objects {
            let is_plain = protection.is_none();
            let keys = protection.map(|(master, salt)| ObjectKeys::derive(master, &salt, path));
            let sealed = protection.map(|(master, salt)| Sealed { key_id: *master.id(), salt });
            let header = Header { kind: spec.kind, sealed, writer: spec.writer };
            recipes.push((FrameContext { header_payload: header.payload().into(), keys }, spec.level.clamp(1, 19)));
            making.push(Making {
                stored_digest: Some(DigestChain::new(Sha256::new())),
                table: SeekTable::new(is_plain),
                table_frame: Bytes::new(),
                trailer: None,
            });
        }
        Self {
            shown,
            pool,
            recipes: Arc::new(Recipes::new(recipes)),
            content,
            facts: Some(facts),
            cutter: Cutter::default(),
            frames: FuturesOrdered::new(),
            next_number: 0,
            content_digest: Some(DigestChain::new(ContentDigest::new())),
            objects: making,
            stage: Stage::Header,
        }
    }

    /// The next stored bytes of each object; `None` when all are whole.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, RepoError> {
        match self.stage {
            Stage::Header => {
                self.stage = Stage::Content;
                let headers = self.recipes.contexts().iter().map(|context| Header::frame(&context.header_payload));
                let headers = headers.collect();
                Ok(Some(self.emit(headers, SeekTable::push_other)))
            }
            Stage::Content => {
                if let Some(stored) = self.next_content_frame().await? {
                    return Ok(Some(self.emit(stored, SeekTable::push_content)));
                }
                self.stage = Stage::Facts;
                if let Some(stored) = self.facts_frames().await? {
                    return Ok(Some(self.emit(stored, SeekTable::push_facts)));
                }
                self.trailers().await
            }
            Stage::Facts => self.trailers().await,
            Stage::Trailer => {
                self.stage = Stage::SeekTable;
                Ok(Some(self.objects.iter().map(|object| object.table_frame.clone()).collect()))
            }
            Stage::SeekTable | Stage::End => {
                self.stage = Stage::End;
                Ok(None)
            }
        }
    }

    async fn trailers(&mut self) -> Result<Option<Vec<Bytes>>, RepoError> {
        self.make_trailers().await?;
        self.stage = Stage::Trailer;
        let mut stored = Vec::with_capacity(self.objects.len());
        for (object, context) in self.objects.iter_mut().zip(self.recipes.contexts()) {
            object.table.push(Trailer::frame_bytes(context));
            let table = object.table.frame(self.cutter.content_bytes);
            object.table_frame = table.map_err(|error| RepoError::damaged(&self.shown, error))?;
            let trailer = object.trailer.as_ref();
            stored.push(trailer.map(|trailer| trailer.frame(context, &object.table_frame)).unwrap_or_default());
        }
        Ok(Some(stored))
    }

    /// The facts frame of each object; none when nothing is known.
    async fn facts_frames(&mut self) -> Result<Option<Vec<Bytes>>, RepoError> {
        let Some(facts) = self.facts.take().and_then(|ask| ask()) else { return Ok(None) };
        let recipes = Arc::clone(&self.recipes);
        let made = self.pool.start(move || frame::encode_facts(&recipes, &facts.encode())).await;
        let made = made.map_err(|died| RepoError::worker(&self.shown, died))?;
        made.map(Some).map_err(|error| RepoError::damaged(&self.shown, error))
    }

    /// What the trailer of each object says. `None` before everything came out of [`Self::next`].
    pub(crate) fn summaries(&self) -> Option<Vec<Summary>> {
        if self.stage != Stage::End {
            return None;
        }
        let summary = |object: &Making| {
            let trailer = object.trailer.as_ref()?;
            Some(Summary {
                content_bytes: trailer.content_bytes,
                content_digest: trailer.content_digest,
                stored_bytes: object.table.stored_bytes() + object.table_frame.len() as u64,
                stored_digest: trailer.stored_digest,
            })
        };
        self.objects.iter().map(summary).collect()
    }

    /// Bytes in front of the trailer pass through here.
    fn emit(&mut self, stored: Vec<Bytes>, note: fn(&mut SeekTable, &[u8])) -> Vec<Bytes> {
        for (object, stored) in self.objects.iter_mut().zip(&stored) {
            note(&mut object.table, stored);
            if let Some(digest) = &mut object.stored_digest {
                digest.push(stored.clone());
            }
        }
        stored
    }

    async fn next_content_frame(&mut self) -> Result<Option<Vec<Bytes>>, RepoError> {
        let Self { shown, pool, content, cutter, frames, content_digest, objects, .. } = self;
        let in_work_max = pool.threads() + 1;
        let waiting_max = in_work_max * FRAME_BYTES;
        loop {
            let has_room = |frames: &FuturesOrdered<Encoded>, digest: Option<&DigestChain<ContentDigest>>| {
                frames.len() < in_work_max && digest.is_none_or(|digest| digest.waiting_bytes() < waiting_max)
            };
            while has_room(frames, content_digest.as_ref())
                && let Some((parts, last)) = cutter.next()
            {
                if let Some(digest) = content_digest {
                    for part in &parts {
                        digest.push(part.clone());
                    }
                }
                let (recipes, number) = (Arc::clone(&self.recipes), self.next_number);
                self.next_number += 1;
                let job = move || frame::encode(&recipes, number, last, &parts);
                frames.push_back(pool.start(job).boxed());
            }
            if cutter.done && frames.is_empty() {
                return Ok(None);
            }
            let may_read = !cutter.ended && has_room(frames, content_digest.as_ref());
            let may_emit = objects
                .iter()
                .filter_map(|object| object.stored_digest.as_ref())
                .all(|digest| digest.waiting_bytes() < waiting_max);
            tokio::select! {
                biased;
                Some(encoded) = frames.next(), if !frames.is_empty() && may_emit => {
                    let stored = encoded
                        .map_err(|died| RepoError::worker(shown, died))?
                        .map_err(|error| RepoError::damaged(shown, error))?;
                    return Ok(Some(stored));
                }
                turned = turn_any(content_digest.iter_mut(), pool) => {
                    turned.map_err(|died| RepoError::worker(shown, died))?;
                }
                turned = turn_any(objects.iter_mut().filter_map(|object| object.stored_digest.as_mut()), pool) => {
                    turned.map_err(|died| RepoError::worker(shown, died))?;
                }
                bytes = content.next(), if may_read => match bytes {
                    Some(Ok(bytes)) => cutter.push(bytes),
                    Some(Err(source)) => return Err(RepoError::Content { object: shown.clone(), source }),
                    None => cutter.ended = true,
                },
            }
        }
    }

    async fn make_trailers(&mut self) -> Result<(), RepoError> {
        let died = |died| RepoError::worker(&self.shown, died);
        let content = self.content_digest.take().ok_or(WorkerDied).map_err(died)?.finish(&self.pool);
        let stored = self.objects.iter_mut().filter_map(|object| object.stored_digest.take());
        let stored = try_join_all(stored.map(|digest| digest.finish(&self.pool)));
        let (content, stored) = tokio::try_join!(content, stored).map_err(died)?;
        let content_digest = content.finish();
        for (object, stored_digest) in self.objects.iter_mut().zip(stored) {
            object.trailer = Some(Trailer {
                content_bytes: self.cutter.content_bytes,
                content_digest,
                stored_digest: stored_digest.finalize().into(),
            });
        }
        Ok(())
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
