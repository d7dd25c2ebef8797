//! Checksums of files that are put together: of each run as it is written, joined as runs meet, so that no file is read again for PostgreSQL's list of
//! the files.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use walward_base::Locked;

/// How many runs are remembered, some 50 bytes each. Files that more are written of are listed without a checksum.
const RUNS_MAX: usize = 1 << 20;

/// The checksums of what was written so far.
#[derive(Debug, Default)]
pub struct Sums(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    files: HashMap<u32, Runs>,
    runs: usize,
}

/// Of one file: runs by their first byte, no two of which touch.
#[derive(Debug, Default)]
struct Runs {
    by_start: BTreeMap<u64, (u64, u32)>,
    is_given_up: bool,
}

impl Sums {
    /// `bytes` of file `file` from `start` on have this CRC-32C, and are what the file holds there.
    pub fn add(&self, file: u32, (start, bytes): (u64, u64), crc32c: u32) {
        let mut known = self.0.locked();
        let Known { files, runs } = &mut *known;
        let of = files.entry(file).or_default();
        if of.is_given_up {
            return;
        }
        let before = of.by_start.len();
        of.add((start, bytes), crc32c);
        *runs = *runs + of.by_start.len() - before.min(*runs);
        if *runs > RUNS_MAX {
            *runs -= of.by_start.len();
            *of = Runs { by_start: BTreeMap::new(), is_given_up: true };
        }
    }

    /// The checksum of file `file`, which has `bytes`, when all of it is known.
    pub fn of(&self, file: u32, bytes: u64) -> Option<u32> {
        if bytes == 0 {
            return Some(0);
        }
        let known = self.0.locked();
        let (length, crc32c) = known.files.get(&file)?.by_start.get(&0)?;
        (*length == bytes).then_some(*crc32c)
    }
}

impl Runs {
    fn add(&mut self, (mut start, mut bytes): (u64, u64), mut crc32c: u32) {
        if let Some((before, (length, of))) = self.by_start.range(..=start).next_back() {
            let (before, length, of) = (*before, *length, *of);
            if before + length > start {
                // Written again, from another repository.
                return;
            }
            if before + length == start {
                crc32c = combine(of, crc32c, bytes);
                (start, bytes) = (before, length + bytes);
            }
        }
        let end = start + bytes;
        if let Some((length, of)) = self.by_start.remove(&end) {
            crc32c = combine(crc32c, of, length);
            bytes += length;
        }
        self.by_start.insert(start, (bytes, crc32c));
    }
}

fn combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    crc32c::crc32c_combine(first, second, usize::try_from(second_bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_in_any_order_have_the_checksum_of_the_whole(
            content in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            order in any::<u64>(),
            again in any::<prop::sample::Index>(),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len())).chain([0, content.len()]).collect();
            ends.sort_unstable();
            ends.dedup();
            let mut runs: Vec<(usize, usize)> = ends.windows(2).map(|pair| (pair[0], pair[1])).collect();
            runs.sort_by_key(|(start, _)| (*start as u64 + 1).wrapping_mul(order | 1));
            let sums = Sums::default();
            for at in 0..runs.len() {
                let (start, end) = runs[at];
                prop_assert_eq!(sums.of(7, content.len() as u64), None);
                let add = |(start, end): (usize, usize)| {
                    sums.add(7, (start as u64, (end - start) as u64), crc32c::crc32c(&content[start..end]));
                };
                add((start, end));
                add(runs[again.index(at + 1)]);
            }
            prop_assert_eq!(sums.of(7, content.len() as u64), Some(crc32c::crc32c(&content)));
            prop_assert_eq!(sums.of(8, content.len() as u64), None);
            prop_assert_eq!(sums.0.locked().runs, 1);
        }
    }

    #[test]
    fn what_is_in_too_many_pieces_is_given_up() {
        let sums = Sums::default();
        sums.add(1, (0, 5), 77);
        for at in 0..=RUNS_MAX as u64 {
            sums.add(2, (2 * at, 1), 0);
        }
        assert_eq!((sums.of(1, 5), sums.of(2, 1)), (Some(77), None));
        assert_eq!(sums.0.locked().runs, 1);
    }
}
