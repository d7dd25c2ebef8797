//! The name of an object within a store.

use std::fmt;

/// A relative path of one or more parts joined by `/`: no empty part, no `.` or `..`, and only letters, digits and
/// `-_.+=@` in a part, so that it means the same on every store and every file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// A text that cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an object: only letters, digits and -_.+=@ between single slashes")]
pub struct KeyError(String);

impl ObjectKey {
    /// The longest key, in bytes: S3's limit.
    pub const MAX_BYTES: usize = 1024;

    /// `path` as a key.
    pub fn new(path: impl Into<String>) -> Result<Self, KeyError> {
        let path = path.into();
        let valid_part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+=@".contains(&b))
        };
        if path.len() <= Self::MAX_BYTES && path.split('/').all(valid_part) {
            Ok(Self(path))
        } else {
            Err(KeyError(path))
        }
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// This key with `part` (one part, or several joined by `/`) after it.
    pub fn join(&self, part: &str) -> Result<Self, KeyError> {
        Self::new(format!("{}/{part}", self.0))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_leaves_the_root() {
        for path in ["", "/", "a//b", "/a", "a/", "..", "a/../b", "./a", "a\\b", "a b", "a\0b", "é"] {
            assert!(ObjectKey::new(path).is_err(), "{path:?}");
        }
        assert!(ObjectKey::new("wal/15-7/00000001/00000000/000000010000000000000001").is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = ObjectKey::new(text);
        }
    }
}
