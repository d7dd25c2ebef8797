//! The kinds of work that a lease is taken for.

use serde::{Deserialize, Serialize};

/// Work that only one node may do at a time on one cluster and repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Taking a base backup.
    Backup,
}

impl Work {
    /// The work's name: the lease's folder, and a word for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
        }
    }
}

impl Work {
    /// Every kind of work.
    pub const ALL: [Self; 1] = [Self::Backup];
}
