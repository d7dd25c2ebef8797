//! Work that may block, in threads that may: with this process's rights, or with those of the files' owner.

use std::path::Path;

use super::directory::Owner;
use super::error::RestoreError;

/// Runs `work` where it may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RestoreError::Died)?
}

/// Does `work` with the rights of `owner`.
pub fn act_as<T: Send + 'static>(
    owner: Option<Owner>,
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    Owner::act(owner, work).map_err(RestoreError::io("act as the owner of", Path::new("the files")))?
}

/// As [`blocking`], with the rights of `owner`.
pub async fn blocking_as<T: Send + 'static>(
    owner: Option<Owner>,
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    blocking(move || act_as(owner, work)).await
}
