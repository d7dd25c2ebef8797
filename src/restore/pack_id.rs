//! What a pack is called, where several backups are restored together.

use serde::{Deserialize, Serialize};

/// A pack of the backup, or of one that it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct PackId {
    /// How many backups lie between: 0 of the backup itself, 1 of the one that it builds on.
    pub level: u32,
    /// Its number in that backup.
    pub number: u32,
}

impl From<(u32, u32)> for PackId {
    fn from((level, number): (u32, u32)) -> Self {
        Self { level, number }
    }
}

impl From<PackId> for (u32, u32) {
    fn from(PackId { level, number }: PackId) -> Self {
        (level, number)
    }
}
