//! The checksum and the position in data pages (`pg_checksum_page`, src/include/storage/checksum_impl.h; `PageHeaderData`,
//! src/include/storage/bufpage.h; the same from 13 to 18).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 + 4 | upper and lower half of the position of the page's last change |
//! | 8 | 2 | checksum |
//! | 14 | 2 | end of free space; 0 in a page that was never used |

use super::bytes::{u16_at, u32_at};
use super::lsn::Lsn;

/// Parallel sums; part of the algorithm.
const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;
const CHECKSUM_OFFSET: usize = 8;

/// What each sum begins with (`checksumBaseOffsets`).
const BASE: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a data page's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// All zeros: allocated, never written. Valid.
    New,
    /// The checksum matches.
    Ok,
    /// It does not: the page is torn (read again), of another place, or damaged. A page whose header says "never used"
    /// but that holds bytes is one of these, as for the server (`PageIsVerified`).
    Mismatch {
        /// What the page's bytes give.
        computed: u16,
        /// What the page says.
        stored: u16,
    },
}

/// Checks one page, which lies at block `block` of its relation fork (counted over all its files).
///
/// `page` is a whole page: 1 to 32 KiB, a power of two. A shorter piece never is [`PageState::Ok`].
pub fn verify_page(page: &[u8], block: u32) -> PageState {
    let used = u16_at(page, 14).is_none_or(|upper| upper != 0);
    if !used && page.iter().all(|byte| *byte == 0) {
        return PageState::New;
    }
    let stored = u16_at(page, CHECKSUM_OFFSET).unwrap_or(0);
    let computed = page_checksum(page, block);
    // The checksum is never 0, so that a page too short to hold one cannot match.
    if stored == computed && used { PageState::Ok } else { PageState::Mismatch { computed, stored } }
}

/// The position of the page's last change, from its first eight bytes; `None` for a shorter piece.
pub fn page_lsn(page: &[u8]) -> Option<Lsn> {
    Some(Lsn(u64::from(u32_at(page, 0)?) << 32 | u64::from(u32_at(page, 4)?)))
}

/// The checksum of a page, never 0. The checksum that is stored in the page does not count.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut sums = BASE;
    let mut rows = rows.iter();
    if let Some(first) = rows.next() {
        let mut first = *first;
        if let Some(stored) = first.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2) {
            stored.fill(0);
        }
        mix_row(&mut sums, &first);
    }
    for row in rows {
        mix_row(&mut sums, row);
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(block, |all, sum| all ^ sum);
    // At most 65535 and one more than the remainder, so that it fits.
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

/// One row into the sums, each lane by itself: the shape that compilers turn into vector instructions.
#[inline]
fn mix_row(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = mix(*sum, u32::from_le_bytes(*word));
    }
}

#[inline]
fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Block 0 and 1 of a table of a real cluster with checksums.
    const PAGES: &[u8] = include_bytes!("../../../tests/fixtures/pg/15/relation");

    #[test]
    fn pages_of_a_real_cluster_match() {
        for (block, page) in (0u32..).zip(PAGES.chunks(8192)) {
            assert_eq!(verify_page(page, block), PageState::Ok);
            assert!(page_lsn(page).is_some_and(|lsn| lsn > Lsn(0x100_0000) && lsn < Lsn(0x1000_0000)));
        }
        assert_eq!(PAGES.len(), 16384);
    }

    #[test]
    fn a_flipped_bit_and_a_moved_page_are_noticed() {
        for at in [0, 8, 11, 24, 4000, 8191] {
            let mut page = PAGES[..8192].to_vec();
            page[at] ^= 0x10;
            assert!(matches!(verify_page(&page, 0), PageState::Mismatch { .. }), "{at}");
        }
        assert!(matches!(verify_page(&PAGES[..8192], 1), PageState::Mismatch { .. }));
        assert!(matches!(verify_page(&PAGES[..4096], 0), PageState::Mismatch { .. }));
    }

    #[test]
    fn zeros_are_a_new_page_and_anything_else_is_not() {
        let mut page = vec![0; 8192];
        assert_eq!(verify_page(&page, 7), PageState::New);
        page[5000] = 1;
        assert!(matches!(verify_page(&page, 7), PageState::Mismatch { .. }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000), block: u32) {
            let _ = verify_page(&bytes, block);
            let _ = page_lsn(&bytes);
        }
    }
}
