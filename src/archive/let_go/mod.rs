//! WAL that is let go rather than fill the disk, beyond `archive.queue_limit`.
//!
//! The gap is noted durably before PostgreSQL is told to forget the file, and the note stays until every repository was told of the gap.
//!
//! | file | what it does |
//! |---|---|
//! | `decision` | what becomes of a file that was not archived (pure) |
//! | `notes` | what was let go, written down durably |
//! | `limiter` | around every push: looks at what waits, decides, notes |
//! | `settle` | brings the notes to the repositories |

mod decision;
pub(super) mod limiter;
mod notes;
mod settle;
