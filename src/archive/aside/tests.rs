//! The moves over stores in memory, cut at every call.

mod resume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::archive::follows::follows;
use walward_base::sys::cpu::CpuPool;
use walward_base::sys::durable;
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::aside::{Aside, AsideId, Begun, FORMAT, Stage};
use walward_repo::format::{Kind, Spec};
use walward_repo::manifest::{BackupLabel, BackupType, Manifest};
use walward_repo::{Encryption, Repository, aside, layout, stored};
use walward_storage::fault::{Fault, Faulty, Plan};
use walward_storage::{ObjectInfo, ObjectKey, Put, Store, memory};

const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };
const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn name(text: &str) -> WalFileName {
    text.parse().expect("a name")
}

fn segment(timeline: u32, number: u32) -> WalFileName {
    WalFileName::Segment(SegmentName { timeline: Timeline(timeline), log: 0, segment: number })
}

fn head(second: i64, timeline: u32, from: u64, to: u64) -> Manifest {
    let start = Timestamp::from_second(1_800_000_000 + second).expect("a time");
    Manifest {
        format: 1,
        label: BackupLabel::new(start, BackupType::Full).to_string(),
        kind: BackupType::Full,
        lineage: LINEAGE,
        server_version: "15.18".to_owned(),
        segment_bytes: SIZE,
        data_checksums: true,
        timeline: Timeline(timeline),
        start_lsn: Lsn(from * SIZE.bytes() + 0x28),
        stop_lsn: Lsn(to * SIZE.bytes() + 0x100),
        started: start,
        stopped: start,
        from_standby: false,
        host: "db1".to_owned(),
        walward_version: "0.1.0".to_owned(),
        machine: None,
        data_directory: None,
        wal_directory: None,
        content_bytes: 1,
        stored_bytes: 1,
        packs: Vec::new(),
        tablespaces: Vec::new(),
        corrupt_pages: Vec::new(),
        depends_on: None,
    }
}

/// A repository with a life that begins with segment 4 of timeline 1: timeline 3 comes from it, timeline 2 parted before; the second and
/// third backup need it.
struct Archive {
    store: Arc<dyn Store>,
    /// Every object of it, before anything was moved.
    before: BTreeMap<ObjectKey, Bytes>,
}

const FROM: &str = "000000010000000000000004";
const STAY: [&str; 6] = [
    "000000010000000000000002",
    "000000010000000000000003",
    "000000010000000000000003.00000028.backup",
    "00000002.history",
    "000000020000000000000004",
    "000000020000000000000005",
];
const GO: [&str; 7] = [
    "000000010000000000000004",
    "000000010000000000000004.00000028.backup",
    "000000010000000000000005",
    "000000010000000000000006.partial",
    "00000003.history",
    "000000030000000000000006",
    "000000030000000000000007",
];

impl Archive {
    async fn new() -> Self {
        let store = memory();
        let pool = CpuPool::new(1).expect("a thread");
        let made = Repository::create("r", store.clone(), "main", &Encryption::None, &[], pool, Timestamp::now()).await;
        let mut repository = made.expect("a repository").0;
        repository.add_lineage(LINEAGE, SIZE, Timestamp::now()).await.expect("a lineage");
        for file in STAY.iter().chain(&GO) {
            let (kind, content) = match *file {
                "00000002.history" => (Kind::History, "1\t0/3000028\tx\n"),
                "00000003.history" => (Kind::History, "1\t0/6000028\tx\n"),
                other => (Kind::Segment, other),
            };
            put(&repository, &layout::wal_file(LINEAGE, name(file)), kind, content).await;
        }
        for (head, finished) in
            [(head(0, 1, 2, 3), true), (head(10, 1, 3, 4), true), (head(20, 3, 6, 7), true), (head(30, 1, 5, 5), false)]
        {
            let label: BackupLabel = head.label.parse().expect("a label");
            for number in 0..2 {
                put(&repository, &layout::pack(&label, number), Kind::Pack, "packed").await;
            }
            if finished {
                let line = serde_json::to_string(&head).expect("JSON") + "\n";
                put(&repository, &layout::manifest(&label), Kind::Manifest, &line).await;
            }
        }
        let before = archived(&*store).await;
        Self { store, before }
    }

    async fn open(&self, store: Arc<dyn Store>) -> Result<Repository, walward_repo::RepoError> {
        Repository::open("r", store, &Encryption::None, CpuPool::new(1).expect("a thread")).await
    }

    fn goes(key: &ObjectKey) -> bool {
        let goes = |label: i64| key.as_str().contains(head(label, 1, 1, 1).label.as_str());
        GO.iter().any(|file| key.file_name() == *file) || goes(10) || goes(20)
    }

    /// Whatever happened: no object is lost, none has other bytes, what stays is in its place, and a backup that is seen is whole.
    async fn judge(&self) {
        let now = archived(&*self.store).await;
        let aside: Vec<BTreeMap<ObjectKey, Bytes>> = self.asides().await;
        for (key, bytes) in &self.before {
            let is_there = now.get(key).is_some_and(|now| now == bytes);
            let is_aside = aside.iter().any(|life| life.get(key).is_some_and(|copy| copy == bytes));
            assert!(is_there || Self::goes(key) && is_aside, "{key} is lost");
            if key.file_name() == "manifest" && is_there {
                let folder = layout::folder_of(key).expect("a folder");
                let packs = self.before.keys().filter(|other| other.as_str().starts_with(folder.as_str()));
                assert!(packs.into_iter().all(|pack| now.contains_key(pack)), "{key} is seen without its packs");
            }
        }
        // As long as anything of the life is there, so is the file that keeps the other life out.
        let first = layout::wal_file(LINEAGE, name(FROM));
        if now.keys().any(|key| Self::goes(key) && layout::is_wal(key)) && !self.returning().await {
            assert!(now.contains_key(&first), "the other life may begin while this one is there");
        }
    }

    async fn returning(&self) -> bool {
        let repository = self.open(self.store.clone()).await.expect("opens");
        let stages = aside::all(&repository).await.expect("read").0;
        stages.iter().any(|aside| matches!(aside.stage, Stage::Returning | Stage::Returned))
    }

    async fn asides(&self) -> Vec<BTreeMap<ObjectKey, Bytes>> {
        let mut lives = Vec::new();
        for folder in self.store.list(Some(&layout::asides())).await.expect("listed").folders {
            let root = layout::asides().join(&folder).expect("a name");
            let all = everything(&*self.store, &root).await;
            let own = |key: ObjectKey| layout::given(&key.as_str()[root.as_str().len() + 1..]).expect("a name");
            lives.push(all.into_iter().map(|(key, bytes)| (own(key), bytes)).collect());
        }
        lives
    }
}

async fn put(repository: &Repository, key: &ObjectKey, kind: Kind, content: &str) {
    let spec = Spec { kind, level: 1, writer: "db1".to_owned() };
    let content = stream::iter([Ok(Bytes::from(content.to_owned()))]).boxed();
    repository.put_new(key, spec, content, || None).await.expect("put");
}

async fn everything(store: &dyn Store, root: &ObjectKey) -> BTreeMap<ObjectKey, Bytes> {
    let (mut folders, mut all) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        let listing = store.list(Some(&folder)).await.expect("listed");
        folders.extend(listing.folders.iter().map(|name| folder.join(name).expect("a name")));
        for object in listing.objects {
            let bytes = store.get_range(&object.key, 0..object.size).await.expect("read");
            all.insert(object.key, bytes);
        }
    }
    all
}

async fn archived(store: &dyn Store) -> BTreeMap<ObjectKey, Bytes> {
    let mut all = everything(store, &layout::lineages()).await;
    all.extend(everything(store, &layout::backups()).await);
    all
}

fn begun(id: &AsideId) -> Begun {
    Begun {
        format: FORMAT,
        id: id.clone(),
        lineage: LINEAGE,
        from: name(FROM),
        begun: Timestamp::now(),
        host: "db1".to_owned(),
        user: None,
        reason: String::new(),
        lists: 0,
        objects: 0,
        bytes: 0,
        backups: Vec::new(),
    }
}

/// What the command does in one repository: a move that was cut is taken up, else a new one is begun.
async fn set_aside(repository: &Repository) -> Result<(), AsideError> {
    let failed = failed(repository, "look");
    let known = aside::all(repository).await.map_err(&failed)?.0;
    if known.iter().any(|aside| aside.stage == Stage::Aside) {
        return Ok(());
    }
    let mut away = if let Some(cut) = known.iter().find(|aside| aside.stage == Stage::Cut) {
        Away::resume(repository, cut, Rest::default()).await?
    } else {
        let facts = Facts::read(repository, name(FROM), None).await?.expect("a lineage");
        Away::begin(repository, begun(&AsideId::new(Timestamp::now())), &plan(&facts, name(FROM))).await?
    };
    away.copy(|_| {}).await?;
    away.remove().await?;
    away.finish("db1").await.map(|gone| assert_eq!(gone, []))
}

async fn put_back(repository: &Repository) -> Result<(), AsideError> {
    let known = aside::all(repository).await.map_err(failed(repository, "look"))?.0;
    let aside: &Aside = known.last().expect("something is aside");
    let back = Back::read(repository, aside).await?;
    back.judge().await?;
    back.put_back("db1", |_| {}).await
}

/// A store that ends with its call number `cut`, which happens or not. How many calls it has had.
fn ending(store: &Arc<dyn Store>, cut: usize, happens: bool) -> (Arc<dyn Store>, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let plan = Plan::By(Box::new(move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let off = ErrorClass::Permanent;
        match number.cmp(&cut) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal if happens => Some(Fault::After(off)),
            _ => Some(Fault::Before(off)),
        }
    }));
    (Faulty::new(Arc::clone(store), plan), calls)
}

#[tokio::test]
async fn a_life_goes_and_comes_back_and_nothing_else_is_touched() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    set_aside(&repository).await.expect("set aside");
    archive.judge().await;
    let now = archived(&*archive.store).await;
    let stays: BTreeMap<_, _> = archive.before.clone().into_iter().filter(|(key, _)| !Archive::goes(key)).collect();
    assert_eq!(now.keys().collect::<Vec<_>>(), stays.keys().collect::<Vec<_>>());
    assert_eq!(stored::timelines(&repository, LINEAGE).await.expect("listed"), [Timeline(2)]);
    let found = aside::all(&repository).await.expect("read").0;
    let [Aside { begun, stage: Stage::Aside }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((begun.objects, begun.backups.len()), (7 + 2 * 3, 2));

    // The other life goes on: nothing of it is overwritten.
    let other = layout::wal_file(LINEAGE, name(FROM));
    put(&repository, &other, Kind::Segment, "the other life").await;
    let refused = put_back(&repository).await;
    assert!(matches!(&refused, Err(AsideError::Taken { first, count: 1, .. }) if *first == other.to_string()));
    assert!(archived(&*archive.store).await.len() == stays.len() + 1, "nothing was put back");
    archive.store.delete(&other).await.expect("removed");

    put_back(&repository).await.expect("put back");
    assert!(archived(&*archive.store).await == archive.before);
    let left: Vec<_> = archive.asides().await.into_iter().flatten().map(|(key, _)| key.to_string()).collect();
    assert_eq!(left, ["begun.json", "done.json", "list/00000.json", "returned.json", "returning.json"]);
    // And away again, under another name.
    set_aside(&repository).await.expect("nothing is cut and something was aside");
}

#[tokio::test]
async fn a_move_that_is_cut_at_any_call_loses_nothing_and_is_taken_up() {
    for happens in [false, true] {
        let mut cut = 0;
        loop {
            let archive = Archive::new().await;
            let (store, calls) = ending(&archive.store, cut, happens);
            let ended = match archive.open(store).await {
                Ok(repository) => set_aside(&repository).await.is_ok(),
                Err(_) => false,
            };
            archive.judge().await;
            let repository = archive.open(archive.store.clone()).await.expect("opens");
            set_aside(&repository).await.expect("the same command again");
            archive.judge().await;
            let now = archived(&*archive.store).await;
            assert!(now.keys().all(|key| !Archive::goes(key)), "cut at {cut}: {:?}", now.keys());
            let found = aside::all(&repository).await.expect("read").0;
            assert!(found.len() == 1 && found[0].stage == Stage::Aside, "cut at {cut}: {found:?}");
            if ended {
                assert!(calls.load(Ordering::Relaxed) > 100, "few were cut");
                break;
            }
            cut += 1;
        }
    }
}

#[tokio::test]
async fn a_move_back_that_is_cut_at_any_call_loses_nothing_and_is_taken_up() {
    for happens in [false, true] {
        let mut cut = 0;
        loop {
            let archive = Archive::new().await;
            set_aside(&archive.open(archive.store.clone()).await.expect("opens")).await.expect("set aside");
            let (store, _) = ending(&archive.store, cut, happens);
            let ended = match archive.open(store).await {
                Ok(repository) => put_back(&repository).await.is_ok(),
                Err(_) => false,
            };
            archive.judge().await;
            let repository = archive.open(archive.store.clone()).await.expect("opens");
            put_back(&repository).await.expect("the same command again");
            assert!(archived(&*archive.store).await == archive.before, "cut at {cut}");
            if ended {
                break;
            }
            cut += 1;
        }
    }
}

#[tokio::test]
async fn what_took_a_name_while_a_move_was_cut_is_left_alone() {
    let archive = Archive::new().await;
    let first = layout::wal_file(LINEAGE, name(FROM));
    // Cut before it is written down as done.
    let plan =
        Plan::By(Box::new(|call| call.key.ends_with("done.json").then_some(Fault::Before(ErrorClass::Permanent))));
    let repository = archive.open(Faulty::new(archive.store.clone(), plan)).await.expect("opens");
    set_aside(&repository).await.expect_err("cut");
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    for key in [&first, &layout::wal_file(LINEAGE, segment(1, 9))] {
        put(&repository, key, Kind::Segment, "the other life").await;
    }
    set_aside(&repository).await.expect("done");
    let now = archived(&*archive.store).await;
    for key in [first.clone(), layout::wal_file(LINEAGE, segment(1, 9))] {
        assert!(now.contains_key(&key), "{key} is the other life's");
    }
    assert!(archive.asides().await[0][&first] == archive.before[&first]);
}

#[tokio::test]
async fn what_another_agent_brings_back_meanwhile_goes_again() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let facts = Facts::read(&repository, name(FROM), None).await.expect("read").expect("a lineage");
    let plan = plan(&facts, name(FROM));
    let mut away = Away::begin(&repository, begun(&AsideId::new(Timestamp::now())), &plan).await.expect("begun");
    away.copy(|_| {}).await.expect("copied");
    away.remove().await.expect("removed");
    let again = layout::wal_file(LINEAGE, segment(1, 5));
    let put = archive.store.put_new(&again, archive.before[&again].clone().into()).await;
    assert_eq!(put.expect("put"), Put::Created);
    away.finish("db1").await.expect("done");
    assert!(!archived(&*archive.store).await.contains_key(&again));
    archive.judge().await;
}

/// A server on timeline 3, whose last checkpoint began in segment 8 and which has files of these contents.
fn server(pg_wal: &Path, files: &[(&str, &str)]) -> KeptServer {
    for (file, content) in files {
        durable::create(&pg_wal.join(file), content.as_bytes(), 0o600).expect("written");
    }
    let history = TimelineHistory::parse(Timeline(3), "1\t0/6000028\tx\n").expect("a history");
    let names = files.iter().map(|(file, _)| name(file)).collect();
    KeptServer::new(pg_wal, (LINEAGE, SIZE), history, 8, names)
}

#[tokio::test]
async fn what_the_kept_server_has_with_the_same_content_stays_with_the_backup_that_needs_it_alone() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let (history, sixth, seventh) = ("00000003.history", "000000030000000000000006", "000000030000000000000007");
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = vec![(FROM, "this server's"), ("000000010000000000000005", "this server's"), (sixth, sixth)];
    files.extend([(history, "1\t0/6000028\tx\n"), (seventh, seventh)]);
    let kept = server(folder.path(), &files);
    let facts = Facts::read(&repository, name(FROM), Some(&kept)).await.expect("read").expect("a lineage");
    let plan = plan(&facts, name(FROM));
    assert_eq!(plan.stays, [history, sixth, seventh].map(name).into());
    let going: BTreeSet<WalFileName> = plan.wal.iter().map(|(name, _)| *name).collect();
    assert_eq!(going, GO.into_iter().map(name).filter(|name| !plan.stays.contains(name)).collect());
    let labels: Vec<&String> = plan.backups.iter().map(|(label, _)| label).collect();
    assert_eq!(labels, [&head(10, 1, 3, 4).label], "the backup of timeline 3 needs the server's own WAL alone");
    assert_eq!(plan.doubtful, BTreeSet::new());
}

#[tokio::test]
async fn what_the_kept_server_wrote_and_has_no_more_is_named_before_it_goes() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let seventh = "000000030000000000000007";
    // The segments 4 and 5 wait; 7 was recycled, with another number's content under its name; 6 is gone.
    let files = [(FROM, "waits"), ("000000010000000000000005", "waits"), (seventh, "another number's")];
    let kept = server(folder.path(), &files);
    let facts = Facts::read(&repository, name(FROM), Some(&kept)).await.expect("read").expect("a lineage");
    let plan = plan(&facts, name(FROM));
    assert_eq!(plan.doubtful, ["00000003.history", "000000030000000000000006"].map(name).into());
    assert_eq!((plan.stays.len(), plan.wal.len(), plan.backups.len()), (0, GO.len(), 2));
}

#[tokio::test]
async fn where_the_file_is_the_servers_own_nothing_goes() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let kept = server(folder.path(), &[(FROM, FROM)]);
    let facts = Facts::read(&repository, name(FROM), Some(&kept)).await.expect("read").expect("a lineage");
    let plan = plan(&facts, name(FROM));
    assert!(plan.is_empty() && plan.stays.contains(&name(FROM)), "{plan:?}");
}

#[tokio::test]
async fn a_server_that_cannot_be_read_is_not_taken_for_none() {
    let archive = Archive::new().await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    assert!(KeptServer::read(&folder.path().join("none")).expect("read").is_none());
    std::fs::create_dir_all(folder.path().join("global")).expect("a folder");
    assert!(KeptServer::read(folder.path()).expect("read").is_none());
    durable::create(&folder.path().join("global/pg_control"), b"damaged", 0o600).expect("written");
    assert!(matches!(KeptServer::read(folder.path()), Err(AsideError::Server { .. })));
    // A link in place of a file is read by nobody, and is not "no such file".
    std::fs::create_dir(folder.path().join("pg_wal")).expect("a folder");
    let kept = server(&folder.path().join("pg_wal"), &[(FROM, "waits")]);
    std::fs::remove_file(folder.path().join("pg_wal").join(FROM)).expect("removed");
    std::os::unix::fs::symlink("elsewhere", folder.path().join("pg_wal").join(FROM)).expect("a link");
    let read = Facts::read(&repository, name(FROM), Some(&kept)).await;
    assert!(matches!(read, Err(AsideError::Server { .. })), "{read:?}");
}

fn info(file: WalFileName) -> ObjectInfo {
    let modified = Timestamp::UNIX_EPOCH;
    ObjectInfo { key: layout::wal_file(LINEAGE, file), size: 1, modified, tag: None }
}

proptest! {
    /// Over random archives: exactly what the archiver would refuse after `from` and the server has not with the same content, in an order in which `from` is last and no history
    /// goes before WAL of its timeline; and every backup whose WAL is touched, and no other.
    #[test]
    fn what_goes_is_what_the_archiver_would_refuse(
        files in proptest::collection::btree_set((1u32..5, 0u32..12), 1..30),
        forks in proptest::collection::vec(1u64..12, 3),
        parents in proptest::collection::vec(0u32..3, 3),
        known in proptest::collection::vec(any::<bool>(), 3),
        backups in proptest::collection::vec((1u32..5, 0u64..12, 0u64..4), 0..6),
        from in (1u32..5, 0u32..12), from_history: bool,
        of_server in proptest::collection::vec(any::<bool>(), 33),
    ) {
        let mut histories = BTreeMap::new();
        for (at, fork) in forks.iter().enumerate() {
            let timeline = Timeline(u32::try_from(at).expect("few") + 2);
            let parent = 1 + parents[at] % (timeline.0 - 1);
            if known[at] {
                let text = format!("{parent}\t0/{:X}\tx\n", fork * SIZE.bytes() + 0x28);
                histories.insert(timeline, TimelineHistory::parse(timeline, &text).expect("a history"));
            }
        }
        let from = if from_history && from.0 > 1 { WalFileName::History(Timeline(from.0)) } else { segment(from.0, from.1) };
        let mut wal: Vec<WalFileName> = files.iter().map(|(timeline, number)| segment(*timeline, *number)).collect();
        wal.extend(histories.keys().map(|timeline| WalFileName::History(*timeline)));
        let heads: Vec<Manifest> = (0i64..).zip(&backups).map(|(at, (timeline, start, length))| head(at, *timeline, *start, start + length)).collect();
        let facts = Facts {
            lineage: LINEAGE,
            size: SIZE,
            histories: histories.clone(),
            wal: wal.iter().map(|file| (*file, info(*file))).collect(),
            backups: heads.iter().map(|head| (head.clone(), Vec::new())).collect(),
            own: wal.iter().zip(&of_server).filter(|(_, own)| **own).map(|(file, _)| *file).collect(),
            recycled: BTreeSet::new(),
            warnings: Vec::new(),
        };
        let plan = plan(&facts, from);
        if facts.own.contains(&from) {
            prop_assert!(plan.is_empty());
            return Ok(());
        }
        let follows = |file: WalFileName| file == from || follows(from, file, histories.get(&file.timeline()), SIZE);
        prop_assert_eq!(&plan.stays, &facts.own.iter().copied().filter(|file| follows(*file)).collect());
        let belongs = |file: WalFileName| follows(file) && !facts.own.contains(&file);
        let going: Vec<WalFileName> = plan.wal.iter().map(|(file, _)| *file).collect();
        for file in &wal {
            prop_assert_eq!(going.contains(file), belongs(*file), "{}", file);
        }
        prop_assert!(going.iter().position(|file| *file == from).is_none_or(|at| at + 1 == going.len()));
        for (at, file) in going.iter().enumerate() {
            let later = || going.iter().skip(at + 1).filter(|other| **other != from);
            if matches!(file, WalFileName::History(_)) && *file != from {
                prop_assert!(later().all(|other| other.timeline() < file.timeline()), "{} goes before its WAL", file);
            }
        }
        for (head, (timeline, start, length)) in heads.iter().zip(&backups) {
            let needed = (*start..=start + length).map(|number| segment(*timeline, u32::try_from(number).expect("small")));
            let is_touched = needed.into_iter().any(belongs) || belongs(WalFileName::History(Timeline(*timeline)));
            prop_assert_eq!(plan.backups.iter().any(|(label, _)| *label == head.label), is_touched);
        }
    }
}
