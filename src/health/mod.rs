//! Facts for monitors: counters that the work fills, and the one snapshot that `status`, metrics and reports are made from.

mod stats;

pub use stats::{ArchiveFacts, ArchiveStats, FetchFacts, FetchStats, LastError};
