//! What the server believes archived, beside what the repositories hold.

use std::sync::Mutex;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walward_base::Locked;

/// What was found when the two were compared last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
