//! What all frames of an object have in common: the header, and the keys that belong to it.

use bytes::Bytes;

use super::crypto::ObjectKeys;
use super::header::Header;
use crate::error::RepoError;
use crate::keys::Keyring;

/// An object's name and how its frames are protected.
pub(super) struct FrameContext {
    /// The header's payload: associated data of every sealed frame.
    pub header_payload: Bytes,
    /// None: plain.
    pub keys: Option<ObjectKeys>,
}

impl FrameContext {
    /// The context for reading the object at `path`, shown as `object`. An object that is not protected as its repository
    /// is (sealed exactly when there is a ring) was not written by it.
    pub(super) fn of(
        header: &Header,
        header_payload: Bytes,
        keyring: Option<&Keyring>,
        path: &str,
        object: &str,
    ) -> Result<Self, RepoError> {
        let keys = match (&header.sealed, keyring) {
            (None, None) => None,
            (Some(sealed), Some(keyring)) => {
                let master = keyring
                    .find(&sealed.key_id)
                    .ok_or_else(|| RepoError::UnknownMasterKey { object: object.to_owned(), id: sealed.key_id })?;
                Some(ObjectKeys::derive(master, &sealed.salt, path))
            }
            (sealed, _) => {
                return Err(RepoError::ForeignProtection { object: object.to_owned(), encrypted: sealed.is_some() });
            }
        };
        Ok(Self { header_payload, keys })
    }

    /// Associated data: the whole header and whether the frame is the last, so that frames are neither moved to another object
    /// nor cut off.
    pub(super) fn associated(&self, last: bool) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.header_payload.len() + 1);
        data.extend_from_slice(&self.header_payload);
        data.push(u8::from(last));
        data
    }
}
