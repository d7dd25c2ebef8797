//! The trait that everything above stands on.

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use walward_base::ErrorClass;

use super::creates::Creates;
use super::{ObjectKey, StoreError};

/// The bytes of an object to be written, in order, as they came from whoever made them (no copy to join them).
#[derive(Debug, Clone, Default)]
pub struct Payload(pub Vec<Bytes>);

impl Payload {
    /// The number of bytes in all.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// The bytes from `start` up to `end`, copied.
    pub(super) fn slice(&self, start: u64, end: u64) -> Bytes {
        let mut taken = Vec::new();
        let mut offset = 0u64;
        for part in &self.0 {
            let within = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(part.len());
            taken.extend_from_slice(part.get(within(start)..within(end)).unwrap_or_default());
            offset += part.len() as u64;
        }
        taken.into()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![bytes.into()])
    }
}

/// Said of an object that is read in pieces.
pub(super) const REPLACED: &str = "another object took its name while it was read: something replaced it";

/// How many bytes `range` has, if it lies within an object of `size` bytes.
pub(super) fn length_within(range: &Range<u64>, size: u64) -> Result<usize, String> {
    let outside = || format!("bytes {} to {} were asked for, but it has {size}", range.start, range.end);
    if range.end > size {
        return Err(outside());
    }
    range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok()).ok_or_else(outside)
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is new and durable.
    Created,
    /// An object of that name was there; it was left as it was. After a retried call it may be our own.
    Exists,
}

/// What a store says about an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    /// What the store tells it from another object of its name by; `None` where it does not say.
    pub tag: Option<String>,
}

impl ObjectInfo {
    /// Whether both are about one object, and not about two that had the name one after the other.
    pub fn is_same(&self, other: &Self) -> bool {
        self.size == other.size
            && match (&self.tag, &other.tag) {
                (Some(one), Some(another)) => one == another,
                _ => self.modified == other.modified,
            }
    }
}

/// One folder: what lies directly in it, each list sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Names (one part each) of the folders within.
    pub folders: Vec<String>,
    /// The objects within.
    pub objects: Vec<ObjectInfo>,
}

/// The bytes of an object as they arrive.
pub type Body = BoxStream<'static, Result<Bytes, StoreError>>;

/// An object that is being read. The body ends early only with an error: a body shorter than `info.size` is reported as
/// [`walward_base::ErrorClass::Transient`] by the store, not passed off as whole.
pub struct StoredObject {
    /// What the store says about it.
    pub info: ObjectInfo,
    /// Its bytes from the first on.
    pub body: Body,
}

/// Files of a store that are no objects: writers that were killed left them unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unfinished {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A place for immutable objects.
///
/// Every method: [`walward_base::ErrorClass::NotFound`] only when the store itself said so. An acknowledged write is durable.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// The store's URL without secrets, for messages.
    fn url(&self) -> &str;

    /// Whether the store itself keeps two writers of one name apart, as far as this handle knows: tried with the first
    /// [`Store::put_new`]. Where it does not, [`super::create`] says what is done instead, and what that cannot promise.
    fn creates(&self) -> Creates;

    /// Whether something else can stand in the store's place unnoticed: where a disk was unmounted, its empty mount point takes
    /// files just as well. A write to such a store proves nothing until what it should lie beside was seen there.
    fn can_be_swapped(&self) -> bool {
        false
    }

    /// Writes an object that must not exist yet.
    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError>;

    /// Begins to read a whole object.
    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError>;

    /// Reads a part of an object. A range that does not lie within it is an error of class
    /// [`walward_base::ErrorClass::Corrupt`] (somebody's idea of the object is wrong).
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// As [`Store::get_range`], of the very object that `object` is about: [`walward_base::ErrorClass::Corrupt`] when
    /// another one has taken its name since.
    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// The last `bytes_max` bytes of an object, all of a shorter one, and which object they are of. One request where the store can be
    /// asked so.
    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        let info = self.head(key).await?;
        let bytes = self.get_range_of(&info, info.size.saturating_sub(bytes_max)..info.size).await?;
        Ok((info, bytes))
    }

    /// Length and age of an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError>;

    /// What lies directly in `folder` (`None`: in the root). A folder that does not exist is empty.
    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError>;

    /// Removes an object; one that is not there is a success.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Removes the very object that `object` is about; whether its name is free of it by this: `false` when another one has the name by now, which
    /// stays. For names that somebody else may write to at the same time: an answer that was lost says nothing of what has the name now, so
    /// that it is looked at again before each repetition. Between the look and the removal another write can still come: nothing here
    /// removes on a condition.
    async fn delete_same(&self, object: &ObjectInfo) -> Result<bool, StoreError> {
        look_and_delete(self, object).await
    }

    /// Makes durable what is there under `key`, whoever wrote it: a writer that was killed, or whose last step failed, shows it
    /// before it is. Where a store shows only what is durable there is nothing to do.
    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _ = key;
        Ok(())
    }

    /// What killed writers left unfinished longer than `age_min` ago, anywhere in the store; with `remove`, it goes. Never what a
    /// writer is at work on. Nothing where the store itself holds such parts: then it is for the bucket's own rules.
    async fn unfinished(&self, age_min: Duration, remove: bool) -> Result<Unfinished, StoreError> {
        let _ = (age_min, remove);
        Ok(Unfinished::default())
    }

    /// Begins an object that arrives in parts. Not conditional: for names that only one writer can choose. Until
    /// [`Upload::finish`] has answered nothing is visible under the name. `expected_bytes` is a guess of the size, from which
    /// part sizes are chosen.
    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError>;
}

/// [`Store::delete_same`] by two requests.
pub(crate) async fn look_and_delete<S: Store + ?Sized>(store: &S, object: &ObjectInfo) -> Result<bool, StoreError> {
    match store.head(&object.key).await {
        Ok(now) if now.is_same(object) => store.delete(&object.key).await.map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.class == ErrorClass::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// An object on its way. Dropped without [`Upload::finish`] it is as if it had never been (the store's own clean-up of
/// abandoned parts may lag).
#[async_trait]
pub trait Upload: Send {
    /// Hands over the next bytes, of any length; returns when there is room for more.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Waits until everything is durable and makes the object visible. Returns its length in bytes.
    async fn finish(self: Box<Self>) -> Result<u64, StoreError>;

    /// Gives up and removes what was sent.
    async fn abort(self: Box<Self>);
}
