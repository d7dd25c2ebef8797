//! What `status` and metrics keep of a cluster for a moment.

use crate::health::RepositorySnapshot;
use walward_base::kept::Kept;

/// What is asked of others for a snapshot, however often snapshots are wanted.
#[derive(Debug, Default)]
pub struct SnapshotCache {
    /// How each repository answers, in the cluster's order.
    pub repositories: Kept<Vec<RepositorySnapshot>>,
    /// Files that wait, and how long the first of them has, in seconds.
    pub ready: Kept<Option<(u64, f64)>>,
}
