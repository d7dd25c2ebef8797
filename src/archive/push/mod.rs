//! WAL in: `push` is answered when a file is durable in as many repositories as must acknowledge it, and ready files are uploaded ahead of
//! PostgreSQL's one-at-a-time archiver.
//!
//! The order is what makes it safe: a file is looked at and accepted; what it comes after is compared with the archive; it is read once,
//! sealed and written to every repository; their answers decide; only then is it acknowledged.
//!
//! | file | what it does |
//! |---|---|
//! | `policy` | when a file counts as archived, and who is asked to take it (pure) |
//! | `lead`, `look_ahead` | what may be uploaded before PostgreSQL asks, and which of it (pure) |
//! | `source` | a file of pg_wal as a stream of chunks |
//! | `chain` | what comes right before a segment, so that it says so where it is stored |
//! | `there` | which names the archive has already |
//! | `patience`, `memory` | how long a push waits; the memory that a file on its way takes |
//! | `upload` | one file into every repository, in one pass |
//! | `error`, `pushed` | what a push comes to |
//! | `delivery`, `state` | one file on its way; what an archiver knows of all of them |
//! | `archiver`, `asked` | one cluster's archiver, and what it does for one file; how it answers PostgreSQL |
//! | `ahead` | how it uploads ahead |
//! | `done_list` | the segments that the server believes archived, listed once for many |
//! | `first_look`, `alone`, `in_order` | what is compared before a file goes: an agent's first, one that goes where nothing was compared or where files lack, one that a person pushes out of order |
//! | `gappy` | what was seen of a repository that lacks files (pure) |
//! | `refused` | a file that a repository refused before is offered to nobody while it still does |
//! | `second_partial` | a partial segment of which the archive has another server's |
//! | `once` | one file without an archiver, for a process that ends after it |

mod ahead;
mod alone;
pub(super) mod archiver;
mod asked;
pub(super) mod chain;
mod delivery;
mod done_list;
pub(super) mod error;
mod first_look;
pub(super) mod gappy;
pub(super) mod in_order;
mod lead;
mod look_ahead;
mod memory;
pub(super) mod once;
mod patience;
pub(super) mod policy;
pub(super) mod pushed;
mod refused;
mod second_partial;
pub(super) mod source;
mod state;
mod there;
pub(super) mod upload;
