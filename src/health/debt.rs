//! What is known of one repository of a cluster beside the others: what is owed to it, and what contradicts it.

use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;

use walward_base::Locked;
use walward_report::{DebtFacts, LastError};

/// The facts of one repository as they come.
#[derive(Debug, Default)]
pub struct RepositoryStats(Mutex<DebtFacts>);

impl RepositoryStats {
    /// As they are.
    pub fn facts(&self) -> DebtFacts {
        self.lock().clone()
    }

    /// A file was archived elsewhere and did not come here.
    pub fn owes(&self, name: &impl ToString) {
        let (mut facts, name) = (self.lock(), name.to_string());
        facts.files = facts.files.saturating_add(1);
        if facts.oldest_file.as_ref().is_none_or(|oldest| name < *oldest) {
            facts.oldest_file = Some(name);
        }
        facts.oldest_since.get_or_insert_with(Timestamp::now);
    }

    /// All repositories were compared: this one lacks `files`, the oldest of them that one.
    pub fn compared(&self, files: u64, oldest: Option<(String, Timestamp)>) {
        let mut facts = self.lock();
        facts.files = files;
        let (file, since) = oldest.unzip();
        (facts.oldest_file, facts.oldest_since) = (file, since);
        facts.compared = Some(Timestamp::now());
    }

    /// It was compared with some of the others, and lacks `files` of theirs. What was known to be owed before is not
    /// forgotten: the rest may hold it.
    pub fn compared_with_some(&self, files: u64, oldest: Option<(String, Timestamp)>) {
        let mut facts = self.lock();
        facts.files = facts.files.max(files);
        if let Some((file, since)) = oldest
            && facts.oldest_since.is_none_or(|known| since < known)
        {
            (facts.oldest_file, facts.oldest_since) = (Some(file), Some(since));
        }
    }

    /// An owed file was brought here.
    pub fn paid(&self) {
        let mut facts = self.lock();
        facts.paid_total += 1;
        facts.files = facts.files.saturating_sub(1);
        if facts.files == 0 {
            facts.waits = None;
            (facts.oldest_file, facts.oldest_since) = (None, None);
        }
    }

    /// Why files that it is owed are not brought to it now; none: they are.
    pub fn waits(&self, why: Option<String>) {
        self.lock().waits = why;
    }

    /// Something failed here.
    pub fn failed(&self, text: &str) {
        self.lock().last_error = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    /// It holds other content under the name of a file.
    pub fn contradicted(&self, text: &str) {
        let mut facts = self.lock();
        facts.contradictions_total += 1;
        facts.last_contradiction = Some(LastError { at: Timestamp::now(), text: text.to_owned() });
    }

    /// A person has settled what contradicted it. The count stays.
    pub fn settled(&self) {
        let mut facts = self.lock();
        (facts.last_contradiction, facts.differs) = (None, None);
    }

    /// From which file on it holds other content than another repository.
    pub fn differs(&self, first: Option<String>) {
        self.lock().differs = first;
    }

    fn lock(&self) -> MutexGuard<'_, DebtFacts> {
        self.0.locked()
    }
}
