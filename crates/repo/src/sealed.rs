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
    /// The digest of its content (see [`Summary`]).
    pub fn content_digest(&self) -> [u8; 32] {
        self.summary.content_digest
    }

    /// Its length as stored, bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.summary.stored_bytes
    }
}
