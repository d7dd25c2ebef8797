//! WAL out: `fetch` is answered from a spool of verified segments that is filled ahead of a recovery.
//!
//! What reaches PostgreSQL was verified whole before it got its name. "Absent" is said only when every repository said so and proved to be
//! the one that it should be.
//!
//! | file | what it does |
//! |---|---|
//! | `window` | how many segments to hold ready (pure) |
//! | `progress` | how far one file is on its way |
//! | `given` | what recoveries were given last |
//! | `seam` | whether a segment continues what the server has before it |
//! | `known` | what a server in recovery knows of timelines by itself |
//! | `spot` | where a file is written, and as whom |
//! | `one_file` | one file from the first repository that can give it |
//! | `retrieve` | the same in rounds, and how long they may take |
//! | `early_end` | whether an archive that lacks a file still has what the recovery was given last |
//! | `lookout` | looks after repositories that cannot be read from |
//! | `spool` | the folder where segments wait |
//! | `fetcher` | one cluster's WAL for servers in recovery |

mod early_end;
pub(super) mod fetcher;
mod given;
mod known;
mod lookout;
pub(super) mod one_file;
mod progress;
pub(super) mod retrieve;
pub(super) mod seam;
pub(super) mod spool;
pub(super) mod spot;
mod window;
