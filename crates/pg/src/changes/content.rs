//! The records that change files without naming blocks: what their main data says, read in pieces of at most 20 bytes, so that a list of any
//! length needs no memory. Layouts are those of 13 to 18 (src/include/catalog/storage_xlog.h, access/xact.h, commands/dbcommands_xlog.h,
//! catalog/pg_control.h, access/xlog_internal.h).

use super::relations::{DatabaseName, RelationName, Sink};
use crate::bytes::u32_at;
use crate::lsn::Lsn;

/// Resource managers, src/include/access/rmgrlist.h.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
const RM_SMGR: u8 = 2;
const RM_DBASE: u8 = 4;
/// The last record kind of `RM_XLOG` that every version has without a gap, `XLOG_FPI`; `XLOG_OVERWRITE_CONTRECORD`; `XLOG_CHECKPOINT_REDO` (17).
const XLOG_FPI: u8 = 0xB0;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
const XLOG_CHECKPOINT_REDO: u8 = 0xE0;
/// `XLOG_XACT_OPMASK`, and the flag that a word of flags follows the time (`XLOG_XACT_HAS_INFO`).
const XACT_OPERATION: u8 = 0x70;
const XACT_HAS_INFO: u8 = 0x80;
/// `XACT_XINFO_HAS_DBINFO`, `_SUBXACTS`, `_RELFILENODES` (`_RELFILELOCATORS` from 16).
const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 2;
const HAS_DROPS: u32 = 4;
/// `SMGR_TRUNCATE_HEAP` and all flags of a truncation.
const TRUNCATE_MAIN: u32 = 1;
const TRUNCATE_ALL: u32 = 7;
/// Bytes of a relation's name.
const NAME_BYTES: u64 = 12;

/// The record does not look as its kind does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What the next piece of the main data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Relation, fork (`xl_smgr_create`).
    Create,
    /// Length, relation, flags (`xl_smgr_truncate`).
    Truncate,
    /// Database, tablespace; where the template is copied from may follow (`xl_dbase_create_rec`, `xl_dbase_create_wal_log_rec`).
    DatabaseMade,
    /// Database, number of tablespaces (`xl_dbase_drop_rec`).
    DatabaseDropped,
    /// One of the tablespaces, and how many follow.
    Tablespace { database: u32, more: u32 },
    /// The flags that say what follows (`xl_xact_xinfo`).
    TransactionFlags,
    /// The number of subtransactions, which are followed by the number of dropped relations.
    Subtransactions,
    /// The number of dropped relations.
    Drops,
    /// One of them, and how many follow.
    Drop { more: u32 },
    /// `wal_level`.
    Level,
}

/// The next piece, and how many bytes before it say nothing.
pub(super) type Next = Option<(u64, Piece)>;

impl Piece {
    /// What a record says, if any of its main data matters: how many bytes long that data is (at least, when that is enough), and its first piece.
    pub(super) fn of(major: u16, manager: u8, info: u8) -> Result<Option<(Length, u64, Self)>, Unreadable> {
        let kind = info & 0xF0;
        Ok(match (manager, kind) {
            (RM_SMGR, 0x10) => Some((Length::Exactly(16), 0, Self::Create)),
            (RM_SMGR, 0x20) => Some((Length::Exactly(20), 0, Self::Truncate)),
            // CREATE DATABASE that copies the directory; ALTER DATABASE SET TABLESPACE does the same.
            (RM_DBASE, 0x00) => Some((Length::Exactly(16), 0, Self::DatabaseMade)),
            (RM_DBASE, 0x10) if major >= 15 => Some((Length::Exactly(8), 0, Self::DatabaseMade)),
            (RM_DBASE, 0x10) if major < 15 => Some((Length::AtLeast(8), 0, Self::DatabaseDropped)),
            (RM_DBASE, 0x20) if major >= 15 => Some((Length::AtLeast(8), 0, Self::DatabaseDropped)),
            (RM_XACT, _) => match kind & XACT_OPERATION {
                // Commit, abort, and those of prepared transactions. The time goes before the flags.
                0x00 | 0x20 | 0x30 | 0x40 if kind & XACT_HAS_INFO != 0 => {
                    Some((Length::AtLeast(12), 8, Self::TransactionFlags))
                }
                // No flags; preparation (its end lists the relations again), assignment, and from 14 on invalidations.
                0x00 | 0x10 | 0x20 | 0x30 | 0x40 | 0x50 => None,
                0x60 if major >= 14 => None,
                _ => return Err(Unreadable),
            },
            // A change of parameters, an end of recovery, a checkpoint at shutdown, a redo point.
            (RM_XLOG, 0x60) => Some((Length::AtLeast(24), 20, Self::Level)),
            (RM_XLOG, 0x90) if major >= 17 => Some((Length::AtLeast(20), 16, Self::Level)),
            (RM_XLOG, 0x00) if major >= 17 => Some((Length::AtLeast(24), 20, Self::Level)),
            (RM_XLOG, XLOG_CHECKPOINT_REDO) if major >= 17 => Some((Length::AtLeast(4), 0, Self::Level)),
            (RM_XLOG, 0..=XLOG_FPI | XLOG_OVERWRITE_CONTRECORD) => None,
            (RM_SMGR | RM_DBASE | RM_XLOG, _) => return Err(Unreadable),
            _ => None,
        })
    }

    /// Whether records of this kind, which can be read, may say of themselves that they change files in a way of their own.
    pub(super) fn may_be_special(manager: u8, info: u8) -> bool {
        match manager {
            RM_SMGR | RM_DBASE => true,
            RM_XACT => matches!(info & XACT_OPERATION, 0x00 | 0x20 | 0x30 | 0x40),
            _ => false,
        }
    }

    /// How many bytes the piece has.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Create => 16,
            Self::Truncate => 20,
            Self::DatabaseMade | Self::DatabaseDropped => 8,
            Self::Drop { .. } => 12,
            Self::Tablespace { .. } | Self::TransactionFlags | Self::Subtransactions | Self::Drops | Self::Level => 4,
        }
    }

    /// Reads the piece; `left` bytes of the record follow it.
    pub(super) fn read(self, bytes: &[u8], left: u64, lsn: Lsn, changes: &mut impl Sink) -> Result<Next, Unreadable> {
        let word = |offset: usize| u32_at(bytes, offset).ok_or(Unreadable);
        match self {
            Self::Create => match word(12)? {
                0 => changes.limit(relation(bytes, 0)?, 0),
                1..=3 => {}
                _ => return Err(Unreadable),
            },
            Self::Truncate => {
                let flags = word(16)?;
                if flags & !TRUNCATE_ALL != 0 {
                    return Err(Unreadable);
                }
                if flags & TRUNCATE_MAIN != 0 {
                    changes.limit(relation(bytes, 4)?, word(0)?);
                }
            }
            Self::DatabaseMade => {
                changes.database(DatabaseName { database: word(0)?, tablespace: word(4)? });
            }
            Self::DatabaseDropped => {
                let (database, count) = (word(0)?, number(word(4)?)?);
                if u64::from(count) * 4 != left {
                    return Err(Unreadable);
                }
                return Ok(count.checked_sub(1).map(|more| (0, Self::Tablespace { database, more })));
            }
            Self::Tablespace { database, more } => {
                changes.database(DatabaseName { database, tablespace: word(0)? });
                return Ok(more.checked_sub(1).map(|more| (0, Self::Tablespace { database, more })));
            }
            Self::TransactionFlags => {
                let flags = word(0)?;
                let before = if flags & HAS_DATABASE != 0 { 8 } else { 0 };
                let next = if flags & HAS_SUBTRANSACTIONS != 0 { Self::Subtransactions } else { Self::Drops };
                return Ok((flags & HAS_DROPS != 0).then_some((before, next)));
            }
            Self::Subtransactions => return Ok(Some((u64::from(number(word(0)?)?) * 4, Self::Drops))),
            Self::Drops => {
                let count = number(word(0)?)?;
                if u64::from(count) * NAME_BYTES > left {
                    return Err(Unreadable);
                }
                return Ok(count.checked_sub(1).map(|more| (0, Self::Drop { more })));
            }
            Self::Drop { more } => {
                changes.limit(relation(bytes, 0)?, 0);
                return Ok(more.checked_sub(1).map(|more| (0, Self::Drop { more })));
            }
            // WAL_LEVEL_MINIMAL, WAL_LEVEL_REPLICA, WAL_LEVEL_LOGICAL.
            Self::Level => match word(0)? {
                level @ 0..=2 => changes.level(level == 0, lsn),
                _ => return Err(Unreadable),
            },
        }
        Ok(None)
    }
}

/// How long a record's main data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exactly(u64),
    AtLeast(u64),
}

impl Length {
    pub(super) fn fits(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(length) => bytes == length,
            Self::AtLeast(length) => bytes >= length,
        }
    }
}

/// The name at `offset`.
pub(super) fn relation(bytes: &[u8], offset: usize) -> Result<RelationName, Unreadable> {
    let word = |at: usize| u32_at(bytes, offset + at).ok_or(Unreadable);
    Ok(RelationName { tablespace: word(0)?, database: word(4)?, relation: word(8)? })
}

/// A C `int` that counts.
fn number(word: u32) -> Result<u32, Unreadable> {
    if word <= i32::MAX.cast_unsigned() { Ok(word) } else { Err(Unreadable) }
}
