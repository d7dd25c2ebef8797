//! Which root key: an id that everybody may read and that tells nothing of the key.
//!
//! The identity of a repository names it, and every generation of the slots has it in its name. So it is decided by one object whose
//! keys are in force: of two hosts that set one repository up at the same moment, each writes slots under a name that no other has, and
//! those of the one whose identity was refused are nobody's.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::slot::derive;
use walward_base::hex;

const INFO: &[u8] = b"walward root id v1";
/// Hexadecimal digits of an id.
const DIGITS: usize = 32;

/// The id of a root key: 16 bytes that are derived from it, and from which it cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootId([u8; 16]);

impl RootId {
    pub(super) fn of(root: &[u8; 32]) -> Self {
        let mut id = Zeroizing::new([0; 16]);
        derive(root, None, &[INFO], id.as_mut_slice());
        Self(*id)
    }

    /// Reads what [`fmt::Display`] writes: 32 lower-case hexadecimal digits.
    pub fn parse(digits: &str) -> Option<Self> {
        let spelt = digits.len() == DIGITS && !digits.bytes().any(|digit| digit.is_ascii_uppercase());
        hex::decode_array(digits).filter(|_| spelt).map(Self)
    }

    #[cfg(test)]
    pub(crate) fn for_tests(byte: u8) -> Self {
        Self([byte; 16])
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for RootId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not 32 lower-case hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_and_is_no_part_of_its_key(root: [u8; 32]) {
            let id = RootId::of(&root);
            prop_assert_eq!(RootId::parse(&id.to_string()), Some(id));
            prop_assert!(!hex::encode(&root).contains(&id.to_string()));
            prop_assert_ne!(id, RootId::of(&[root[0] ^ 1; 32]));
        }

        #[test]
        fn arbitrary_text_is_no_id_unless_it_is_written_so(text in "[0-9a-fA-F]{30,34}") {
            prop_assert_eq!(RootId::parse(&text).map(|id| id.to_string()), RootId::parse(&text).map(|_| text));
        }
    }
}
