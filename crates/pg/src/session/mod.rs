//! The SQL session with a server: facts about it, starting and ending a base backup, and small commands.
//!
//! It needs no superuser: [`grants::grant_statements`] says what a role needs. The connection is a Unix socket or TCP
//! without TLS (`sslmode` `disable` or `prefer`; anything stricter is refused rather than ignored): an agent runs on the
//! host of its server.
//!
//! A backup lives as long as its session: when the session is dropped or breaks, the server ends the backup by itself, and
//! nothing is left behind on it.
//!
//! | file | |
//! |---|---|
//! | `connect.rs` | from a connection string to a configuration, and what a fresh session is set to |
//! | `connection.rs` | one connection, and how a statement runs on it within its time |
//! | `error.rs` | what can go wrong |
//! | `facts.rs` | what a server says about itself |
//! | `backup.rs` | starting and ending a base backup |
//! | `wal.rs` | commands that write to the WAL |
//! | `grants.rs` | the rights that a role needs |
//! | `admin.rs` | what `setup` asks and changes as an administrator |

mod admin;
mod backup;
mod connect;
mod connection;
mod error;
mod facts;
pub mod grants;
mod wal;

pub use admin::{Rights, Setting, alter_system_statement};
pub use backup::BackupStop;
pub use connect::quote_conninfo;
pub use connection::Session;
pub use error::SessionError;
pub use facts::{ArchiverStats, ServerFacts, ServerTablespace};
