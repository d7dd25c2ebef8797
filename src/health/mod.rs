//! Facts for monitors: counters that the work fills, and the one snapshot that `status`, metrics and reports are made from.

mod belief;
mod debt;
mod metrics;
mod stats;

pub use belief::BeliefStats;
pub use debt::RepositoryStats;
pub use metrics::render as render_metrics;
pub use stats::{ArchiveStats, FetchStats};
pub use walward_report::{
    ArchiveFacts, BeliefFacts, ClusterSnapshot, DebtFacts, FetchFacts, HangingRead, LastError, RepositorySnapshot,
    Snapshot,
};
