//! Stores that do not keep two writers of one name apart, and what becomes of the writers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;

use super::server::{Response, Server, dated, part, refuse};
use super::*;

/// An S3 server with objects, which does `creates` with conditional writes. An unconditional or accepted write takes
/// `slowness` to be there.
async fn server(creates: Creates, slowness: Duration) -> Server {
    let objects: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    Server::start_bare(move |_, request| {
        let target = request.target.split('?').next().unwrap().to_owned();
        let conditional = request.head.contains("if-none-match");
        match request.method.as_str() {
            "PUT" if conditional && creates == Creates::Unsupported => refuse(501, "NotImplemented"),
            "PUT" if conditional && creates != Creates::Overwrites => {
                // The look and the write: one step on a sound store.
                let mut locked = objects.lock().unwrap();
                if locked.contains_key(&target) {
                    return refuse(412, "PreconditionFailed");
                }
                if creates == Creates::Races {
                    drop(locked);
                    pause(Duration::from_millis(300));
                    locked = objects.lock().unwrap();
                }
                locked.insert(target, request.body.clone());
                Response::Say(200, dated(), Vec::new())
            }
            "PUT" => {
                pause(slowness);
                objects.lock().unwrap().insert(target, request.body.clone());
                Response::Say(200, dated(), Vec::new())
            }
            "DELETE" => {
                objects.lock().unwrap().remove(&target);
                Response::Say(204, Vec::new(), Vec::new())
            }
            _ => match objects.lock().unwrap().get(&target) {
                Some(bytes) => part(request, bytes),
                None => refuse(404, "NoSuchKey"),
            },
        }
    })
    .await
}

/// Sleeps while the server's other answers go on.
fn pause(time: Duration) {
    tokio::task::block_in_place(|| std::thread::sleep(time));
}

async fn read(store: &Arc<dyn Store>, key: &ObjectKey) -> Vec<u8> {
    let parts: Vec<_> = store.get(key).await.unwrap().body.try_collect().await.unwrap();
    parts.concat()
}

fn key(path: &str) -> ObjectKey {
    ObjectKey::new(path).unwrap()
}

const UNSAFE: [Creates; 3] = [Creates::Overwrites, Creates::Races, Creates::Unsupported];

#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn the_first_write_finds_out_what_the_store_does() {
    for creates in [Creates::Once, Creates::Overwrites, Creates::Races, Creates::Unsupported] {
        let server = server(creates, Duration::ZERO).await;
        let store = server.store();
        assert_eq!(store.creates(), Creates::Untried);
        assert_eq!(store.put_new(&key("a"), vec![1].into()).await.unwrap(), Put::Created);
        assert_eq!(store.creates(), creates);
        let trials = server.requests().iter().filter(|request| request.is_trial()).count();
        store.put_new(&key("b"), vec![2].into()).await.unwrap();
        let after = server.requests().iter().filter(|request| request.is_trial()).count();
        let expected = match creates {
            Creates::Unsupported => 8..=8,
            // What was written is read and removed.
            Creates::Once => 10..=10,
            // One more where all of them won at once, which tells a race from a store that always overwrites.
            _ => 10..=11,
        };
        assert!(expected.contains(&trials) && after == trials, "{creates:?}: {trials}, then {after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn a_name_that_is_taken_stays_what_it_was_on_every_store() {
    for creates in UNSAFE {
        let server = server(creates, Duration::ZERO).await;
        for length in [0, 1, 10_000, 200_000] {
            let path = key(&format!("wal/{length}"));
            let first = vec![1; length];
            assert_eq!(server.store().put_new(&path, first.clone().into()).await.unwrap(), Put::Created);
            // Another process, with other bytes.
            let other = server.store();
            assert_eq!(other.put_new(&path, vec![2; length + 1].into()).await.unwrap(), Put::Exists, "{creates:?}");
            assert_eq!(read(&other, &path).await, first);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn of_writers_at_the_same_moment_one_is_told_that_it_wrote_and_what_it_wrote_is_there() {
    for creates in UNSAFE {
        let server = server(creates, Duration::from_millis(20)).await;
        for length in [1, 100_000] {
            let path = key(&format!("race/{length}"));
            let writers = (0..4u8).map(|writer| {
                let (store, path) = (server.store(), path.clone());
                async move { store.put_new(&path, vec![writer; length].into()).await.unwrap() }
            });
            let answers = futures::future::join_all(writers).await;
            let winners: Vec<u8> = (0..4).zip(&answers).filter(|(_, put)| **put == Put::Created).map(|w| w.0).collect();
            assert_eq!(winners.len(), 1, "{creates:?}: {answers:?}");
            assert_eq!(read(&server.store(), &path).await, vec![winners[0]; length]);
        }
    }
}

#[tokio::test]
async fn what_a_trial_left_behind_is_in_no_listing() {
    let page = "<ListBucketResult><Name>bucket</Name><Prefix>prefix/main/</Prefix><IsTruncated>false</IsTruncated>\
        <Contents><Key>prefix/main/.walward-0123456789abcdef</Key><LastModified>2026-11-21T06:41:58.000Z</LastModified><Size>1</Size></Contents>\
        <Contents><Key>prefix/main/real</Key><LastModified>2026-11-21T06:41:58.000Z</LastModified><Size>1</Size></Contents>\
        </ListBucketResult>";
    let server = Server::start(move |_, _| Response::Say(200, dated(), page.as_bytes().to_vec())).await;
    let listing = server.store().list(None).await.unwrap();
    assert_eq!(listing.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["real"]);
}
