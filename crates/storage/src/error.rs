//! What goes wrong at a store.

use walward_base::ErrorClass;

/// A failed call to a store. Display says what was being done to what; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {key}")]
pub struct StoreError {
    /// What the failure means; the only thing that decisions are taken on.
    pub class: ErrorClass,
    /// What was being done: "read", "write", "list", …
    pub verb: &'static str,
    /// The object or folder, with the store's URL in front; never a secret.
    pub key: String,
    /// What the store or the machine said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A cause in words, where what a library says would repeat itself or give a secret away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Cause(pub(super) String);

impl StoreError {
    /// Whether the store is a folder of a file system, where users and modes say who may what.
    pub fn is_on_a_disk(&self) -> bool {
        self.key.starts_with("file://")
    }

    pub(super) fn new(class: ErrorClass, verb: &'static str, key: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { class, verb, key: key.into(), source: Box::new(Cause(cause.into())) }
    }
}

/// `url` and what lies under it, as messages show it.
pub(super) fn shown(url: &str, path: &str) -> String {
    let url = url.trim_end_matches('/');
    if path.is_empty() { url.to_owned() } else { format!("{url}/{path}") }
}
