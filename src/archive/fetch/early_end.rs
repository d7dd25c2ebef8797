//! Whether an archive that has no such file still has the segment that the same recovery was given last.
//!
//! The identity may be there and the WAL not: a lifecycle rule or a person removed `wal/`, or it went with a disk that was mounted there. Then
//! every segment is absent, and a recovery would end early. What was served must be served again, by one of the repositories.

use super::one_file::{FetchError, Want};
use walward_repo::{LazyRepository, layout};

/// Fails when no repository has `served` any more, which `want` comes after. Asks one small question of each until one has it.
pub(super) async fn still_holds(
    repositories: &[std::sync::Arc<LazyRepository>],
    served: &Want,
    want: &Want,
) -> Result<(), FetchError> {
    let name = want.name;
    for lazy in repositories {
        let failed = |source| FetchError::Repository { name, repository: lazy.name().to_owned(), source };
        let repository = lazy.get().await.map_err(failed)?;
        let current = || repository.identity().current().map(|entry| entry.lineage);
        let Some(lineage) = served.lineage.or_else(current) else { continue };
        if repository.exists(&layout::wal_file(lineage, served.name)).await.map_err(failed)? {
            return Ok(());
        }
    }
    Err(FetchError::ServedIsGone { name, served: served.name })
}
