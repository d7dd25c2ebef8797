//! `cluster/<generation>.json`: which cluster the repository belongs to, and the lineages that it has had.
//!
//! Made last by `setup` (after the keys), so that a repository with an identity is complete. Its first generation is the one commit
//! point of a setup: who made it made the repository, and the root key that it names is the repository's for good. A major upgrade
//! adds a generation, which is made from the one before. The highest number holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::format::FormatError;
use super::keys::RootId;
use super::{checked_json, generations, layout};
use walward_base::hex;
use walward_pg::{Lineage, SegmentSize};
use walward_storage::Store;

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
    /// The root key whose slots are in force; there exactly when objects are sealed. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootId>,
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
    pub fn new(name: &str, root: Option<RootId>, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            cluster_id: hex::encode(&rand::random::<[u8; 16]>()),
            name: name.to_owned(),
            created: now,
            encrypted: root.is_some(),
            root,
            lineages: Vec::new(),
        }
    }

    /// The entry of `lineage`, when it belongs to the cluster.
    pub fn find(&self, lineage: Lineage) -> Option<&LineageEntry> {
        self.lineages.iter().find(|entry| entry.lineage == lineage)
    }

    /// Whether both are of one repository. What is compared is in every generation, and never changes.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.cluster_id == other.cluster_id && self.root == other.root
    }

    /// The newest lineage: the one that is being archived.
    pub fn current(&self) -> Option<&LineageEntry> {
        self.lineages.last()
    }
}

/// The lineages that a repository has once it was brought up to date from another: those of the one that knows more. `None`
/// when neither knows all that the other does: they are not of one cluster, or went apart. Pure.
pub fn joined(from: &[LineageEntry], to: &[LineageEntry]) -> Option<Vec<LineageEntry>> {
    let holds = |all: &[LineageEntry], some: &[LineageEntry]| {
        let known = |entry: &LineageEntry| {
            all.iter().any(|other| other.lineage == entry.lineage && other.segment_bytes == entry.segment_bytes)
        };
        some.iter().all(known)
    };
    if holds(to, from) {
        Some(to.to_vec())
    } else if holds(from, to) {
        // In the order in which they came to be; since when a repository knows one is its own affair.
        let own =
            |entry: &LineageEntry| to.iter().find(|other| other.lineage == entry.lineage).unwrap_or(entry).clone();
        Some(from.iter().map(own).collect())
    } else {
        None
    }
}

/// Makes the lineages what [`joined`] says, and answers the identity after it.
pub(super) async fn join(
    store: &dyn Store,
    opened: &Identity,
    from: &[LineageEntry],
) -> Result<Option<Identity>, RepoError> {
    for _ in 0..generations::ATTEMPTS_MAX {
        let (generation, identity) = load_again(store, opened).await?;
        let Some(lineages) = joined(from, &identity.lineages) else { return Ok(None) };
        if lineages == identity.lineages {
            return Ok(Some(identity));
        }
        let identity = Identity { lineages, ..identity };
        if put(store, generation.saturating_add(1), &identity).await? {
            return Ok(Some(identity));
        }
    }
    Err(RepoError::Contended { object: generations::shown(store, &layout::identities()) })
}

/// The newest generation and its number; `None` when there is no identity.
pub(super) async fn load(store: &dyn Store) -> Result<Option<(u32, Identity)>, RepoError> {
    let Some(generation) = generations::newest(store, &layout::identities()).await? else { return Ok(None) };
    Ok(Some((generation, read(store, generation).await?)))
}

/// The generation that made the repository: one small request.
pub(super) async fn first(store: &dyn Store) -> Result<Identity, RepoError> {
    read(store, 1).await
}

async fn read(store: &dyn Store, generation: u32) -> Result<Identity, RepoError> {
    let key = layout::identity(generation);
    let bytes = generations::fetch(store, &key).await?;
    let damaged = |error| RepoError::damaged(&generations::shown(store, &key), error);
    let identity: Identity = checked_json::decode(&bytes, FORMAT).map_err(damaged)?;
    if identity.encrypted != identity.root.is_some() {
        return Err(damaged(FormatError::Text("its `encrypted` and its `root` contradict each other".to_owned())));
    }
    Ok(identity)
}

/// As [`load`], of the repository that was opened as `opened`: another one in its place is an error.
pub(super) async fn load_again(store: &dyn Store, opened: &Identity) -> Result<(u32, Identity), RepoError> {
    let url = || store.url().to_owned();
    let (generation, found) = load(store).await?.ok_or_else(|| RepoError::NoRepository { url: url() })?;
    if found.is_of(opened) {
        Ok((generation, found))
    } else {
        Err(RepoError::Replaced { url: url(), found: found.cluster_id, expected: opened.cluster_id.clone() })
    }
}

/// When the store took each lineage in, by its own clock: the clock of the host that made the entry may be any.
pub(super) async fn told(store: &dyn Store) -> Result<Vec<(Lineage, Timestamp)>, RepoError> {
    let listing = store.list(Some(&layout::identities())).await?;
    let mut generations: Vec<_> = listing
        .objects
        .iter()
        .filter_map(|object| Some((layout::parse_generation(object.key.file_name())?, object)))
        .collect();
    generations.sort_by_key(|(generation, _)| *generation);
    let mut told: Vec<(Lineage, Timestamp)> = Vec::new();
    for (_, object) in generations {
        let bytes = generations::fetch(store, &object.key).await?;
        let identity: Identity = checked_json::decode(&bytes, FORMAT)
            .map_err(|error| RepoError::damaged(&generations::shown(store, &object.key), error))?;
        for entry in identity.lineages {
            if told.iter().all(|(lineage, _)| *lineage != entry.lineage) {
                told.push((entry.lineage, object.modified));
            }
        }
    }
    Ok(told)
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
    opened: &Identity,
    lineage: Lineage,
    segment_bytes: SegmentSize,
    now: Timestamp,
) -> Result<Identity, RepoError> {
    for _ in 0..generations::ATTEMPTS_MAX {
        let (generation, mut identity) = load_again(store, opened).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(major: u16, since: i64) -> LineageEntry {
        let lineage = Lineage { major, system_identifier: 7 };
        let since = Timestamp::from_second(since).expect("a time");
        LineageEntry { lineage, segment_bytes: SegmentSize::DEFAULT, since }
    }

    #[test]
    fn the_newest_lineage_stays_the_last_whoever_knows_more() {
        let (old, new, told_late) = (entry(14, 1), entry(15, 2), entry(15, 9));
        let both = [old.clone(), new.clone()];
        assert_eq!(joined(&both, &[]), Some(both.to_vec()));
        // A new repository that was told of the newest alone.
        assert_eq!(joined(&both, std::slice::from_ref(&told_late)), Some(vec![old.clone(), told_late.clone()]));
        assert_eq!(joined(std::slice::from_ref(&old), &both), Some(both.to_vec()));
        assert_eq!(joined(&[], &both), Some(both.to_vec()));
    }

    #[test]
    fn repositories_of_different_clusters_do_not_fit() {
        let other = LineageEntry { lineage: Lineage { major: 15, system_identifier: 8 }, ..entry(15, 2) };
        assert_eq!(joined(&[entry(15, 2)], std::slice::from_ref(&other)), None);
        assert_eq!(joined(&[entry(14, 1), entry(15, 2)], &[entry(15, 2), other]), None);
        let segments = SegmentSize::try_from(1 << 20).expect("a size");
        assert_eq!(joined(&[entry(15, 2)], &[LineageEntry { segment_bytes: segments, ..entry(15, 2) }]), None);
    }
}
