//! PostgreSQL's files and sessions, versions 13 to 18. Parsing is pure; only [`session`] talks to a server.

mod lineage;
mod lsn;
pub mod session;
mod wal_name;

pub use lineage::{Lineage, LineageError};
pub use lsn::{Lsn, LsnError, SegmentSize, SegmentSizeError, Timeline};
pub use wal_name::{SegmentName, WalFileName, WalNameError};
