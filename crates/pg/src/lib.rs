//! PostgreSQL's files and sessions, versions 13 to 18. Parsing is pure; only [`session`] talks to a server, and only
//! [`ControlFile::read`], [`ServerLife::read`], [`list_ready`] and [`ClusterFolders`] touch a disk. Nothing here writes, so that a crash leaves
//! nothing behind.
//!
//! | file | what it knows |
//! |---|---|
//! | `lsn` | positions, timelines, segment sizes |
//! | `wal_name` | names of segments, partial segments, history files |
//! | `lineage` | what WAL and backups belong to: major version and system identifier |
//! | `page` | headers of WAL pages; is this file the segment that its name says? |
//! | `record_layout` | the numbers of a record's layout |
//! | `observer` | what looks on while the records of a segment go by |
//! | `walk` | the records of a segment, while it streams past, for who looks on; where and why it is not known any more |
//! | `record`, `commit_index` | what records say of time: ends of transactions, restore points; the index of them |
//! | [`changes`] | what records change: blocks, lengths, databases; for incremental backups |
//! | `history` | timeline history files |
//! | `archive_status` | what waits to be archived |
//! | `archiving` | who archives: Walward, another tool, both |
//! | `control` | `pg_control` and `PG_VERSION` |
//! | `postmaster` | `postmaster.pid`: one life of a server |
//! | `folders` | the data directory and its tablespaces, held open |
//! | `relation_file`, `page_checksum` | which files hold data pages, and whether a page is sound |
//! | `exclude` | what a base backup leaves out |
//! | `backup_label` | `backup_label` and backup history files |
//! | `backup_manifest` | writes PostgreSQL's `backup_manifest` |
//! | `incremental_file` | PostgreSQL's file of some blocks of a relation's file |
//! | [`session`] | the SQL session: facts, backup start and stop, grants, what an administrator may do |
//! | `settings` | `postgresql.auto.conf` and its kind, as text |
//! | `synthetic` | WAL that no server wrote, for tests |

pub mod archive_command;
pub mod archive_status;
pub mod archiving;
mod backup_label;
mod backup_manifest;
mod bytes;
mod capacity;
pub mod changes;
mod commit_index;
mod control;
mod exclude;
mod folders;
mod history;
mod incremental_file;
mod lineage;
mod lsn;
mod observer;
mod page;
mod page_checksum;
mod postmaster;
mod record;
mod record_layout;
mod relation_file;
pub mod session;
pub mod settings;
pub mod shell;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod wal_name;
mod walk;

pub use archive_status::list_ready;
pub use backup_label::{BackupHistoryFile, BackupLabelError, BackupLabelFile};
pub use backup_manifest::{ManifestWriter, WalRange};
pub use capacity::Capacity;
pub use commit_index::{COMMITS_MAX, CommitIndex, Commits};
pub use control::{ClusterState, ControlError, ControlFile, read_major};
pub use exclude::{Inclusion, UnloggedRelations, inclusion, is_database_directory};
pub use folders::{ClusterFolders, NearbyFolders, place_inside};
pub use history::{HistoryError, TimelineHistory, segment_before};
pub use incremental_file::{incremental_bytes, incremental_header, incremental_header_bytes, incremental_path};
pub use lineage::{Lineage, LineageError};
pub use lsn::{Lsn, LsnError, SegmentSize, SegmentSizeError, Timeline};
pub use observer::{Observer, Record};
pub use page::{
    LONG_HEADER_BYTES, LongPageHeader, PageError, PageHeader, SHORT_HEADER_BYTES, magic_of_major, major_of_magic,
    read_long_header,
};
pub use page_checksum::{PageState, page_checksum, page_lsn, verify_page};
pub use postmaster::ServerLife;
pub use record::{CommitTimes, Mark, RestorePoint};
pub use relation_file::{Fork, RelationFile};
pub use wal_name::{SegmentName, WalFileName, WalNameError};
pub use walk::{Unknown, Walk, Walked};
