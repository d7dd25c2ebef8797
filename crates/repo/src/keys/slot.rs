//! One slot: the root key, wrapped under a key that a secret gives.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::KeyError;
use super::kind::SlotKind;
use super::secret::Secret;
use walward_base::hex;

/// Associated data of a wrapped root key begins so.
const SLOT_CONTEXT: &[u8] = b"walward key slot v1\0";

/// Argon2id's cost for new slots: 64 MiB, three passes, one lane.
const ARGON2: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 3, lanes: 1 };
/// The highest cost that is accepted from a stored slot, so that a forged one cannot take the machine's memory.
const ARGON2_MAX: Argon2Cost = Argon2Cost { memory_kib: 1 << 20, passes: 64, lanes: 16 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A slot as stored. Bytes are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub id: u32,
    pub kind: SlotKind,
    pub created: Timestamp,
    salt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2: Option<Argon2Cost>,
    nonce: String,
    wrapped: String,
}

impl Slot {
    /// Wraps the root key under a secret. With a passphrase this takes a tenth of a second and 64 MiB.
    pub(super) fn wrap(id: u32, secret: &Secret, root: &[u8; 32], now: Timestamp) -> Result<Self, KeyError> {
        let salt: [u8; 32] = rand::random();
        let mut slot = Self {
            id,
            kind: secret.kind,
            // To the second: the text is associated data, and must be the same when read back.
            created: Timestamp::from_second(now.as_second()).unwrap_or(now),
            salt: hex::encode(&salt),
            argon2: (secret.kind == SlotKind::Passphrase).then_some(ARGON2),
            nonce: String::new(),
            wrapped: String::new(),
        };
        let key = slot.wrapping_key(secret, &salt)?;
        let (nonce, wrapped) = seal(&key, &slot.associated(), root.as_slice())?;
        slot.nonce = nonce;
        slot.wrapped = wrapped;
        Ok(slot)
    }

    /// The root key; `None` when the secret is not this slot's.
    pub(super) fn unwrap(&self, secret: &Secret) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
        let Some(salt) = hex::decode_array(&self.salt).filter(|_| self.kind == secret.kind) else { return Ok(None) };
        let key = self.wrapping_key(secret, &salt)?;
        let Some(opened) = open(&key, &self.associated(), &self.nonce, &self.wrapped) else { return Ok(None) };
        Ok(<[u8; 32]>::try_from(opened.as_slice()).ok().map(Zeroizing::new))
    }

    fn wrapping_key(&self, secret: &Secret, salt: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let mut key = Zeroizing::new([0; 32]);
        let Some(Argon2Cost { memory_kib, passes, lanes }) = self.argon2 else {
            let info = [SLOT_CONTEXT, self.kind.as_str().as_bytes()];
            derive(&secret.bytes, Some(salt), &info, key.as_mut_slice());
            return Ok(key);
        };
        if memory_kib > ARGON2_MAX.memory_kib || passes > ARGON2_MAX.passes || lanes > ARGON2_MAX.lanes {
            let what = format!("the slot asks for {memory_kib} KiB, {passes} passes, {lanes} lanes: too much");
            return Err(KeyError::Derivation(what));
        }
        Params::new(memory_kib, passes, lanes, Some(32))
            .and_then(|cost| {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, cost).hash_password_into(
                    &secret.bytes,
                    salt,
                    key.as_mut_slice(),
                )
            })
            .map_err(|error| KeyError::Derivation(format!("Argon2id: {error}")))?;
        Ok(key)
    }

    /// Everything of the slot but the wrapped key.
    fn associated(&self) -> Vec<u8> {
        let Argon2Cost { memory_kib, passes, lanes } =
            self.argon2.unwrap_or(Argon2Cost { memory_kib: 0, passes: 0, lanes: 0 });
        let mut data = SLOT_CONTEXT.to_vec();
        for number in [self.id, memory_kib, passes, lanes] {
            data.extend_from_slice(&number.to_le_bytes());
        }
        data.extend_from_slice(&self.created.as_second().to_le_bytes());
        data.extend_from_slice(self.salt.as_bytes());
        data.extend_from_slice(self.kind.as_str().as_bytes());
        data
    }
}

/// HKDF-SHA-256.
pub(super) fn derive(secret: &[u8], salt: Option<&[u8]>, info: &[&[u8]], key: &mut [u8]) {
    if let Err(error) = Hkdf::<Sha256>::new(salt, secret).expand_multi_info(info, key) {
        unreachable!("HKDF-SHA-256 gives up to 8160 bytes: {error}");
    }
}

/// Seals under a random nonce; nonce and sealed bytes with the tag, as stored.
pub(super) fn seal(key: &[u8; 32], associated: &[u8], secret: &[u8]) -> Result<(String, String), KeyError> {
    let nonce: [u8; 12] = rand::random();
    // Room for the tag as well: growing would leave the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(secret.len() + 16));
    bytes.extend_from_slice(secret);
    let tag = Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key))
        .encrypt_in_place_detached(Nonce::from_slice(&nonce), associated, &mut bytes)
        .map_err(|_| KeyError::Derivation("AES-256-GCM refused".to_owned()))?;
    bytes.extend_from_slice(&tag);
    Ok((hex::encode(&nonce), hex::encode(&bytes)))
}

/// Opens what [`seal`] made; `None` when it is not authentic under this key.
pub(super) fn open(key: &[u8; 32], associated: &[u8], nonce: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let nonce: [u8; 12] = hex::decode_array(nonce)?;
    let mut bytes = Zeroizing::new(hex::decode(sealed)?);
    let (secret, tag) = bytes.split_last_chunk_mut::<16>()?;
    Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key))
        .decrypt_in_place_detached(Nonce::from_slice(&nonce), associated, secret, Tag::from_slice(tag.as_slice()))
        .ok()?;
    let length = bytes.len() - 16;
    bytes.truncate(length);
    Some(bytes)
}
