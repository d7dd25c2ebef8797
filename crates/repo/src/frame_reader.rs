//! Reading an object by range, out of which frames are kept for the next time.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;

use super::error::RepoError;
use super::format::{FRAME_BYTES, Run, Summary, Tail};
use super::repository::Repository;
use walward_base::Locked;
use walward_storage::{ObjectInfo, ObjectKey};

/// How many frames are fetched and opened at once.
const FRAMES_AT_ONCE: usize = 8;

/// One object, opened by its end: any part of its content can be read, and every part that comes out was authenticated, or checked when the
/// object is plain (FORMAT.md, "Reading by range").
///
/// All of it is of the object that was opened: when another one has taken its name, reading fails.
/// Memory: the cache, what was asked for, and eight frames as stored and opened for each call.
pub struct FrameReader {
    repository: Repository,
    info: ObjectInfo,
    shown: String,
    tail: Arc<Tail>,
    cache: Mutex<Cache>,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("object", &self.shown).field("info", &self.info).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens an object for reading by range: one request, for its end. Of the frames that are read at most `cache_bytes_max` bytes
    /// of content are kept.
    pub async fn frames(&self, key: &ObjectKey, cache_bytes_max: usize) -> Result<FrameReader, RepoError> {
        let (tail, info, _) = self.tail(key).await?;
        Ok(FrameReader {
            repository: self.clone(),
            info,
            shown: self.shown(key),
            tail: Arc::new(tail),
            cache: Mutex::new(Cache { bytes_max: cache_bytes_max, bytes: 0, frames: VecDeque::new() }),
        })
    }
}

impl FrameReader {
    /// What the trailer says of the object.
    pub fn summary(&self) -> &Summary {
        &self.tail.summary
    }

    /// `length` bytes of the content from `offset` on. One request for the frames that are missing and lie together, at most eight at a time.
    ///
    /// # Errors
    /// Of class Corrupt also when the content does not go that far, and when the object was replaced.
    pub async fn read_at(&self, offset: u64, length: u64) -> Result<Bytes, RepoError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let wanted = offset..offset.saturating_add(length);
        let frames = self.tail.frames_of(&wanted).map_err(|error| RepoError::damaged(&self.shown, error))?;
        let mut content = BytesMut::new();
        for first in frames.clone().step_by(FRAMES_AT_ONCE) {
            let last = frames.end.min(first + FRAMES_AT_ONCE as u64);
            for (number, frame) in (first..last).zip(self.some(first..last).await?) {
                let start = number * FRAME_BYTES as u64;
                let within =
                    |at: u64| usize::try_from(at.saturating_sub(start)).map_or(frame.len(), |at| at.min(frame.len()));
                let part = frame.get(within(wanted.start)..within(wanted.end));
                content.extend_from_slice(part.unwrap_or_default());
            }
        }
        Ok(content.freeze())
    }

    /// The content of these frames.
    async fn some(&self, numbers: Range<u64>) -> Result<Vec<Bytes>, RepoError> {
        let damaged = |error| RepoError::damaged(&self.shown, error);
        let mut found: Vec<Option<Bytes>> = {
            let mut cache = self.cache.locked();
            numbers.clone().map(|number| cache.get(number)).collect()
        };
        let missing = numbers.clone().zip(&found).filter(|(_, found)| found.is_none()).map(|(number, _)| number);
        let runs = self.tail.runs(missing).map_err(damaged)?;
        let fetched = try_join_all(runs.iter().map(|run| self.fetch(run))).await?;
        for (number, content) in fetched.into_iter().flatten() {
            self.cache.locked().put(number, &content);
            let slot = usize::try_from(number - numbers.start).ok().and_then(|at| found.get_mut(at));
            if let Some(slot) = slot {
                *slot = Some(content);
            }
        }
        // Each was in the cache or in a run.
        Ok(found.into_iter().flatten().collect())
    }

    /// The frames of one request, opened.
    async fn fetch(&self, run: &Run) -> Result<Vec<(u64, Bytes)>, RepoError> {
        let stored = self.repository.range_of(&self.info, run.stored.clone()).await?;
        try_join_all(run.frames.iter().map(|(number, place)| {
            let (tail, number, frame) = (Arc::clone(&self.tail), *number, stored.slice(place.clone()));
            async move {
                let opened = self.repository.pool().start(move || tail.open(number, &frame)).await;
                let opened = opened.map_err(|source| RepoError::Worker { object: self.shown.clone(), source })?;
                Ok((number, opened.map_err(|error| RepoError::damaged(&self.shown, error))?))
            }
        }))
        .await
    }
}

/// The frames that were used last.
#[derive(Debug)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    /// The one that was used last stands last.
    frames: VecDeque<(u64, Bytes)>,
}

impl Cache {
    fn get(&mut self, number: u64) -> Option<Bytes> {
        let at = self.frames.iter().position(|(known, _)| *known == number)?;
        let frame = self.frames.remove(at)?;
        let content = frame.1.clone();
        self.frames.push_back(frame);
        Some(content)
    }

    fn put(&mut self, number: u64, content: &Bytes) {
        if content.len() > self.bytes_max || self.get(number).is_some() {
            return;
        }
        self.bytes += content.len();
        self.frames.push_back((number, content.clone()));
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.frames.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests;
