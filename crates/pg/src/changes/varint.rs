//! Numbers of varying length: seven bits a byte, the lowest first, the eighth bit when more follow. Each has one spelling only.

/// Bytes that are not stored changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored changes of blocks cannot be read: {0}")]
pub struct StoredError(pub(super) &'static str);

const CUT: StoredError = StoredError("they are cut short");

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, number: impl Into<u64>) {
        let mut rest: u64 = number.into();
        loop {
            let [low, ..] = rest.to_le_bytes();
            rest >>= 7;
            if rest == 0 {
                self.0.push(low & 0x7F);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    pub(super) fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    /// A length of at most `max` and so many of the bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8], max: usize) {
        let bytes = bytes.get(..max).unwrap_or(bytes);
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }
}

/// Reads fields one after the other.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, StoredError> {
        let (byte, rest) = self.0.split_first().ok_or(CUT)?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, StoredError> {
        const LONG: StoredError = StoredError("a number is too long");
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits || byte == 0 && shift > 0 {
                return Err(LONG);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(LONG)
    }

    /// A number that fits into a smaller type.
    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, StoredError> {
        T::try_from(self.number()?).map_err(|_| StoredError("a number is too large"))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], StoredError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A length of at most `max` and so many bytes.
    pub(super) fn bytes(&mut self, max: usize) -> Result<Vec<u8>, StoredError> {
        let length: usize = self.small()?;
        if length > max {
            return Err(StoredError("too many bytes of a record"));
        }
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(bytes.to_vec())
    }
}
