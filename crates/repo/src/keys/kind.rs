//! The kinds of secrets that open a slot.

use serde::{Deserialize, Serialize};

/// What kind of secret opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A generated key file.
    KeyFile,
    /// A passphrase, through Argon2id.
    Passphrase,
    /// What a command prints.
    Command,
    /// The recovery key.
    Recovery,
}

impl SlotKind {
    /// The kind as stored, and as a word for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => "key_file",
            Self::Passphrase => "passphrase",
            Self::Command => "command",
            Self::Recovery => "recovery",
        }
    }
}
