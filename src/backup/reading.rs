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
    /// `None`: on the runtime's threads, and it is waited for however long it takes.
    ground: Option<Arc<Ground>>,
    data_directory: PathBuf,
    /// How long one step may take.
    limit: Duration,
}

impl Reading {
    /// Of `data_directory`, each step within `limit`. Nothing is touched.
    pub fn new(data_directory: &Path, limit: Duration) -> Self {
        Self { ground: Some(Ground::of(data_directory)), data_directory: data_directory.to_owned(), limit }
    }

    /// Of `data_directory`, on the runtime's own threads and without a deadline: while one of them works, a simulated clock does not run on.
    pub fn on_the_runtime(data_directory: &Path) -> Self {
        Self { ground: None, data_directory: data_directory.to_owned(), limit: Duration::MAX }
    }

    /// # Errors
    /// [`BackupError::StillHangs`] while a read that an earlier backup gave up has not been answered: this one would hang, too.
    pub fn check(&self) -> Result<(), BackupError> {
        match self.ground.as_ref().and_then(|ground| ground.given_up()) {
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
        let Some(ground) = &self.ground else {
            return tokio::task::spawn_blocking(move || work(&Steps::default())).await.map_err(|_| BackupError::Died);
        };
        ground.work(self.limit, cancel, work).await.map_err(|why| match why {
            NotDone::Hangs(read) => BackupError::Hangs { read },
            NotDone::NoThread => BackupError::NoThread,
            NotDone::Cancelled => BackupError::Cancelled,
            NotDone::Died => BackupError::Died,
        })
    }
}
