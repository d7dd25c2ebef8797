//! Two setups of one new repository: every order in which their calls can reach the store, and every point at which either can be
//! killed. Whatever happens, one of them at most makes the repository, and it opens with the keys of the one that did.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::format::{Kind, Spec};
use super::keys::{KeyError, KeySource, RecoveryKey};
use super::{Encryption, PutNew, RepoError, Repository, layout};
use walward_base::sys::cpu::CpuPool;
use walward_pg::{Lineage, SegmentSize};
use walward_storage::{
    Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Upload, memory,
};

fn now() -> Timestamp {
    "2026-11-21T06:41:58Z".parse().expect("a time")
}

/// A store that waits for its turn before every call. A loose one looks, writes and reads back in place of a conditional write, as
/// it is done on stores that have none.
#[derive(Debug)]
struct InTurns {
    inner: Arc<dyn Store>,
    turns: mpsc::Sender<oneshot::Sender<()>>,
    loose: bool,
}

impl InTurns {
    async fn turn(&self) {
        let (give, given) = oneshot::channel();
        if self.turns.send(give).await.is_ok() {
            let _ = given.await;
        }
    }

    async fn holds(&self, key: &ObjectKey, payload: &Payload) -> Result<bool, StoreError> {
        let mut body = self.inner.get(key).await?.body;
        let mut found = Vec::new();
        while let Some(part) = body.next().await {
            found.extend_from_slice(&part?);
        }
        Ok(found == payload.0.concat())
    }
}

#[async_trait]
impl Store for InTurns {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn creates(&self) -> Creates {
        if self.loose { Creates::Overwrites } else { Creates::Once }
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        // Names that only one writer can choose are no matter of turns on a loose store: it is slow enough to explore.
        if !self.loose || !key.as_str().starts_with("cluster/") {
            if !self.loose {
                self.turn().await;
            }
            return self.inner.put_new(key, payload).await;
        }
        self.turn().await;
        if self.inner.head(key).await.is_ok() {
            return Ok(Put::Exists);
        }
        self.turn().await;
        self.inner.delete(key).await?;
        self.inner.put_new(key, payload.clone()).await?;
        self.turn().await;
        Ok(if self.holds(key, &payload).await? { Put::Created } else { Put::Exists })
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        if !self.loose {
            self.turn().await;
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
        self.turn().await;
        self.inner.list(folder).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.turn().await;
        self.inner.delete(key).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.start_upload(key, expected_bytes).await
    }
}

type Made = Result<(Repository, Option<RecoveryKey>), RepoError>;

/// How a setup stands.
enum Stands {
    Runs {
        task: JoinHandle<Made>,
        turns: mpsc::Receiver<oneshot::Sender<()>>,
    },
    /// It waits before a call.
    Waits {
        task: JoinHandle<Made>,
        turns: mpsc::Receiver<oneshot::Sender<()>>,
        turn: oneshot::Sender<()>,
    },
    Killed,
    Ended(Box<Made>),
}

impl Stands {
    /// Lets it compute until it waits or has ended.
    async fn settled(self) -> Self {
        let Self::Runs { mut task, mut turns } = self else { return self };
        tokio::select! {
            Some(turn) = turns.recv() => Self::Waits { task, turns, turn },
            made = &mut task => Self::Ended(Box::new(made.expect("no panic"))),
        }
    }

    fn made(&self) -> Option<&(Repository, Option<RecoveryKey>)> {
        if let Self::Ended(made) = self { made.as_ref().as_ref().ok() } else { None }
    }
}

/// What can come next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    Goes(usize),
    Dies(usize),
}

/// The keys that two hosts have: of their own, or one that was given to both.
struct Hosts {
    files: Vec<tempfile::NamedTempFile>,
    loose: bool,
}

impl Hosts {
    fn new(shared: bool, loose: bool) -> Self {
        let file = || {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(super::keys::key_file_text().as_bytes()).expect("written");
            file
        };
        Self { files: if shared { vec![file()] } else { vec![file(), file()] }, loose }
    }

    fn encryption(&self, host: usize) -> Encryption {
        let file = &self.files[host.min(self.files.len() - 1)];
        Encryption::Key(KeySource::KeyFile(file.path().to_owned()))
    }

    fn is_shared(&self) -> bool {
        self.files.len() == 1
    }

    /// Runs both as `choices` say, and then always the first thing that can come next. How it ended, what was done, and between how
    /// many things there was a choice each time.
    async fn run(&self, store: &Arc<dyn Store>, choices: &[usize]) -> ([Stands; 2], Vec<Next>, Vec<usize>) {
        let begin = |host: usize| {
            let (sender, turns) = mpsc::channel(1);
            let store = Arc::new(InTurns { inner: store.clone(), turns: sender, loose: self.loose });
            let encryption = self.encryption(host);
            let task = tokio::spawn(async move {
                Repository::create("r", store, "main", &encryption, &[], CpuPool::on_the_caller(), now()).await
            });
            Stands::Runs { task, turns }
        };
        let mut setups = [begin(0), begin(1)];
        let (mut done, mut widths) = (Vec::new(), Vec::new());
        loop {
            let [first, second] = setups;
            setups = [first.settled().await, second.settled().await];
            let waits = |host: &usize| matches!(setups[*host], Stands::Waits { .. });
            let waiting: Vec<usize> = (0..2).filter(waits).collect();
            let options: Vec<Next> = waiting
                .iter()
                .map(|host| Next::Goes(*host))
                .chain(waiting.iter().map(|host| Next::Dies(*host)))
                .collect();
            let choice = choices.get(widths.len()).copied().unwrap_or_default();
            let Some(next) = options.get(choice) else { return (setups, done, widths) };
            widths.push(options.len());
            done.push(*next);
            let (Next::Goes(host) | Next::Dies(host)) = *next;
            let waited = std::mem::replace(&mut setups[host], Stands::Killed);
            if let Stands::Waits { task, turns, turn } = waited {
                if matches!(next, Next::Goes(_)) {
                    turn.send(()).expect("it waits");
                    setups[host] = Stands::Runs { task, turns };
                } else {
                    task.abort();
                    let _ = task.await;
                }
            }
        }
    }

    async fn open(&self, store: &Arc<dyn Store>, host: usize) -> Result<Repository, RepoError> {
        Repository::open("r", store.clone(), &self.encryption(host), CpuPool::on_the_caller()).await
    }

    /// Every order, once. How many there were.
    async fn explore(&self, check: impl AsyncFn(&Self, Arc<dyn Store>, [Stands; 2], &[Next])) -> usize {
        let (mut choices, mut runs) = (Vec::new(), 0);
        loop {
            let store: Arc<dyn Store> = memory();
            let (setups, done, widths) = self.run(&store, &choices).await;
            check(self, store, setups, &done).await;
            runs += 1;
            // The next one in the order of a dictionary.
            choices.resize(widths.len(), 0);
            while choices.last().is_some_and(|last| last + 1 >= widths[choices.len() - 1]) {
                choices.pop();
            }
            match choices.last_mut() {
                Some(last) => *last += 1,
                None => return runs,
            }
        }
    }
}

fn key() -> ObjectKey {
    layout::given("wal/x").expect("a key")
}

async fn put(repository: &Repository) {
    let content = stream::iter([Ok(Bytes::from_static(b"acknowledged"))]).boxed();
    let spec = Spec { kind: Kind::Segment, level: 1, writer: "db1".to_owned() };
    let put = repository.put_new(&key(), spec, content, || None).await.expect("stored");
    assert!(matches!(put, PutNew::Created(_)));
}

async fn read(repository: &Repository) -> Bytes {
    repository.read(&key()).await.expect("opens").into_bytes(&key(), 1 << 20).await.expect("read")
}

/// On a store that creates conditionally.
async fn one_made_it(hosts: &Hosts, store: Arc<dyn Store>, setups: [Stands; 2], done: &[Next]) {
    let made: Vec<usize> = (0..2).filter(|host| setups[*host].made().is_some()).collect();
    assert!(made.len() <= 1, "both made it: {done:?}");
    let killed = setups.iter().filter(|setup| matches!(setup, Stands::Killed)).count();
    let opened = [hosts.open(&store, 0).await, hosts.open(&store, 1).await];
    let there = !opened.iter().all(|opened| matches!(opened, Err(RepoError::NoRepository { .. })));
    // Who was not killed and did not make it was told so, and the repository is there.
    for setup in &setups {
        if let Stands::Ended(made) = setup
            && let Err(error) = &**made
        {
            assert!(matches!(error, RepoError::AlreadyThere { .. }) && there, "{error}: {done:?}");
        }
    }
    if let [winner] = *made {
        let (repository, recovery) = setups[winner].made().expect("made");
        put(repository).await;
        let (mine, other) = (&opened[winner], &opened[1 - winner]);
        assert_eq!(read(mine.as_ref().expect("opens")).await, "acknowledged", "{done:?}");
        let mut paper = tempfile::NamedTempFile::new().expect("a file");
        paper.write_all(recovery.as_ref().expect("a key").to_text().as_bytes()).expect("written");
        let paper = Encryption::Key(KeySource::KeyFile(paper.path().to_owned()));
        let by_paper = Repository::open("r", store.clone(), &paper, CpuPool::on_the_caller()).await;
        assert_eq!(read(&by_paper.expect("the recovery key opens")).await, "acknowledged", "{done:?}");
        match other {
            Ok(other) => assert!(hosts.is_shared() && read(other).await == "acknowledged", "{done:?}"),
            Err(RepoError::Keys(KeyError::WrongSecret { .. })) => assert!(!hosts.is_shared(), "{done:?}"),
            Err(error) => panic!("{error}: {done:?}"),
        }
    }
    if there {
        let mut opened = opened.into_iter().flatten();
        let repository = opened.next().expect("one of the keys opens it");
        assert!(hosts.is_shared() || opened.next().is_none(), "{done:?}");
        let left = repository.foreign_keys().await.expect("listed");
        assert!(left.len() <= killed, "who was not killed left keys: {done:?}");
    } else {
        assert_eq!(killed, 2, "{done:?}");
        // What they left is nobody's: a third setup makes the repository, and passes it over.
        let left = store.list(Some(&layout::all_keys())).await.expect("listed").objects.len();
        let pool = CpuPool::on_the_caller();
        let third = Repository::create("r", store.clone(), "main", &hosts.encryption(0), &[], pool, now()).await;
        put(&third.expect("made").0).await;
        let repository = hosts.open(&store, 0).await.expect("opens");
        assert_eq!(read(&repository).await, "acknowledged", "{done:?}");
        assert_eq!(repository.foreign_keys().await.expect("listed").len(), left, "{done:?}");
    }
}

#[tokio::test]
async fn of_two_setups_at_once_one_makes_the_repository_and_its_keys_open_it() {
    for shared in [false, true] {
        let runs = Hosts::new(shared, false).explore(one_made_it).await;
        assert!(runs > 200, "{runs} orders");
    }
}

/// On a store that looks before it writes and reads back after: whose write the store delays long enough replaces an identity that
/// was acknowledged. Then both were told that they made it, and the next step of the one whose identity it is not any more fails.
async fn one_goes_on(hosts: &Hosts, store: Arc<dyn Store>, setups: [Stands; 2], done: &[Next]) {
    let lineage = Lineage { major: 15, system_identifier: 7 };
    let mut goes_on = 0;
    for (host, setup) in setups.into_iter().enumerate() {
        let Stands::Ended(made) = setup else { continue };
        let Ok((mut repository, _)) = *made else { continue };
        match repository.confirm_alive().await {
            Ok(()) => {
                goes_on += 1;
                put(&repository).await;
                assert_eq!(read(&hosts.open(&store, host).await.expect("opens")).await, "acknowledged", "{done:?}");
            }
            Err(error) => {
                assert!(matches!(error, RepoError::Replaced { .. }), "{error}: {done:?}");
                let Encryption::Key(source) = hosts.encryption(host) else { panic!("encrypted") };
                let added = repository.add_lineage(lineage, SegmentSize::DEFAULT, now()).await;
                assert!(matches!(added, Err(RepoError::Replaced { .. })), "{done:?}");
                assert!(repository.open_keys(&source).await.is_ok(), "its own keys are there: {done:?}");
                let mut keys = repository.open_keys(&source).await.expect("opens");
                keys.rotate(now());
                let stored = repository.store_keys(&mut keys).await;
                assert!(matches!(stored, Err(RepoError::Replaced { .. })), "{done:?}");
            }
        }
    }
    assert!(goes_on <= 1, "{done:?}");
    // Whose identity it is in the end has keys that open it.
    let mut none = true;
    let mut opens = false;
    for host in 0..2 {
        let opened = hosts.open(&store, host).await;
        none &= matches!(opened, Err(RepoError::NoRepository { .. }));
        opens |= opened.is_ok();
    }
    assert!(none || opens, "{done:?}");
}

#[tokio::test]
async fn on_a_store_that_overwrites_no_two_setups_go_on() {
    let runs = Hosts::new(false, true).explore(one_goes_on).await;
    assert!(runs > 500, "{runs} orders");
}
