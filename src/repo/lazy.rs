//! A repository that is opened when it is first needed and stays open: an agent must start, and answer, while a store is away.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Encryption, RepoError, Repository, Standing};
use crate::pg::Lineage;
use crate::storage::{self, Store, StoreOptions};
use crate::sys::cpu::CpuPool;

/// Where a repository lies.
#[derive(Debug)]
enum Place {
    /// The folder of a cluster at a store that is opened when it is needed.
    Options(Box<StoreOptions>, String),
    /// A store that was opened by others.
    Store(Arc<dyn Store>),
}

/// How to reach one cluster's repository, and the open repository once it was reached.
#[derive(Debug)]
pub struct LazyRepository {
    name: String,
    place: Place,
    encryption: Encryption,
    wal_level: i32,
    pool: CpuPool,
    standing: Standing,
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
        let place = Place::Options(Box::new(store), cluster.to_owned());
        Self::of(name, place, encryption, wal_level, pool)
    }

    /// As [`LazyRepository::new`], at a store that is open already and rooted at the cluster's folder.
    pub fn at(name: &str, store: Arc<dyn Store>, encryption: Encryption, wal_level: i32, pool: CpuPool) -> Arc<Self> {
        Self::of(name, Place::Store(store), encryption, wal_level, pool)
    }

    fn of(name: &str, place: Place, encryption: Encryption, wal_level: i32, pool: CpuPool) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            place,
            encryption,
            wal_level,
            pool,
            standing: Standing::default(),
            opened: Mutex::new(None),
        })
    }

    /// The repository's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, without secrets.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Options(store, cluster) => format!("{}/{cluster}", store.url.trim_end_matches('/')),
            Place::Store(store) => store.url().to_owned(),
        }
    }

    /// How it has answered lately.
    pub fn standing(&self) -> &Standing {
        &self.standing
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
        let repository = self.open(None).await?;
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

    /// Opens it anew, whatever was known: identity and keys as they are now. The store stays, with its bounds and with what it
    /// was found to do with two writers of one name.
    pub async fn reopen(&self) -> Result<Repository, RepoError> {
        let store = self.opened.lock().await.as_ref().map(|repository| Arc::clone(repository.store()));
        let repository = self.open(store).await?;
        *self.opened.lock().await = Some(repository.clone());
        Ok(repository)
    }

    async fn open(&self, store: Option<Arc<dyn Store>>) -> Result<Repository, RepoError> {
        let store = match (store, &self.place) {
            (Some(store), _) => store,
            (None, Place::Options(store, cluster)) => storage::open(store, cluster)?,
            (None, Place::Store(store)) => Arc::clone(store),
        };
        Repository::open(&self.name, store, &self.encryption, self.pool.clone()).await
    }
}
