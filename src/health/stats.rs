//! Counters of one cluster since the agent started.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use walward_base::ErrorClass;
use walward_base::Locked;
use walward_report::{ArchiveFacts, FetchFacts, LastError};

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
