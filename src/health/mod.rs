//! Facts for monitors: counters that the work fills, and the one snapshot that `status`, metrics and reports are made from.

mod belief;
mod debt;
mod metrics;
mod snapshot;
mod stats;

pub use belief::{BeliefFacts, BeliefStats};
pub use debt::{DebtFacts, RepositoryStats};
pub use metrics::render as render_metrics;
pub use snapshot::{ClusterSnapshot, HangingRead, RepositorySnapshot, Snapshot};
pub use stats::{ArchiveFacts, ArchiveStats, FetchFacts, FetchStats, LastError};
