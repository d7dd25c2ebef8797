//! The recovery key: 32 random bytes for a sheet of paper.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Letters of the key: 256 bits in fives, the last letter holding one bit.
const KEY_LETTERS: usize = 52;
/// Letters of the check: 20 bits.
const CHECK_LETTERS: usize = 4;

/// Opens the repository when every other secret is lost. Shown once, as 14 groups of four letters; the last group checks
/// the others.
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

/// A text that is no recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a recovery key: 14 groups of four letters and digits, the last of which checks the others")]
pub struct RecoveryKeyError;

impl RecoveryKey {
    pub(super) fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text for the sheet of paper. A secret: print it, never log it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(70));
        let check = check(&self.0);
        let letters = letters(self.0.as_slice(), KEY_LETTERS).chain(letters(&check, CHECK_LETTERS));
        for (index, letter) in letters.enumerate() {
            if index > 0 && index % 4 == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

impl FromStr for RecoveryKey {
    type Err = RecoveryKeyError;

    /// Reads the text as people type it: any case, groups or not, O for 0 and I or L for 1.
    fn from_str(text: &str) -> Result<Self, RecoveryKeyError> {
        let mut values = Zeroizing::new(Vec::with_capacity(KEY_LETTERS + CHECK_LETTERS));
        for letter in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let letter = match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                letter => letter,
            };
            let value = ALPHABET.iter().position(|known| char::from(*known) == letter).ok_or(RecoveryKeyError)?;
            values.push(u8::try_from(value).map_err(|_| RecoveryKeyError)?);
        }
        let (key, found) = values.split_at_checked(KEY_LETTERS).ok_or(RecoveryKeyError)?;
        let mut bytes = Zeroizing::new([0; 32]);
        let (mut bits, mut count) = (0u32, 0);
        let mut slots = bytes.iter_mut();
        for value in key {
            bits = bits << 5 | u32::from(*value);
            count += 5;
            if count >= 8
                && let Some(slot) = slots.next()
            {
                count -= 8;
                *slot = u8::try_from(bits >> count & 0xFF).map_err(|_| RecoveryKeyError)?;
            }
        }
        // The last letter has four bits too many, which are zero; then the key has one spelling.
        let spare = bits & ((1 << count) - 1);
        let expected: Vec<char> = letters(&check(&bytes), CHECK_LETTERS).collect();
        let found: Vec<char> =
            found.iter().filter_map(|value| ALPHABET.get(usize::from(*value)).map(|b| char::from(*b))).collect();
        if spare == 0 && found == expected { Ok(Self(bytes)) } else { Err(RecoveryKeyError) }
    }
}

fn check(key: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"walward recovery key v1").chain_update(key).finalize().into()
}

/// The first `count` letters of `bytes`, five bits each.
fn letters(bytes: &[u8], count: usize) -> impl Iterator<Item = char> {
    (0..count).map(|index| {
        let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
        let value = (0..5).fold(0, |value, offset| value << 1 | bit(index * 5 + offset));
        ALPHABET.get(value).map_or('0', |letter| char::from(*letter))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_read_as_people_type_it() {
        let key = RecoveryKey(Zeroizing::new([0x11; 32]));
        let text = key.to_text();
        assert_eq!(text.len(), 14 * 4 + 13);
        let typed = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_eq!(typed.parse::<RecoveryKey>().expect("the key").bytes(), key.bytes());
    }

    proptest! {
        #[test]
        fn what_was_shown_is_read(bytes: [u8; 32]) {
            let key = RecoveryKey(Zeroizing::new(bytes));
            prop_assert_eq!(key.to_text().parse::<RecoveryKey>().map(|read| *read.bytes()), Ok(bytes));
        }

        #[test]
        fn one_wrong_letter_is_noticed(bytes: [u8; 32], at in 0usize..69, letter in 0usize..32) {
            let mut text = RecoveryKey(Zeroizing::new(bytes)).to_text().as_bytes().to_vec();
            if text[at] != b'-' && text[at] != ALPHABET[letter] {
                text[at] = ALPHABET[letter];
                let text = String::from_utf8(text).expect("ASCII");
                prop_assert!(text.parse::<RecoveryKey>().is_err());
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<RecoveryKey>();
        }
    }
}
