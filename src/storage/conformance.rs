//! What every store must do, tried on each kind of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::*;
use crate::base::{ErrorClass, Secret};

fn key(path: &str) -> ObjectKey {
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

async fn everything_holds(store: Arc<dyn Store>) {
    what_was_put_comes_back(&store).await;
    nothing_is_overwritten(&store).await;
    absent_is_said_only_of_absent_objects(&store).await;
    ranges_lie_within(&store).await;
    folders_list_what_lies_in_them(&store).await;
    uploads_appear_whole_or_not_at_all(&store).await;
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
    let odd = "put/00000002.history-_.+=@x";
    store.put_new(&key(odd), Bytes::from_static(b"odd").into()).await.unwrap();
    assert_eq!(read(store, odd).await, "odd");
    assert!(store.list(Some(&key("put"))).await.unwrap().objects.iter().any(|object| object.key == key(odd)));
}

async fn nothing_is_overwritten(store: &Arc<dyn Store>) {
    let path = key("once/object");
    assert_eq!(store.put_new(&path, Bytes::from_static(b"first").into()).await.unwrap(), Put::Created);
    assert_eq!(store.put_new(&path, Bytes::from_static(b"second").into()).await.unwrap(), Put::Exists);
    assert_eq!(read(store, "once/object").await, "first");

    let path = key("once/race");
    let writers = (0..8u8).map(|writer| {
        let (store, path) = (Arc::clone(store), path.clone());
        async move { store.put_new(&path, vec![writer; 100_000].into()).await.unwrap() }
    });
    let answers = futures::future::join_all(writers).await;
    let winners: Vec<_> = (0..8u8).zip(&answers).filter(|(_, put)| **put == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(read(store, "once/race").await, vec![winners[0].0; 100_000]);
}

async fn absent_is_said_only_of_absent_objects(store: &Arc<dyn Store>) {
    let path = key("absent/object");
    assert_eq!(store.get(&path).await.err().unwrap().class, ErrorClass::NotFound);
    assert_eq!(store.head(&path).await.unwrap_err().class, ErrorClass::NotFound);
    assert_eq!(store.get_range(&path, 0..1).await.unwrap_err().class, ErrorClass::NotFound);
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
    // Empty; smaller than a part; exactly one; several with a rest.
    for (number, length) in [0usize, 1_000, 5 << 20, (17 << 20) + 3].into_iter().enumerate() {
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

#[tokio::test]
async fn the_store_in_memory_conforms() {
    everything_holds(memory()).await;
}

#[tokio::test]
async fn the_file_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(format!("file://{}/a%20b", folder.path().display()));
    create_root(&options, "main").unwrap();
    everything_holds(open(&options, "main").unwrap()).await;
}

fn s3() -> StoreOptions {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    StoreOptions {
        endpoint: Some(variable("WALWARD_TEST_S3_ENDPOINT")),
        region: Some("us-east-1".to_owned()),
        allow_http: true,
        credentials: Credentials::Keys {
            access_key_id: variable("WALWARD_TEST_S3_KEY"),
            secret_access_key: Secret::new(variable("WALWARD_TEST_S3_SECRET")),
            session_token: None,
        },
        ..StoreOptions::new(format!("s3://{}/conformance", variable("WALWARD_TEST_S3_BUCKET")))
    }
}

#[tokio::test]
#[ignore = "needs an S3 server, named by WALWARD_TEST_S3_ENDPOINT, _BUCKET, _KEY and _SECRET"]
async fn an_s3_store_conforms() {
    everything_holds(open(&s3(), &format!("run-{:016x}", rand::random::<u64>())).unwrap()).await;
}

#[tokio::test]
#[ignore = "needs an Azure blob server, named by WALWARD_TEST_AZURE_ENDPOINT, _CONTAINER, _ACCOUNT and _KEY"]
async fn an_azure_store_conforms() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let options = StoreOptions {
        endpoint: Some(variable("WALWARD_TEST_AZURE_ENDPOINT")),
        allow_http: true,
        credentials: Credentials::AccountKey {
            account: variable("WALWARD_TEST_AZURE_ACCOUNT"),
            key: Secret::new(variable("WALWARD_TEST_AZURE_KEY")),
        },
        ..StoreOptions::new(format!("az://{}/conformance", variable("WALWARD_TEST_AZURE_CONTAINER")))
    };
    everything_holds(open(&options, &format!("run-{:016x}", rand::random::<u64>())).unwrap()).await;
}

#[tokio::test]
#[ignore = "needs an S3 server, named by WALWARD_TEST_S3_ENDPOINT, _BUCKET, _KEY and _SECRET"]
async fn a_missing_bucket_is_never_an_absent_object() {
    let options = StoreOptions { url: "s3://walward-no-such-bucket/x".to_owned(), ..s3() };
    let store = open(&options, "main").unwrap();
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
        assert_eq!(error.class, ErrorClass::Permanent, "{error}: {}", error.source);
        assert!(error.source.to_string().contains("NoSuchBucket"), "{}", error.source);
    }
}
