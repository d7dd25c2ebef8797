//! Master keys and the slots that wrap them (`keys/<generation>.json`).

use std::path::PathBuf;
use std::sync::Arc;

/// Where the secret that opens a slot comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a generated key (`walward-key-1:<64 hex digits>`).
    KeyFile(PathBuf),
    /// A file whose first line is a passphrase (Argon2id).
    PassphraseFile(PathBuf),
    /// A command (program and arguments, no shell) that prints the secret on its standard output: KMS, Vault.
    Command(Vec<String>),
    /// The recovery key that `setup` printed once.
    RecoveryKey(String),
}

/// The opened master keys of one repository and cluster. Never printed.
#[derive(Clone)]
pub struct Keyring(Arc<KeyringInner>);

struct KeyringInner {}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.0;
        f.write_str("Keyring(..)")
    }
}
