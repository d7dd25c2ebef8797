//! The name of every object of a cluster's repository.

use crate::pg::{Lineage, WalFileName};
use crate::storage::ObjectKey;

/// Where a WAL file of `lineage` lies: `wal/<lineage>/<timeline>/<log>/<name>`; histories lie directly in `wal/<lineage>`.
pub fn wal_file(lineage: Lineage, name: WalFileName) -> ObjectKey {
    let _ = (lineage, name);
    todo!()
}
