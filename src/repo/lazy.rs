//! A repository that is opened when it is first needed and stays open: an agent must start, and answer, while a store is away.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Encryption, RepoError, Repository};
use crate::pg::Lineage;
use crate::storage::{self, StoreOptions};
use crate::sys::cpu::CpuPool;

/// How to reach one cluster's repository, and the open repository once it was reached.
#[derive(Debug)]
pub struct LazyRepository {
    name: String,
    cluster: String,
    store: StoreOptions,
    encryption: Encryption,
    wal_level: i32,
    pool: CpuPool,
    opened: Mutex<Option<Repository>>,
}

impl LazyRepository {
    /// Nothing is opened yet. `name` is the repository's in the configuration, `cluster` the folder in it.
    pub fn new(
        name: &str,
        cluster: &str,
        store: StoreOptions,
        encryption: Encryption,
        wal_level: i32,
        pool: CpuPool,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            store,
            encryption,
            wal_level,
            pool,
            opened: Mutex::new(None),
        })
    }

    /// The repository's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, without secrets.
    pub fn url(&self) -> String {
        format!("{}/{}", self.store.url.trim_end_matches('/'), self.cluster)
    }

    /// zstd's level for WAL.
    pub fn wal_level(&self) -> i32 {
        self.wal_level
    }

    /// The open repository. Callers that come while it is being opened wait for that.
    pub async fn get(&self) -> Result<Repository, RepoError> {
        let mut opened = self.opened.lock().await;
        if let Some(repository) = opened.as_ref() {
            return Ok(repository.clone());
        }
        let repository = self.open().await?;
        *opened = Some(repository.clone());
        Ok(repository)
    }

    /// As [`LazyRepository::get`]; the identity is read again when `lineage` is not in the one that is known, because
    /// `walward setup` may have added it since.
    pub async fn with_lineage(&self, lineage: Lineage) -> Result<Repository, RepoError> {
        let repository = self.get().await?;
        if repository.identity().lineages.iter().any(|entry| entry.lineage == lineage) {
            return Ok(repository);
        }
        self.reopen().await
    }

    /// Opens it anew, whatever was known: identity and keys as they are now.
    pub async fn reopen(&self) -> Result<Repository, RepoError> {
        let repository = self.open().await?;
        *self.opened.lock().await = Some(repository.clone());
        Ok(repository)
    }

    async fn open(&self) -> Result<Repository, RepoError> {
        let store = storage::open(&self.store, &self.cluster)?;
        Repository::open(&self.name, store, &self.encryption, self.pool.clone()).await
    }
}
