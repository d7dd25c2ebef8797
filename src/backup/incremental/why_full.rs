//! Why a backup that could have built on another one became a full one.

use walward_pg::changes::Doubt;
use walward_pg::{Lsn, SegmentName};

/// Why a backup is a full one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhyFull {
    /// It was asked for.
    #[error("a full backup was asked for")]
    Asked,
    /// There is nothing to build on.
    #[error("there is no earlier {} that is in every repository", if *full { "full backup" } else { "backup" })]
    NoParent {
        /// Whether only a full one would do.
        full: bool,
    },
    /// The newest that could have been built on cannot, and none before it can.
    #[error("backup {label} cannot be built on: {why}")]
    Unfit {
        /// Which.
        label: String,
        /// Why.
        why: String,
    },
    /// WAL between the two is gone.
    #[error("{segment}, of the WAL since the parent, is in no repository and not in pg_wal")]
    NoWal {
        /// The first segment that is missing.
        segment: SegmentName,
    },
    /// WAL between the two cannot be read.
    #[error("{segment}, of the WAL since the parent, cannot be read: {why}")]
    UnreadWal {
        /// The segment.
        segment: SegmentName,
        /// Why.
        why: String,
    },
    /// The WAL does not say all that changed.
    #[error("{} at {lsn}", reason(*.doubt))]
    Doubt {
        /// In what way.
        doubt: Doubt,
        /// From where on.
        lsn: Lsn,
    },
    /// WAL between the two is of two lives of the cluster.
    #[error("{segment} does not continue the WAL before it: it is of another life of the cluster")]
    Seam {
        /// The segment.
        segment: SegmentName,
    },
    /// The WAL that was read does not reach from the one to the other.
    #[error("the WAL since the parent is known from {from} to {until} only")]
    Short {
        /// From where on.
        from: Lsn,
        /// Up to where.
        until: Lsn,
    },
}

fn reason(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Special => "a record changes files in a way that is not known",
        Doubt::Unreadable => "a record does not say which blocks it changes",
        Doubt::Minimal => "wal_level was minimal, so that not all changes are in the WAL,",
        Doubt::Stopped => "the WAL cannot be read further than a record",
        Doubt::TooMuch => "a segment changes more than could be noted, from its start",
        Doubt::Seam => "a segment does not go on where the one before it ends,",
    }
}
