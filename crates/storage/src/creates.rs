//! What a store makes of "create only if absent". How it is found out is said by [`super::create`].

use serde::Serialize;

/// Whether a store itself keeps two writers of one name apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Creates {
    /// Nothing was written through this handle yet.
    Untried,
    /// It does: one create succeeds, all others are told that the name is taken.
    Once,
    /// It says that it does, and overwrites.
    Overwrites,
    /// It refuses a name that is taken, but lets several writers at the same moment succeed.
    Races,
    /// It refuses to create conditionally.
    Unsupported,
}

impl Creates {
    /// Whether two writers of one name can replace each other's object.
    pub fn is_unsafe(self) -> bool {
        matches!(self, Self::Overwrites | Self::Races | Self::Unsupported)
    }

    /// What the store was seen to do, for a sentence that begins with "the store".
    pub fn words(self) -> &'static str {
        match self {
            Self::Untried => "was not written to yet",
            Self::Once => "itself refuses to overwrite",
            Self::Overwrites => "accepts \"create only if absent\" and overwrites all the same",
            Self::Races => "lets several writers of one name at the same moment succeed",
            Self::Unsupported => "does not know \"create only if absent\"",
        }
    }
}
