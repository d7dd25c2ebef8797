//! May this file go into this cluster's repositories? Pure: facts in, verdict out.

use walward_pg::{HistoryError, Lineage, PageError, TimelineHistory, WalFileName, read_long_header};
use walward_repo::format::Kind;

/// The longest history or backup history file that is believed to be one, in bytes.
pub const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a file is not archived. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The first page is not that of a segment of that name.
    #[error("its first page does not belong to its name: {0}; the file is damaged or was renamed, do not delete it")]
    Page(PageError),
    /// WAL of another cluster.
    #[error(
        "it was written by cluster {found}, but the data directory is of {expected}: WAL of another cluster is never archived here"
    )]
    Foreign {
        /// Who wrote the file.
        found: Lineage,
        /// Whose data directory it lies in.
        expected: Lineage,
    },
    /// The repository does not know this lineage.
    #[error(
        "the data directory belongs to {found}, but repository {repository:?} holds {known}; after pg_upgrade run `walward setup` to add it, otherwise this is another cluster's repository"
    )]
    UnknownLineage {
        /// Lineage of the data directory.
        found: Lineage,
        /// The repository's name.
        repository: String,
        /// What it holds.
        known: String,
    },
    /// Not a timeline history.
    #[error("it is not a valid timeline history: {0}")]
    History(HistoryError),
    /// A small file that is not small, or empty.
    #[error("{0} bytes is not a plausible length for such a file")]
    Length(u64),
}

/// Judges a file by its name, its beginning and its length. Of a segment that is the header of the first page alone, the one that
/// says whose it is: a damaged page farther on is WAL that is nowhere else, and refused it would fill pg_wal for ever. `head` is the first bytes of a segment (at least 40) or the
/// whole of a smaller file; `expected` is the lineage of the data directory that it lies in.
pub fn accept(name: WalFileName, head: &[u8], file_bytes: u64, expected: Lineage) -> Result<Kind, Rejection> {
    match name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
            let header = read_long_header(head).map_err(Rejection::Page)?;
            header.check_name(segment).map_err(Rejection::Page)?;
            header.check_length(file_bytes).map_err(Rejection::Page)?;
            let found = header.lineage();
            if found == expected { Ok(Kind::Segment) } else { Err(Rejection::Foreign { found, expected }) }
        }
        WalFileName::History(timeline) => {
            plausible(file_bytes)?;
            TimelineHistory::parse(timeline, &String::from_utf8_lossy(head)).map_err(Rejection::History)?;
            Ok(Kind::History)
        }
        WalFileName::BackupHistory(..) => {
            plausible(file_bytes)?;
            Ok(Kind::BackupHistory)
        }
    }
}

fn plausible(bytes: u64) -> Result<(), Rejection> {
    if (1..=SMALL_FILE_BYTES_MAX).contains(&bytes) { Ok(()) } else { Err(Rejection::Length(bytes)) }
}
