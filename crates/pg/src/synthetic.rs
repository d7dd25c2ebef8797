//! WAL that no server wrote, for tests: pages and records are right as far as [`Walk`](crate::Walk) reads them. Checksums of records are not.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that asks for what cannot be has to fail")]

use super::lineage::Lineage;
use super::lsn::SegmentSize;
use super::page::{FIRST_IS_CONTINUATION, LONG_HEADER, LONG_HEADER_BYTES, SHORT_HEADER_BYTES, magic_of_major};
use super::wal_name::SegmentName;

/// `XLOG_BLCKSZ` of every package of PostgreSQL.
const PAGE_BYTES: usize = 8192;
/// `XLOG_NOOP`, src/include/catalog/pg_control.h.
const NOOP: u8 = 0x20;

/// The header of the first page of segment `name`, which begins with a record.
///
/// # Panics
/// When the lineage's version is not supported, or the segment lies beyond the end of all WAL.
pub fn first_page_header(name: SegmentName, size: SegmentSize, lineage: Lineage) -> [u8; LONG_HEADER_BYTES] {
    let mut header = [0; LONG_HEADER_BYTES];
    header[..SHORT_HEADER_BYTES].copy_from_slice(&page_header(name, size, lineage, 0, (LONG_HEADER, 0)));
    header[24..32].copy_from_slice(&lineage.system_identifier.to_le_bytes());
    header[32..36].copy_from_slice(&u32::try_from(size.bytes()).expect("at most a gigabyte").to_le_bytes());
    header[36..].copy_from_slice(&8192u32.to_le_bytes());
    header
}

/// A segment that is one record from its first page's header to its end. Of `content`, which is as long as the segment, everything is kept that is
/// in no header of a page and not in that of the record, bytes 40 to 63.
///
/// # Panics
/// As [`first_page_header`], and when the content has another length.
pub fn segment(name: SegmentName, size: SegmentSize, lineage: Lineage, mut content: Vec<u8>) -> Vec<u8> {
    assert_eq!(content.len() as u64, size.bytes(), "as long as the segment");
    let mut left = 0u32;
    for (number, page) in content.chunks_mut(PAGE_BYTES).enumerate().rev() {
        if number > 0 {
            left += u32::try_from(PAGE_BYTES - SHORT_HEADER_BYTES).expect("less than a page");
            let header = page_header(name, size, lineage, number * PAGE_BYTES, (FIRST_IS_CONTINUATION, left));
            page[..SHORT_HEADER_BYTES].copy_from_slice(&header);
        } else {
            left += u32::try_from(PAGE_BYTES - LONG_HEADER_BYTES).expect("less than a page");
            page[..LONG_HEADER_BYTES].copy_from_slice(&first_page_header(name, size, lineage));
        }
    }
    let mut record = [0; 24];
    record[..4].copy_from_slice(&left.to_le_bytes());
    record[16] = NOOP;
    content[LONG_HEADER_BYTES..LONG_HEADER_BYTES + record.len()].copy_from_slice(&record);
    content
}

fn page_header(
    name: SegmentName,
    size: SegmentSize,
    lineage: Lineage,
    offset: usize,
    (info, remaining): (u16, u32),
) -> [u8; SHORT_HEADER_BYTES] {
    let mut header = [0; SHORT_HEADER_BYTES];
    let start = name.start(size).expect("within the WAL");
    header[..2].copy_from_slice(&magic_of_major(lineage.major).expect("a supported version").to_le_bytes());
    header[2..4].copy_from_slice(&info.to_le_bytes());
    header[4..8].copy_from_slice(&name.timeline.0.to_le_bytes());
    header[8..16].copy_from_slice(&(start.0 + offset as u64).to_le_bytes());
    header[16..20].copy_from_slice(&remaining.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Walk;

    #[test]
    fn the_records_of_a_segment_reach_its_end() {
        let lineage = Lineage { major: 15, system_identifier: 7 };
        for bytes in [1 << 20, 16 << 20] {
            let size = SegmentSize::try_from(bytes).expect("a size");
            let name = "000000030000000000000005".parse().expect("a name");
            let content = segment(name, size, lineage, vec![9; usize::try_from(bytes).expect("small")]);
            let mut walk = Walk::new(name, size, ());
            walk.feed(&content);
            let (walked, ()) = walk.finish();
            assert_eq!(walked.unknown, None);
            assert_eq!(walked.first.map(|(at, _)| at.0), Some(5 * bytes + 40));
        }
    }
}
