//! What WAL changes of a cluster's relations: which blocks, which lengths, which databases. An incremental backup stores of a file the blocks
//! that are in question by that.
//!
//! Nothing that changes is left out in silence: what is not known to be complete is in doubt ([`Doubt`]), and a stretch with a doubt is no ground
//! for an incremental backup. What is known too much (records beyond the stretch, of a record that is void, of an abandoned timeline) only makes
//! a backup larger. Pure; nothing here touches a disk.
//!
//! | file | what it knows |
//! |---|---|
//! | `blocks` | a set of block numbers |
//! | `levels` | what records say of `wal_level` |
//! | `relations` | what a stretch changes, and why that may not be all; how stretches merge |
//! | `content` | records that change files without naming blocks |
//! | `parse` | one record, as its bytes stream past |
//! | `whole` | the same of ordinary records whose bytes are all at hand |
//! | `gathered` | gathers fast, and with a bound, what the records of a segment change |
//! | `segment` | what one segment changes, takes from the one before, and leaves to the next |
//! | `observer` | finds that while the segment is walked through |
//! | `chain` | joins segments that follow each other |
//! | `stored`, `varint` | the stored form |

mod blocks;
mod chain;
mod content;
mod gathered;
mod levels;
mod observer;
mod parse;
mod relations;
mod segment;
mod stored;
#[cfg(test)]
mod tests;
mod varint;
mod whole;

pub use blocks::BlockSet;
pub use chain::Chain;
pub use levels::{Levels, Said};
pub use observer::ChangesObserver;
pub use parse::RecordParser;
pub use relations::{Changes, DatabaseName, Doubt, RelationChanges, RelationName, Sink};
pub use segment::{Continuation, ContinuationEnd, Entry, Open, SegmentChanges};
pub use stored::STORED_BYTES_MAX;
pub use varint::StoredError;
