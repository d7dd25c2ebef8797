//! PostgreSQL's files and sessions, versions 13 to 18. Parsing is pure; only [`session`] talks to a server, and only
//! [`ControlFile::read`] touches a disk. Nothing here writes, so that a crash leaves nothing behind.
//!
//! | file | what it knows |
//! |---|---|
//! | `lsn` | positions, timelines, segment sizes |
//! | `wal_name` | names of segments, partial segments, history files |
//! | `lineage` | what WAL and backups belong to: major version and system identifier |
//! | `page` | headers of WAL pages; is this file the segment that its name says? |
//! | `record` | times of transactions and restore points in a segment, while it streams past |
//! | `history` | timeline history files |
//! | `control` | `pg_control` and `PG_VERSION` |

mod bytes;
mod control;
mod history;
mod lineage;
mod lsn;
mod page;
mod record;
pub mod session;
mod wal_name;

pub use control::{ClusterState, ControlError, ControlFile, read_major};
pub use history::{HistoryError, TimelineHistory};
pub use lineage::{Lineage, LineageError};
pub use lsn::{Lsn, LsnError, SegmentSize, SegmentSizeError, Timeline};
pub use page::{
    LONG_HEADER_BYTES, LongPageHeader, PageError, PageHeader, SHORT_HEADER_BYTES, magic_of_major, major_of_magic,
    read_long_header,
};
pub use record::{CommitTimes, RestorePoint};
pub use wal_name::{SegmentName, WalFileName, WalNameError};
