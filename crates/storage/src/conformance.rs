//! What every store must do, tried on each kind of them.
//!
//! In memory and on a disk with every run; on a real server where `scripts/object-stores.sh run STORE` starts one (the tests
//! named `real_store`): moto in the normal run of `scripts/test.sh`, all of them in the thorough one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::*;
use walward_base::{ErrorClass, Secret};

/// More than one page of a listing: S3 and its kin give 1,000 names at once.
const MANY: usize = 1_003;
const RACERS: u8 = 16;
const RACES: usize = 5;

pub(super) fn key(path: &str) -> ObjectKey {
    ObjectKey::new(path).unwrap()
}

/// Bytes that differ everywhere, so that a piece in the wrong place shows.
fn pattern(length: usize) -> Bytes {
    (0..length as u64).map(|n| u8::try_from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).unwrap()).collect()
}

async fn read(store: &Arc<dyn Store>, path: &str) -> Bytes {
    let object = store.get(&key(path)).await.unwrap();
    let bytes = object.body.try_fold(Vec::new(), |mut all, bytes| async move {
        all.extend_from_slice(&bytes);
        Ok(all)
    });
    let bytes = bytes.await.unwrap();
    assert_eq!(object.info.size, bytes.len() as u64);
    bytes.into()
}

/// `creates` is what the store itself is known to do with two writers of one name.
async fn everything_holds(store: Arc<dyn Store>, creates: Creates) {
    what_was_put_comes_back(&store).await;
    nothing_is_overwritten(&store, creates).await;
    absent_is_said_only_of_absent_objects(&store).await;
    ranges_lie_within(&store).await;
    folders_list_what_lies_in_them(&store).await;
    uploads_appear_whole_or_not_at_all(&store).await;
    a_long_folder_lists_whole(&store).await;
}

async fn what_was_put_comes_back(store: &Arc<dyn Store>) {
    let long = pattern(3_000_001);
    let cases = [("put/empty", Bytes::new()), ("put/one", Bytes::from_static(b"x")), ("put/long", long.clone())];
    for (path, bytes) in cases {
        assert_eq!(store.put_new(&key(path), bytes.clone().into()).await.unwrap(), Put::Created);
        assert_eq!(read(store, path).await, bytes);
        let info = store.head(&key(path)).await.unwrap();
        assert_eq!((info.key, info.size), (key(path), bytes.len() as u64));
        let age = jiff::Timestamp::now().duration_since(info.modified);
        assert!(age.abs() < jiff::SignedDuration::from_mins(2), "{age}");
    }
    let pieces = Payload(vec![long.slice(..10), long.slice(10..1_000_000), Bytes::new(), long.slice(1_000_000..)]);
    store.put_new(&key("put/pieces"), pieces).await.unwrap();
    assert_eq!(read(store, "put/pieces").await, long);
    let longest = "n".repeat(200);
    let odd = ["00000002.history-_.+=@x", ".hidden", "...", "-", "_", "a..", "=+@", "2+2=4", &longest];
    for name in odd {
        let path = format!("odd/{name}");
        store.put_new(&key(&path), Bytes::copy_from_slice(name.as_bytes()).into()).await.unwrap();
        assert_eq!(read(store, &path).await, name);
    }
    let listed = store.list(Some(&key("odd"))).await.unwrap().objects;
    let names: BTreeSet<_> = listed.iter().map(|object| object.key.file_name()).collect();
    assert_eq!(names, odd.into_iter().collect());
    let deep = format!("deep/{}", ["a"; 100].join("/"));
    store.put_new(&key(&deep), Bytes::from_static(b"deep").into()).await.unwrap();
    assert_eq!(read(store, &deep).await, "deep");
}

async fn nothing_is_overwritten(store: &Arc<dyn Store>, creates: Creates) {
    let path = key("once/object");
    assert_eq!(store.put_new(&path, Bytes::from_static(b"first").into()).await.unwrap(), Put::Created);
    assert_eq!(store.creates(), creates);
    assert_eq!(store.put_new(&path, Bytes::from_static(b"second").into()).await.unwrap(), Put::Exists);
    assert_eq!(read(store, "once/object").await, "first");

    let mut several = 0;
    for round in 0..RACES {
        let path = key(&format!("race/{round}"));
        let writers = (0..RACERS).map(|writer| {
            let (store, path) = (Arc::clone(store), path.clone());
            async move { store.put_new(&path, vec![writer; 100_000].into()).await.unwrap() }
        });
        let answers = futures::future::join_all(writers).await;
        let winners: Vec<_> = (0..RACERS).zip(&answers).filter(|(_, put)| **put == Put::Created).collect();
        let left = read(store, path.as_str()).await;
        assert!(winners.iter().any(|(winner, _)| left == vec![*winner; 100_000]), "{answers:?}");
        if creates == Creates::Once {
            assert_eq!(winners.len(), 1, "{answers:?}");
        }
        several += usize::from(winners.len() > 1);
    }
    // What is done where the store does not keep writers apart narrows the gap and does not close it.
    println!("{}: of {RACES} races of {RACERS} writers {several} had more than one winner", store.url());
    assert!(several <= RACES / 5, "{several} of {RACES}");
}

async fn absent_is_said_only_of_absent_objects(store: &Arc<dyn Store>) {
    let path = key("absent/object");
    assert_eq!(store.get(&path).await.err().unwrap().class, ErrorClass::NotFound);
    assert_eq!(store.head(&path).await.unwrap_err().class, ErrorClass::NotFound);
    assert_eq!(store.get_range(&path, 0..1).await.unwrap_err().class, ErrorClass::NotFound);
    assert_eq!(store.get_tail(&path, 1).await.unwrap_err().class, ErrorClass::NotFound);
    store.delete(&path).await.unwrap();
    assert_eq!(store.list(Some(&key("absent"))).await.unwrap(), Listing::default());

    store.put_new(&path, Bytes::from_static(b"x").into()).await.unwrap();
    // A folder is not an object.
    assert_eq!(store.head(&key("absent")).await.unwrap_err().class, ErrorClass::NotFound);
    store.delete(&path).await.unwrap();
    assert_eq!(store.head(&path).await.unwrap_err().class, ErrorClass::NotFound);
    // A folder goes with its last object, and can come again.
    assert!(!store.list(None).await.unwrap().folders.contains(&"absent".to_owned()));
    assert_eq!(store.put_new(&path, Bytes::from_static(b"y").into()).await.unwrap(), Put::Created);
}

async fn ranges_lie_within(store: &Arc<dyn Store>) {
    let bytes = pattern(100_000);
    let path = key("range/object");
    store.put_new(&path, bytes.clone().into()).await.unwrap();
    for range in [0..1u64, 0..100_000, 99_999..100_000, 1_000..60_000] {
        let slice = bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        assert_eq!(store.get_range(&path, range).await.unwrap(), slice);
    }
    for asked in [1u64, 99_999, 100_000, 100_001, 1 << 30] {
        let (info, tail) = store.get_tail(&path, asked).await.unwrap();
        assert_eq!(tail, bytes.slice(100_000 - usize::try_from(asked.min(100_000)).unwrap()..), "{asked}");
        assert!(info.is_same(&store.head(&path).await.unwrap()));
    }
    store.put_new(&key("range/empty"), Bytes::new().into()).await.unwrap();
    assert_eq!(store.get_tail(&key("range/empty"), 10).await.unwrap().1, Bytes::new());
    assert_eq!(store.get_range(&path, 0..0).await.unwrap(), Bytes::new());
    assert_eq!(store.get_range(&path, 100_000..100_000).await.unwrap(), Bytes::new());
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..100_001u64, 100_000..100_001, 200_000..200_001, 100_001..100_001, 5..4, 0..u64::MAX] {
        assert_eq!(store.get_range(&path, range.clone()).await.unwrap_err().class, ErrorClass::Corrupt, "{range:?}");
    }
}

async fn folders_list_what_lies_in_them(store: &Arc<dyn Store>) {
    for path in ["list/b", "list/a", "list/c/deep/er", "list/c/x", "list-not/this", "list/d/y"] {
        store.put_new(&key(path), Bytes::from_static(b"content").into()).await.unwrap();
    }
    let listing = store.list(Some(&key("list"))).await.unwrap();
    assert_eq!(listing.folders, ["c", "d"]);
    let objects: Vec<_> = listing.objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
    assert_eq!(objects, [("list/a", 7), ("list/b", 7)]);
    let folders: BTreeSet<_> = store.list(None).await.unwrap().folders.into_iter().collect();
    assert!(folders.contains("list") && folders.contains("list-not") && folders.contains("range"), "{folders:?}");
    assert_eq!(store.list(Some(&key("list/nowhere"))).await.unwrap(), Listing::default());
}

async fn uploads_appear_whole_or_not_at_all(store: &Arc<dyn Store>) {
    // Empty; smaller than a part; about one; several with a rest.
    for (number, length) in [0usize, 1_000, 5 << 20, (71 << 20) + 3].into_iter().enumerate() {
        let path = format!("upload/{number}");
        let bytes = pattern(length);
        let mut upload = store.start_upload(&key(&path), length as u64).await.unwrap();
        for piece in bytes.chunks(700_001) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(store.head(&key(&path)).await.unwrap_err().class, ErrorClass::NotFound);
        assert_eq!(upload.finish().await.unwrap(), length as u64);
        assert!(read(store, &path).await == bytes, "{length} bytes came back as others");
    }
    let listed = store.list(Some(&key("upload"))).await.unwrap();
    assert_eq!(listed.objects.len(), 4);

    for (path, length) in [("upload/small", 100), ("upload/large", 11 << 20)] {
        let mut aborted = store.start_upload(&key(path), 0).await.unwrap();
        aborted.write(pattern(length)).await.unwrap();
        aborted.abort().await;
        let mut dropped = store.start_upload(&key(path), 0).await.unwrap();
        dropped.write(pattern(length)).await.unwrap();
        drop(dropped);
        assert_eq!(store.head(&key(path)).await.unwrap_err().class, ErrorClass::NotFound);
    }
    assert_eq!(store.list(Some(&key("upload"))).await.unwrap(), listed);
}

async fn a_long_folder_lists_whole(store: &Arc<dyn Store>) {
    let names: Vec<_> = (0..MANY).map(|number| format!("many/{number:05}")).collect();
    let puts = names.iter().map(|name| async move {
        // Without a condition, which is slow where the store does not know it.
        let upload = store.start_upload(&key(name), 0).await.unwrap();
        upload.finish().await.unwrap();
    });
    futures::stream::iter(puts).buffer_unordered(16).collect::<Vec<()>>().await;
    let listed = store.list(Some(&key("many"))).await.unwrap().objects;
    assert!(listed.iter().map(|object| object.key.as_str()).eq(names.iter().map(String::as_str)), "{}", listed.len());
    let deletes = names.iter().map(|name| async move { store.delete(&key(name)).await.unwrap() });
    futures::stream::iter(deletes).buffer_unordered(16).collect::<Vec<()>>().await;
    assert_eq!(store.list(Some(&key("many"))).await.unwrap(), Listing::default());
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    everything_holds(memory(), Creates::Once).await;
}

#[tokio::test]
async fn the_file_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(format!("file://{}/a%20b", folder.path().display()));
    create_root(&options, "main").unwrap();
    everything_holds(open(&options, "main").unwrap(), Creates::Once).await;
}

fn variable(name: &str) -> String {
    let name = format!("WALWARD_TEST_STORE_{name}");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/object-stores.sh run STORE …"))
}

/// The store that `scripts/object-stores.sh` started, and what it does with two writers of one name.
pub(super) fn real_store() -> (StoreOptions, Creates) {
    let (url, key, secret) = (variable("URL"), variable("KEY"), Secret::new(variable("SECRET")));
    let credentials = match url.split("://").next().unwrap() {
        "s3" => Credentials::Keys { access_key_id: key, secret_access_key: secret, session_token: None },
        "az" => Credentials::AccountKey { account: key, key: KeySource::Given(secret) },
        "gs" => Credentials::ServiceAccountFile(variable("SERVICE_ACCOUNT").into()),
        other => panic!("{other}"),
    };
    let options = StoreOptions {
        endpoint: Some(variable("ENDPOINT")),
        region: Some(variable("REGION")),
        allow_http: true,
        credentials,
        limits: Limits { part_bytes: 5 << 20, ..Limits::default() },
        ..StoreOptions::new(format!("{url}/conformance"))
    };
    let creates = match variable("CREATES").as_str() {
        "once" => Creates::Once,
        "overwrites" => Creates::Overwrites,
        "races" => Creates::Races,
        "unsupported" => Creates::Unsupported,
        other => panic!("{other}"),
    };
    (options, creates)
}

/// A store of its own for one test.
fn fresh(options: &StoreOptions) -> Arc<dyn Store> {
    open(options, &format!("run-{:016x}", rand::random::<u64>())).unwrap()
}

#[tokio::test]
#[ignore = "needs a server: scripts/object-stores.sh run STORE …"]
async fn a_real_store_conforms() {
    let (options, creates) = real_store();
    everything_holds(fresh(&options), creates).await;
}

#[tokio::test]
#[ignore = "needs a server: scripts/object-stores.sh run STORE …"]
async fn what_a_real_store_does_with_two_writers_is_found_out() {
    let (options, creates) = real_store();
    let mut found = 0;
    for number in 0..20 {
        let store = fresh(&options);
        store.put_new(&key(&format!("x/{number}")), vec![1].into()).await.unwrap();
        match creates {
            // Only chance shows it.
            Creates::Races | Creates::Overwrites => found += usize::from(store.creates().is_unsafe()),
            _ => found += usize::from(store.creates() == creates),
        }
    }
    println!("{}: found out by {found} of 20 handles", variable("URL"));
    assert!(found >= if creates == Creates::Races { 10 } else { 20 }, "{found} of 20");
}

#[tokio::test]
#[ignore = "needs a server: scripts/object-stores.sh run STORE …"]
async fn a_bucket_that_a_real_store_does_not_have_is_never_an_absent_object() {
    let (options, _) = real_store();
    let url = variable("URL").replace("://", "://no-such-");
    let limits = Limits { retry_deadline: Duration::from_secs(5), ..options.limits.clone() };
    let store = open(&StoreOptions { url, limits, ..options }, "main").unwrap();
    let path = key("wal/object");
    let errors = [
        store.get(&path).await.err().unwrap(),
        store.head(&path).await.unwrap_err(),
        store.get_range(&path, 0..1).await.unwrap_err(),
        store.list(None).await.unwrap_err(),
        store.put_new(&path, Bytes::new().into()).await.unwrap_err(),
        store.delete(&path).await.unwrap_err(),
    ];
    for error in errors {
        // Denied where the bucket's own policy is what lets anybody in.
        assert!(matches!(error.class, ErrorClass::Permanent | ErrorClass::Denied), "{error}: {}", error.source);
        let cause = error.source.to_string();
        let words = ["NoSuchBucket", "ContainerNotFound", "AccessDenied", "NoSuchContainer"];
        assert!(words.iter().any(|word| cause.contains(word)), "{error}: {cause}");
    }
}

#[tokio::test]
#[ignore = "needs an S3 server that lists unfinished uploads: scripts/object-stores.sh run STORE …"]
async fn what_was_given_up_leaves_no_parts_at_a_real_store() {
    let (options, _) = real_store();
    let store = fresh(&options);
    // Other tests upload to the same bucket meanwhile.
    let own = format!("<Key>{}/", store.url().split('/').skip(3).collect::<Vec<_>>().join("/"));
    let unfinished = || async { bucket::ask(&options, "uploads").await.unwrap().1.matches(&own).count() };
    let mut upload = store.start_upload(&key("given-up"), 0).await.unwrap();
    upload.write(pattern(11 << 20)).await.unwrap();
    assert!(unfinished().await > 0, "the search for unfinished uploads is broken");
    upload.abort().await;
    let mut dropped = store.start_upload(&key("dropped"), 0).await.unwrap();
    dropped.write(pattern(11 << 20)).await.unwrap();
    drop(dropped);
    for _ in 0..100 {
        if unfinished().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(unfinished().await, 0);
    assert_eq!(store.list(None).await.unwrap(), Listing::default());
}
