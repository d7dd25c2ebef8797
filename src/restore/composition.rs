//! Files that are put together from the blocks of several backups that build on each other. Pure.
//!
//! Of each block the newest version counts that any of them has. What a backup has of a file is a layer: the backup itself is layer 0, the one
//! that it builds on is layer 1. A block at or above the length that an older version of the file had is in that version's layer or in a newer one,
//! never in an older: there it may be of before a truncation.

use walward_pg::changes::BlockSet;
use walward_pg::incremental_header_bytes;

/// Bytes that lie together in a member of a pack and in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where they begin in the member.
    pub at: u64,
    /// Where they begin in the file.
    pub to: u64,
    /// How many they are.
    pub bytes: u64,
}

/// A file, and the layers that it is put together from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    /// Its number in the list of files.
    pub file: u32,
    /// Its length in blocks.
    length: u32,
    /// The first block that no older layer may have.
    open: u32,
    /// How many layers were looked at.
    seen: u32,
    /// Those that some blocks come from, the newest first.
    layers: Vec<(u32, Layer)>,
    is_complete: bool,
}

/// What a backup has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// All of it.
    Whole,
    /// These blocks.
    Blocks(BlockSet),
}

/// What becomes of a layer that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing is taken from it.
    None,
    /// Some blocks are.
    Some,
    /// It is the file.
    All,
}

impl Composition {
    /// Of a file of `length` blocks, of which the backup itself has `blocks`; and what is taken from there.
    pub fn new(file: u32, length: u32, blocks: BlockSet) -> (Self, Use) {
        let mut made = Self { file, length, open: length, seen: 1, layers: Vec::new(), is_complete: false };
        let is_used = !blocks.is_empty();
        if is_used {
            made.layers.push((0, Layer::Blocks(blocks)));
        }
        made.is_complete = made.missing() == 0;
        (made, if is_used { Use::Some } else { Use::None })
    }

    /// Whether no older layer is needed.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// How many layers were looked at.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Adds the next older layer: that of a file of `length` blocks.
    ///
    /// # Errors
    /// Blocks that were added since that layer are in none.
    pub fn add(&mut self, length: u32, layer: Layer) -> Result<Use, String> {
        let level = self.seen;
        self.seen += 1;
        let newer = self.newer(level);
        if length < self.open {
            let known = newer.iter(length..self.open).count();
            if known != usize::try_from(self.open - length).unwrap_or(usize::MAX) {
                return Err(format!("blocks from {length} on are in none of the backups that have them"));
            }
            self.open = length;
        }
        let used = match &layer {
            Layer::Whole if self.layers.is_empty() && length == self.length => Use::All,
            Layer::Whole => Use::Some,
            Layer::Blocks(blocks) if blocks.iter(..self.open).any(|block| !newer.contains(block)) => Use::Some,
            Layer::Blocks(_) => Use::None,
        };
        let is_last = layer == Layer::Whole;
        if used != Use::None {
            self.layers.push((level, layer));
        }
        self.is_complete = is_last || self.missing() == 0;
        Ok(used)
    }

    /// What of layer `level` goes where, in the order of its member: blocks of `block_bytes`.
    pub fn runs(&self, level: u32, block_bytes: u32) -> Vec<Run> {
        let Some((_, layer)) = self.layers.iter().find(|(of, _)| *of == level) else { return Vec::new() };
        let newer = self.newer(level);
        let bytes = u64::from(block_bytes);
        let mut runs: Vec<Run> = Vec::new();
        let mut take = |at: u64, block: u32, count: u32| {
            let (to, bytes) = (u64::from(block) * bytes, u64::from(count) * bytes);
            match runs.last_mut() {
                Some(last) if last.at + last.bytes == at && last.to + last.bytes == to => last.bytes += bytes,
                _ if bytes > 0 => runs.push(Run { at, to, bytes }),
                _ => {}
            }
        };
        match layer {
            Layer::Whole => {
                let mut next = 0;
                for block in newer.iter(..self.open).chain([self.open]) {
                    take(u64::from(next) * bytes, next, block - next);
                    next = block.saturating_add(1);
                }
            }
            Layer::Blocks(blocks) => {
                let count = u32::try_from(blocks.count()).unwrap_or(u32::MAX);
                let mut at = incremental_header_bytes(count, block_bytes);
                for block in blocks.iter(..) {
                    // Of this layer itself all blocks below the file's length count that no newer one has.
                    if block < self.length && !newer.contains(block) {
                        take(at, block, 1);
                    }
                    at += bytes;
                }
            }
        }
        runs
    }

    /// The blocks that layers newer than `level` have.
    fn newer(&self, level: u32) -> BlockSet {
        let mut newer = BlockSet::default();
        for (_, layer) in self.layers.iter().take_while(|(of, _)| *of < level) {
            if let Layer::Blocks(blocks) = layer {
                newer.union(blocks);
            }
        }
        newer
    }

    /// How many blocks no layer has yet.
    fn missing(&self) -> u32 {
        let known = self.newer(u32::MAX).iter(..self.open).count();
        self.open - u32::try_from(known).unwrap_or(u32::MAX).min(self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u32 = 8192;

    fn set(blocks: &[u32]) -> BlockSet {
        blocks.iter().copied().collect()
    }

    fn run(at: u64, to: u64, blocks: u64) -> Run {
        let bytes = u64::from(BLOCK);
        Run { at: at * bytes, to: to * bytes, bytes: blocks * bytes }
    }

    #[test]
    fn a_file_that_did_not_change_is_that_of_the_older_backup() {
        let (mut file, used) = Composition::new(7, 10, set(&[]));
        assert_eq!((used, file.is_complete()), (Use::None, false));
        assert_eq!(file.add(10, Layer::Blocks(set(&[]))), Ok(Use::None));
        assert_eq!(file.add(10, Layer::Whole), Ok(Use::All));
        assert!(file.is_complete());
        // One that was cut is not.
        let (mut file, _) = Composition::new(7, 10, set(&[]));
        assert_eq!(file.add(12, Layer::Whole), Ok(Use::Some));
        assert_eq!(file.runs(1, BLOCK), [run(0, 0, 10)]);
        let (file, used) = Composition::new(7, 0, set(&[]));
        assert_eq!((used, file.is_complete()), (Use::None, true));
    }

    #[test]
    fn each_block_comes_from_the_newest_layer_that_has_it() {
        let (mut file, used) = Composition::new(7, 10, set(&[2, 3]));
        assert_eq!(used, Use::Some);
        assert_eq!(file.add(10, Layer::Blocks(set(&[3]))), Ok(Use::None), "all of it is newer elsewhere");
        assert_eq!(file.add(10, Layer::Blocks(set(&[1, 2, 9]))), Ok(Use::Some));
        assert_eq!(file.add(10, Layer::Whole), Ok(Use::Some));
        assert_eq!(file.runs(0, BLOCK), [run(1, 2, 2)]);
        assert_eq!(file.runs(1, BLOCK), []);
        assert_eq!(file.runs(2, BLOCK), [run(1, 1, 1), run(3, 9, 1)]);
        assert_eq!(file.runs(3, BLOCK), [run(0, 0, 1), run(4, 4, 5)]);
    }

    #[test]
    fn what_lies_above_an_older_versions_length_does_not_come_from_older_ones() {
        // Full: 20 blocks. Then cut to 5, then grown to 10.
        let (mut file, _) = Composition::new(7, 10, set(&[5, 6, 7, 8, 9]));
        assert_eq!(file.add(5, Layer::Blocks(set(&[]))), Ok(Use::None));
        assert_eq!(file.add(20, Layer::Whole), Ok(Use::Some));
        assert_eq!(file.runs(2, BLOCK), [run(0, 0, 5)]);
        let (mut file, _) = Composition::new(7, 10, set(&[5, 6, 8, 9]));
        assert!(file.add(5, Layer::Blocks(set(&[]))).is_err(), "block 7 is nowhere");
    }

    #[test]
    fn nothing_older_is_asked_for_when_newer_layers_have_all() {
        let (mut file, _) = Composition::new(7, 3, set(&[0, 2]));
        assert_eq!(file.add(3, Layer::Blocks(set(&[1]))), Ok(Use::Some));
        assert!(file.is_complete());
    }

    /// A history of one file: for each backup, oldest first, its length and the value of each block.
    #[derive(Debug, Clone)]
    struct Step {
        length: u32,
        changed: Vec<u32>,
    }

    proptest! {
        #[test]
        fn the_runs_of_all_layers_make_the_file_of_the_last_backup(
            first in 0u32..30,
            steps in prop::collection::vec(
                (0u32..30, prop::collection::vec(0u32..30, 0..6))
                    .prop_map(|(length, changed)| Step { length, changed }), 0..6),
        ) {
            // The file as each backup saw it, each block's value being the backup that wrote it last, and the member that it stored.
            let mut file: Vec<u32> = vec![0; first as usize];
            let mut stored: Vec<(Vec<u32>, Option<BlockSet>)> = vec![(file.clone(), None)];
            for (at, step) in steps.iter().enumerate() {
                let number = u32::try_from(at).expect("few") + 1;
                let before = u32::try_from(file.len()).expect("few");
                file.resize(step.length as usize, number);
                let mut blocks: Vec<u32> = (before.min(step.length)..step.length).collect();
                for block in step.changed.iter().filter(|block| **block < step.length) {
                    file[*block as usize] = number;
                    blocks.push(*block);
                }
                stored.push((file.clone(), Some(set(&blocks))));
            }
            let mut members: Vec<_> = stored.into_iter().rev().collect();
            let (content, blocks) = members.remove(0);
            let length = u32::try_from(content.len()).expect("few");
            let Some(blocks) = blocks else { return Ok(()) };
            let mut layers = vec![(content.clone(), Some(blocks.clone()))];
            let (mut made, _) = Composition::new(1, length, blocks);
            let mut whole = None;
            for (older, blocks) in members {
                if made.is_complete() {
                    break;
                }
                let length = u32::try_from(older.len()).expect("few");
                let layer = blocks.clone().map_or(Layer::Whole, Layer::Blocks);
                if made.add(length, layer).expect("sound") == Use::All {
                    whole = Some(older.clone());
                }
                layers.push((older, blocks));
            }
            prop_assert!(made.is_complete());
            if let Some(whole) = whole {
                prop_assert_eq!(whole, content);
                return Ok(());
            }
            let mut got: Vec<Option<u32>> = vec![None; length as usize];
            for (level, (older, blocks)) in layers.iter().enumerate() {
                let held: Vec<u32> = match blocks {
                    None => older.clone(),
                    Some(blocks) => blocks.iter(..).map(|block| older[block as usize]).collect(),
                };
                let header = blocks.as_ref().map_or(0, |blocks| {
                    incremental_header_bytes(u32::try_from(blocks.count()).expect("few"), BLOCK)
                });
                let mut end = 0;
                for run in made.runs(u32::try_from(level).expect("few"), BLOCK) {
                    prop_assert!(run.at >= end, "in the member's order");
                    end = run.at + run.bytes;
                    for at in 0..run.bytes / u64::from(BLOCK) {
                        let from = usize::try_from((run.at - header) / u64::from(BLOCK) + at).expect("few");
                        let to = usize::try_from(run.to / u64::from(BLOCK) + at).expect("few");
                        prop_assert!(got[to].is_none(), "each block is written once");
                        got[to] = Some(held[from]);
                    }
                }
            }
            prop_assert_eq!(got, content.into_iter().map(Some).collect::<Vec<_>>());
        }
    }
}
