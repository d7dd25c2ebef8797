//! Takes base backups: online, full, through PostgreSQL's own backup functions.

mod cleanup;
mod copy;
mod error;
mod finish;
mod leases;
mod member;
mod packs;
mod pages;
mod plan;
mod preflight;
mod report;
mod run;
mod scan;
mod source;
mod stream;
mod tree;
mod wal;
mod warnings;

pub use error::BackupError;
pub use preflight::Refusal;
pub use report::{BackupOptions, BackupReport, Phase, Progress};
pub use run::run;
