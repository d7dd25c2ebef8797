//! Reading the data directory, whose file system may hang: each step has a deadline, and a hang has a name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::error::BackupError;
use walward_base::sys::ground::{Ground, NotDone, Steps};

/// How a backup reads its data directory and tablespaces.
#[derive(Debug, Clone)]
pub struct Reading {
    ground: Arc<Ground>,
    data_directory: PathBuf,
    /// How long one step may take.
    limit: Duration,
}

impl Reading {
    /// Of `data_directory`, each step within `limit`. Nothing is touched.
    pub fn new(data_directory: &Path, limit: Duration) -> Self {
        Self { ground: Ground::of(data_directory), data_directory: data_directory.to_owned(), limit }
    }

    /// # Errors
    /// [`BackupError::StillHangs`] while a read that an earlier backup gave up has not been answered: this one would hang, too.
    pub fn check(&self) -> Result<(), BackupError> {
        match self.ground.given_up() {
            None => Ok(()),
            Some(read) => Err(BackupError::StillHangs { data_directory: self.data_directory.clone(), read }),
        }
    }

    /// Does `work` on a thread of its own; what of it asks the file system is a step.
    ///
    /// # Errors
    /// [`BackupError::Hangs`] when a step is not answered in time.
    pub async fn run<T: Send + 'static>(
        &self,
        cancel: &CancellationToken,
        work: impl FnOnce(&Steps) -> T + Send + 'static,
    ) -> Result<T, BackupError> {
        let span = Span::current();
        let work = move |steps: &Steps| span.in_scope(|| work(steps));
        self.ground.work(self.limit, cancel, work).await.map_err(|why| match why {
            NotDone::Hangs(read) => BackupError::Hangs { read },
            NotDone::NoThread => BackupError::NoThread,
            NotDone::Cancelled => BackupError::Cancelled,
            NotDone::Died => BackupError::Died,
        })
    }
}
