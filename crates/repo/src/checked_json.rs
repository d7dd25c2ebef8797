//! Small stored shapes as JSON that people can read: `{"content":{…},"sha256":"…"}`, and a `mac` in those that are sealed.
//!
//! The digest is over the content's text exactly as it stands in the object, so that damage shows wherever it falls. What is
//! around the text has one spelling, down to the line break at the end; one with a seal is no text without one, and the other
//! way round. Every content has a field `format`, counted from 1, which is looked at before anything else in it.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::FormatError;
use walward_base::hex;

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

/// A content that is what was written, and its seal. Whether its author had the key is for the caller to check.
#[derive(Debug, Clone)]
pub(super) struct Sealed<T> {
    /// The content.
    pub value: T,
    /// Its text.
    pub text: String,
    /// The seal.
    pub mac: [u8; 32],
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

/// Reads an object without a seal, whose content has format `known` at most.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], known: u32) -> Result<T, FormatError> {
    let Parts { text, mac, .. } = verified(bytes)?;
    match mac {
        None => content(text, known),
        Some(_) => Err(wrong("it has a seal, and nobody seals its kind")),
    }
}

/// Reads an object with a seal, whose content has format `known` at most.
pub(super) fn decode_sealed<T: DeserializeOwned>(bytes: &[u8], known: u32) -> Result<Sealed<T>, FormatError> {
    let Parts { text, mac, .. } = verified(bytes)?;
    let mac = mac.ok_or_else(|| wrong("it has no seal"))?;
    Ok(Sealed { value: content(text, known)?, text: text.to_owned(), mac })
}

fn wrong(what: &str) -> FormatError {
    FormatError::Text(what.to_owned())
}

/// The parts of an object whose digest is right.
fn verified(bytes: &[u8]) -> Result<Parts<'_>, FormatError> {
    let object = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
    let parts = take_apart(object).ok_or_else(|| wrong("it is not a content with its sha256"))?;
    let right = <[u8; 32]>::from(Sha256::digest(parts.text)) == parts.digest;
    if right { Ok(parts) } else { Err(wrong("its content does not match its sha256")) }
}

fn content<T: DeserializeOwned>(text: &str, known: u32) -> Result<T, FormatError> {
    let json = |error: serde_json::Error| FormatError::Text(format!("it is not valid JSON of its kind: {error}"));
    let probe: Probe = serde_json::from_str(text).map_err(json)?;
    match probe.format {
        0 => Err(wrong("its format is 0, which there is not")),
        format if format > known => Err(FormatError::Newer(format)),
        _ => serde_json::from_str(text).map_err(json),
    }
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

/// What is before the last 32 bytes in lower-case hexadecimal, and those.
fn split_digits(text: &str) -> Option<(&str, [u8; 32])> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    let spelt = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    Some((rest, hex::decode_array(digits).filter(|_| spelt)?))
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

    #[test]
    fn a_format_that_there_is_not_and_another_spelling_are_refused() {
        let thing = |format| Thing { format, name: "n".to_owned(), number: 1 };
        let bytes = encode(&thing(0), None).expect("JSON");
        let error = decode::<Thing>(&bytes, 1).expect_err("format 0");
        assert!(error.to_string().contains("its format is 0"), "{error}");
        let text = String::from_utf8(encode(&thing(1), None).expect("JSON").to_vec()).expect("text");
        let (content, digits) = text.split_at(text.len() - END.len() - DIGITS);
        let shouted = format!("{content}{}{END}", digits.trim_end_matches(END).to_uppercase());
        assert_ne!(shouted, text);
        assert!(decode::<Thing>(text.as_bytes(), 1).is_ok() && decode::<Thing>(shouted.as_bytes(), 1).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(name: String, number: i64, mac: Option<[u8; 32]>) {
            let thing = Thing { format: 1, name, number };
            let seal = |_: &[u8]| mac.unwrap_or_default();
            let bytes = encode(&thing, mac.is_some().then_some(&seal)).expect("JSON");
            // What is sealed is not read as if it were not, nor the other way round.
            let (plain, sealed) = (decode::<Thing>(&bytes, 1), decode_sealed::<Thing>(&bytes, 1));
            prop_assert_eq!(plain.ok(), mac.is_none().then(|| thing.clone()));
            prop_assert_eq!(sealed.ok().map(|read| (read.value, read.mac)), mac.map(|mac| (thing, mac)));
        }

        #[test]
        fn a_flipped_bit_is_noticed(name in "[a-z]{0,9}", number: i64, at: prop::sample::Index, bit in 0u32..8) {
            let thing = Thing { format: 1, name, number };
            let mut bytes = encode(&thing, None).expect("JSON").to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<Thing>(&bytes, 1).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = decode::<Thing>(&bytes, 1);
            let _ = decode_sealed::<Thing>(text.as_bytes(), 1);
        }
    }
}
