//! A repository that is opened when it is first needed and stays open: an agent must start, and answer, while a store is away.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::Instrument;

use super::place::Neighbours;
use super::{Encryption, RepoError, Repository, Standing};
use walward_base::Locked;
use walward_base::sys::cpu::CpuPool;
use walward_base::{ErrorClass, describe, format_duration};
use walward_pg::Lineage;
use walward_storage::{Store, StoreOptions};

/// Where a repository lies.
#[derive(Debug)]
enum Location {
    /// The folder of a cluster at a store that is opened when it is needed.
    Options(Box<StoreOptions>, String),
    /// A store that was opened by others.
    Store(Arc<dyn Store>),
}

/// How to reach one cluster's repository, and the open repository once it was reached.
#[derive(Debug)]
pub struct LazyRepository {
    wal_level: i32,
    standing: Standing,
    opening: Arc<Opening>,
}

/// What it takes to open it.
#[derive(Debug)]
struct Opening {
    name: String,
    place: Location,
    encryption: Encryption,
    pool: CpuPool,
    /// Kept also when the repository could not be opened in time: what hangs in a store holds threads, and every store has as
    /// many of its own.
    store: std::sync::Mutex<Option<Arc<dyn Store>>>,
    opened: Arc<Mutex<Option<Repository>>>,
    neighbours: OnceLock<Arc<Neighbours>>,
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
        let place = Location::Options(Box::new(store), cluster.to_owned());
        Self::of(name, place, encryption, wal_level, pool)
    }

    /// As [`LazyRepository::new`], at a store that is open already and rooted at the cluster's folder.
    pub fn at(name: &str, store: Arc<dyn Store>, encryption: Encryption, wal_level: i32, pool: CpuPool) -> Arc<Self> {
        Self::of(name, Location::Store(store), encryption, wal_level, pool)
    }

    fn of(name: &str, place: Location, encryption: Encryption, wal_level: i32, pool: CpuPool) -> Arc<Self> {
        let (store, opened) = (std::sync::Mutex::default(), Arc::default());
        let (name, neighbours) = (name.to_owned(), OnceLock::new());
        let opening = Arc::new(Opening { name, place, encryption, pool, store, opened, neighbours });
        Arc::new(Self { wal_level, standing: Standing::default(), opening })
    }

    /// Makes these the repositories of one cluster, each of which is a copy of its own: of two that are one place under two names the
    /// second one does not open.
    pub fn apart(repositories: &[Arc<Self>]) {
        let neighbours = Neighbours::new();
        for repository in repositories {
            let _ = repository.opening.neighbours.set(Arc::clone(&neighbours));
        }
    }

    /// The repository's name in the configuration.
    pub fn name(&self) -> &str {
        &self.opening.name
    }

    /// Where it is, without secrets.
    pub fn url(&self) -> String {
        match &self.opening.place {
            Location::Options(store, cluster) => format!("{}/{cluster}", store.url.trim_end_matches('/')),
            Location::Store(store) => store.url().to_owned(),
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

    /// The open repository; one that was seen to be gone, or to hold what its keys do not open, is opened anew, with the keys of what is there now. Callers that come while it is
    /// being opened wait for that. Opening goes on when its caller gives up, so that a store that is slow to open is open for the next one.
    pub async fn get(&self) -> Result<Repository, RepoError> {
        self.opening.once().await
    }

    /// The repository, if it is open; never waits.
    pub fn get_open(&self) -> Option<Repository> {
        self.opening.opened.try_lock().ok()?.clone().filter(|repository| !repository.is_outdated())
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
        self.opening.anew().await
    }

    /// Whether the repository answers at all: what it takes to open it, or its identity. Waits no longer than `patience`.
    ///
    /// # Errors
    /// Why it is taken for one that does not: only what may heal by itself. A refusal is an answer.
    pub async fn probe(&self, patience: Duration) -> Result<(), String> {
        let alive = async { self.get().await?.confirm_alive().await };
        match tokio::time::timeout(patience, walward_storage::patient_until(Instant::now() + patience, alive)).await {
            Ok(Err(error)) if error.class() == ErrorClass::Transient => Err(describe(&error)),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no answer within {}", format_duration(patience))),
        }
    }
}

impl Opening {
    /// The repository, opened if it is not, in a task of its own that keeps others from opening it a second time meanwhile.
    async fn once(self: &Arc<Self>) -> Result<Repository, RepoError> {
        let mut opened = Arc::clone(&self.opened).lock_owned().await;
        if let Some(repository) = opened.as_ref().filter(|repository| !repository.is_outdated()) {
            return Ok(repository.clone());
        }
        let is_first = opened.is_none();
        let this = Arc::clone(self);
        in_its_own_task(async move {
            let repository = this.open(is_first).await?;
            *opened = Some(repository.clone());
            Ok(repository)
        })
        .await
    }

    /// The repository, opened now. Those who are content with what was opened before do not wait for it.
    async fn anew(self: &Arc<Self>) -> Result<Repository, RepoError> {
        let is_first = self.opened.lock().await.is_none();
        let this = Arc::clone(self);
        in_its_own_task(async move {
            let repository = this.open(is_first).await?;
            *this.opened.lock().await = Some(repository.clone());
            Ok(repository)
        })
        .await
    }

    async fn open(&self, is_first: bool) -> Result<Repository, RepoError> {
        let store = self.store()?;
        let opened = Repository::open(&self.name, store, &self.encryption, self.pool.clone()).await;
        if is_first && opened.as_ref().is_err_and(|error| !error.class().is_worth_retrying()) {
            // The next one reads certificates and credentials again.
            *self.store.locked() = None;
        }
        if let (Ok(repository), Some(neighbours)) = (&opened, self.neighbours.get()) {
            neighbours.admit(repository).await?;
        }
        opened
    }

    fn store(&self) -> Result<Arc<dyn Store>, RepoError> {
        let mut known = self.store.locked();
        if let Some(store) = &*known {
            return Ok(Arc::clone(store));
        }
        let store = match &self.place {
            Location::Options(store, cluster) => walward_storage::open(store, cluster)?,
            Location::Store(store) => Arc::clone(store),
        };
        Ok(Arc::clone(known.insert(store)))
    }
}

/// Does `work` to its end, whether or not its caller waits for that.
async fn in_its_own_task(
    work: impl Future<Output = Result<Repository, RepoError>> + Send + 'static,
) -> Result<Repository, RepoError> {
    match tokio::spawn(walward_storage::as_patient_as_here(work).in_current_span()).await {
        Ok(result) => result,
        Err(died) => match died.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and everything in it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_storage::Limits;

    const RUNTIME: &str = "absent-disk";

    /// A FIFO without a writer in the place of the identity: whoever opens it for reading hangs in the kernel.
    #[test]
    fn a_disk_that_hangs_from_the_start_takes_a_bounded_number_of_threads_however_often_it_is_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let identities = folder.path().join("main/cluster");
        std::fs::create_dir_all(&identities).expect("made");
        let fifo = identities.join("00000001.json");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name(RUNTIME).enable_all().build().expect("a runtime");
        let limits = Limits {
            request_timeout: Duration::from_millis(30),
            retry_deadline: Duration::from_millis(60),
            ..Limits::default()
        };
        let options = StoreOptions { limits, ..StoreOptions::new(format!("file://{}", folder.path().display())) };
        let pool = CpuPool::new(1).expect("a thread");
        let lazy = LazyRepository::new("disk", "main", options, Encryption::None, 1, pool);
        let open = async |number: u32| if number.is_multiple_of(2) { lazy.get().await } else { lazy.reopen().await };
        let opened: Vec<_> = (0..30).map(|number| runtime.block_on(open(number))).collect();
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == RUNTIME)
        };
        let threads =
            std::fs::read_dir("/proc/self/task").expect("listed").filter_map(Result::ok).filter(named).count();
        // Every thread that waits gets its writer.
        let healed = std::fs::OpenOptions::new().write(true).open(fifo).expect("somebody reads");
        runtime.shutdown_timeout(Duration::from_secs(10));
        drop(healed);
        // Those of the runtime and of one store, and whatever had a moment's work; those of two stores would be more.
        assert!(threads < 2 + 2 * 8, "{threads} threads");
        let transient = |opened: Result<Repository, RepoError>| opened.expect_err("it hangs").class();
        assert!(opened.into_iter().map(transient).all(|class| class == ErrorClass::Transient));
    }
}
