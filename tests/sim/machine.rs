//! The repositories of a simulated site, and the agent that runs for one life over them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walward::archive::{Acknowledge, ArchiveOptions, Archiver, FetchOptions, Fetcher, Spool};
use walward::health::{ArchiveStats, FetchStats};
use walward_base::ErrorClass;
use walward_base::Locked;
use walward_base::sys::cpu::CpuPool;
use walward_pg::{Lineage, WalFileName};
use walward_repo::{Encryption, LazyRepository, RepoError, Repository, layout, stored};
use walward_storage::fault::{Call, Fault, Faulty, Plan};
use walward_storage::{
    self, Creates, Limits, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoreOptions, StoredObject,
    Upload,
};

use crate::disk::{Disk, Lies, Loss};
use crate::faults::{mix, of_disk, of_store};
use crate::ledger::{Book, Ledger, TRIAL};
use crate::postgres::{Postgres, SEGMENT_BYTES, size};
use crate::shape::{Mutant, Shape};
use crate::truth::print_of;

pub const CLUSTER: &str = "main";
/// How long a push may take; the agent's own bound is three times this.
pub const PUSH_DEADLINE: Duration = Duration::from_secs(45);
pub const FETCH_DEADLINE: Duration = Duration::from_mins(1);
pub const MEMORY_MIB: u32 = 3;
pub const SPOOL_SEGMENTS: u64 = 4;

/// What happened, line by line.
pub type Trace = Arc<Mutex<Vec<String>>>;

pub fn note(trace: &Trace, line: String) {
    trace.locked().push(line);
}

/// Where a repository lies.
enum Ground {
    /// A cloud, which outlives every agent.
    Memory(Arc<dyn Store>),
    /// A disk, which is another folder after each power cut.
    Disk(Arc<Disk>),
}

/// One repository.
pub struct Site {
    pub name: &'static str,
    ground: Ground,
    encryption: Encryption,
    seed: u64,
    /// Somebody was told that the repository is there.
    set_up: bool,
}

/// Why a repository was not set up.
#[derive(Debug)]
pub enum SetUp {
    /// It can be tried again.
    Failed(String),
    /// What was there is lost.
    Gone(String),
}

/// How one life of the machines goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub life: u64,
    /// One call in so many fails.
    pub store_faults: u64,
    /// One step in so many fails.
    pub disk_faults: u64,
    /// The step, or the call, at which it ends.
    pub cut: Option<u64>,
}

impl Weather {
    /// Nothing fails any more.
    pub fn fair(life: u64) -> Self {
        Self { life, store_faults: 0, disk_faults: 0, cut: None }
    }
}

impl Site {
    pub fn new(
        name: &'static str,
        shape: &Shape,
        seed: u64,
        (folder, trace): (&Path, &Trace),
        key: Option<PathBuf>,
    ) -> Self {
        let ground = if shape.disks {
            let root = folder.join(format!("{name}-0"));
            std::fs::create_dir(&root).unwrap();
            let disk = Disk::new(&root, lies_of(shape.mutant), of_disk(0, 0, None));
            disk.trace_to(name, trace);
            Ground::Disk(disk)
        } else {
            Ground::Memory(walward_storage::memory())
        };
        let encryption =
            key.map_or(Encryption::None, |file| Encryption::Key(walward_repo::keys::KeySource::KeyFile(file)));
        Self { name, ground, encryption, seed: mix(seed, &name), set_up: false }
    }

    pub fn disk(&self) -> Option<&Arc<Disk>> {
        match &self.ground {
            Ground::Memory(_) => None,
            Ground::Disk(disk) => Some(disk),
        }
    }

    /// The machine starts again with what `loss` leaves of the disk.
    pub fn restart(&mut self, weather: Weather, loss: Loss, folder: &Path, trace: &Trace, mutant: Mutant) {
        let Ground::Disk(old) = &self.ground else { return };
        let decide = of_disk(mix(self.seed, &weather.life), weather.disk_faults, weather.cut);
        if loss == Loss::Nothing {
            return old.go_on(decide);
        }
        let root = folder.join(format!("{}-{}", self.name, weather.life));
        old.cut().recover(loss, &root);
        std::fs::remove_dir_all(old.root()).unwrap();
        let disk = Disk::new(&root, lies_of(mutant), decide);
        disk.trace_to(self.name, trace);
        self.ground = Ground::Disk(disk);
    }

    /// The bare store, as one process sees it.
    pub fn store(&self) -> Arc<dyn Store> {
        match &self.ground {
            Ground::Memory(store) => Arc::clone(store),
            Ground::Disk(disk) => walward_storage::bare_folder(&disk.root().join("repository").join(CLUSTER)),
        }
    }

    /// The repository for an agent, over a store that fails by `plan`.
    pub fn lazy(&self, store: Arc<dyn Store>, plan: Plan) -> Arc<LazyRepository> {
        let store = walward_storage::with_layers(Faulty::new(store, plan), Limits::default());
        LazyRepository::at(self.name, store, self.encryption.clone(), 1, CpuPool::on_the_caller())
    }

    /// The repository as it is, over its bare store.
    pub async fn open(&self) -> Result<Repository, RepoError> {
        let store = walward_storage::with_layers(self.store(), Limits::default());
        Repository::open(self.name, store, &self.encryption, CpuPool::on_the_caller()).await
    }

    /// What is there of a lineage: stands for the bytes of each file. One that cannot be read is left out.
    pub async fn contents(&self, lineage: Lineage) -> Result<BTreeMap<WalFileName, u64>, RepoError> {
        let repository = self.open().await?;
        let mut names: Vec<_> =
            stored::timelines(&repository, lineage).await?.into_iter().map(WalFileName::History).collect();
        for timeline in stored::wal_timelines(&repository, lineage).await? {
            names.extend(stored::wal(&repository, lineage, timeline, 0, size()).await?);
        }
        let mut contents = BTreeMap::new();
        for name in names {
            if let Ok(bytes) = read_whole(&repository, &layout::wal_file(lineage, name)).await {
                contents.insert(name, print_of(&bytes));
            }
        }
        Ok(contents)
    }

    /// What `walward setup` does: makes the repository if there is none, and tells it the lineage.
    pub async fn set_up(&mut self, lineage: Lineage) -> Result<(), SetUp> {
        let there_before = self.set_up;
        self.try_to_set_up(lineage, there_before).await?;
        self.set_up = true;
        Ok(())
    }

    async fn try_to_set_up(&self, lineage: Lineage, there_before: bool) -> Result<(), SetUp> {
        let told = |error: &dyn std::error::Error| SetUp::Failed(format!("cannot set {} up: {error:?}", self.name));
        if let Ground::Disk(disk) = &self.ground {
            let options = StoreOptions::new(format!("file://{}/repository", disk.root().display()));
            walward_storage::create_root(&options, CLUSTER).map_err(|error| told(&error))?;
        }
        let store = walward_storage::with_layers(self.store(), Limits::default());
        let pool = CpuPool::on_the_caller();
        let made = Repository::create(
            self.name,
            Arc::clone(&store),
            CLUSTER,
            &self.encryption,
            &[],
            pool.clone(),
            Timestamp::UNIX_EPOCH,
        )
        .await;
        let mut repository = match made {
            Ok(_) if there_before => {
                return Err(SetUp::Gone(format!("repository {} was set up, and is gone", self.name)));
            }
            Ok((repository, _)) => repository,
            Err(RepoError::AlreadyThere { .. }) => {
                Repository::open(self.name, store, &self.encryption, pool).await.map_err(|error| told(&error))?
            }
            Err(error) => return Err(told(&error)),
        };
        repository.add_lineage(lineage, size(), Timestamp::UNIX_EPOCH).await.map_err(|error| told(&error))
    }
}

fn lies_of(mutant: Mutant) -> Lies {
    Lies {
        files: mutant == Mutant::FilesNotSynced,
        folders: mutant == Mutant::FoldersNotSynced,
        retried: mutant == Mutant::SecondSyncTrusted,
    }
}

/// The content of a WAL file.
pub async fn read_whole(repository: &Repository, key: &ObjectKey) -> Result<Bytes, RepoError> {
    repository.read(key).await?.into_bytes(key, SEGMENT_BYTES as usize).await
}

/// One run of `walwardd` for the primary (and, on another host, for its rival).
pub struct Agent {
    pub archiver: Archiver,
    /// Another agent on the same files.
    pub twin: Archiver,
    pub rival: Option<Archiver>,
    /// Of a copy of the primary's data directory.
    pub trial: Archiver,
    pub fetcher: Fetcher,
    /// The bytes of objects on their way to the stores, of each process.
    meters: Vec<Arc<Meter>>,
    pub spool: PathBuf,
    ended: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Meter {
    now: AtomicU64,
    most: AtomicU64,
}

impl Agent {
    pub fn start(
        sites: &[Site],
        (primary, rival, trial): (&Postgres, Option<&Postgres>, &Postgres),
        ledger: &Arc<Ledger>,
        (shape, weather): (&Shape, Weather),
        spool: &Path,
        trace: &Trace,
    ) -> Result<Self, String> {
        let ended = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicU64::new(0));
        // A disk ends a life by itself.
        let cut = weather.cut.filter(|_| !shape.disks);
        let meters = RefCell::new(Vec::new());
        ledger.begin(weather);
        let repositories = |who: &'static str, server: Option<&Postgres>| -> Vec<Arc<LazyRepository>> {
            let meter = Arc::new(Meter::default());
            meters.borrow_mut().push(Arc::clone(&meter));
            let of = |site: &Site| {
                let plan = of_store(mix(site.seed, &(weather.life, who)), weather.store_faults);
                let plan = ending(plan, cut, &calls, &ended);
                let plan = traced(plan, format!("{who} {}", site.name), trace);
                let (inner, meter) = (site.store(), Arc::clone(&meter));
                let book = server.map(|server| Book::new(ledger, site.name, who, server));
                site.lazy(Arc::new(Between { inner, meter, book, mutant: shape.mutant }), plan)
            };
            sites.iter().map(of).collect()
        };
        let memory_mib = if shape.mutant == Mutant::UnboundedMemory { 1000 } else { MEMORY_MIB };
        let archiver = |server: &Postgres, who: &'static str| {
            let options = ArchiveOptions {
                acknowledge: Acknowledge::All,
                workers: 4,
                look_ahead: 8,
                deadline: PUSH_DEADLINE,
                rescan_interval: Duration::from_secs(10),
                writer: who.to_owned(),
            };
            let memory = (Arc::new(Semaphore::new(memory_mib as usize)), memory_mib);
            let stats = Arc::new(ArchiveStats::default());
            let stop = CancellationToken::new();
            Archiver::new(CLUSTER, server.data(), repositories(who, Some(server)), options, memory, stats, stop)
        };
        let spool_bytes = if shape.mutant == Mutant::UnboundedSpool { 1 << 30 } else { SPOOL_SEGMENTS * SEGMENT_BYTES };
        let opened = Spool::open(spool, spool_bytes).map_err(|error| format!("the agent does not start: {error}"))?;
        let fetcher = Fetcher::new(
            CLUSTER,
            repositories("recovery", None),
            FetchOptions { deadline: FETCH_DEADLINE, refuse_seams: true, workers: 3 },
            opened,
            Arc::new(FetchStats::default()),
            CancellationToken::new(),
        );
        let (primary, twin) = (archiver(primary, "primary"), archiver(primary, "twin"));
        let rival = rival.map(|rival| archiver(rival, "rival"));
        let trial = archiver(trial, TRIAL);
        let meters = meters.take();
        Ok(Self { archiver: primary, twin, rival, trial, fetcher, meters, spool: spool.to_owned(), ended })
    }

    /// It is stopped.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether this life is over.
    pub fn is_over(&self, sites: &[Site]) -> bool {
        self.ended.load(Ordering::SeqCst) || sites.iter().filter_map(Site::disk).any(|disk| disk.is_dead())
    }

    /// That memory and spool are within their bounds. `repositories`: each holds a copy of a segment, and each copy has a header.
    pub fn check_bounds(&self, repositories: usize) -> Result<(), String> {
        let most = self.meters.iter().map(|meter| meter.most.load(Ordering::SeqCst)).max().unwrap_or(0);
        let allowed = (u64::from(MEMORY_MIB) << 20) + repositories as u64 * u64::from(MEMORY_MIB) * (64 << 10);
        if most > allowed {
            return Err(format!("{most} bytes were on their way to the stores, of at most {allowed}"));
        }
        let (_, counted, _) = self.fetcher.counts();
        // What PostgreSQL waits for always has a place.
        let allowed = (SPOOL_SEGMENTS + 1) * SEGMENT_BYTES;
        let files = std::fs::read_dir(&self.spool).unwrap();
        let there: u64 = files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
        if counted.max(there) > allowed {
            return Err(format!("the spool holds {counted} counted and {there} real bytes, of at most {allowed}"));
        }
        Ok(())
    }
}

/// After the `cut`th call nobody is there any more to make one, or to hear its answer.
fn ending(plan: Plan, cut: Option<u64>, calls: &Arc<AtomicU64>, ended: &Arc<AtomicBool>) -> Plan {
    let Plan::By(mut decide) = plan else { return plan };
    let (calls, ended) = (Arc::clone(calls), Arc::clone(ended));
    Plan::By(Box::new(move |call| {
        let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
        if cut.is_some_and(|cut| number >= cut) {
            ended.store(true, Ordering::SeqCst);
            return Some(Fault::Hang);
        }
        decide(call)
    }))
}

fn traced(plan: Plan, who: String, trace: &Trace) -> Plan {
    let Plan::By(mut decide) = plan else { return plan };
    let trace = Arc::clone(trace);
    Plan::By(Box::new(move |call: Call<'_>| {
        let fault = decide(call);
        let what = fault.map_or_else(String::new, |fault| format!("  <- {fault:?}"));
        note(&trace, format!("  {who}: {} {}{what}", call.verb, call.key));
        fault
    }))
}

/// A store that measures what it is given, and that can be broken on purpose.
#[derive(Debug)]
struct Between {
    inner: Arc<dyn Store>,
    meter: Arc<Meter>,
    /// Where what is written is judged.
    book: Option<Book>,
    mutant: Mutant,
}

/// Bytes that are counted until it is dropped.
struct Counted(Arc<Meter>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl Between {
    /// From a recovery, which writes nothing.
    fn hides_histories(&self) -> bool {
        self.mutant == Mutant::HistoriesHidden && self.book.is_none()
    }
}

#[async_trait]
impl Store for Between {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn creates(&self) -> Creates {
        self.inner.creates()
    }

    fn can_be_swapped(&self) -> bool {
        self.inner.can_be_swapped()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        let bytes = payload.len();
        let now = self.meter.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.meter.most.fetch_max(now, Ordering::SeqCst);
        let _counted = Counted(Arc::clone(&self.meter), bytes);
        // A network takes its time.
        tokio::time::sleep(Duration::from_millis(5)).await;
        match self.mutant {
            Mutant::AnswersEarly => {
                let (inner, key) = (Arc::clone(&self.inner), key.clone());
                if inner.head(&key).await.is_ok() {
                    return Ok(Put::Exists);
                }
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    inner.put_new(&key, payload).await
                });
                Ok(Put::Created)
            }
            Mutant::Overwrites => {
                self.inner.delete(key).await?;
                self.inner.put_new(key, payload).await
            }
            _ => {
                let put = self.inner.put_new(key, payload).await?;
                if let (Put::Created, Some(book)) = (put, &self.book) {
                    book.wrote(key, &*self.inner).await;
                }
                Ok(put)
            }
        }
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        // One segment in four cannot be reached, and the identity always can.
        let is_history = key.as_str().ends_with(".history");
        let hidden = mix(0, &key.as_str()).is_multiple_of(4) && key.as_str().starts_with("wal/");
        if self.mutant == Mutant::UnreachableIsAbsent && hidden || self.hides_histories() && is_history {
            let source = "no route to the store".into();
            return Err(StoreError { class: ErrorClass::NotFound, verb: "read", key: key.to_string(), source });
        }
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(key, range).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range_of(object, range).await
    }

    async fn get_tail(&self, key: &ObjectKey, bytes_max: u64) -> Result<(ObjectInfo, Bytes), StoreError> {
        self.inner.get_tail(key, bytes_max).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let mut listing = self.inner.list(folder).await?;
        if self.mutant == Mutant::BlindListings && folder.is_some_and(|folder| folder.as_str().starts_with("wal/")) {
            listing.objects.clear();
        }
        if self.hides_histories() && folder.is_some_and(|folder| folder.as_str().starts_with("wal/")) {
            listing.objects.retain(|object| !object.key.as_str().ends_with(".history"));
            // Logs are numbered as timelines are, and there is one.
            listing.folders.retain(|folder| folder.as_str() < "00000002");
        }
        Ok(listing)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn keep(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.keep(key).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.start_upload(key, expected_bytes).await
    }
}
