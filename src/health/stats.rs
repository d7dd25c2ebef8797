//! Counters of one cluster since the agent started.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use walward_base::ErrorClass;
use walward_base::Locked;

/// The newest failure of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What, in one line.
    pub text: String,
}

/// What is known about archiving, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

/// Counters of archiving.
#[derive(Debug, Default)]
pub struct ArchiveStats(Mutex<ArchiveFacts>);

impl ArchiveStats {
    /// Whether any push was answered.
    pub fn was_asked(&self) -> bool {
        let facts = self.facts();
        facts.acknowledged_total > 0 || !facts.failed_total.is_empty()
    }

    /// The counters as they are.
    pub fn facts(&self) -> ArchiveFacts {
        self.lock().clone()
    }

    /// A push was answered with "durable".
    pub fn acknowledged(&self, name: impl Display, ahead: bool) {
        let mut facts = self.lock();
        facts.acknowledged_total += 1;
        facts.acknowledged_ahead_total += u64::from(ahead);
        facts.last_file = Some(name.to_string());
        facts.last_acknowledged = Some(Timestamp::now());
    }

    /// A push was answered with a failure.
    pub fn refused(&self, text: &str, class: ErrorClass) {
        let mut facts = self.lock();
        *facts.failed_total.entry(class.to_string()).or_default() += 1;
        facts.last_error = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    /// A file was let go.
    pub fn let_go(&self, name: impl Display) {
        let mut facts = self.lock();
        facts.let_go_total += 1;
        facts.last_let_go = Some(LastError { at: Timestamp::now(), text: name.to_string() });
    }

    /// An upload ended well.
    pub fn uploaded(&self, bytes: u64, took: Duration) {
        let mut facts = self.lock();
        facts.uploaded_total += 1;
        facts.uploaded_bytes_total += bytes;
        facts.upload_seconds_total += took.as_secs_f64();
    }

    /// archive_status was read.
    pub fn ready_files(&self, count: usize) {
        self.lock().ready_files = count as u64;
    }

    fn lock(&self) -> MutexGuard<'_, ArchiveFacts> {
        self.0.locked()
    }
}

/// Counters of fetching.
#[derive(Debug, Default)]
pub struct FetchStats(Mutex<FetchFacts>);

impl FetchStats {
    /// The counters as they are.
    pub fn facts(&self) -> FetchFacts {
        self.lock().clone()
    }

    /// A file was given to a server.
    pub fn served(&self, name: impl Display) {
        let mut facts = self.lock();
        facts.served_total += 1;
        facts.last_file = Some(name.to_string());
        facts.last_served = Some(Timestamp::now());
    }

    /// The file that is being given was there, or on its way, before it was asked for.
    pub fn prefetched(&self) {
        self.lock().served_prefetched_total += 1;
    }

    /// A file came from one repository after another one failed.
    pub fn fell_back(&self, text: &str, damaged: bool) {
        let mut facts = self.lock();
        facts.fallback_total += 1;
        facts.fallback_damaged_total += u64::from(damaged);
        facts.last_fallback = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    /// "Absent" was answered.
    pub fn absent(&self) {
        self.lock().absent_total += 1;
    }

    /// A fetch failed.
    pub fn failed(&self, text: &str, class: ErrorClass) {
        let mut facts = self.lock();
        *facts.failed_total.entry(class.to_string()).or_default() += 1;
        facts.last_error = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    fn lock(&self) -> MutexGuard<'_, FetchFacts> {
        self.0.locked()
    }
}
