//! WAL in and WAL out: from a cluster's pg_wal into its repositories, and back to a server in recovery.
//!
//! In: [`Archiver`] answers `push` when a file is durable in every repository, or in as many as [`Acknowledge`] says, and reads
//! ready files ahead of PostgreSQL's one-at-a-time archiver. Out: [`Fetcher`] answers `fetch` from a spool of verified segments that it fills ahead.
//!
//! Invariants: "durable" is said of a file only after as many repositories acknowledged it as must; what is remembered of it is
//! a shortcut that the repositories can confirm again. What the others still lack is owed to them and told by no note of ours:
//! the difference between the repositories is the truth. Nothing goes in that the running server does not ask for (`push/lead.rs`), and
//! nothing that comes after a file with two contents (`follows.rs`): not ahead, not by hand, not as a debt, not as a copy. The way out, one of
//! the lives moved away, is [`aside`]. A name is
//! never taken for its content. "Absent" is said only when every repository said so and proved to be
//! the repository that it should be. WAL is let go only beyond `archive.queue_limit`, and noted durably before. A crash leaves
//! nothing else that matters: the next push meets its own objects and finds
//! them equal; the spool is emptied at the next start.
//!
//! | file or folder | what it does |
//! |---|---|
//! | `push` | WAL in |
//! | `fetch` | WAL out |
//! | `debt` | what repositories owe each other |
//! | `let_go` | WAL that is let go rather than fill the disk |
//! | `aside` | a life of the cluster is moved out of the archive, and back |
//! | `accept` | whether a file may go into a cluster's repositories (pure) |
//! | `follows`, `agree` | which WAL is replayed after which (pure); whether two repositories hold the same |
//! | `contents`, `believed` | what the archive holds against what the server has, and against what it believes archived |

mod accept;
mod agree;
pub mod aside;
pub mod believed;
pub mod contents;
mod debt;
mod fetch;
mod follows;
mod let_go;
mod push;
#[cfg(test)]
mod tests;

pub use accept::{Rejection, accept};
pub use debt::copy::{CopiedWal, Missing, MissingFile, copy_gaps, copy_wal, missing_wal};
pub use debt::owed::{Holding, Owed, may_be_owed, owed};
pub use fetch::fetcher::{Asker, FetchOptions, Fetched, Fetcher};
pub use fetch::one_file::{AtHole, FetchError, Retrieved, Want};
pub use fetch::retrieve::retrieve;
pub use fetch::seam::find_seam;
pub use fetch::spool::{Place, Spool, is_in_use};
pub use fetch::spot::Spot;
pub use push::archiver::{ArchiveOptions, Archiver};
pub use push::error::PushError;
pub use push::in_order::Contest;
pub use push::once::{archive_file, archive_now};
pub use push::policy::Acknowledge;
pub use push::pushed::Pushed;
pub use push::source::{FileStamp, FileVisit, WalFile};
