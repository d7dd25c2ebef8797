//! The keys of one object, and what is done with them.
//!
//! Every key is derived by HKDF-SHA-256 from a master key. A frame's nonce is its number, which is unique under the object's
//! key because the salt is random for every object.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::FormatError;
use crate::keys::MasterKey;

const OBJECT_KEY_INFO: &[u8] = b"walward object key v1\0";
const FACTS_KEY_INFO: &[u8] = b"walward facts key v1\0";
const TRAILER_KEY_INFO: &[u8] = b"walward trailer key v1\0";

/// Bytes that sealing adds to a frame.
pub(super) const TAG_BYTES: usize = 16;

/// What one object is sealed with.
pub(super) struct ObjectKeys {
    frames: Aes256Gcm,
    facts: Aes256Gcm,
    trailer: Aes256Gcm,
}

impl ObjectKeys {
    /// The keys of the object at `path` (relative to the cluster's folder) with this salt.
    pub(super) fn derive(master: &MasterKey, salt: &[u8; 32], path: &str) -> Self {
        let cipher = |info| {
            let key = expand(master, salt, &[info, path.as_bytes()]);
            Aes256Gcm::new(aes_gcm::Key::<Aes256Gcm>::from_slice(key.as_slice()))
        };
        Self { frames: cipher(OBJECT_KEY_INFO), facts: cipher(FACTS_KEY_INFO), trailer: cipher(TRAILER_KEY_INFO) }
    }

    /// Encrypts a frame in place and returns its tag.
    pub(super) fn seal(&self, number: u64, associated: &[u8], frame: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        self.frames.encrypt_in_place_detached(&nonce(number), associated, frame).ok().map(Into::into)
    }

    /// Encrypts the facts in place and returns their tag. Their key is this object's alone and used for nothing else, so that one nonce is enough.
    pub(super) fn seal_facts(&self, header_payload: &[u8], facts: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        self.facts.encrypt_in_place_detached(&nonce(0), header_payload, facts).ok().map(Into::into)
    }

    /// Authenticates the facts and decrypts them in place.
    pub(super) fn open_facts(&self, header_payload: &[u8], facts: &mut [u8], tag: &[u8; TAG_BYTES]) -> Option<()> {
        self.facts.decrypt_in_place_detached(&nonce(0), header_payload, facts, Tag::from_slice(tag)).ok()
    }

    /// Authenticates a frame and decrypts it in place.
    pub(super) fn open(&self, number: u64, associated: &[u8], frame: &mut [u8], tag: &[u8; TAG_BYTES]) -> Option<()> {
        self.frames.decrypt_in_place_detached(&nonce(number), associated, frame, Tag::from_slice(tag)).ok()
    }
}

/// What the trailer's seal covers, in order, besides the content digest: what stands before and after it, and the seek table.
pub(super) type Covered<'a> = [&'a [u8]; 3];

/// Seals the trailer: the digest of a sealed object's content is encrypted in place. Returns the trailer's last field.
pub(super) fn seal_trailer(keys: Option<&ObjectKeys>, digest: &mut [u8; 32], covered: Covered<'_>) -> [u8; TAG_BYTES] {
    match keys {
        // The key is this object's alone and used for nothing else, so that one nonce is enough.
        Some(keys) => match keys.trailer.encrypt_in_place_detached(&nonce(0), &covered.concat(), digest) {
            Ok(tag) => tag.into(),
            Err(error) => unreachable!("AES-GCM seals up to 64 GiB: {error}"),
        },
        None => plain_seal(digest, covered),
    }
}

/// Checks the trailer's last field and gives the content digest.
pub(super) fn open_trailer(
    keys: Option<&ObjectKeys>,
    mut digest: [u8; 32],
    covered: Covered<'_>,
    seal: &[u8; TAG_BYTES],
) -> Result<[u8; 32], FormatError> {
    let genuine = match keys {
        Some(keys) => {
            let (covered, tag) = (covered.concat(), Tag::from_slice(seal));
            keys.trailer.decrypt_in_place_detached(&nonce(0), &covered, &mut digest, tag).is_ok()
        }
        None => plain_seal(&digest, covered) == *seal,
    };
    if genuine {
        Ok(digest)
    } else {
        Err(FormatError::Trailer("it is not authentic: it was changed, or is another object's"))
    }
}

/// Finds accidents: the first half of SHA-256.
fn plain_seal(digest: &[u8; 32], [before, after, table]: Covered<'_>) -> [u8; TAG_BYTES] {
    let mut hasher = Sha256::new();
    for part in [before, digest, after, table] {
        hasher.update(part);
    }
    let [seal @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = <[u8; 32]>::from(hasher.finalize());
    seal
}

fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    if let Some(last) = nonce.last_chunk_mut() {
        *last = number.to_be_bytes();
    }
    nonce.into()
}

fn expand(master: &MasterKey, salt: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    match Hkdf::<Sha256>::new(Some(salt), master.secret()).expand_multi_info(info, key.as_mut_slice()) {
        Ok(()) => key,
        Err(error) => unreachable!("HKDF-SHA-256 gives up to 8160 bytes: {error}"),
    }
}
