//! Takes base backups: online, full, differential or incremental, through PostgreSQL's own backup functions (`pg_backup_start`, `pg_backup_stop`; 13 and 14:
//! `pg_start_backup`, `pg_stop_backup`, non-exclusive), from a primary or a standby.
//!
//! One pass over the files goes into every repository. The order is what makes it safe:
//!
//! 1. server, data directory and repositories are checked to belong together, and the lease is taken everywhere;
//! 2. the server begins the backup; only then are the files listed;
//! 3. the files are copied in packs, several at once;
//! 4. pg_control is read, the server ends the backup, and the last pack is written, with pg_control as its last member;
//! 5. the WAL from start to stop is waited for, and compared with the server's own;
//! 6. the manifest is written: the backup exists.
//!
//! Invariants: a manifest names only packs that are durable, and a backup whose WAL is archived and the server's own. Every file is in one pack. Memory
//! is bounded by the workers' queues and some 70 bytes a file. A page whose checksum stays wrong is copied as it is and
//! reported; the backup is made nevertheless.
//!
//! A file system that hangs: each read of the data directory has a deadline. Then the backup ends as any other that failed, the threads that hang
//! are counted and bounded ([`walward_base::sys::ground`]), and no other backup begins in this process until they are answered. The leases are
//! renewed by what was read and written ([`walward_repo::leases`]).
//!
//! What a crash leaves behind: packs without a manifest, which are no backup (`check` and `info` mention them, and a later backup
//! removes them under its lease, once they are old); leases that run out. The server ends its side when the session breaks.
//!
//! | file | what it does |
//! |---|---|
//! | `preflight` | decides whether a backup may be taken (pure) |
//! | `begin` | what comes before the first file |
//! | `waits` | waiting for what may be given up |
//! | `incremental` | what a backup builds on, and what changed since |
//! | `scan`, `tree` | list the files; hold the list |
//! | `plan` | decides which file goes into which pack (pure) |
//! | `member` | tar headers (pure) |
//! | `reading` | deadlines for what is read, because a file system may hang |
//! | `pace` | how fast it reads, at most |
//! | `source`, `pages`, `copy` | read a file, check its pages, put it into the stream |
//! | `stream`, `packs` | from the reading threads to the uploads |
//! | `finish` | the last pack, the manifest |
//! | `history` | the history of the backup's timeline, put beside its WAL |
//! | `wal` | which WAL is needed; waiting for it |
//! | `own_wal` | the proof that it is this server's |
//! | `leases`, `cleanup` | one backup at a time; removing one that failed |
//! | `run` | the order of it all |
//! | `server` | what it needs of the server |
//! | `transfer` | a finished backup into another repository |

mod begin;
mod cleanup;
mod copy;
mod error;
mod finish;
mod history;
mod incremental;
mod leases;
mod member;
mod own_wal;
mod pace;
mod packs;
mod pages;
mod plan;
mod preflight;
mod reading;
mod report;
mod run;
mod scan;
mod server;
mod source;
mod stream;
mod transfer;
mod tree;
mod waits;
mod wal;
mod warnings;

pub use error::BackupError;
pub use incremental::Wanted;
pub use leases::with_lease;
#[doc(hidden)]
pub use plan::packs;
pub use preflight::Refusal;
#[doc(hidden)]
pub use reading::Reading;
pub use report::{BackupOptions, BackupReport, Phase, Progress};
pub use run::run;
#[doc(hidden)]
pub use run::run_on;
#[doc(hidden)]
pub use server::Server;
pub use transfer::{CopiedBackup, copy_backup, copyable};
