//! `cluster/<generation>.json`: which cluster the repository belongs to, and the lineages that it has had.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pg::Lineage;

/// The newest generation of a cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct LineageEntry {
    /// Version and system identifier.
    pub lineage: Lineage,
    /// Size of its WAL segments, bytes.
    pub segment_bytes: crate::pg::SegmentSize,
    /// When it was added.
    pub since: Timestamp,
}
