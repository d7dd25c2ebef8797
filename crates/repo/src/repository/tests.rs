use std::io::Write;

use futures::TryStreamExt;

use super::*;
use crate::format::Spec;
use crate::gap::{self, Gap};
use crate::transfer::{self, TransferError};
use crate::{LazyRepository, place};
use walward_pg::{CommitIndex, Commits, Lsn};
use walward_storage::fault::{Call, Fault, Faulty, Plan};
use walward_storage::{Payload, memory};

fn now() -> Timestamp {
    "2026-11-21T06:41:58Z".parse().expect("a time")
}

fn pool() -> CpuPool {
    CpuPool::new(2).expect("threads")
}

fn key_file() -> (tempfile::NamedTempFile, KeySource) {
    // tempfile makes files of mode 0600.
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(crate::keys::key_file_text().as_bytes()).expect("written");
    let source = KeySource::KeyFile(file.path().to_owned());
    (file, source)
}

/// A new repository in memory, and what keeps its key alive.
async fn repository(encrypted: bool) -> (Repository, Arc<dyn Store>, Option<tempfile::NamedTempFile>) {
    let store: Arc<dyn Store> = memory();
    let (file, encryption) = if encrypted {
        let (file, source) = key_file();
        (Some(file), Encryption::Key(source))
    } else {
        (None, Encryption::None)
    };
    let created = Repository::create("r", store.clone(), "main", &encryption, &[], pool(), now()).await;
    (created.expect("a repository").0, store, file)
}

fn spec(kind: Kind) -> Spec {
    Spec { kind, level: 1, writer: "db1".to_owned() }
}

fn stream(content: &Bytes, piece: usize) -> BoxStream<'static, std::io::Result<Bytes>> {
    let pieces: Vec<_> =
        (0..content.len()).step_by(piece).map(|at| Ok(content.slice(at..(at + piece).min(content.len())))).collect();
    stream::iter(pieces).boxed()
}

fn content(length: usize, seed: u64) -> Bytes {
    // Half text that compresses, half noise that does not.
    let mut state = seed | 1;
    (0..length)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if at % 8192 < 4096 { state.to_be_bytes()[0] } else { b"tuple"[at % 5] }
        })
        .collect::<Vec<u8>>()
        .into()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a key")
}

async fn put(repository: &Repository, name: &str, content: &Bytes) -> Result<PutNew, RepoError> {
    repository.put_new(&key(name), spec(Kind::Segment), stream(content, 100_000), || Some(Facts::of_times(5, 9))).await
}

async fn read(repository: &Repository, name: &str) -> Result<Bytes, RepoError> {
    repository.read(&key(name)).await?.into_bytes(&key(name), usize::MAX).await
}

#[tokio::test]
async fn what_was_put_is_read_and_summed_up() {
    for encrypted in [false, true] {
        let (repository, _, _file) = repository(encrypted).await;
        for length in [0, 1, 1 << 20, (1 << 20) + 1, 5_300_000] {
            let content = content(length, 3);
            let name = format!("wal/x/{length}");
            let PutNew::Created(summary) = put(&repository, &name, &content).await.expect("put") else {
                panic!("not new")
            };
            assert_eq!(summary.content_bytes, length as u64);
            assert_eq!(read(&repository, &name).await.expect("read"), content);
            let found = repository.read_summary(&key(&name)).await.expect("a summary");
            assert_eq!(found.summary, summary);
            assert_eq!(found.facts, Some(Facts::of_times(5, 9)));
            assert_eq!((found.kind, found.writer.as_str()), (Kind::Segment, "db1"));
        }
    }
}

/// A later version may write what this one does not understand.
#[tokio::test]
async fn a_segment_whose_facts_cannot_be_understood_is_whole_and_nothing_is_known_of_it() {
    for encrypted in [false, true] {
        let (repository, _, _file) = repository(encrypted).await;
        let (name, content) = (key("wal/x/y"), content(3_000_000, 3));
        let odd = vec![Commits { lsn: Lsn(1), first: 9, last: 5, count: 0 }];
        let odd = Facts { commits: Some(CommitIndex::stored(odd, Vec::new(), false, None, None)), ..Facts::default() };
        assert!(Facts::decode(&odd.encode()).is_err());
        let put = repository.put_new(&name, spec(Kind::Segment), stream(&content, 100_000), || Some(odd)).await;
        let PutNew::Created(summary) = put.expect("put") else { panic!("not new") };
        assert_eq!(read(&repository, "wal/x/y").await.expect("read"), content);
        let found = repository.read_summary(&name).await.expect("a summary");
        assert_eq!((found.facts, found.summary), (None, summary));
    }
}

#[tokio::test]
async fn what_was_uploaded_is_read() {
    for encrypted in [false, true] {
        let (repository, _, _file) = repository(encrypted).await;
        let content = content(9_000_000, 3);
        let name = key("backup/x/pack/00000");
        let uploaded =
            repository.upload(&name, spec(Kind::Pack), stream(&content, 3_000_000), 9_000_000).await.expect("uploaded");
        assert_eq!(repository.store().head(&name).await.expect("there").size, uploaded.stored_bytes);
        assert_eq!(read(&repository, name.as_str()).await.expect("read"), content);
        assert_eq!(repository.read_summary(&name).await.expect("a summary").summary, uploaded);
    }
}

#[tokio::test]
async fn facts_come_with_the_summary_by_one_request_and_only_segments_have_them() {
    for encrypted in [false, true] {
        let (repository, store, _file) = repository(encrypted).await;
        let faulty = Faulty::new(store, Plan::script([]));
        let mut counted = repository.clone();
        counted.store = Arc::clone(&faulty) as Arc<dyn Store>;
        // As many entries as there can be, no two alike: still in what is read at the end.
        let entry = |at: u32| {
            let time = i64::from(at.wrapping_mul(2_654_435_761));
            Commits { lsn: Lsn(u64::from(at) * 40_000), first: time, last: time + 1000, count: 2 }
        };
        let commits = CommitIndex::stored((1..512).map(entry).collect(), Vec::new(), false, None, Some(740));
        let full = Facts { commits: Some(commits), ..Facts::default() };
        let name = key("wal/x");
        let put =
            counted.put_new(&name, spec(Kind::Segment), stream(&content(5_000_000, 3), 100_000), || Some(full.clone()));
        put.await.expect("put");
        faulty.plan(Plan::script([None, Some(Fault::Before(ErrorClass::Denied))]));
        assert_eq!(counted.read_summary(&name).await.expect("one request").facts, Some(full));
        let name = key("wal/y");
        let put = repository.put_new(&name, spec(Kind::Segment), stream(&content(10, 3), 100), || None).await;
        put.expect("put");
        assert_eq!(repository.read_summary(&name).await.expect("read").facts, None);
        assert_eq!(read(&repository, "wal/y").await.expect("read"), content(10, 3));
        let name = key("backup/x/pack/00000");
        let wrong =
            repository.put_new(&name, spec(Kind::Pack), stream(&content(10, 3), 100), || Some(Facts::default()));
        wrong.await.expect("put");
        assert_eq!(repository.read_summary(&name).await.expect_err("a pack").class(), ErrorClass::Corrupt);
        assert_eq!(read(&repository, name.as_str()).await.expect_err("a pack").class(), ErrorClass::Corrupt);
    }
}

#[tokio::test]
async fn the_same_content_again_is_a_success_and_other_content_is_refused() {
    for encrypted in [false, true] {
        let (repository, _, _file) = repository(encrypted).await;
        let (one, other) = (content(2_000_000, 1), content(2_000_000, 2));
        put(&repository, "wal/x", &one).await.expect("put");
        assert_eq!(put(&repository, "wal/x", &one).await.expect("put"), PutNew::Same);
        let PutNew::Different { writer, .. } = put(&repository, "wal/x", &other).await.expect("put") else {
            panic!("not refused")
        };
        assert_eq!(writer, "db1");
        assert_eq!(read(&repository, "wal/x").await.expect("read"), one);
    }
}

#[tokio::test]
async fn the_same_content_is_known_under_an_older_master_key() {
    let (repository, store, file) = repository(true).await;
    let (one, other) = (content(2_000_000, 1), content(2_000_000, 2));
    put(&repository, "wal/x", &one).await.expect("put");
    let source = KeySource::KeyFile(file.as_ref().expect("a key file").path().to_owned());
    let mut keys = repository.open_keys(&source).await.expect("opens");
    keys.rotate(now());
    keys.store(&*store).await.expect("stored");
    let rotated = Repository::open("r", store, &Encryption::Key(source), pool()).await.expect("opens");
    assert_eq!(read(&rotated, "wal/x").await.expect("read"), one);
    assert_eq!(put(&rotated, "wal/x", &one).await.expect("put"), PutNew::Same);
    assert!(!repository.is_outdated());
    assert!(matches!(put(&rotated, "wal/x", &other).await.expect("put"), PutNew::Different { .. }));
    put(&rotated, "wal/y", &one).await.expect("put");
    let error = read(&repository, "wal/y").await.expect_err("a key that this ring does not hold");
    assert!(matches!(error, RepoError::UnknownMasterKey { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Denied);
    assert!(repository.is_outdated() && !repository.is_gone() && !rotated.is_outdated());
}

#[tokio::test]
async fn a_damaged_object_under_the_name_is_told_and_left() {
    let (repository, store, _) = repository(false).await;
    let content = content(10_000, 1);
    store.put_new(&key("wal/x"), Bytes::from_static(b"half an obj").into()).await.expect("put");
    let error = put(&repository, "wal/x", &content).await.expect_err("damaged");
    assert!(matches!(error, RepoError::ExistingUnreadable { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Corrupt);
    assert_eq!(store.head(&key("wal/x")).await.expect("there").size, 11);
}

#[tokio::test]
async fn an_object_moved_to_another_name_is_refused_when_sealed() {
    let (repository, store, _file) = repository(true).await;
    put(&repository, "wal/x", &content(1000, 1)).await.expect("put");
    let moved = store.get(&key("wal/x")).await.expect("there").body.try_collect::<Vec<_>>().await.expect("bytes");
    store.put_new(&key("wal/y"), Payload(moved)).await.expect("put");
    assert_eq!(read(&repository, "wal/y").await.expect_err("moved").class(), ErrorClass::Corrupt);
    assert_eq!(repository.read_summary(&key("wal/y")).await.expect_err("moved").class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn a_plain_object_in_an_encrypted_repository_is_refused() {
    let (plain, from, _) = repository(false).await;
    let (sealed, to, _file) = repository(true).await;
    put(&plain, "wal/x", &content(1000, 1)).await.expect("put");
    let bytes = from.get(&key("wal/x")).await.expect("there").body.try_collect::<Vec<_>>().await.expect("bytes");
    to.put_new(&key("wal/x"), Payload(bytes)).await.expect("put");
    let error = read(&sealed, "wal/x").await.expect_err("planted");
    assert!(matches!(error, RepoError::ForeignProtection { encrypted: false, .. }), "{error}");
}

#[tokio::test]
async fn what_is_absent_is_not_found_and_what_is_gone_is_not() {
    let (repository, store, _) = repository(false).await;
    assert_eq!(read(&repository, "wal/x").await.expect_err("absent").class(), ErrorClass::NotFound);
    assert!(!repository.exists(&key("wal/x")).await.expect("asked"));
    repository.confirm_alive().await.expect("alive");
    store.delete(&layout::identity(1)).await.expect("deleted");
    let error = repository.confirm_alive().await.expect_err("gone");
    assert!(matches!(error, RepoError::NoRepository { .. }), "{error}");
    assert_ne!(error.class(), ErrorClass::NotFound);
    let other = Identity::new("main", None, now());
    identity::put(&*store, 1, &other).await.expect("put");
    assert!(matches!(repository.confirm_alive().await, Err(RepoError::Replaced { .. })));
}

#[tokio::test]
async fn a_repository_is_opened_as_it_was_made_or_not_at_all() {
    let (_, plain, _) = repository(false).await;
    let (_, sealed, file) = repository(true).await;
    let right = Encryption::Key(KeySource::KeyFile(file.as_ref().expect("a key").path().to_owned()));
    let (_other, source) = key_file();
    let open = |store: &Arc<dyn Store>, encryption: &Encryption| {
        let (store, encryption) = (store.clone(), encryption.clone());
        async move { Repository::open("r", store, &encryption, pool()).await }
    };
    open(&plain, &Encryption::None).await.expect("opens");
    open(&sealed, &right).await.expect("opens");
    assert!(matches!(open(&plain, &right).await, Err(RepoError::NotEncrypted { .. })));
    let needed = open(&sealed, &Encryption::None).await.expect_err("needs a key");
    assert_eq!(needed.class(), ErrorClass::Denied);
    let wrong = open(&sealed, &Encryption::Key(source)).await.expect_err("the wrong key");
    assert_eq!(wrong.class(), ErrorClass::Denied);
    let empty: Arc<dyn Store> = memory();
    let none = open(&empty, &Encryption::None).await.expect_err("nothing there");
    assert!(matches!(none, RepoError::NoRepository { .. }) && none.class() != ErrorClass::NotFound);
    let again = Repository::create("r", plain, "main", &Encryption::None, &[], pool(), now()).await;
    assert!(matches!(again, Err(RepoError::AlreadyThere { .. })));
}

#[tokio::test]
async fn the_recovery_key_opens_what_setup_made() {
    let store: Arc<dyn Store> = memory();
    let (_file, source) = key_file();
    let made = Repository::create("r", store.clone(), "main", &Encryption::Key(source), &[], pool(), now()).await;
    let recovery = made.expect("made").1.expect("a recovery key").to_text().to_string();
    // Typed in from paper, as the only thing that is left.
    let mut written = tempfile::NamedTempFile::new().expect("a file");
    written.write_all(format!("{}\n", recovery.to_lowercase()).as_bytes()).expect("written");
    let source = KeySource::KeyFile(written.path().to_owned());
    Repository::open("r", store, &Encryption::Key(source), pool()).await.expect("opens");
}

#[tokio::test]
async fn keys_of_another_root_are_passed_over_whatever_their_generation() {
    let (_, store, file) = repository(true).await;
    let (_, other, _other_file) = repository(true).await;
    let foreign = other.list(Some(&layout::all_keys())).await.expect("listed").objects.remove(0).key;
    let (_, root) = layout::parse_keys(foreign.file_name()).expect("a name of slots");
    let bytes = other.get(&foreign).await.expect("there").body.try_collect::<Vec<_>>().await.expect("bytes");
    let planted = layout::keys(9, root);
    store.put_new(&planted, Payload(bytes.clone())).await.expect("put");
    let source = KeySource::KeyFile(file.as_ref().expect("a key file").path().to_owned());
    let encryption = Encryption::Key(source.clone());
    let ours = Repository::open("r", store.clone(), &encryption, pool()).await.expect("opens");
    assert_eq!(ours.foreign_keys().await.expect("listed"), [planted]);
    // The next generation is ours again, and the one that is opened.
    let mut keys = ours.open_keys(&source).await.expect("opens");
    keys.rotate(now());
    ours.store_keys(&mut keys).await.expect("stored");
    let again = Repository::open("r", store.clone(), &encryption, pool()).await.expect("opens");
    assert_eq!(again.keyring().expect("keys").active().id(), keys.keyring().active().id());
    // Under the name of our root key they are a forgery, and nothing older is taken in their place.
    let forged = layout::keys(9, again.identity().root.expect("encrypted"));
    store.put_new(&forged, Payload(bytes)).await.expect("put");
    let error = Repository::open("r", store, &encryption, pool()).await.expect_err("forged");
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
}

#[tokio::test]
async fn an_identity_that_contradicts_itself_is_damaged() {
    let (_, store, _file) = repository(true).await;
    let (generation, identity) = identity::load(&*store).await.expect("read").expect("there");
    let wrong = Identity { encrypted: false, ..identity };
    identity::put(&*store, generation + 1, &wrong).await.expect("put");
    let error = Repository::open("r", store, &Encryption::None, pool()).await.expect_err("it contradicts itself");
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
}

#[tokio::test]
async fn a_lineage_is_added_once() {
    let (mut repository, store, _) = repository(false).await;
    let lineage = Lineage { major: 15, system_identifier: 7 };
    for _ in 0..2 {
        repository.add_lineage(lineage, SegmentSize::DEFAULT, now()).await.expect("added");
    }
    let (generation, identity) = identity::load(&*store).await.expect("read").expect("there");
    assert_eq!((generation, identity.lineages.len()), (2, 1));
    assert_eq!(identity, *repository.identity());
}

#[tokio::test]
async fn content_that_cannot_be_read_stores_nothing() {
    let (repository, store, _) = repository(false).await;
    let broken = || {
        stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::from(std::io::ErrorKind::NotFound))]).boxed()
    };
    let put = repository.put_new(&key("wal/x"), spec(Kind::Segment), broken(), || None).await;
    assert_eq!(put.expect_err("broken").class(), ErrorClass::Permanent);
    let uploaded = repository.upload(&key("wal/x"), spec(Kind::Pack), broken(), 1).await;
    assert_eq!(uploaded.expect_err("broken").class(), ErrorClass::Permanent);
    assert!(store.head(&key("wal/x")).await.is_err());
}

/// Removes every object.
async fn emptied(store: &Arc<dyn Store>) {
    let mut folders = vec![None];
    while let Some(folder) = folders.pop() {
        let listing = store.list(folder.as_ref()).await.expect("listed");
        for object in listing.objects {
            store.delete(&object.key).await.expect("deleted");
        }
        let inner = |name: &String| folder.as_ref().map_or_else(|| key(name), |above| above.join(name).expect("a key"));
        folders.extend(listing.folders.iter().map(|name| Some(inner(name))));
    }
}

#[tokio::test]
async fn nothing_that_is_written_after_the_store_was_emptied_counts_by_whatever_way_it_is_written() {
    let content = content(300_000, 3);
    let (origin, _, _) = repository(false).await;
    put(&origin, "wal/copied", &content).await.expect("put");
    let segment = "000000010000000000000003".parse().expect("a name");
    let note = Gap {
        format: gap::FORMAT,
        lineage: Lineage { major: 15, system_identifier: 7 },
        first: segment,
        last: segment,
        since: now(),
        until: now(),
        host: "db1".to_owned(),
        queue_limit: 1,
        waiting: 2,
        reason: "cannot reach the store".to_owned(),
    };
    for encrypted in [false, true] {
        let (repository, store, _file) = repository(encrypted).await;
        put(&repository, "wal/before", &content).await.expect("put");
        for made_anew in [false, true] {
            emptied(&store).await;
            if made_anew {
                Repository::create("r", store.clone(), "main", &Encryption::None, &[], pool(), now())
                    .await
                    .expect("made");
            }
            let is_told = |error: &RepoError| match error {
                RepoError::NoRepository { .. } => !made_anew,
                RepoError::Replaced { .. } => made_anew,
                _ => false,
            };
            let error = put(&repository, "wal/x", &content).await.expect_err("pushed");
            assert!(is_told(&error) && repository.is_gone(), "{error}");
            let name = key("backup/x/pack/00000");
            let pack = repository.upload(&name, spec(Kind::Pack), stream(&content, 100_000), 1);
            assert!(is_told(&pack.await.expect_err("uploaded")));
            assert!(is_told(&gap::record(&repository, &note).await.expect_err("recorded")));
            for error in [
                transfer::copy_new(&origin, &repository, 1, &key("wal/copied")).await.map(drop).expect_err("copied"),
                transfer::copy_over(&origin, &repository, 1, &key("wal/copied")).await.map(drop).expect_err("copied"),
            ] {
                assert!(matches!(&error, TransferError::To { source, .. } if is_told(source)), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_repository_that_was_seen_to_be_gone_is_opened_anew_with_what_is_there_now() {
    let (_, store, _) = repository(false).await;
    let lazy = LazyRepository::at("r", store.clone(), Encryption::None, 1, pool());
    let first = lazy.get().await.expect("opened");
    put(&first, "wal/x", &content(1000, 1)).await.expect("put");
    emptied(&store).await;
    put(&first, "wal/y", &content(1000, 1)).await.expect_err("gone");
    assert!(lazy.get_open().is_none());
    assert!(matches!(lazy.get().await, Err(RepoError::NoRepository { .. })));
    assert!(matches!(place::is_clear(&*store).await, Err(RepoError::Remnants { .. })));
    emptied(&store).await;
    place::is_clear(&*store).await.expect("nothing is left");
    Repository::create("r", store.clone(), "main", &Encryption::None, &[], pool(), now()).await.expect("made anew");
    let second = lazy.get().await.expect("opened anew");
    assert_ne!(second.identity().cluster_id, first.identity().cluster_id);
    put(&second, "wal/y", &content(1000, 1)).await.expect("put");
    place::is_clear(&*store).await.expect("there is a repository");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_landed_long_after_the_look_beside_it_is_looked_after_again() {
    let (_, inner, _) = repository(false).await;
    let slow = |call: Call<'_>| (call.verb == "put").then_some(Fault::Delay(std::time::Duration::from_secs(20)));
    let store: Arc<dyn Store> = Faulty::new(inner.clone(), Plan::By(Box::new(slow)));
    let pool = CpuPool::on_the_caller();
    let slow = Repository::open("r", store, &Encryption::None, pool).await.expect("opened");
    put(&slow, "wal/x", &content(1000, 1)).await.expect("put");
    let emptied_meanwhile = async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        emptied(&inner).await;
    };
    let segment = content(1000, 1);
    let (written, ()) = tokio::join!(put(&slow, "wal/y", &segment), emptied_meanwhile);
    assert!(matches!(written, Err(RepoError::NoRepository { .. })), "{written:?}");
}
