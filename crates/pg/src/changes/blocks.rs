//! A set of block numbers that takes little memory whether blocks are few and far apart or a whole table.
//!
//! Numbers are kept by chunk of 65,536 blocks: up to 4,096 of them as a sorted list of two bytes each, more as a bitmap of 8 KiB. So a set
//! never takes more than about twice as many bytes as it has blocks, and 40 for each chunk. PostgreSQL's own table of changed blocks is built
//! alike (src/common/blkreftable.c, 17).

use std::ops::{Bound, RangeBounds};

/// More blocks of a chunk than this are a bitmap, which then takes no more bytes than the list.
pub(super) const FEW_MAX: usize = 4096;
/// `u64` of a chunk's bitmap.
pub(super) const WORDS: usize = 1024;

/// A set of block numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    /// By the upper half of the blocks' numbers, ascending; none is empty.
    chunks: Vec<(u16, Chunk)>,
}

/// The lower halves of the numbers of blocks that share the upper half. How many there are decides which of the two it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// At most [`FEW_MAX`], ascending.
    Few(Vec<u16>),
    /// More than [`FEW_MAX`].
    Many(Box<Bitmap>),
}

/// Bit 0 of the first word is number 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    words: [u64; WORDS],
    count: usize,
}

impl BlockSet {
    /// Adds a block; whether it was not there yet.
    pub fn insert(&mut self, block: u32) -> bool {
        let (high, low) = halves(block);
        match self.place(high) {
            Ok(at) => self.chunks.get_mut(at).is_some_and(|(_, chunk)| chunk.insert(low)),
            Err(at) => {
                if self.chunks.is_empty() {
                    // Of most relations it is the only one.
                    self.chunks.reserve_exact(1);
                }
                self.chunks.insert(at, (high, Chunk::Few(vec![low])));
                true
            }
        }
    }

    /// Adds all blocks of `other`.
    pub fn union(&mut self, other: &Self) {
        for (high, theirs) in &other.chunks {
            match self.place(*high) {
                Ok(at) => {
                    if let Some((_, ours)) = self.chunks.get_mut(at) {
                        ours.union(theirs);
                    }
                }
                Err(at) => self.chunks.insert(at, (*high, theirs.clone())),
            }
        }
    }

    /// How many bytes more the set takes at least when it is stored, since `block` was added to it, which was not there before.
    pub(super) fn stored_more(&self, block: u32) -> usize {
        let (high, _) = halves(block);
        let chunk = self.place(high).ok().and_then(|at| self.chunks.get(at));
        match chunk {
            // The chunk's number, how many blocks it has, and the block.
            Some((_, Chunk::Few(few))) if few.len() == 1 => 3,
            Some((_, Chunk::Few(_))) => 1,
            Some((_, Chunk::Many(many))) if many.count == FEW_MAX + 1 => 8 * WORDS - FEW_MAX,
            Some((_, Chunk::Many(_))) | None => 0,
        }
    }

    /// How much memory it takes, but for what the allocator adds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let chunks = self.chunks.iter().map(|(_, chunk)| match chunk {
            Chunk::Few(few) => few.capacity() * size_of::<u16>(),
            Chunk::Many(_) => size_of::<Bitmap>(),
        });
        chunks.sum::<usize>() + self.chunks.capacity() * size_of::<(u16, Chunk)>()
    }

    /// Whether the block is in the set.
    pub fn contains(&self, block: u32) -> bool {
        self.first_from(block) == Some(block)
    }

    /// Whether no block is.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many blocks are.
    pub fn count(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.count() as u64).sum()
    }

    /// The blocks of `range`, ascending.
    pub fn iter(&self, range: impl RangeBounds<u32>) -> impl Iterator<Item = u32> {
        let mut from = match range.start_bound() {
            Bound::Included(block) => Some(*block),
            Bound::Excluded(block) => block.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(block) => u64::from(*block) + 1,
            Bound::Excluded(block) => u64::from(*block),
            Bound::Unbounded => 1 << 32,
        };
        std::iter::from_fn(move || {
            let block = self.first_from(from?).filter(|block| u64::from(*block) < end)?;
            from = block.checked_add(1);
            Some(block)
        })
    }

    /// The first block of the set that is `block` or a later one.
    fn first_from(&self, block: u32) -> Option<u32> {
        let (high, low) = halves(block);
        let at = self.chunks.partition_point(|(before, _)| *before < high);
        self.chunks.get(at..)?.iter().take(2).find_map(|(found, chunk)| {
            let found_low = chunk.first_from(if *found == high { low } else { 0 })?;
            Some(u32::from(*found) << 16 | u32::from(found_low))
        })
    }

    fn place(&self, high: u16) -> Result<usize, usize> {
        match self.chunks.last() {
            Some((last, _)) if *last < high => Err(self.chunks.len()),
            _ => self.chunks.binary_search_by_key(&high, |(high, _)| *high),
        }
    }

    /// The chunks, ascending.
    pub(super) fn chunks(&self) -> &[(u16, Chunk)] {
        &self.chunks
    }

    /// The set of these chunks; `None` unless they ascend and none is empty.
    pub(super) fn of_chunks(chunks: Vec<(u16, Chunk)>) -> Option<Self> {
        let ascend = chunks.iter().zip(chunks.iter().skip(1)).all(|((one, _), (next, _))| one < next);
        (ascend && chunks.iter().all(|(_, chunk)| chunk.count() > 0)).then_some(Self { chunks })
    }
}

impl Extend<u32> for BlockSet {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, blocks: T) {
        for block in blocks {
            self.insert(block);
        }
    }
}

impl FromIterator<u32> for BlockSet {
    fn from_iter<T: IntoIterator<Item = u32>>(blocks: T) -> Self {
        let mut set = Self::default();
        set.extend(blocks);
        set
    }
}

impl Chunk {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.count,
        }
    }

    fn insert(&mut self, low: u16) -> bool {
        match self {
            Self::Many(many) => many.insert(low),
            Self::Few(few) => {
                let place = match few.last() {
                    Some(last) if *last < low => Err(few.len()),
                    _ => few.binary_search(&low),
                };
                let Err(at) = place else { return false };
                few.insert(at, low);
                self.settle();
                true
            }
        }
    }

    fn union(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Many(ours), Self::Many(theirs)) => ours.union(theirs),
            (Self::Many(ours), Self::Few(theirs)) => ours.extend(theirs),
            (Self::Few(ours), Self::Many(theirs)) => {
                let mut both = theirs.clone();
                both.extend(ours);
                *self = Self::Many(both);
            }
            (Self::Few(ours), Self::Few(theirs)) => {
                ours.extend_from_slice(theirs);
                ours.sort_unstable();
                ours.dedup();
                self.settle();
            }
        }
    }

    /// Makes a bitmap of a list that has become too long.
    fn settle(&mut self) {
        if let Self::Few(few) = self
            && few.len() > FEW_MAX
        {
            let mut many = Box::new(Bitmap { words: [0; WORDS], count: 0 });
            many.extend(few);
            *self = Self::Many(many);
        }
    }

    fn first_from(&self, low: u16) -> Option<u16> {
        match self {
            Self::Few(few) => few.get(few.partition_point(|before| *before < low)).copied(),
            Self::Many(many) => many.first_from(low),
        }
    }
}

impl Bitmap {
    /// `None` when a list would have to hold so few.
    pub(super) fn of_words(words: &[u64; WORDS]) -> Option<Box<Self>> {
        let count = count(words);
        (count > FEW_MAX).then(|| Box::new(Self { words: *words, count }))
    }

    pub(super) fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    fn insert(&mut self, low: u16) -> bool {
        let bit = 1 << (low % 64);
        let Some(word) = self.words.get_mut(usize::from(low / 64)) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    fn extend(&mut self, few: &[u16]) {
        for low in few {
            self.insert(*low);
        }
    }

    fn union(&mut self, other: &Self) {
        for (ours, theirs) in self.words.iter_mut().zip(&other.words) {
            *ours |= theirs;
        }
        self.count = count(&self.words);
    }

    fn first_from(&self, low: u16) -> Option<u16> {
        let first = low / 64;
        let mut mask = u64::MAX << (low % 64);
        for (at, word) in (first..).zip(self.words.get(usize::from(first)..)?) {
            let word = word & mask;
            if word != 0 {
                // Below 64.
                return Some(at * 64 + u16::try_from(word.trailing_zeros()).unwrap_or(0));
            }
            mask = u64::MAX;
        }
        None
    }
}

fn count(words: &[u64; WORDS]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// The upper and the lower half of a block's number.
fn halves(block: u32) -> (u16, u16) {
    let [a, b, c, d] = block.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Scattered blocks and stretches, of which some make a bitmap.
    fn blocks() -> impl Strategy<Value = BTreeSet<u32>> {
        let stretch = (0u32..200_000, 1u32..9000, 1u32..4);
        let stretches = prop::collection::vec(stretch, 0..4);
        let scattered = prop::collection::vec(prop_oneof![any::<u32>(), 0u32..200_000], 0..50);
        (stretches, scattered).prop_map(|(stretches, scattered)| {
            let stretches =
                stretches.into_iter().flat_map(|(from, length, step)| (0..length).map(move |n| from + n * step));
            stretches.chain(scattered).collect()
        })
    }

    fn set(blocks: &BTreeSet<u32>) -> BlockSet {
        blocks.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn it_holds_what_was_inserted_in_any_order(blocks in blocks(), from: u32, length in 0u32..300_000) {
            let ascending = set(&blocks);
            let descending: BlockSet = blocks.iter().rev().copied().collect();
            prop_assert_eq!(&ascending, &descending);
            prop_assert_eq!(ascending.count(), blocks.len() as u64);
            prop_assert_eq!(ascending.is_empty(), blocks.is_empty());
            prop_assert!(ascending.iter(..).eq(blocks.iter().copied()));
            for from in [from, from % 200_000] {
                let to = from.saturating_add(length);
                prop_assert!(ascending.iter(from..to).eq(blocks.range(from..to).copied()));
                prop_assert!(ascending.iter(from..=to).eq(blocks.range(from..=to).copied()));
                prop_assert_eq!(ascending.contains(from), blocks.contains(&from));
            }
            let mut again = ascending.clone();
            prop_assert!(blocks.iter().all(|block| !again.insert(*block)));
            prop_assert_eq!(again, ascending);
        }

        #[test]
        fn unions_commute_associate_and_repeat(a in blocks(), b in blocks(), c in blocks()) {
            let union = |one: &BlockSet, other: &BlockSet| { let mut both = one.clone(); both.union(other); both };
            let all: BTreeSet<u32> = a.iter().chain(&b).copied().collect();
            let (a, b, c) = (set(&a), set(&b), set(&c));
            prop_assert_eq!(&union(&a, &b), &set(&all));
            prop_assert_eq!(union(&a, &b), union(&b, &a));
            prop_assert_eq!(union(&union(&a, &b), &c), union(&a, &union(&b, &c)));
            prop_assert_eq!(union(&a, &a), a);
        }
    }

    #[test]
    fn the_first_and_the_last_number_are_numbers_like_others() {
        let set: BlockSet = [u32::MAX, 0, 65_535, 65_536].into_iter().collect();
        assert!(set.iter(..).eq([0, 65_535, 65_536, u32::MAX]));
        assert!(set.iter(..u32::MAX).eq([0, 65_535, 65_536]));
        assert!(set.contains(u32::MAX) && !set.contains(1));
        let whole: BlockSet = (0..65_536).collect();
        assert!(whole.iter(..).eq(0..65_536));
    }
}
