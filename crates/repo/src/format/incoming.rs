//! Bytes that have arrived and were not yet taken, without joining what need not be joined.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// A queue of bytes in the pieces that they came in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    parts: VecDeque<Bytes>,
    length: usize,
}

impl Incoming {
    /// Bytes that came in.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.parts.push_back(bytes);
        }
    }

    /// How many bytes are there.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Four bytes at an offset, when they are there.
    pub(super) fn peek(&self, mut at: usize) -> Option<[u8; 4]> {
        if self.length < at.checked_add(4)? {
            return None;
        }
        let mut found = [0; 4];
        let mut slots = found.iter_mut();
        for part in &self.parts {
            if at >= part.len() {
                at -= part.len();
                continue;
            }
            for byte in part.iter().skip(at) {
                match slots.next() {
                    Some(slot) => *slot = *byte,
                    None => return Some(found),
                }
            }
            at = 0;
        }
        Some(found)
    }

    /// Removes the first `count` bytes, in one piece; `None` when there are fewer. Copies only what lies in several pieces.
    pub(super) fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.length < count {
            return None;
        }
        self.length -= count;
        if let Some(front) = self.parts.front_mut()
            && front.len() > count
        {
            return Some(front.split_to(count));
        }
        if self.parts.front().is_some_and(|front| front.len() == count) {
            return self.parts.pop_front();
        }
        let mut joined = BytesMut::with_capacity(count);
        while joined.len() < count {
            let missing = count - joined.len();
            let Some(front) = self.parts.front_mut() else { break };
            let length = missing.min(front.len());
            joined.extend_from_slice(front.get(..length).unwrap_or_default());
            front.advance(length);
            if front.is_empty() {
                self.parts.pop_front();
            }
        }
        Some(joined.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_came_in(parts: Vec<Vec<u8>>, counts in proptest::collection::vec(0usize..40, 0..20)) {
            let mut rest: Vec<u8> = parts.concat();
            let mut incoming = Incoming::default();
            for part in parts {
                incoming.push(part.into());
            }
            for count in counts {
                for at in [0, 1, count] {
                    prop_assert_eq!(incoming.peek(at), rest.get(at..).and_then(|tail| tail.first_chunk().copied()));
                }
                match incoming.take(count) {
                    Some(bytes) => prop_assert_eq!(bytes, rest.drain(..count).collect::<Vec<u8>>()),
                    None => prop_assert!(count > rest.len()),
                }
                prop_assert_eq!(incoming.len(), rest.len());
            }
        }
    }
}
