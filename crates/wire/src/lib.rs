//! The protocol between `walward-wal`, `walward` and the agent, over a Unix socket; and the client's side of it.
//!
//! This room is std only: `walward-wal` is built from it and from nothing else, so that it starts in the time of `/bin/true`.
//!
//! One connection carries one request and its answer, then ends. See PROTOCOL.md beside this file for the bytes.

pub mod asker;
pub mod client;
mod codec;
mod message;
mod place;
mod silence;
pub mod trust;

pub use codec::{FrameHeader, HEADER_BYTES, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, VERSION, WireError};
pub use message::{OnError, Reply, Request};
pub use place::place;

/// Where the agent listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/walward/walward.sock";

/// The exit code of `fetch` when anything but "placed" or "absent" happened. PostgreSQL reads 1 to 125 as "no such file" and
/// above 125 as fatal (`RestoreArchivedFile`, src/backend/access/transam/xlogarchive.c).
pub const EXIT_FETCH_FAILED: u8 = 255;
