//! What the server believes archived, beside what the repositories hold.

use std::sync::Mutex;

use jiff::Timestamp;
use walward_base::Locked;
use walward_report::BeliefFacts;

/// The facts as they come.
#[derive(Debug, Default)]
pub struct BeliefStats(Mutex<BeliefFacts>);

impl BeliefStats {
    /// As they are.
    pub fn facts(&self) -> BeliefFacts {
        self.0.locked().clone()
    }

    /// A comparison has found this.
    pub fn compared(&self, found: BeliefFacts) {
        let facts = BeliefFacts { compared: Some(Timestamp::now()), ..found };
        *self.0.locked() = facts;
    }
}
