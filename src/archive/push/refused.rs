//! A file that a repository refused before: it holds other content under the name. While it does, or cannot be asked, the file is offered to no
//! other one: it may be another life's.

use std::time::Duration;

use super::archiver::Archiver;
use super::error::PushError;
use super::source::WalFile;
use walward_base::sys::ground::Ground;
use walward_base::{ErrorClass, describe};
use walward_pg::WalFileName;
use walward_repo::{LazyRepository, layout};

/// How long a repository that refused a file may take to say that it does so no more.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

impl Archiver {
    /// Asks those that refused `name` before what they hold. One that has that very content now, or no such file any more, is written to like all
    /// others.
    ///
    /// # Errors
    /// One still holds other content, or is not among the `chosen` that are written to this time, or does not answer: what it said stands.
    pub(super) async fn still_refused(&self, name: WalFileName, chosen: &[usize]) -> Result<(), PushError> {
        let refusals: Vec<_> = {
            let state = self.state();
            state.stored.get(&name).into_iter().flat_map(|stored| stored.different.clone()).collect()
        };
        for (at, (lineage, writer, modified)) in refusals {
            let Some(lazy) = self.repositories().get(at) else { continue };
            let asked = tokio::time::timeout(LOOK_TIME_MAX, self.takes(lazy, name, layout::wal_file(lineage, name)));
            if !chosen.contains(&at) || !asked.await.unwrap_or(false) {
                let repository = lazy.name().to_owned();
                return Err(PushError::Different { name, lineage, repository, writer, modified });
            }
            let mut state = self.state();
            state.stored.get_mut(&name).into_iter().for_each(|stored| drop(stored.different.remove(&at)));
        }
        Ok(())
    }

    /// Whether the repository has no other content under `key` than the server has as `name`.
    async fn takes(&self, lazy: &LazyRepository, name: WalFileName, key: walward_storage::ObjectKey) -> bool {
        let (ground, folder) = (Ground::of(self.data_directory()), self.pg_wal().to_path_buf());
        let Some(Ok(file)) = ground.look(move || WalFile::open(&folder, name)).await else { return false };
        let look = async { lazy.get().await?.has_content(&key, file.bytes(), file.content()).await };
        match look.await {
            Ok(is_same) => is_same,
            Err(error) if error.class() == ErrorClass::NotFound => true,
            Err(error) => {
                tracing::debug!(segment = %name, repository = lazy.name(), error = describe(&error), "cannot be asked what it holds");
                false
            }
        }
    }
}
