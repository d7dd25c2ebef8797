//! The headers of WAL pages (`XLogPageHeaderData`, src/include/access/xlog_internal.h; the same layout from 13 to 18).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | magic: one value for each major version |
//! | 2 | 2 | flags |
//! | 4 | 4 | timeline of the first record that begins on the page |
//! | 8 | 8 | WAL position of the page |
//! | 16 | 4 | bytes of a record that began on an earlier page and go on here, with those of later pages |
//! | 24 | 8 | system identifier (first page of a segment only, as all below) |
//! | 32 | 4 | segment size |
//! | 36 | 4 | WAL page size |

use super::bytes::{u16_at, u32_at, u64_at};
use super::lsn::{Lsn, SegmentSize, Timeline};
use super::wal_name::SegmentName;

/// Length of the header of every page but a segment's first, bytes.
pub const SHORT_HEADER_BYTES: usize = 24;
/// Length of the header of a segment's first page, bytes.
pub const LONG_HEADER_BYTES: usize = 40;

pub(super) const FIRST_IS_CONTINUATION: u16 = 0x0001;
pub(super) const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// `XLOG_PAGE_MAGIC` of every supported major version.
const MAGICS: [(u16, u16); 6] = [(13, 0xD106), (14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// The major version whose WAL pages begin with `magic`, or `None` for none that is supported.
pub fn major_of_magic(magic: u16) -> Option<u16> {
    MAGICS.iter().find(|(_, known)| *known == magic).map(|(major, _)| *major)
}

/// The magic number of WAL pages of `major`, or `None` when that version is not supported.
pub fn magic_of_major(major: u16) -> Option<u16> {
    MAGICS.iter().find(|(known, _)| *known == major).map(|(_, magic)| *magic)
}

/// The header that every WAL page begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Which major version wrote it, see [`major_of_magic`].
    pub magic: u16,
    /// Flag bits.
    pub info: u16,
    /// The timeline that was written when the page was begun. On the segment of a switch it may be older than the
    /// timeline in the segment's name.
    pub timeline: Timeline,
    /// Where the page belongs in the WAL.
    pub address: Lsn,
    /// How many bytes of a record that began earlier are still to come, on this page and later ones.
    pub remaining: u32,
}

/// The header of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongPageHeader {
    /// What every page has.
    pub page: PageHeader,
    /// The major version that wrote the segment.
    pub major: u16,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Bytes of a WAL page: a power of two from 1 KiB to 64 KiB, nearly always 8 KiB.
    pub page_bytes: u32,
}

/// Why bytes are not the header of a WAL page, or not of the segment that they should begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The file ends within the header.
    #[error("the file ends within its first page header ({0} bytes)")]
    TooShort(usize),
    /// The file begins with zeros: PostgreSQL has allocated it but never written it.
    #[error("the file begins with zeros: the segment was never written")]
    Zeros,
    /// No supported version writes this magic number.
    #[error("page magic {0:#06X} is of no PostgreSQL version from 13 to 18 (is this a WAL segment?)")]
    Magic(u16),
    /// The flags do not fit the first page of a segment, or hold unknown bits.
    #[error("page flags {0:#06X} are not those of a segment's first page")]
    Flags(u16),
    /// A number that no cluster can have.
    #[error("the page header says {what} {value}, which is impossible")]
    Impossible {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// The page is of another place in the WAL than the file's name says.
    #[error("the segment is named {name} but its first page is of position {address} (a renamed or recycled file?)")]
    Address {
        /// The name of the file.
        name: SegmentName,
        /// What the page says.
        address: Lsn,
    },
    /// The page is of a timeline that began after the one in the name.
    #[error("the segment is named {name} but its first page is of timeline {timeline}")]
    Timeline {
        /// The name of the file.
        name: SegmentName,
        /// What the page says.
        timeline: Timeline,
    },
    /// The file's length is not the segment size of its header.
    #[error("the file has {found} bytes but its header says that segments have {expected}")]
    Length {
        /// The segment size in the header.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
}

impl PageHeader {
    /// Reads the 24 bytes that every page begins with. `None` when `bytes` is shorter. Nothing is checked.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            magic: u16_at(bytes, 0)?,
            info: u16_at(bytes, 2)?,
            timeline: Timeline(u32_at(bytes, 4)?),
            address: Lsn(u64_at(bytes, 8)?),
            remaining: u32_at(bytes, 16)?,
        })
        .filter(|_| bytes.len() >= SHORT_HEADER_BYTES)
    }

    /// Whether the page goes on with a record that began on an earlier page.
    pub fn is_continuation(&self) -> bool {
        self.info & FIRST_IS_CONTINUATION != 0
    }

    /// Whether recovery went on at this page after a record that a crash left unfinished (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    pub fn is_overwrite(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE != 0
    }

    /// Whether the header is the long one of a segment's first page.
    pub fn is_long(&self) -> bool {
        self.info & LONG_HEADER != 0
    }

    /// Whether all flag bits are known ones.
    pub fn flags_are_known(&self) -> bool {
        self.info & !ALL_FLAGS == 0
    }
}

/// Reads the header of the first page of a segment; `bytes` is the beginning of the file, 40 bytes or more.
///
/// # Errors
/// When the bytes are not the beginning of a WAL segment of PostgreSQL 13 to 18.
pub fn read_long_header(bytes: &[u8]) -> Result<LongPageHeader, PageError> {
    let short = || PageError::TooShort(bytes.len());
    let head = bytes.get(..LONG_HEADER_BYTES).ok_or_else(short)?;
    if head.iter().all(|byte| *byte == 0) {
        return Err(PageError::Zeros);
    }
    let page = PageHeader::read(head).ok_or_else(short)?;
    let major = major_of_magic(page.magic).ok_or(PageError::Magic(page.magic))?;
    if !page.is_long() || !page.flags_are_known() {
        return Err(PageError::Flags(page.info));
    }
    if page.timeline.0 == 0 {
        return Err(PageError::Impossible { what: "timeline", value: 0 });
    }
    let size = u64::from(u32_at(head, 32).ok_or_else(short)?);
    let segment_size =
        SegmentSize::try_from(size).map_err(|_| PageError::Impossible { what: "segment size", value: size })?;
    if page.address.offset_in_segment(segment_size) != 0 {
        return Err(PageError::Impossible { what: "page address", value: page.address.0 });
    }
    let page_bytes = u32_at(head, 36).ok_or_else(short)?;
    if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_bytes) {
        return Err(PageError::Impossible { what: "WAL page size", value: u64::from(page_bytes) });
    }
    let system_identifier = u64_at(head, 24).ok_or_else(short)?;
    Ok(LongPageHeader { page, major, system_identifier, segment_size, page_bytes })
}

impl LongPageHeader {
    /// The lineage that wrote the segment.
    pub fn lineage(&self) -> super::Lineage {
        super::Lineage { major: self.major, system_identifier: self.system_identifier }
    }

    /// Checks that this header begins the segment called `name`.
    ///
    /// The page's timeline may be older than the name's: after a promotion the segment of the switch is copied under
    /// the new timeline's name (`XLogInitNewTimeline`, src/backend/access/transam/xlog.c).
    ///
    /// # Errors
    /// [`PageError::Address`] or [`PageError::Timeline`] when it begins another one.
    pub fn check_name(&self, name: SegmentName) -> Result<(), PageError> {
        if name.start(self.segment_size) != Some(self.page.address) {
            return Err(PageError::Address { name, address: self.page.address });
        }
        if self.page.timeline > name.timeline {
            return Err(PageError::Timeline { name, timeline: self.page.timeline });
        }
        Ok(())
    }

    /// Checks that a whole segment file of this header has `found` bytes.
    ///
    /// # Errors
    /// [`PageError::Length`] when it is shorter or longer.
    pub fn check_length(&self, found: u64) -> Result<(), PageError> {
        let expected = self.segment_size.bytes();
        if found == expected { Ok(()) } else { Err(PageError::Length { expected, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A segment's first page header as PostgreSQL `major` writes it.
    fn header(major: u16, timeline: u32, address: u64, size: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(magic_of_major(major).expect("supported").to_le_bytes());
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7u64.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes
    }

    #[test]
    fn first_pages_of_real_segments_are_read() {
        let fixtures: [(u16, &[u8]); 4] = [
            (13, include_bytes!("../../../tests/fixtures/pg/13/000000010000000000000006.head")),
            (15, include_bytes!("../../../tests/fixtures/pg/15/000000010000000000000006.head")),
            (17, include_bytes!("../../../tests/fixtures/pg/17/000000010000000000000006.head")),
            (18, include_bytes!("../../../tests/fixtures/pg/18/000000010000000000000006.head")),
        ];
        for (major, bytes) in fixtures {
            let header = read_long_header(bytes).expect("a header");
            assert_eq!(header.major, major);
            assert_eq!(header.page.timeline, Timeline(1));
            assert_eq!(header.segment_size, SegmentSize::DEFAULT);
            assert_eq!(header.page_bytes, 8192);
            assert_eq!(header.check_name("000000010000000000000006".parse().expect("a name")), Ok(()));
            assert_eq!(header.check_name("000000020000000000000006".parse().expect("a name")), Ok(()));
            assert!(header.check_name("000000010000000000000003".parse().expect("a name")).is_err());
        }
    }

    #[test]
    fn a_page_of_a_later_timeline_than_the_name_is_refused() {
        let header = read_long_header(&header(16, 3, 16 << 20, 16 << 20)).expect("a header");
        let name = "000000020000000000000001".parse().expect("a name");
        assert_eq!(header.check_name(name), Err(PageError::Timeline { name, timeline: Timeline(3) }));
    }

    #[test]
    fn every_segment_size_is_accepted_and_others_are_refused() {
        for shift in 20..=30 {
            assert!(read_long_header(&header(14, 1, 1 << shift, 1 << shift)).is_ok());
        }
        assert!(read_long_header(&header(14, 1, 0, 3 << 20)).is_err());
        assert!(read_long_header(&header(14, 1, 1 << 19, 1 << 20)).is_err());
    }

    #[test]
    fn zeros_unknown_magics_and_short_files_are_told_apart() {
        assert_eq!(read_long_header(&[0; 8192]), Err(PageError::Zeros));
        assert_eq!(read_long_header(&[0; 39]), Err(PageError::TooShort(39)));
        let mut bytes = header(18, 1, 0, 1 << 20);
        bytes[0] = 0xFF;
        assert_eq!(read_long_header(&bytes), Err(PageError::Magic(0xD1FF)));
        let mut bytes = header(18, 1, 0, 1 << 20);
        bytes[2] = 0;
        assert_eq!(read_long_header(&bytes), Err(PageError::Flags(0)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, flip in 0usize..40, with: u8) {
            let _ = read_long_header(&bytes);
            let mut almost = header(15, 1, 1 << 24, 1 << 24);
            almost[flip] ^= with;
            let _ = read_long_header(&almost);
        }
    }
}
