//! Reading a part of an object: a small file out of a large pack.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::RepoError;
use super::format::Part;
use super::repository::Repository;
use walward_storage::ObjectKey;

/// The longest part that is read at once.
pub const PART_BYTES_MAX: u64 = 4 << 20;

impl Repository {
    /// Reads the bytes `content` of an object's content: its ends, and the frames that hold them. At most [`PART_BYTES_MAX`].
    pub async fn read_part(&self, key: &ObjectKey, content: Range<u64>) -> Result<Bytes, RepoError> {
        if content.is_empty() {
            return Ok(Bytes::new());
        }
        let end = content.end.min(content.start.saturating_add(PART_BYTES_MAX));
        let shown = self.shown(key);
        let (tail, _) = self.tail(key).await?;
        let part = Part::find(&tail, content.start..end).map_err(|error| RepoError::damaged(&shown, error))?;
        let stored = self.range(key, part.stored.clone()).await?;
        let tail = Arc::new(tail);
        let opened = self.pool().start(move || part.open(&tail, stored)).await;
        let opened = opened.map_err(|source| RepoError::Worker { object: shown.clone(), source })?;
        opened.map_err(|error| RepoError::damaged(&shown, error))
    }
}
