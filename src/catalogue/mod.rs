//! What a set of repositories holds, and what can be done with it: how far the archive carries, where its holes are, what the
//! first and the last moment is, and which line the cluster is on.
//!
//! Asked by fetch, restore, `info`, `check`, `wal list|gaps` and everything that reports: one question has one answer, here. Reading is
//! apart from judging: [`Archive`] and [`Holdings`] ask the repositories; every other file is pure, over what they read.
//!
//! | file | what it answers |
//! |---|---|
//! | `way` | the way through the timelines to one of them, and which file holds a segment on it |
//! | `inventory` | which segments are there |
//! | `reach` | how far recovery on a way is carried, what is missing, and whether that is a hole or the end |
//! | `holes` | every stretch of WAL that is there and every one that is missing |
//! | `seams` | where a segment does not continue the one that lies before it |
//! | `windows` | the stretches of time to which one can recover |
//! | `online` | the same question about one file, while a server waits |
//! | `moments` | the first and last commit of a stretch, with a bounded number of reads |
//! | `backups` | which ways backups lead to |
//! | `lines/` | which line of a cluster is meant when there are several |
//! | `target`, `time` | where a recovery ends, and how a moment is written |
//! | `read` | asks N repositories, believes "not there" only of one that said so |
//! | `holdings` | everything that one repository holds of the newest lineage |

mod backups;
mod error;
mod holdings;
mod holes;
mod inventory;
mod lines;
mod moments;
mod online;
mod reach;
mod read;
mod seams;
mod target;
#[cfg(test)]
mod tests;
mod time;
mod way;
mod windows;

pub use backups::{BackupFacts, along, known, missing_parent, way_to, ways, ways_without_backup};
pub use error::CatalogueError;
pub use holdings::Holdings;
pub use holes::{Stretch, holes, stretches};
pub use inventory::{Inventory, TimelineWal};
pub use lines::{
    BackupMoment, Decision, Evidence, Life, LineSeen, Lives, SeveralLines, Sought, current, decide, that_differ,
    to_compare,
};
pub use moments::{LastCommit, first_commit, first_passing, last_commit};
pub use online::goes_on;
pub use reach::{Reach, WalNeed, count_partial, goes_on_after, reach, segment_before};
pub use read::{Archive, BackupContents, Copy};
pub use seams::{SEAMS_LOOKED_FOR, Seam, Seams, newest, seams, seams_of_line};
pub use target::{Target, TargetTimeline};
pub use time::{TimeError, format_microseconds, format_moment, format_time, parse_time};
pub use way::{Histories, Span, Way};
pub use windows::{Carried, Window};
