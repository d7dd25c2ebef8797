//! Takes base backups: online, full, through PostgreSQL's own backup functions.

mod copy;
mod error;
mod finish;
mod member;
mod packs;
mod pages;
mod plan;
mod preflight;
mod report;
mod scan;
mod source;
mod stream;
mod tree;
mod wal;
mod warnings;

pub use error::BackupError;
pub use preflight::Refusal;
pub use report::{BackupOptions, BackupReport, Phase, Progress};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::repo::Repository;

/// Takes a full backup of one cluster into every repository at once.
pub async fn run(
    repositories: &[Repository],
    options: BackupOptions,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<BackupReport, BackupError> {
    let _ = (repositories, options, progress, cancel);
    todo!()
}
