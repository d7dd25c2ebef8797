//! One object from one name to another in the same repository, byte for byte.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use walward_repo::{Repository, layout};
use walward_storage::{Body, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError};

/// How many folders are listed at once.
const LISTS_AT_ONCE: usize = 8;

/// Length and SHA-256 of bytes.
type Sum = (u64, [u8; 32]);

/// The names of `keys` under which there is an object.
pub async fn present(
    repository: &Repository,
    keys: impl Iterator<Item = &ObjectKey>,
) -> Result<BTreeSet<ObjectKey>, StoreError> {
    let keys: BTreeSet<&ObjectKey> = keys.collect();
    let folders: BTreeSet<Option<ObjectKey>> = keys.iter().map(|key| layout::folder_of(key)).collect();
    let listings: Vec<_> = stream::iter(folders)
        .map(async |folder| repository.store().list(folder.as_ref()).await)
        .buffer_unordered(LISTS_AT_ONCE)
        .try_collect()
        .await?;
    let there = listings.into_iter().flat_map(|listing| listing.objects).map(|object| object.key);
    Ok(there.filter(|key| keys.contains(key)).collect())
}

/// Copies `from` to `to`, a name that nobody else writes; what lies there is replaced. The object that was copied, and whether the copy,
/// read again, has its bytes. Memory: a few parts.
pub async fn copy_over(store: &dyn Store, from: &ObjectKey, to: &ObjectKey) -> Result<(ObjectInfo, bool), StoreError> {
    let object = store.get(from).await?;
    let mut upload = store.start_upload(to, object.info.size).await?;
    let (mut digest, mut bytes, mut body) = (Sha256::new(), 0u64, object.body);
    let written = loop {
        match body.next().await {
            None => break upload.finish().await?,
            Some(Ok(part)) => {
                digest.update(&part);
                bytes = bytes.saturating_add(part.len() as u64);
                upload.write(part).await?;
            }
            Some(Err(error)) => {
                upload.abort().await;
                return Err(error);
            }
        }
    };
    let copied: Sum = (bytes, digest.finalize().into());
    let is_whole = bytes == object.info.size && written == bytes;
    Ok((object.info, is_whole && sum(store, to).await?.1 == copied))
}

/// Copies `from` to `to`, a name that must be new, or hold the same bytes; whether `to` has them now. Memory: the object's bytes.
pub async fn copy_new(store: &dyn Store, from: &ObjectKey, to: &ObjectKey) -> Result<bool, StoreError> {
    let object = store.get(from).await?;
    let parts: Vec<Bytes> = object.body.try_collect().await?;
    let mut digest = Sha256::new();
    for part in &parts {
        digest.update(part);
    }
    let payload = Payload(parts);
    let copied: Sum = (payload.len(), digest.finalize().into());
    match store.put_new(to, payload).await? {
        Put::Created => {}
        Put::Exists => store.keep(to).await?,
    }
    Ok(sum(store, to).await?.1 == copied)
}

/// Whether the objects of two names have the same bytes; and the first of them.
pub async fn compare(store: &dyn Store, a: &ObjectKey, b: &ObjectKey) -> Result<(ObjectInfo, bool), StoreError> {
    let (a, b) = futures::try_join!(sum(store, a), sum(store, b))?;
    Ok((a.0, a.1 == b.1))
}

async fn sum(store: &dyn Store, key: &ObjectKey) -> Result<(ObjectInfo, Sum), StoreError> {
    let object = store.get(key).await?;
    Ok((object.info, sum_of(object.body).await?))
}

async fn sum_of(mut body: Body) -> Result<Sum, StoreError> {
    let (mut digest, mut bytes) = (Sha256::new(), 0u64);
    while let Some(part) = body.try_next().await? {
        digest.update(&part);
        bytes = bytes.saturating_add(part.len() as u64);
    }
    Ok((bytes, digest.finalize().into()))
}
