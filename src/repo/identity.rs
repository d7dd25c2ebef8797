//! `cluster/<generation>.json`: which cluster the repository belongs to, and the lineages that it has had.
//!
//! Made last by `setup` (after the keys), so that a repository with an identity is complete. A major upgrade adds a
//! generation. The highest number holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::{checked_json, generations, layout};
use crate::base::hex;
use crate::pg::{Lineage, SegmentSize};
use crate::storage::Store;

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The newest generation of a cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the repository format; this code reads and writes 1.
    pub format: u32,
    /// Random, 32 hexadecimal digits; never changes.
    pub cluster_id: String,
    /// The cluster's name in the configuration when the repository was made.
    pub name: String,
    /// When the repository was made.
    pub created: Timestamp,
    /// Whether objects are sealed.
    pub encrypted: bool,
    /// Every lineage so far, the newest last.
    pub lineages: Vec<LineageEntry>,
}

/// One lineage of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageEntry {
    /// Version and system identifier.
    pub lineage: Lineage,
    /// Size of its WAL segments, bytes.
    pub segment_bytes: SegmentSize,
    /// When it was added.
    pub since: Timestamp,
}

impl Identity {
    /// A new cluster's identity, without lineages.
    pub fn new(name: &str, encrypted: bool, now: Timestamp) -> Self {
        let cluster_id = hex::encode(&rand::random::<[u8; 16]>());
        Self { format: FORMAT, cluster_id, name: name.to_owned(), created: now, encrypted, lineages: Vec::new() }
    }

    /// The entry of `lineage`, when it belongs to the cluster.
    pub fn find(&self, lineage: Lineage) -> Option<&LineageEntry> {
        self.lineages.iter().find(|entry| entry.lineage == lineage)
    }

    /// The newest lineage: the one that is being archived.
    pub fn current(&self) -> Option<&LineageEntry> {
        self.lineages.last()
    }
}

/// The newest generation and its number; `None` when there is no identity.
pub(super) async fn load(store: &dyn Store) -> Result<Option<(u32, Identity)>, RepoError> {
    let Some(generation) = generations::newest(store, &layout::identities()).await? else { return Ok(None) };
    let key = layout::identity(generation);
    let bytes = generations::fetch(store, &key).await?;
    let identity = checked_json::decode(&bytes, FORMAT)
        .map_err(|error| RepoError::damaged(&generations::shown(store, &key), error))?;
    Ok(Some((generation, identity.value)))
}

/// Writes a generation; `false` when another's is there.
pub(super) async fn put(store: &dyn Store, generation: u32, identity: &Identity) -> Result<bool, RepoError> {
    let key = layout::identity(generation);
    let bytes = checked_json::encode(identity, None)
        .map_err(|error| RepoError::damaged(&generations::shown(store, &key), error))?;
    generations::put(store, &key, &bytes).await
}

/// Adds a lineage, unless it is there; the identity after it.
pub(super) async fn add_lineage(
    store: &dyn Store,
    lineage: Lineage,
    segment_bytes: SegmentSize,
    now: Timestamp,
) -> Result<Identity, RepoError> {
    for _ in 0..generations::ATTEMPTS_MAX {
        let Some((generation, mut identity)) = load(store).await? else {
            return Err(RepoError::NoRepository { url: store.url().to_owned() });
        };
        if identity.find(lineage).is_some() {
            return Ok(identity);
        }
        identity.lineages.push(LineageEntry { lineage, segment_bytes, since: now });
        if put(store, generation.saturating_add(1), &identity).await? {
            return Ok(identity);
        }
    }
    Err(RepoError::Contended { object: generations::shown(store, &layout::identities()) })
}
