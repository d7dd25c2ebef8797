//! Which file goes into which pack. Pure.
//!
//! Small files travel together, because an object costs a round trip and a seek table; a file larger than a pack travels
//! alone, so that packs can be uploaded and restored side by side. Order is kept, so that neighbours stay neighbours.

/// Files by their number in the list that was planned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackPlan {
    /// Numbers of the files, ascending.
    pub files: Vec<u32>,
    /// Length of their tar members in all, as the sizes were when the plan was made.
    pub bytes: u64,
}

/// Divides files, given by the length of their tar members, into packs of about `pack_bytes`.
///
/// Every file is in exactly one pack, no pack is empty, and only a pack of one file is longer than `pack_bytes`.
pub fn packs(members: impl Iterator<Item = (u32, u64)>, pack_bytes: u64) -> Vec<PackPlan> {
    let mut packs = Vec::new();
    let mut open = PackPlan::default();
    for (number, bytes) in members {
        if bytes >= pack_bytes {
            packs.push(PackPlan { files: vec![number], bytes });
            continue;
        }
        if open.bytes.saturating_add(bytes) > pack_bytes {
            packs.push(std::mem::take(&mut open));
        }
        open.files.push(number);
        open.bytes += bytes;
    }
    if !open.files.is_empty() {
        packs.push(open);
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_file_is_in_exactly_one_pack(
            sizes in proptest::collection::vec(0u64..5_000, 0..300),
            pack_bytes in 1u64..4_000,
        ) {
            let members = || (0u32..).zip(sizes.iter().copied());
            let plan = packs(members(), pack_bytes);
            let mut seen: Vec<u32> = plan.iter().flat_map(|pack| pack.files.iter().copied()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, members().map(|(number, _)| number).collect::<Vec<_>>());
            for pack in &plan {
                prop_assert!(!pack.files.is_empty());
                prop_assert!(pack.files.is_sorted());
                prop_assert!(pack.bytes <= pack_bytes || pack.files.len() == 1);
                prop_assert_eq!(pack.bytes, pack.files.iter().map(|&n| sizes[n as usize]).sum::<u64>());
            }
        }

        #[test]
        fn packs_are_filled(sizes in proptest::collection::vec(0u64..100, 1..300)) {
            // Two packs in a row that would have fitted into one would be waste.
            let plan = packs((0u32..).zip(sizes.iter().copied()), 1_000);
            for pair in plan.windows(2) {
                prop_assert!(pair[0].bytes + pair[1].bytes > 1_000);
            }
        }
    }
}
