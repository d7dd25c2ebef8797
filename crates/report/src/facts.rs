//! What is known of archiving, fetching and the repositories of one cluster, counted since the agent started.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The newest failure of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What, in one line.
    pub text: String,
}

/// What is known about archiving, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ArchiveFacts {
    /// Files that PostgreSQL was told are durable.
    pub acknowledged_total: u64,
    /// Of these, files that had been uploaded before PostgreSQL asked.
    pub acknowledged_ahead_total: u64,
    /// Uploads that ended well.
    pub uploaded_total: u64,
    /// Their bytes before compression.
    pub uploaded_bytes_total: u64,
    /// Time that they took, added up, in seconds.
    pub upload_seconds_total: f64,
    /// Pushes that were answered with a failure, by class.
    pub failed_total: BTreeMap<String, u64>,
    /// The newest acknowledged file.
    pub last_file: Option<String>,
    /// When it was acknowledged.
    pub last_acknowledged: Option<Timestamp>,
    /// The newest failure.
    pub last_error: Option<LastError>,
    /// Files marked ready when archive_status was read last.
    pub ready_files: u64,
    /// Files that were let go: PostgreSQL was told to forget them, and the archive lacks them.
    pub let_go_total: u64,
    /// The newest of them.
    pub last_let_go: Option<LastError>,
}

/// What is known about fetching, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FetchFacts {
    /// Files given to servers.
    pub served_total: u64,
    /// Of these, files that had been prefetched or were on their way.
    pub served_prefetched_total: u64,
    /// Files that came from a repository because another one, asked before it, failed.
    #[serde(default)]
    pub fallback_total: u64,
    /// Of these, files whose object was damaged there.
    #[serde(default)]
    pub fallback_damaged_total: u64,
    /// What failed in the newest of these.
    #[serde(default)]
    pub last_fallback: Option<LastError>,
    /// Times that "absent" was answered.
    pub absent_total: u64,
    /// Fetches that failed, by class.
    pub failed_total: BTreeMap<String, u64>,
    /// The newest file given.
    pub last_file: Option<String>,
    /// When it was given.
    pub last_served: Option<Timestamp>,
    /// The newest failure.
    pub last_error: Option<LastError>,
}

/// What was found when the two were compared last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BeliefFacts {
    /// When that was; none: not since the agent started.
    pub compared: Option<Timestamp>,
    /// Segments that the server believes archived and that fewer repositories hold than must.
    pub lost_files: u64,
    /// The oldest of them.
    pub oldest_lost: Option<String>,
    /// Segments of which a repository holds something else than the server still has.
    pub different_files: u64,
    /// The oldest of them.
    pub oldest_different: Option<String>,
}

/// What one repository is owed, at one moment: files that were archived elsewhere and that it lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DebtFacts {
    /// How many, as far as is known: counted when the repositories were compared last, and what was added since.
    pub files: u64,
    /// The oldest of them.
    pub oldest_file: Option<String>,
    /// When that one was archived.
    pub oldest_since: Option<Timestamp>,
    /// When this repository was compared with all others last; `None`: not since the agent started, there may be more.
    pub compared: Option<Timestamp>,
    /// Files that were brought to it later than to the others, since the agent started.
    pub paid_total: u64,
    /// What failed last at this repository.
    pub last_error: Option<LastError>,
    /// How often it was found to hold other content under a file's name, since the agent started.
    pub contradictions_total: u64,
    /// The newest of these.
    pub last_contradiction: Option<LastError>,
    /// Why files that it is owed are not brought to it now, and which.
    pub waits: Option<String>,
    /// The first file whose content differs from that in another repository, as was found when they were compared last.
    pub differs: Option<String>,
}
