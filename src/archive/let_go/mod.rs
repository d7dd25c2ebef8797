//! WAL that is let go rather than fill the disk, beyond `archive.queue_limit`.
//!
//! The gap is noted durably before PostgreSQL is told to forget the file, and the note stays until every repository was told of the gap.
//!
//! | file | what it does |
//! |---|---|
//! | `limiter` | decides, and notes what was let go |
//! | `settle` | brings the notes to the repositories |

pub(super) mod limiter;
mod settle;
