//! Small stored shapes as JSON that people can read: `{"content":{…},"sha256":"…"}`, and a `mac` where there is a key.
//!
//! The digest is over the content's text exactly as it stands in the object, so that damage shows wherever it falls. What is
//! around the text has one spelling, down to the line break at the end. Every content has a field `format`, which is looked
//! at before anything else in it.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::FormatError;
use crate::base::hex;

/// The longest such object that is read, bytes.
pub(super) const BYTES_MAX: u64 = 1 << 20;

const BEFORE_CONTENT: &str = "{\"content\":";
const BEFORE_SHA256: &str = ",\"sha256\":\"";
const BEFORE_MAC: &str = "\",\"mac\":\"";
const END: &str = "\"}\n";
/// Hexadecimal digits of a digest or a MAC.
const DIGITS: usize = 64;

/// What every content has.
#[derive(Deserialize)]
struct Probe {
    format: u32,
}

/// Computes a MAC over a content's text.
pub(super) type Seal<'a> = &'a dyn Fn(&[u8]) -> [u8; 32];

/// A content that is what was written. Whether its author had a key is for the caller to check.
#[derive(Debug, Clone)]
pub(super) struct Checked<T> {
    /// The content.
    pub value: T,
    /// Its text.
    pub text: String,
    /// The seal, if any.
    pub mac: Option<[u8; 32]>,
}

/// The object's bytes; `seal` computes the MAC over the content's text.
pub(super) fn encode<T: Serialize>(content: &T, seal: Option<Seal<'_>>) -> Result<Bytes, FormatError> {
    let text = serde_json::to_string(content)
        .map_err(|error| FormatError::Text(format!("cannot be written as JSON: {error}")))?;
    let mut object = String::with_capacity(text.len() + 256);
    object.push_str(BEFORE_CONTENT);
    object.push_str(&text);
    object.push_str(BEFORE_SHA256);
    object.push_str(&hex::encode(&Sha256::digest(&text)));
    if let Some(seal) = seal {
        object.push_str(BEFORE_MAC);
        object.push_str(&hex::encode(&seal(text.as_bytes())));
    }
    object.push_str(END);
    Ok(object.into())
}

/// Reads an object whose content has format `known` at most.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], known: u32) -> Result<Checked<T>, FormatError> {
    let wrong = |what: &str| FormatError::Text(what.to_owned());
    let json = |error: serde_json::Error| FormatError::Text(format!("it is not valid JSON of its kind: {error}"));
    let object = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
    let Parts { text, digest, mac } = take_apart(object).ok_or_else(|| wrong("it is not a content with its sha256"))?;
    if <[u8; 32]>::from(Sha256::digest(text)) != digest {
        return Err(wrong("its content does not match its sha256"));
    }
    let probe: Probe = serde_json::from_str(text).map_err(json)?;
    if probe.format > known {
        return Err(FormatError::Newer(probe.format));
    }
    let value = serde_json::from_str(text).map_err(json)?;
    Ok(Checked { value, text: text.to_owned(), mac })
}

struct Parts<'a> {
    text: &'a str,
    digest: [u8; 32],
    mac: Option<[u8; 32]>,
}

fn take_apart(object: &str) -> Option<Parts<'_>> {
    let rest = object.strip_prefix(BEFORE_CONTENT)?.strip_suffix(END)?;
    let (rest, last) = split_digits(rest)?;
    match rest.strip_suffix(BEFORE_MAC) {
        None => Some(Parts { text: rest.strip_suffix(BEFORE_SHA256)?, digest: last, mac: None }),
        Some(rest) => {
            let (rest, digest) = split_digits(rest)?;
            Some(Parts { text: rest.strip_suffix(BEFORE_SHA256)?, digest, mac: Some(last) })
        }
    }
}

/// What is before the last 32 bytes in hexadecimal, and those.
fn split_digits(text: &str) -> Option<(&str, [u8; 32])> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    Some((rest, hex::decode_array(digits)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        format: u32,
        name: String,
        number: i64,
    }

    #[test]
    fn a_newer_format_is_told_even_when_its_fields_are_unknown() {
        #[derive(Serialize)]
        struct Later {
            format: u32,
            colour: u8,
        }
        let bytes = encode(&Later { format: 2, colour: 3 }, None).expect("JSON");
        assert_eq!(decode::<Thing>(&bytes, 1).expect_err("newer"), FormatError::Newer(2));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(name: String, number: i64, mac: Option<[u8; 32]>) {
            let thing = Thing { format: 1, name, number };
            let seal = |_: &[u8]| mac.unwrap_or_default();
            let bytes = encode(&thing, mac.is_some().then_some(&seal)).expect("JSON");
            let read = decode::<Thing>(&bytes, 1).expect("what was written");
            prop_assert_eq!(read.value, thing);
            prop_assert_eq!(read.mac, mac);
        }

        #[test]
        fn a_flipped_bit_is_noticed_or_changes_nothing(name in "[a-z]{0,9}", number: i64, at: prop::sample::Index, bit in 0u32..8) {
            let thing = Thing { format: 1, name, number };
            let mut bytes = encode(&thing, None).expect("JSON").to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(read) = decode::<Thing>(&bytes, 1) {
                prop_assert_eq!(read.value, thing);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = decode::<Thing>(&bytes, 1);
            let _ = decode::<Thing>(text.as_bytes(), 1);
        }
    }
}
