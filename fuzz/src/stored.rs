//! What lies in a repository: objects, manifests, identity and keys, read from a store in memory.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use walward_base::sys::cpu::CpuPool;
use walward_repo::facts::Facts;
use walward_repo::format::{Kind, Spec};
use walward_repo::keys::{KeySlots, RootId};
use walward_repo::lease::{Holder, Lease, Work};
use walward_repo::manifest::BackupLabel;
use walward_repo::{Encryption, Repository, layout, stored};
use walward_storage::{ObjectKey, Store, memory};

struct Fixture {
    runtime: tokio::runtime::Runtime,
    pool: CpuPool,
    repository: Repository,
    label: BackupLabel,
}

thread_local! {
    static FIXTURE: OnceCell<Fixture> = const { OnceCell::new() };
}

fn with<T>(work: impl FnOnce(&Fixture) -> T) -> T {
    FIXTURE.with(|cell| work(cell.get_or_init(Fixture::new)))
}

impl Fixture {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pool = CpuPool::new(1).expect("a pool");
        let create = Repository::create(
            "fuzz",
            memory(),
            "main",
            &Encryption::None,
            &[],
            pool.clone(),
            jiff::Timestamp::UNIX_EPOCH,
        );
        let (repository, _) = runtime.block_on(create).expect("a repository");
        let label = "20261121T064158Z-full".parse().expect("a label");
        Self { runtime, pool, repository, label }
    }
}

async fn put(store: &Arc<dyn Store>, key: &ObjectKey, data: &[u8]) {
    store.put_new(key, Bytes::copy_from_slice(data).into()).await.expect("a write to memory");
}

/// The bytes of a whole object.
pub fn object(data: &[u8]) {
    with(|fixture| {
        let (repository, key) = (&fixture.repository, layout::pack(&fixture.label, 1));
        fixture.runtime.block_on(async {
            put(repository.store(), &key, data).await;
            if let Ok(mut object) = repository.read(&key).await {
                while let Some(Ok(_)) = object.content.next().await {}
            }
            if let Ok(reader) = repository.frames(&key, 1 << 20).await {
                let _ = reader.read_at(0, reader.summary().content_bytes.min(64 << 20)).await;
                let _ = reader.read_at(reader.summary().content_bytes / 2, 1).await;
            }
            repository.store().delete(&key).await.expect("a deletion in memory");
        });
    });
}

/// The facts of a segment.
pub fn segment_facts(data: &[u8]) {
    if let Ok(facts) = Facts::decode(data) {
        assert_eq!(Facts::decode(&facts.encode()).as_ref(), Ok(&facts));
        if let (Some(commits), Some((first, last))) = (&facts.commits, facts.commit_times()) {
            assert!(first <= last && commits.commits.len() < walward_pg::COMMITS_MAX);
        }
    }
}

/// The content of a manifest, in an object that is right.
pub fn manifest(data: &[u8]) {
    with(|fixture| {
        let (repository, key) = (&fixture.repository, layout::manifest(&fixture.label));
        let spec = Spec { kind: Kind::Manifest, level: 1, writer: "fuzz".to_owned() };
        let content = stream::iter([Ok(Bytes::copy_from_slice(data))]).boxed();
        fixture.runtime.block_on(async {
            repository.upload(&key, spec, content, data.len() as u64).await.expect("an upload to memory");
            let _ = stored::manifest(repository, &fixture.label).await;
            repository.store().delete(&key).await.expect("a deletion in memory");
        });
    });
}

/// `cluster/1.json`, `keys/1.json` and a lease that somebody holds.
pub fn repository_files(data: &[u8]) {
    with(|fixture| {
        fixture.runtime.block_on(async {
            let store = memory();
            put(&store, &layout::identity(1), data).await;
            let root = RootId::parse(&"0".repeat(32)).expect("an id");
            put(&store, &layout::keys(1, root), data).await;
            let _ = Repository::open("fuzz", store.clone(), &Encryption::None, fixture.pool.clone()).await;
            if let Ok(KeySlots { newest: Some(keys), .. }) = KeySlots::load(&*store, root).await {
                let _ = keys.slots();
            }
            let (repository, folder) = (&fixture.repository, layout::leases(Work::Backup));
            let key = layout::lease(&folder, 1);
            put(repository.store(), &key, data).await;
            let minute = std::time::Duration::from_mins(1);
            let holder = Holder { name: "fuzz".to_owned(), process: None };
            if let Ok(lease) = Lease::take(repository, Work::Backup, &holder, minute, jiff::Timestamp::UNIX_EPOCH).await
            {
                let mine = layout::lease(&folder, lease.fencing());
                repository.store().delete(&mine).await.expect("a deletion in memory");
            }
            repository.store().delete(&key).await.expect("a deletion in memory");
        });
    });
}
