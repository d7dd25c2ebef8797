//! Which type of backup is asked for.

use serde::{Deserialize, Serialize};

use walward_repo::manifest::BackupType;

/// What a backup is to store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Everything.
    #[default]
    Full,
    /// What changed since the last full backup; everything, with a warning, where that cannot be.
    Diff,
    /// What changed since the last backup of any type; everything, with a warning, where that cannot be.
    Incr,
    /// The same without a warning.
    Auto,
}

impl Wanted {
    /// As it is written in commands and requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
            Self::Auto => "auto",
        }
    }

    /// The type of the backup when it builds on another one; none when it is to be a full one.
    pub fn builds_on(self) -> Option<BackupType> {
        match self {
            Self::Full => None,
            Self::Diff => Some(BackupType::Diff),
            Self::Incr | Self::Auto => Some(BackupType::Incr),
        }
    }
}
