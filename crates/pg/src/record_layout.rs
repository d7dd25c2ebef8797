//! Of the layout of a record what several readers need (src/include/access/xlogrecord.h, src/include/access/rmgrlist.h).

/// `SizeOfXLogRecord`.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
/// How much of a record is ever kept: its header, what may stand between it and the main data of a record without blocks (an origin (3), a
/// top-level transaction (5), the long form of the data header (5)), and a restore point (a time and 64 bytes of name).
pub(crate) const HEAD_BYTES: usize = RECORD_HEADER_BYTES + 13 + 72;
/// The last resource manager of 13 to 18, and the first that an extension may have (15 and later).
pub(crate) const RM_BUILT_IN_MAX: u8 = 21;
pub(crate) const RM_CUSTOM_MIN: u8 = 128;
/// Block ids that are not blocks, src/include/access/xlogrecord.h.
pub(crate) const ID_DATA_SHORT: u8 = 255;
pub(crate) const ID_DATA_LONG: u8 = 254;
pub(crate) const ID_ORIGIN: u8 = 253;
pub(crate) const ID_TOPLEVEL_XID: u8 = 252;
