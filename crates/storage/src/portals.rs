//! What stands in a store's place and answers every request with success: login and maintenance pages, portals, another virtual
//! host. Nothing of it is taken for an answer of the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;

use super::server::*;
use super::*;
use walward_base::{ErrorClass, Secret};

const PAGE: &str = "<!DOCTYPE html><html><head><title>Guest network</title></head><body>Please sign in.</body></html>";

/// The options of each kind of object store, at `address`.
fn kinds(address: &str) -> Vec<StoreOptions> {
    let folder = tempfile::tempdir().unwrap().keep();
    let account = folder.join("account.json");
    let json = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
    walward_base::sys::durable::create(&account, json.as_bytes(), 0o600).unwrap();
    let azure =
        Credentials::AccountKey { account: "acme".to_owned(), key: KeySource::Given(Secret::new("aHVudGVyMg==")) };
    let s3 = options_at(address, PATIENT, HASTY);
    vec![
        StoreOptions {
            url: "gs://bucket/prefix".into(),
            credentials: Credentials::ServiceAccountFile(account),
            ..s3.clone()
        },
        StoreOptions { url: "az://bucket/prefix".into(), credentials: azure, ..s3.clone() },
        s3,
    ]
}

/// What something in between makes of a request.
type Portal = fn(&Request) -> Response;

/// What a portal answers to every request, in some of the ways in which they do.
fn portals() -> Vec<(&'static str, Portal)> {
    vec![
        ("a page", |_| Response::Say(200, vec!["content-type: text/html".into()], PAGE.into())),
        ("a page with a tag", |_| Response::Say(200, with_type("text/html; charset=utf-8"), PAGE.into())),
        ("a page that does not say so", |request| match request.method.as_str() {
            // Only its content tells; whoever reads an object checks that.
            "GET" | "HEAD" if !request.target.contains("list") => {
                Response::Say(200, with_type("text/html"), PAGE.into())
            }
            _ => Response::Say(200, with_type("text/plain"), PAGE.into()),
        }),
        ("a redirection to a page", |request| match request.target.as_str() {
            "/login" => Response::Say(200, with_type("text/html"), PAGE.into()),
            _ => Response::Say(302, vec!["location: /login".into()], Vec::new()),
        }),
        ("a page with the status of a write", |_| Response::Say(201, with_type("application/xhtml+xml"), PAGE.into())),
    ]
}

fn with_type(kind: &str) -> Vec<String> {
    let mut headers = dated();
    // No digest of anything that was sent.
    headers[1] = "etag: \"5d41402abc4b2a76b9719d911017c592\"".to_owned();
    headers.push(format!("content-type: {kind}"));
    headers
}

/// A sound server in front of which a portal can be switched on.
async fn behind_a_portal(portal: Portal) -> (Server, Arc<AtomicBool>) {
    let shut = Arc::new(AtomicBool::new(false));
    let on = Arc::clone(&shut);
    let objects: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    let server = Server::start_bare(move |_, request| {
        if on.load(Ordering::SeqCst) {
            return portal(request);
        }
        let target = request.target.split('?').next().unwrap().to_owned();
        let mut objects = objects.lock().unwrap();
        match request.method.as_str() {
            "PUT" if objects.contains_key(&target) => refuse(412, "PreconditionFailed"),
            "PUT" => {
                objects.insert(target, request.body.clone());
                Response::Say(200, dated(), Vec::new())
            }
            "POST" if request.target.contains("uploads") => {
                say(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
            }
            "GET" if objects.contains_key(&target) => part(request, &objects[&target]),
            _ => refuse(404, "NoSuchKey"),
        }
    })
    .await;
    (server, shut)
}

/// What each call made of the answers.
async fn every_verb(store: &Arc<dyn Store>) -> Vec<(&'static str, Result<(), StoreError>)> {
    let read = async {
        let body = store.get(&key()).await?.body;
        body.try_collect::<Vec<_>>().await.map(|_| ())
    };
    let upload = async {
        let mut upload = store.start_upload(&key(), 0).await?;
        upload.write(vec![1; 6 << 20].into()).await?;
        upload.finish().await.map(|_| ())
    };
    let small = async { store.start_upload(&key(), 0).await?.finish().await.map(|_| ()) };
    vec![
        ("put", store.put_new(&key(), vec![1, 2, 3].into()).await.map(|_| ())),
        ("get", read.await),
        ("range", store.get_range(&key(), 0..3).await.map(|_| ())),
        ("tail", store.get_tail(&key(), 3).await.map(|_| ())),
        ("head", store.head(&key()).await.map(|_| ())),
        ("list", store.list(None).await.map(|_| ())),
        ("delete", store.delete(&key()).await),
        ("upload", upload.await),
        ("small upload", small.await),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_a_portal_answers_is_success_or_absence_on_any_kind_of_store() {
    for (name, portal) in portals() {
        let (server, shut) = behind_a_portal(portal).await;
        shut.store(true, Ordering::SeqCst);
        for options in kinds(&server.address) {
            let store = open(&options, "main").unwrap();
            for (verb, answer) in every_verb(&store).await {
                let error = answer.err().unwrap_or_else(|| panic!("{name}: {verb} at {} succeeded", options.url));
                let cause = error.source.to_string();
                let known = matches!(error.class, ErrorClass::Transient | ErrorClass::Permanent);
                assert!(known, "{name}: {verb} at {}: {}: {cause}", options.url, error.class);
                assert!(cause.contains("check endpoint"), "{name}: {verb} at {}: {cause}", options.url);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_portal_in_front_of_a_store_that_was_known_before_acknowledges_no_write() {
    for (name, portal) in portals() {
        let (server, shut) = behind_a_portal(portal).await;
        let options = kinds(&server.address).pop().unwrap();
        let store = open(&options, "main").unwrap();
        assert_eq!(store.put_new(&ObjectKey::new("before").unwrap(), vec![1].into()).await.unwrap(), Put::Created);
        assert_eq!(store.creates(), Creates::Once);
        let mut upload = store.start_upload(&ObjectKey::new("upload").unwrap(), 0).await.unwrap();
        upload.write(vec![1; 6 << 20].into()).await.unwrap();
        shut.store(true, Ordering::SeqCst);
        let error = store.put_new(&key(), vec![1; 100_000].into()).await.unwrap_err();
        assert!(error.class == ErrorClass::Transient || error.source.to_string().contains("302"), "{name}: {error}");
        assert!(upload.finish().await.is_err(), "{name}: the end of an upload was believed");
        shut.store(false, Ordering::SeqCst);
        // A try whose answer was no longer waited for may have arrived since.
        store.put_new(&key(), vec![1; 100_000].into()).await.unwrap();
        assert_eq!(store.head(&key()).await.unwrap().size, 100_000, "{name}");
    }
}

#[tokio::test]
async fn what_answered_and_what_to_check_is_said() {
    let server = Server::start(|_, _| {
        let headers = vec!["content-type: text/html".to_owned(), "server: portal/1.0".to_owned()];
        Response::Say(200, headers, PAGE.into())
    })
    .await;
    let store = store_at(&server.address, PATIENT, HASTY);
    let cause = store.list(None).await.unwrap_err().source.to_string().replace(&server.address, "SERVER");
    let expected = "SERVER answered 200 with text/html from portal/1.0: \"Guest network Please sign in.\"; that is not \
        how an object store answers: check endpoint, and what stands in between (a proxy, a login, a maintenance page)";
    assert!(cause.starts_with(expected), "{cause}");
}

#[tokio::test]
async fn an_answer_of_success_to_a_write_that_left_nothing_or_something_else_is_none() {
    // Says that it wrote, in good order, and has nothing; or the same other object for everybody.
    for stored in [None, Some(&b"abd"[..]), Some(b"abcd"), Some(b"")] {
        let server = Server::start(move |_, request| match (request.method.as_str(), stored) {
            ("PUT", _) => Response::Say(200, vec!["etag: \"opaque\"".to_owned()], Vec::new()),
            (_, Some(bytes)) => part(request, bytes),
            _ => refuse(404, "NoSuchKey"),
        })
        .await;
        let error =
            store_at(&server.address, PATIENT, HASTY).put_new(&key(), b"abc".to_vec().into()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient, "{stored:?}");
        assert!(error.source.to_string().contains("said that it wrote"), "{}", error.source);
    }
}

#[tokio::test]
async fn a_write_costs_no_further_request_where_its_answer_names_the_bytes() {
    let payload: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    // Google's and Azure's words are tried in `proof`.
    for (tag, requests) in [(None, vec!["PUT"]), (Some("etag: \"of-a-key-of-mine\""), vec!["PUT", "HEAD", "GET"])] {
        let stored = payload.clone();
        let server = Server::start(move |_, request| match request.method.as_str() {
            "PUT" => Response::Say(200, tag.map_or_else(dated, |tag| vec![tag.to_owned()]), Vec::new()),
            _ => part(request, &stored),
        })
        .await;
        let store = server.store();
        assert_eq!(store.put_new(&key(), payload.clone().into()).await.unwrap(), Put::Created);
        let methods: Vec<_> = server.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(methods, requests);
    }
}

#[tokio::test]
async fn an_upload_in_parts_is_looked_at_once_when_it_is_complete() {
    let bytes: Vec<u8> = (0..=250u8).cycle().take(6 << 20).collect();
    for (cut, holds) in [(0, true), (1, false)] {
        let stored = bytes[..bytes.len() - cut].to_vec();
        let server = Server::start(move |_, request| match request.method.as_str() {
            "POST" if request.target.contains("uploads") => {
                say(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
            }
            "POST" => say(200, "<CompleteMultipartUploadResult><ETag>x-2</ETag></CompleteMultipartUploadResult>"),
            "PUT" => Response::Say(200, dated(), Vec::new()),
            _ => part(request, &stored),
        })
        .await;
        let mut upload = store_at(&server.address, PATIENT, HASTY).start_upload(&key(), 0).await.unwrap();
        upload.write(bytes.clone().into()).await.unwrap();
        assert_eq!(upload.finish().await.is_ok(), holds);
        if holds {
            let methods: Vec<_> = server.requests().into_iter().map(|request| request.method).collect();
            assert_eq!(methods, ["POST", "PUT", "PUT", "POST", "HEAD", "GET"]);
        }
    }
}

#[tokio::test]
async fn the_listing_of_another_bucket_or_folder_is_never_that_of_ours() {
    let listing = |name: &str, key: &str| {
        format!(
            "<ListBucketResult><Name>{name}</Name><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key>\
             <LastModified>2026-11-21T06:41:58.000Z</LastModified><Size>1</Size></Contents></ListBucketResult>"
        )
    };
    for (page, class) in [
        (listing("other", "prefix/main/real"), Some(ErrorClass::Permanent)),
        (listing("bucket", "prefix/other/real"), Some(ErrorClass::Transient)),
        (listing("bucket", "prefix/main/deep/real"), Some(ErrorClass::Transient)),
        ("<ListAllMyBucketsResult/>".to_owned(), Some(ErrorClass::Transient)),
        (String::new(), Some(ErrorClass::Transient)),
        // A console marks a folder with an object of its name.
        (listing("bucket", "prefix/main/"), None),
    ] {
        let answer = page.clone();
        let server = Server::start(move |_, _| say(200, &answer)).await;
        let listed = store_at(&server.address, PATIENT, HASTY).list(None).await;
        assert_eq!(listed.as_ref().err().map(|error| error.class), class, "{page}: {listed:?}");
        assert!(listed.is_err() || listed.unwrap() == Listing::default());
    }
}
