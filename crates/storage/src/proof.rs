//! Does the answer to a write prove the bytes? Anything that answers with success can claim a write; only who has the bytes can
//! name their digest. What an answer does not prove is read back ([`super::object`]).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, header};
use md5::{Digest as _, Md5};
use sha2::{Digest as _, Sha256};

use super::Payload;

/// Digests of more bytes than this are not taken on the runtime's threads.
pub(super) const INLINE_BYTES_MAX: u64 = 64 << 10;

/// What an answer of success says about the bytes that it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// S3, when the request carried it: base64 of the SHA-256.
    sha256: Option<String>,
    /// Google: base64 of the CRC-32C, big-endian.
    crc32c: Option<String>,
    /// Azure; Google without keys of the customer: base64 of the MD5.
    md5: Option<String>,
    /// The entity tag, where it looks like one that S3 and its kin make of a whole object without keys of the customer: the
    /// hexadecimal MD5.
    tag: Option<String>,
}

impl Receipt {
    /// What the head of an answer says.
    pub(super) fn of(head: &HeaderMap) -> Self {
        let text =
            |name: &str| head.get(name).and_then(|value| value.to_str().ok()).map(|value| value.trim().to_owned());
        // Google: one line for each digest, or one with commas.
        let google = |name: &str| {
            let lines = head.get_all("x-goog-hash").iter().filter_map(|line| line.to_str().ok());
            lines.flat_map(|line| line.split(',')).find_map(|hash| hash.trim().strip_prefix(name).map(str::to_owned))
        };
        let tag =
            text(header::ETAG.as_str()).map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase());
        Self {
            sha256: text("x-amz-checksum-sha256"),
            crc32c: google("crc32c="),
            md5: text("content-md5").or_else(|| google("md5=")),
            tag: tag.filter(|tag| tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())),
        }
    }

    /// Whether there is anything that may prove the bytes. Cheap, as [`Receipt::proves`] is not.
    pub(super) fn may_prove(&self) -> bool {
        *self != Self::default()
    }

    /// Whether the answer is to these bytes. Reads them all: see [`INLINE_BYTES_MAX`].
    pub(super) fn proves(&self, payload: &Payload) -> bool {
        if let Some(sha256) = &self.sha256 {
            let mut digest = Sha256::new();
            payload.0.iter().for_each(|part| digest.update(part));
            return *sha256 == BASE64_STANDARD.encode(digest.finalize());
        }
        if let Some(crc32c) = &self.crc32c {
            let digest = payload.0.iter().fold(0, |digest, part| crc32c::crc32c_append(digest, part));
            return *crc32c == BASE64_STANDARD.encode(digest.to_be_bytes());
        }
        if self.md5.is_none() && self.tag.is_none() {
            return false;
        }
        let mut digest = Md5::new();
        payload.0.iter().for_each(|part| digest.update(part));
        let digest = digest.finalize();
        self.md5.as_ref().is_some_and(|md5| *md5 == BASE64_STANDARD.encode(digest))
            || self.tag.as_ref().is_some_and(|tag| *tag == walward_base::hex::encode(&digest))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn receipt(lines: &[(&'static str, &'static str)]) -> Receipt {
        let mut head = HeaderMap::new();
        for (name, value) in lines {
            head.append(*name, value.parse().unwrap());
        }
        Receipt::of(&head)
    }

    /// `hello world`, in pieces.
    fn payload() -> Payload {
        Payload(vec![Bytes::from_static(b"hello"), Bytes::new(), Bytes::from_static(b" world")])
    }

    #[test]
    fn the_digest_of_the_bytes_in_any_stores_words_proves_them() {
        for lines in [
            &[("etag", "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"")][..],
            &[("etag", "W/\"5EB63BBBE01EEED093CB22BB8F5ACDC3\"")],
            &[("etag", "0x8DB0"), ("content-md5", "XrY7u+Ae7tCTyyK7j1rNww==")],
            &[("etag", "\"CJ\""), ("x-goog-hash", "crc32c=yZRlqg=="), ("x-goog-hash", "md5=XrY7u+Ae7tCTyyK7j1rNww==")],
            &[("x-goog-hash", "md5=XrY7u+Ae7tCTyyK7j1rNww==, crc32c=yZRlqg==")],
            &[("etag", "\"kms\""), ("x-amz-checksum-sha256", "uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=")],
        ] {
            let receipt = receipt(lines);
            assert!(receipt.may_prove() && receipt.proves(&payload()), "{lines:?}");
            assert!(!receipt.proves(&vec![1].into()), "{lines:?}");
        }
    }

    #[test]
    fn an_answer_that_names_no_digest_proves_nothing() {
        for lines in [
            &[][..],
            &[("etag", "\"x\"")],
            &[("etag", "\"5eb63bbbe01eeed093cb22bb8f5acdc3-2\"")],
            &[("etag", "0x8DB0")],
        ] {
            let receipt = receipt(lines);
            assert!(!receipt.may_prove() && !receipt.proves(&payload()), "{lines:?}");
        }
        assert!(!receipt(&[("etag", "\"0eb63bbbe01eeed093cb22bb8f5acdc3\"")]).proves(&payload()));
    }
}
