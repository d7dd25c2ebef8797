//! WAL in and WAL out: from a cluster's pg_wal into its repositories, and back to a server in recovery.
//!
//! In: [`Archiver`] answers `push` when a file is durable in every repository, or in as many as [`Acknowledge`] says, and reads
//! ready files ahead of PostgreSQL's one-at-a-time archiver. Out: [`Fetcher`] answers `fetch` from a spool of verified segments that it fills ahead.
//!
//! Invariants: "durable" is said of a file only after as many repositories acknowledged it as must; what is remembered of it is
//! a shortcut that the repositories can confirm again. What the others still lack is owed to them and told by no note of ours:
//! the difference between the repositories is the truth. Nothing goes in that the running server does not ask for (`lead.rs`), and
//! nothing that comes after a file with two contents (`follows.rs`): not ahead, not by hand, not as a debt, not as a copy. The way out, one of
//! the lives moved away, is [`aside`]. A name is
//! never taken for its content. "Absent" is said only when every repository said so and proved to be
//! the repository that it should be. WAL is let go only beyond `archive.queue_limit`, and noted durably before. A crash leaves
//! nothing else that matters: the next push meets its own objects and finds
//! them equal; the spool is emptied at the next start.

mod accept;
mod agree;
mod ahead;
mod alone;
mod archiver;
pub mod aside;
pub mod believed;
mod comparison;
pub mod contents;
mod copy;
mod debt;
mod delivery;
mod early_end;
mod fetch;
mod fetcher;
mod first_look;
mod follows;
mod in_order;
mod lead;
mod look_ahead;
mod lookout;
mod owed;
mod patience;
mod policy;
mod progress;
mod queue_limit;
mod retrieve;
mod room;
mod settle;
mod source;
mod spool;
mod spot;
mod state;
#[cfg(test)]
mod tests;
mod there;
mod upload;
mod window;

pub use accept::{Rejection, accept};
pub use archiver::{ArchiveOptions, Archiver, Pushed};
pub use copy::{CopiedWal, Missing, MissingFile, copy_gaps, copy_wal, missing_wal};
pub use fetch::{AtHole, FetchError, Retrieved, Want};
pub use fetcher::{Asker, FetchOptions, Fetched, Fetcher};
pub use in_order::Contest;
pub use owed::{Holding, Owed, may_be_owed, owed};
pub use policy::Acknowledge;
pub use retrieve::retrieve;
pub use source::{FileStamp, Found, WalFile};
pub use spool::{Place, is_in_use};
pub use spot::Spot;
pub use upload::{PushError, archive_file, archive_now};
