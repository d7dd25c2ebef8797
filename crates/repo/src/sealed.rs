//! An object that is sealed and not stored yet.

use super::format::{Kind, Summary};
use walward_storage::{ObjectKey, Payload};

/// An object as one repository will store it.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub(super) key: ObjectKey,
    pub(super) kind: Kind,
    pub(super) payload: Payload,
    pub(super) summary: Summary,
}

impl Sealed {
    /// Its length as stored, bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.summary.stored_bytes
    }
}
