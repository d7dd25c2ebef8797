//! The keys of one object, and what is done with them.
//!
//! Every key is derived by HKDF-SHA-256 from a master key. A frame's nonce is its number, which is unique under the object's
//! key because the salt is random for every object.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::FormatError;
use crate::keys::MasterKey;

const OBJECT_KEY_INFO: &[u8] = b"walward object key v1\0";
const TRAILER_KEY_INFO: &[u8] = b"walward trailer key v1\0";
const DIGEST_KEY_INFO: &[u8] = b"walward digest key v1";

/// Bytes that sealing adds to a frame.
pub(super) const TAG_BYTES: usize = 16;

/// What one object is sealed with.
pub(super) struct ObjectKeys {
    frames: Aes256Gcm,
    trailer: Zeroizing<[u8; 32]>,
}

impl ObjectKeys {
    /// The keys of the object at `path` (relative to the cluster's folder) with this salt.
    pub(super) fn derive(master: &MasterKey, salt: &[u8; 32], path: &str) -> Self {
        let frames = expand(master, Some(salt), &[OBJECT_KEY_INFO, path.as_bytes()]);
        Self {
            frames: Aes256Gcm::new(aes_gcm::Key::<Aes256Gcm>::from_slice(frames.as_slice())),
            trailer: expand(master, Some(salt), &[TRAILER_KEY_INFO, path.as_bytes()]),
        }
    }

    /// Encrypts a frame in place and returns its tag.
    pub(super) fn seal(&self, number: u64, associated: &[u8], frame: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        self.frames.encrypt_in_place_detached(&nonce(number), associated, frame).ok().map(Into::into)
    }

    /// Authenticates a frame and decrypts it in place.
    pub(super) fn open(&self, number: u64, associated: &[u8], frame: &mut [u8], tag: &[u8; TAG_BYTES]) -> Option<()> {
        self.frames.decrypt_in_place_detached(&nonce(number), associated, frame, Tag::from_slice(tag)).ok()
    }

    /// The seal of the trailer and of the seek table behind it.
    pub(super) fn trailer_mac(&self, trailer: &[u8], table: &[u8]) -> Hmac<Sha256> {
        keyed(&self.trailer).chain_update(trailer).chain_update(table)
    }
}

/// The key of content digests under a master key: the same for every object, so that equal content has equal digests.
pub(super) fn digest_key(master: &MasterKey) -> Zeroizing<[u8; 32]> {
    expand(master, None, &[DIGEST_KEY_INFO])
}

/// A hasher with a key.
pub(super) fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    match <Hmac<Sha256> as Mac>::new_from_slice(key) {
        Ok(hasher) => hasher,
        Err(error) => unreachable!("HMAC takes keys of any length: {error}"),
    }
}

/// Writes the trailer's last field: HMAC when there are keys, a digest otherwise.
pub(super) fn trailer_seal(keys: Option<&ObjectKeys>, trailer: &[u8], table: &[u8]) -> [u8; 32] {
    match keys {
        Some(keys) => keys.trailer_mac(trailer, table).finalize().into_bytes().into(),
        None => Sha256::new().chain_update(trailer).chain_update(table).finalize().into(),
    }
}

/// Checks the trailer's last field, in constant time when it is a secret.
pub(super) fn check_trailer_seal(
    keys: Option<&ObjectKeys>,
    trailer: &[u8],
    table: &[u8],
    seal: &[u8; 32],
) -> Result<(), FormatError> {
    let genuine = match keys {
        Some(keys) => keys.trailer_mac(trailer, table).verify_slice(seal).is_ok(),
        None => trailer_seal(None, trailer, table) == *seal,
    };
    if genuine {
        Ok(())
    } else {
        Err(FormatError::Trailer("it is not authentic: it was changed, or is another object's"))
    }
}

fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    if let Some(last) = nonce.last_chunk_mut() {
        *last = number.to_be_bytes();
    }
    nonce.into()
}

fn expand(master: &MasterKey, salt: Option<&[u8]>, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    match Hkdf::<Sha256>::new(salt, master.secret()).expand_multi_info(info, key.as_mut_slice()) {
        Ok(()) => key,
        Err(error) => unreachable!("HKDF-SHA-256 gives up to 8160 bytes: {error}"),
    }
}
