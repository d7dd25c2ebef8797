//! Whether two repositories are one place under two names: a link, another spelling of a path or an endpoint, a second mount. What lies
//! there lies there once, however many names lead to it.
//!
//! Repositories of two setups have two cluster ids. Where the ids are equal it is one place, or one is a byte for byte copy of the
//! other: a new object that is written through one name and looked for through the other tells which. A crash leaves that object, a few
//! bytes in `probe/`.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::error::RepoError;
use super::repository::Repository;
use super::{identity, layout};
use walward_base::describe;
use walward_storage::{Payload, Store};

/// That no WAL and no backup lies at `store` where there is no repository. A new one would be made beside what its keys do not open, and
/// the first segment whose name is taken by such an object could never be archived.
pub async fn is_clear(store: &dyn Store) -> Result<(), RepoError> {
    for folder in [layout::lineages(), layout::backups()] {
        let listing = store.list(Some(&folder)).await?;
        let holds = !listing.objects.is_empty() || !listing.folders.is_empty();
        // Another setup, and an agent, may have been faster.
        if holds && identity::load(store).await?.is_none() {
            return Err(RepoError::Remnants { url: store.url().to_owned() });
        }
    }
    Ok(())
}

/// Whether both are one place.
pub async fn is_same(one: &Repository, other: &Repository) -> Result<bool, RepoError> {
    if one.identity().cluster_id != other.identity().cluster_id {
        return Ok(false);
    }
    let key = layout::scratch();
    one.store().put_new(&key, Payload::from(b"walward looks whether this is one place".to_vec())).await?;
    let found = other.exists(&key).await;
    if let Err(error) = one.store().delete(&key).await {
        tracing::debug!(object = one.shown(&key), error = describe(&error), "an object of no meaning stays");
    }
    found
}

/// The first two that are one place, as the error that says so.
pub async fn all_apart(repositories: &[Repository]) -> Result<(), RepoError> {
    for (at, second) in repositories.iter().enumerate() {
        for first in repositories.iter().take(at) {
            apart(first, second).await?;
        }
    }
    Ok(())
}

async fn apart(first: &Repository, second: &Repository) -> Result<(), RepoError> {
    if is_same(first, second).await? {
        let (first, second) = (first.name().to_owned(), second.name().to_owned());
        return Err(RepoError::OnePlace { first, second });
    }
    Ok(())
}

/// The repositories of one cluster that were opened: each in a place of its own.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    opened: Vec<Repository>,
    /// Names and cluster id of two that were seen to be apart. Not asked again: one that hangs must not keep the other closed.
    apart: Vec<(String, String, String)>,
}

impl Neighbours {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a repository in, unless another one is the same place.
    pub(super) async fn admit(&self, repository: &Repository) -> Result<(), RepoError> {
        let mut state = self.0.lock().await;
        let id = &repository.identity().cluster_id;
        let others: Vec<Repository> =
            state.opened.iter().filter(|other| other.name() != repository.name()).cloned().collect();
        for other in others.iter().filter(|other| other.identity().cluster_id == *id) {
            let mut names = [other.name().to_owned(), repository.name().to_owned()];
            names.sort_unstable();
            let [first, second] = names;
            let pair = (first, second, id.clone());
            if !state.apart.contains(&pair) {
                apart(other, repository).await?;
                state.apart.push(pair);
            }
        }
        state.opened.retain(|known| known.name() != repository.name());
        state.opened.push(repository.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::{Encryption, LazyRepository};
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::bare_folder;

    async fn made(folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        let (store, pool) = (bare_folder(folder), CpuPool::on_the_caller());
        Repository::create("made", store, "main", &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH).await.unwrap();
    }

    fn lazy(name: &str, folder: &Path) -> Arc<LazyRepository> {
        LazyRepository::at(name, bare_folder(folder), Encryption::None, 1, CpuPool::on_the_caller())
    }

    #[tokio::test]
    async fn one_place_under_two_names_is_never_opened_as_two_copies() {
        let folder = tempfile::tempdir().unwrap();
        let (here, link, there) = (folder.path().join("here"), folder.path().join("link"), folder.path().join("there"));
        made(&here).await;
        made(&there).await;
        std::os::unix::fs::symlink(&here, &link).unwrap();
        let configured = [lazy("disk", &here), lazy("nas", &link), lazy("other", &there)];
        LazyRepository::apart(&configured);
        let [disk, nas, other] = &configured;
        disk.get().await.unwrap();
        for _ in 0..2 {
            let error = nas.get().await.unwrap_err();
            assert!(
                matches!(&error, RepoError::OnePlace { first, second } if first == "disk" && second == "nas"),
                "{error}"
            );
            assert_eq!(error.class(), walward_base::ErrorClass::Permanent);
            assert!(nas.reopen().await.is_err());
        }
        other.get().await.unwrap();
        // What was opened stays so, and is opened anew.
        disk.reopen().await.unwrap();
        assert!(!here.join("probe").exists());
    }

    #[tokio::test]
    async fn a_copy_byte_for_byte_is_a_place_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (here, copy) = (folder.path().join("here"), folder.path().join("copy"));
        made(&here).await;
        std::fs::create_dir_all(copy.join("cluster")).unwrap();
        std::fs::copy(here.join("cluster/00000001.json"), copy.join("cluster/00000001.json")).unwrap();
        let configured = [lazy("here", &here), lazy("copy", &copy)];
        LazyRepository::apart(&configured);
        let mut opened = Vec::new();
        for repository in &configured {
            opened.push(repository.get().await.unwrap());
        }
        assert_eq!(opened[0].identity(), opened[1].identity());
        all_apart(&opened).await.unwrap();
        assert!(is_same(&opened[0], &opened[0]).await.unwrap());
    }
}
