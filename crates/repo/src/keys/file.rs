//! `keys/<generation>-<root id>.json`: slots and ring, sealed as a whole under the root key.
//!
//! Made before the identity when a repository is set up. A crash between the two leaves keys whose root key no identity names: they
//! are passed over, whatever their generation, and reported. Among those of the identity's root key the highest generation holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::kind::SlotKind;
use super::recovery::RecoveryKey;
use super::root::RootId;
use super::secret::Secret;
use super::slot::{Slot, derive, open, seal};
use super::{KeyError, Keyring, MasterKey};
use crate::error::RepoError;
use crate::{checked_json, generations, layout};
use walward_storage::{ObjectKey, Store};

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// Bytes of a master key in the ring: id, secret, when it was made (seconds since 1970).
const RING_ENTRY_BYTES: usize = 16 + 32 + 8;
/// More slots than anybody has; a bound for Argon2id's time.
const SLOTS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    generation: u32,
    slots: Vec<Slot>,
    ring: SealedRing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedRing {
    nonce: String,
    sealed: String,
}

/// What people are shown of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlotInfo {
    /// Its number; never used again.
    pub id: u32,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made.
    pub created: Timestamp,
}

/// The key slots that lie in a repository.
#[derive(Debug, Clone)]
pub struct KeySlots {
    /// The newest generation under the root key that was asked for.
    pub newest: Option<KeysFile>,
    /// Objects under other root keys: what setups left that did not finish.
    pub foreign: Vec<ObjectKey>,
}

/// A generation of the key slots as read: nothing in it is believed before a secret has opened it.
#[derive(Debug, Clone)]
pub struct KeysFile {
    object: String,
    root: RootId,
    checked: checked_json::Sealed<Content>,
}

/// Opened key slots: the ring, and the power to change the slots.
pub struct OpenKeys {
    root: Zeroizing<[u8; 32]>,
    ring: Keyring,
    slots: Vec<Slot>,
    generation: u32,
}

impl std::fmt::Debug for OpenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenKeys(generation {}, ..)", self.generation)
    }
}

/// Which of the named generations holds under `root`, and what belongs to other root keys. Pure.
fn in_force(named: &[(u32, RootId)], root: Option<RootId>) -> (Option<u32>, Vec<(u32, RootId)>) {
    let (ours, foreign): (Vec<_>, Vec<_>) = named.iter().partition(|(_, of)| Some(*of) == root);
    (ours.into_iter().map(|(generation, _)| generation).max(), foreign)
}

/// The names of all generations in the repository, sorted: whose they are and which number they have.
async fn named(store: &dyn Store, root: Option<RootId>) -> Result<(Option<u32>, Vec<ObjectKey>), RepoError> {
    let listing = store.list(Some(&layout::all_keys())).await?;
    let named: Vec<_> =
        listing.objects.iter().filter_map(|object| layout::parse_keys(object.key.file_name())).collect();
    let (newest, foreign) = in_force(&named, root);
    Ok((newest, foreign.into_iter().map(|(generation, root)| layout::keys(generation, root)).collect()))
}

impl KeySlots {
    /// The newest generation under the root key `root`, and the objects of others.
    pub async fn load(store: &dyn Store, root: RootId) -> Result<Self, RepoError> {
        let (newest, foreign) = named(store, Some(root)).await?;
        let newest = match newest {
            Some(generation) => {
                let key = layout::keys(generation, root);
                let bytes = generations::fetch(store, &key).await?;
                Some(KeysFile::parse(generations::shown(store, &key), (generation, root), &bytes)?)
            }
            None => None,
        };
        Ok(Self { newest, foreign })
    }

    /// The objects in a repository that belong to other root keys than `root`: to any, when it has none.
    pub async fn foreign(store: &dyn Store, root: Option<RootId>) -> Result<Vec<ObjectKey>, RepoError> {
        Ok(named(store, root).await?.1)
    }
}

impl KeysFile {
    fn parse(object: String, (generation, root): (u32, RootId), bytes: &[u8]) -> Result<Self, RepoError> {
        let checked: checked_json::Sealed<Content> =
            checked_json::decode_sealed(bytes, FORMAT).map_err(|error| RepoError::damaged(&object, error))?;
        // An old generation under a new name would bring removed slots back.
        if checked.value.generation != generation {
            return Err(KeyError::Tampered { object, what: "they are of another generation" }.into());
        }
        Ok(Self { object, root, checked })
    }

    /// The slots, for people. Not verified before [`Self::open`].
    pub fn slots(&self) -> Vec<SlotInfo> {
        infos(&self.checked.value.slots)
    }

    /// Opens the first slot that the secret fits, and verifies the whole. Computes; see [`Self::open_with`].
    fn open(&self, secret: &Secret) -> Result<OpenKeys, KeyError> {
        let Content { slots, ring, generation, .. } = &self.checked.value;
        let tampered = |what| KeyError::Tampered { object: self.object.clone(), what };
        let mut root = None;
        for slot in slots.iter().take(SLOTS_MAX) {
            root = slot.unwrap(secret)?;
            if root.is_some() {
                break;
            }
        }
        let root =
            root.ok_or_else(|| KeyError::WrongSecret { from: secret.from.clone(), object: self.object.clone() })?;
        if RootId::of(&root) != self.root {
            return Err(tampered("they are of another root key than their name says"));
        }
        if !verify_mac(&root, self.checked.text.as_bytes(), self.checked.mac) {
            return Err(tampered("their seal does not match"));
        }
        let sealed = open(&sub_key(&root, RING_KEY), &ring_context(*generation), &ring.nonce, &ring.sealed)
            .ok_or_else(|| tampered("their master keys are not authentic"))?;
        let ring = parse_ring(&sealed).ok_or_else(|| tampered("their master keys cannot be read"))?;
        Ok(OpenKeys { root, ring, slots: slots.clone(), generation: *generation })
    }

    /// Opens the slots with a secret, on a blocking thread: Argon2id takes a tenth of a second and 64 MiB.
    pub async fn open_with(&self, secret: Secret) -> Result<OpenKeys, KeyError> {
        let file = self.clone();
        blocking(move || file.open(&secret)).await
    }
}

impl OpenKeys {
    /// New keys: a root key, one master key, a slot for each secret and one for the recovery key, which is returned to be shown
    /// once. Nothing is stored.
    pub async fn create(secrets: Vec<Secret>, now: Timestamp) -> Result<(Self, RecoveryKey), KeyError> {
        blocking(move || {
            let root = Zeroizing::new(rand::random());
            let recovery = RecoveryKey::generate();
            let mut slots = Vec::new();
            for (id, secret) in (1..).zip(secrets.iter().chain([&Secret::recovery(&recovery)])) {
                slots.push(Slot::wrap(id, secret, &root, now)?);
            }
            let ring = Keyring::new(Vec::new(), MasterKey::generate(now));
            Ok((Self { root, ring, slots, generation: 0 }, recovery))
        })
        .await
    }

    /// The master keys.
    pub fn keyring(&self) -> &Keyring {
        &self.ring
    }

    /// The slots.
    pub fn slots(&self) -> Vec<SlotInfo> {
        infos(&self.slots)
    }

    /// That another slot can be added.
    pub fn room_for_one(&self) -> Result<(), KeyError> {
        if self.slots.len() < SLOTS_MAX { Ok(()) } else { Err(KeyError::NoRoom(SLOTS_MAX)) }
    }

    /// The first slot that the secret opens, if any does. Computes as [`KeysFile::open_with`] does.
    pub async fn slot_of(&self, secret: Secret) -> Result<Option<u32>, KeyError> {
        let slots = self.slots.clone();
        blocking(move || {
            for slot in &slots {
                if slot.unwrap(&secret)?.is_some() {
                    return Ok(Some(slot.id));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Adds a slot for a new recovery key, which is to be shown once it is stored; its number and the key.
    pub async fn add_recovery_slot(&mut self, now: Timestamp) -> Result<(u32, RecoveryKey), KeyError> {
        let key = RecoveryKey::generate();
        Ok((self.add_slot(Secret::recovery(&key), now).await?, key))
    }

    /// Adds a slot; its number. To be stored with [`Self::store`].
    pub async fn add_slot(&mut self, secret: Secret, now: Timestamp) -> Result<u32, KeyError> {
        self.room_for_one()?;
        let id = self.slots.iter().map(|slot| slot.id).max().unwrap_or_default().saturating_add(1);
        let root = self.root.clone();
        self.slots.push(blocking(move || Slot::wrap(id, &secret, &root, now)).await?);
        Ok(id)
    }

    /// Removes a slot, unless it is the last. To be stored with [`Self::store`].
    pub fn remove_slot(&mut self, id: u32) -> Result<(), KeyError> {
        if !self.slots.iter().any(|slot| slot.id == id) {
            return Err(KeyError::NoSuchSlot(id));
        }
        if self.slots.len() == 1 {
            return Err(KeyError::LastSlot(id));
        }
        self.slots.retain(|slot| slot.id != id);
        Ok(())
    }

    /// Makes a new master key for what is written from now on; the old stay readable. To be stored with [`Self::store`].
    pub fn rotate(&mut self, now: Timestamp) {
        let older = self.ring.iter().map(copy_of).collect();
        self.ring = Keyring::new(older, MasterKey::generate(now));
    }

    /// The root key that the slots wrap.
    pub fn root(&self) -> RootId {
        RootId::of(&self.root)
    }

    /// Stores the next generation. [`RepoError::Contended`] when another one was stored meanwhile: open it and try again.
    pub async fn store(&mut self, store: &dyn Store) -> Result<(), RepoError> {
        let generation = self.generation.saturating_add(1);
        let key = layout::keys(generation, self.root());
        let contended = || RepoError::Contended { object: generations::shown(store, &key) };
        let bytes = self.encode(generation).map_err(|error| match error {
            EncodeError::Key(error) => error.into(),
            EncodeError::Format(error) => RepoError::damaged(&generations::shown(store, &key), error),
        })?;
        if generations::put(store, &key, &bytes).await? {
            self.generation = generation;
            Ok(())
        } else {
            Err(contended())
        }
    }

    /// Removes what [`Self::store`] wrote first, for a repository that another host made meanwhile. Nobody else's name can be this
    /// one, because the root key is in it.
    pub(crate) async fn discard(self, store: &dyn Store) -> Result<(), RepoError> {
        Ok(store.delete(&layout::keys(self.generation, self.root())).await?)
    }

    fn encode(&self, generation: u32) -> Result<bytes::Bytes, EncodeError> {
        let ring = ring_bytes(&self.ring);
        let (nonce, sealed) =
            seal(&sub_key(&self.root, RING_KEY), &ring_context(generation), &ring).map_err(EncodeError::Key)?;
        let content =
            Content { format: FORMAT, generation, slots: self.slots.clone(), ring: SealedRing { nonce, sealed } };
        checked_json::encode(&content, Some(&|text| mac(&self.root, text))).map_err(EncodeError::Format)
    }
}

enum EncodeError {
    Key(KeyError),
    Format(crate::format::FormatError),
}

const RING_KEY: &[u8] = b"walward ring key v1";
const MAC_KEY: &[u8] = b"walward slots mac v1";

fn infos(slots: &[Slot]) -> Vec<SlotInfo> {
    slots.iter().map(|slot| SlotInfo { id: slot.id, kind: slot.kind, created: slot.created }).collect()
}

fn sub_key(root: &[u8; 32], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    derive(root, None, &[info], key.as_mut_slice());
    key
}

fn mac(root: &[u8; 32], text: &[u8]) -> [u8; 32] {
    use hmac::Mac;
    hasher(root).chain_update(text).finalize().into_bytes().into()
}

fn verify_mac(root: &[u8; 32], text: &[u8], found: [u8; 32]) -> bool {
    use hmac::Mac;
    hasher(root).chain_update(text).verify_slice(&found).is_ok()
}

fn hasher(root: &[u8; 32]) -> hmac::Hmac<sha2::Sha256> {
    use hmac::Mac;
    match hmac::Hmac::new_from_slice(sub_key(root, MAC_KEY).as_slice()) {
        Ok(hasher) => hasher,
        Err(error) => unreachable!("HMAC takes keys of any length: {error}"),
    }
}

fn ring_context(generation: u32) -> Vec<u8> {
    let mut context = b"walward ring v1\0".to_vec();
    context.extend_from_slice(&generation.to_le_bytes());
    context
}

fn ring_bytes(ring: &Keyring) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ring.iter().count() * RING_ENTRY_BYTES));
    for key in ring.iter() {
        bytes.extend_from_slice(key.id());
        bytes.extend_from_slice(key.secret());
        bytes.extend_from_slice(&key.created().as_second().to_le_bytes());
    }
    bytes
}

fn parse_ring(bytes: &[u8]) -> Option<Keyring> {
    let (entries, rest) = bytes.as_chunks::<RING_ENTRY_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        let (id, entry) = entry.split_first_chunk()?;
        let (secret, created) = entry.split_first_chunk()?;
        let created = Timestamp::from_second(i64::from_le_bytes(*created.first_chunk()?)).ok()?;
        keys.push(MasterKey { id: *id, secret: Zeroizing::new(*secret), created });
    }
    let active = keys.pop()?;
    Some(Keyring::new(keys, active))
}

fn copy_of(key: &MasterKey) -> MasterKey {
    MasterKey { id: key.id, secret: key.secret.clone(), created: key.created }
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    let done = tokio::task::spawn_blocking(job).await;
    done.unwrap_or_else(|died| Err(KeyError::Derivation(died.to_string())))
}

#[cfg(test)]
mod tests;
