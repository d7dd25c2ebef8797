//! Master keys and the slots that wrap them (`keys/<generation>-<root id>.json`).
//!
//! Two layers. A random root key, made once, is wrapped by every slot under a key that the slot's secret gives. The ring of
//! master keys is sealed under the root key. So a slot is added or removed without the other slots' secrets, and a new master
//! key is added without any. Objects are sealed under the newest master key; older ones stay readable.
//!
//! A removed slot opens older generations still (nothing is updated in place, and bucket versions stay): removing a slot keeps a secret
//! from opening what comes after the next [`KeysFile::rotate`] only if whoever holds it has not opened the root key before. When a
//! secret has leaked, make a new repository.

mod file;
mod kind;
mod recovery;
mod root;
mod secret;
mod slot;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

pub use file::{KeySlots, KeysFile, OpenKeys, SlotInfo};
pub use kind::SlotKind;
pub use recovery::RecoveryKey;
pub use root::RootId;
pub use secret::{Secret, key_file_text};

use walward_base::ErrorClass;

/// Where the secret that opens a slot comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a generated key (`walward-key-1:<64 hex digits>`), or with the recovery key that `setup` printed once.
    KeyFile(PathBuf),
    /// A file whose first line is a passphrase (Argon2id).
    PassphraseFile(PathBuf),
    /// A command (program and arguments, no shell) that prints the secret on its standard output: KMS, Vault.
    Command(Vec<String>),
}

/// One master key.
pub struct MasterKey {
    id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
    created: Timestamp,
}

impl MasterKey {
    fn generate(now: Timestamp) -> Self {
        Self { id: rand::random(), secret: Zeroizing::new(rand::random()), created: now }
    }

    /// Its random id: what objects name it by.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// When it was made.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

/// The opened master keys of one repository and cluster. Never printed, never empty.
#[derive(Clone)]
pub struct Keyring(Arc<KeyringInner>);

struct KeyringInner {
    older: Vec<MasterKey>,
    active: MasterKey,
}

impl Keyring {
    fn new(older: Vec<MasterKey>, active: MasterKey) -> Self {
        Self(Arc::new(KeyringInner { older, active }))
    }

    /// A ring of one known key.
    #[cfg(test)]
    pub(crate) fn for_tests(id: [u8; 16], secret: [u8; 32]) -> Self {
        Self::new(Vec::new(), MasterKey { id, secret: Zeroizing::new(secret), created: Timestamp::UNIX_EPOCH })
    }

    /// What new objects are sealed under: the newest.
    pub fn active(&self) -> &MasterKey {
        &self.0.active
    }

    /// The key of that id.
    pub fn find(&self, id: &[u8; 16]) -> Option<&MasterKey> {
        self.iter().find(|key| key.id == *id)
    }

    /// All of them, the newest last.
    pub fn iter(&self) -> impl Iterator<Item = &MasterKey> {
        self.0.older.iter().chain(std::iter::once(&self.0.active))
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

/// What goes wrong between a secret and the master keys. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the secret in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read or change the file.
    #[error(
        "{} is open to others (mode {mode:04o}); run `chmod 600` on it, or let root own it with mode 0640",
        path.display()
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What was read is not a secret of its kind.
    #[error("{from} does not hold {expected}")]
    Syntax {
        /// Where it was read.
        from: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The command cannot be run, or does not answer.
    #[error("cannot get the secret from the command {program}")]
    Command {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("the command {program} that should print the secret ended with {status}")]
    CommandFailed {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// No slot opens with the secret.
    #[error(
        "{from} opens none of the key slots in {object}; it is the key of another repository, or its slot was removed"
    )]
    WrongSecret {
        /// Where the secret came from.
        from: String,
        /// The slots.
        object: String,
    },
    /// The slots are not what somebody with the key wrote.
    #[error("the key slots in {object} were changed by somebody without the key: {what}")]
    Tampered {
        /// The slots.
        object: String,
        /// How it shows.
        what: &'static str,
    },
    /// There would be no way in.
    #[error("slot {0} is the last one; without it nobody could read this repository again")]
    LastSlot(u32),
    /// Every slot is taken.
    #[error("there are {0} slots already; remove one first")]
    NoRoom(usize),
    /// No slot has that number.
    #[error("there is no key slot {0}")]
    NoSuchSlot(u32),
    /// Computation failed: no memory for Argon2id, or a parameter out of bounds.
    #[error("cannot derive a key: {0}")]
    Derivation(String),
}

impl KeyError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Command { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => ErrorClass::Transient,
            // A secret that cannot be had is a matter of credentials; never "not found".
            Self::Command { .. }
            | Self::File { .. }
            | Self::Permissions { .. }
            | Self::Syntax { .. }
            | Self::CommandFailed { .. }
            | Self::WrongSecret { .. } => ErrorClass::Denied,
            Self::Tampered { .. } => ErrorClass::Corrupt,
            Self::LastSlot(_) | Self::NoRoom(_) | Self::NoSuchSlot(_) | Self::Derivation(_) => ErrorClass::Permanent,
        }
    }
}
