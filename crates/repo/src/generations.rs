//! Objects that are never updated in place: the next generation is a new object beside the old ones, made by put-if-absent, and
//! the highest number holds. A crash leaves the old generation in force or the new one, nothing between.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::checked_json::BYTES_MAX;
use super::error::RepoError;
use super::format::FormatError;
use super::layout;
use walward_storage::{ObjectKey, Payload, Put, Store, StoreError};

/// How often a new generation is tried when others write, too.
pub(super) const ATTEMPTS_MAX: usize = 8;

/// The name of an object in messages.
pub(super) fn shown(store: &dyn Store, key: &ObjectKey) -> String {
    format!("{}/{key}", store.url().trim_end_matches('/'))
}

/// The highest generation in `folder`, or `None` when there is none. Objects of other names do not count.
pub(super) async fn newest(store: &dyn Store, folder: &ObjectKey) -> Result<Option<u32>, StoreError> {
    let listing = store.list(Some(folder)).await?;
    Ok(listing.objects.iter().filter_map(|object| layout::parse_generation(object.key.file_name())).max())
}

/// The bytes of a small object; a long one is damaged.
pub(super) async fn fetch(store: &dyn Store, key: &ObjectKey) -> Result<Bytes, RepoError> {
    let mut object = store.get(key).await?;
    let too_long = || RepoError::damaged(&shown(store, key), FormatError::Text("it is too long".to_owned()));
    if object.info.size > BYTES_MAX {
        return Err(too_long());
    }
    let mut bytes = BytesMut::new();
    while let Some(part) = object.body.next().await {
        bytes.extend_from_slice(&part?);
        if bytes.len() as u64 > BYTES_MAX {
            return Err(too_long());
        }
    }
    Ok(bytes.freeze())
}

/// Writes an object that must be new; `false` when another's is there. A retried call may find its own.
pub(super) async fn put(store: &dyn Store, key: &ObjectKey, bytes: &Bytes) -> Result<bool, RepoError> {
    match store.put_new(key, Payload::from(bytes.clone())).await? {
        Put::Created => Ok(true),
        Put::Exists => Ok(fetch(store, key).await? == *bytes),
    }
}
