//! `INCREMENTAL.<file>`: some blocks of a relation's file, in the form that PostgreSQL 17 and later know (`sendFile`,
//! src/backend/backup/basebackup.c, 17) and pg_combinebackup reads. Pure.
//!
//! Four bytes each, in the machine's own order: a magic number, how many blocks there are, the length of the whole file in blocks, then the blocks'
//! numbers in the file, ascending. When there are blocks, zeros follow up to a multiple of the block size, then the blocks.

/// `INCREMENTAL_MAGIC`, src/include/backup/basebackup_incremental.h (17).
const MAGIC: u32 = 0xD3AE_1F0D;
/// Of magic number, count and length.
const FIXED_BYTES: u64 = 12;
const PREFIX: &str = "INCREMENTAL.";

/// The path of the incremental file for the file at `path`: beside it.
pub fn incremental_path(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((directory, name)) => format!("{directory}/{PREFIX}{name}"),
        None => format!("{PREFIX}{path}"),
    }
}

/// The length of what comes before the blocks, in bytes, of a file of `count` blocks of `block_bytes`.
pub fn incremental_header_bytes(count: u32, block_bytes: u32) -> u64 {
    let bytes = FIXED_BYTES + 4 * u64::from(count);
    if count == 0 { bytes } else { bytes.next_multiple_of(u64::from(block_bytes.max(1))) }
}

/// The length of a whole incremental file in bytes.
pub fn incremental_bytes(count: u32, block_bytes: u32) -> u64 {
    incremental_header_bytes(count, block_bytes) + u64::from(count) * u64::from(block_bytes)
}

/// What comes before the blocks `numbers`, ascending, of a file that has `length` blocks.
pub fn incremental_header(numbers: &[u32], length: u32, block_bytes: u32) -> Vec<u8> {
    let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    let bytes = usize::try_from(incremental_header_bytes(count, block_bytes)).unwrap_or(usize::MAX);
    let mut header = Vec::with_capacity(bytes);
    for number in [MAGIC, count, length].iter().chain(numbers) {
        header.extend_from_slice(&number.to_ne_bytes());
    }
    header.resize(bytes, 0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_blocks_it_is_twelve_bytes_long() {
        assert_eq!(incremental_header(&[], 7, 8192), [0x0D, 0x1F, 0xAE, 0xD3, 0, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(incremental_bytes(0, 8192), 12);
    }

    #[test]
    fn blocks_begin_at_a_multiple_of_their_size() {
        let header = incremental_header(&[1, 300], 301, 8192);
        assert_eq!(header.len(), 8192);
        assert_eq!(header[..20], [0x0D, 0x1F, 0xAE, 0xD3, 2, 0, 0, 0, 45, 1, 0, 0, 1, 0, 0, 0, 44, 1, 0, 0]);
        assert!(header[20..].iter().all(|byte| *byte == 0));
        let many: Vec<u32> = (0..2046).collect();
        assert_eq!(incremental_header(&many, 2046, 8192).len(), 16384);
        assert_eq!(incremental_header(&many[..2045], 2046, 8192).len(), 8192);
        assert_eq!(incremental_bytes(2046, 8192), 16384 + 2046 * 8192);
    }

    #[test]
    fn it_lies_beside_the_file_that_it_is_of() {
        assert_eq!(incremental_path("base/5/16384.1"), "base/5/INCREMENTAL.16384.1");
        assert_eq!(incremental_path("PG_VERSION"), "INCREMENTAL.PG_VERSION");
    }
}
