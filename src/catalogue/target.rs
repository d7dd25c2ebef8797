//! Where a recovery ends: what PostgreSQL calls the recovery target.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::time::format_time;
use walward_pg::{Lsn, Timeline};

/// How far recovery replays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything that is in the archive.
    Latest,
    /// The last transaction that committed at or (exclusively) before this moment.
    Time(Timestamp),
    /// This position.
    Lsn(Lsn),
    /// This transaction, by its 32-bit or 64-bit number.
    Xid(u64),
    /// A restore point made with `pg_create_restore_point`.
    Name(String),
    /// As soon as the backup is consistent.
    Immediate,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(time) => f.write_str(&format_time(*time)),
            Self::Lsn(lsn) => lsn.fmt(f),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point {name:?}"),
            Self::Immediate => f.write_str("immediate"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which timeline recovery ends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The one that the cluster is on, by what the archive knows ([`super::lines`]).
    Latest,
    /// The one that the backup was taken on.
    Current,
    /// This one.
    Number(Timeline),
}
