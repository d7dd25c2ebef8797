//! What the S3 client makes of a server's answers.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::*;
use super::*;
use walward_base::{ErrorClass, Secret};

/// The class that a read gets when the server always answers so, and the cause in words.
async fn read_class(answer: impl Fn() -> Response + Send + Sync + 'static) -> (ErrorClass, String) {
    let server = Server::start(move |_, _| answer()).await;
    let error = store_at(&server.address, PATIENT, HASTY).get(&key()).await.err().unwrap();
    assert_eq!(error.to_string(), "cannot read s3://bucket/prefix/main/wal/object");
    let cause = error.source.to_string();
    (error.class, cause.replace(&server.address, "SERVER"))
}

#[tokio::test]
async fn absent_is_what_the_store_says_and_not_what_a_proxy_says() {
    assert_eq!(read_class(|| refuse(404, "NoSuchKey")).await.0, ErrorClass::NotFound);
    let (class, cause) = read_class(|| say(404, "<html>404 Not Found</html>")).await;
    assert_eq!(class, ErrorClass::Permanent);
    assert_eq!(cause, "SERVER answered 404; that is not how an object store answers: check endpoint");
    let (class, cause) = read_class(|| refuse(404, "NoSuchBucket")).await;
    assert_eq!(class, ErrorClass::Permanent);
    assert_eq!(cause, "SERVER answered 404 NoSuchBucket: because; create it, or correct the repository's url");
}

#[tokio::test]
async fn refusals_and_failures_have_their_classes() {
    assert_eq!(read_class(|| refuse(403, "AccessDenied")).await.0, ErrorClass::Denied);
    assert_eq!(read_class(|| refuse(401, "Unauthorized")).await.0, ErrorClass::Denied);
    assert_eq!(read_class(|| refuse(503, "SlowDown")).await.0, ErrorClass::Transient);
    assert_eq!(read_class(|| say(502, "bad gateway")).await.0, ErrorClass::Transient);
    assert_eq!(read_class(|| say(301, "")).await.0, ErrorClass::Permanent);
}

#[tokio::test]
async fn silence_is_transient() {
    let server = Server::start(|_, _| Response::Silence).await;
    let error = store_at(&server.address, HASTY, HASTY).get(&key()).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Transient);
    assert!(error.source.to_string().starts_with("no answer within 0.2 s"), "{}", error.source);
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = store_at(&address, PATIENT, HASTY).head(&key()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
    let cause = error.source.to_string();
    assert!(cause.starts_with(&format!("cannot connect to {address}: Connection refused")), "{cause}");
}

#[tokio::test]
async fn a_port_without_tls_is_permanent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = StoreOptions {
        endpoint: Some(format!("https://{}", listener.local_addr().unwrap())),
        credentials: Credentials::Keys {
            access_key_id: "AK".to_owned(),
            secret_access_key: Secret::new("SK"),
            session_token: None,
        },
        ..StoreOptions::new("s3://bucket/prefix")
    };
    let plain = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            // Closed at once it would be a reset connection, which may heal.
            let _ = stream.read(&mut [0; 4_096]).await;
        }
    });
    let error = open(&options, "main").unwrap().head(&key()).await.unwrap_err();
    plain.abort();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(error.source.to_string().contains("does not speak TLS"), "{}", error.source);
}

#[tokio::test]
async fn what_fails_for_a_while_succeeds() {
    let server = Server::start(|number, _| match number {
        0 => refuse(503, "SlowDown"),
        1 => Response::BreakOff(10, b"0123".to_vec()),
        2 => say(500, ""),
        _ => {
            let mut headers = dated();
            headers.push("content-range: bytes 4-9/10".to_owned());
            Response::Say(206, headers, b"456789".to_vec())
        }
    })
    .await;
    let body = server.store().get(&key()).await.unwrap().body;
    let bytes: Vec<Bytes> = futures::TryStreamExt::try_collect(body).await.unwrap();
    assert_eq!(bytes.concat(), b"0123456789");
    let ranges: Vec<_> = server.requests().iter().filter(|r| r.head.contains("range: bytes=4-9")).cloned().collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges.iter().all(|request| request.head.contains("if-match: \"x\"")), "{ranges:?}");
}

#[tokio::test]
async fn an_object_that_was_replaced_in_the_middle_of_its_body_is_corrupt_whatever_the_server_makes_of_conditions() {
    // One heeds If-Match; another one does not, and sends what it has now, of the same size.
    for heeds in [true, false] {
        let server = Server::start(move |number, _| match number {
            0 => Response::BreakOff(10, b"0123".to_vec()),
            _ if heeds => refuse(412, "PreconditionFailed"),
            _ => {
                let modified = "last-modified: Sat, 21 Nov 2026 06:41:58 GMT".to_owned();
                let headers = vec![modified, "etag: \"y\"".to_owned(), "content-range: bytes 4-9/10".to_owned()];
                Response::Say(206, headers, b"456789".to_vec())
            }
        })
        .await;
        let body = server.store().get(&key()).await.unwrap().body;
        let error = futures::TryStreamExt::try_collect::<Vec<Bytes>>(body).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Corrupt, "{}", error.source);
    }
}

#[tokio::test]
async fn head_asks_again_when_it_cannot_know_what_is_missing() {
    let server = Server::start(|_, _| refuse(404, "NoSuchBucket")).await;
    assert_eq!(server.store().head(&key()).await.unwrap_err().class, ErrorClass::Permanent);
    let methods: Vec<_> = server.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
}

#[tokio::test]
async fn a_name_is_taken_when_the_store_says_so_and_not_at_any_conflict() {
    let server = Server::start(|_, _| refuse(412, "PreconditionFailed")).await;
    assert_eq!(server.store().put_new(&key(), vec![1].into()).await.unwrap(), Put::Exists);
    assert!(server.requests()[0].head.contains("if-none-match: *"));

    let server = Server::start(|number, _| match number {
        0 => refuse(409, "ConditionalRequestConflict"),
        _ => Response::Say(200, dated(), Vec::new()),
    })
    .await;
    assert_eq!(server.store().put_new(&key(), vec![1].into()).await.unwrap(), Put::Created);

    let server = Server::start(|_, _| refuse(409, "SomethingElse")).await;
    assert_eq!(server.store().put_new(&key(), vec![1].into()).await.unwrap_err().class, ErrorClass::Permanent);
    let server = Server::start(|_, _| refuse(404, "NoSuchBucket")).await;
    assert_eq!(server.store().put_new(&key(), vec![1].into()).await.unwrap_err().class, ErrorClass::Permanent);
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_and_a_lost_completion_is_found() {
    let bytes: Bytes = (0..=250u8).cycle().take((11 << 20) + 5).collect();
    let object = bytes.clone();
    let server = Server::start(move |number, request| {
        let target = request.target.as_str();
        match request.method.as_str() {
            "POST" if target.contains("uploads") => {
                say(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
            }
            "PUT" if target.contains("partNumber=2") && number < 4 => refuse(503, "SlowDown"),
            "PUT" => Response::Say(200, dated(), Vec::new()),
            // It had been completed, and the answer was lost.
            "POST" => refuse(404, "NoSuchUpload"),
            _ => part(request, &object),
        }
    })
    .await;
    let mut upload = server.store().start_upload(&key(), bytes.len() as u64).await.unwrap();
    for piece in bytes.chunks(1 << 20) {
        upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap(), bytes.len() as u64);
    for (part, range) in [(1, 0..5 << 20), (2, 5 << 20..10 << 20), (3, 10 << 20..bytes.len())] {
        let sent = server.requests().into_iter().rfind(|r| r.target.contains(&format!("partNumber={part}&"))).unwrap();
        assert!(sent.body == bytes[range], "part {part}");
    }
}

#[tokio::test]
async fn every_write_says_what_a_buckets_policy_demands_and_its_checksum_proves_it() {
    const DEMANDED: [&str; 3] = [
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:eu-central-1:1:key/a",
        "x-amz-storage-class: standard_ia",
    ];
    let bytes: Bytes = (0..=250u8).cycle().take(6 << 20).collect();
    let object = bytes.clone();
    let server = Server::start(move |_, request| {
        let says = DEMANDED.iter().all(|line| request.head.lines().any(|said| said == *line));
        let target = request.target.as_str();
        match request.method.as_str() {
            "PUT" if target.contains("partNumber") => Response::Say(200, dated(), Vec::new()),
            "POST" if target.contains("uploads") && says => {
                say(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
            }
            "POST" if target.contains("uploadId") => {
                say(200, "<CompleteMultipartUploadResult><ETag>x-2</ETag></CompleteMultipartUploadResult>")
            }
            "PUT" | "POST" if !says => refuse(403, "AccessDenied"),
            "PUT" => {
                let digest = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, Sha256::digest(&request.body));
                let headers = vec![format!("x-amz-checksum-sha256: {digest}"), "etag: \"no digest\"".to_owned()];
                Response::Say(200, headers, Vec::new())
            }
            _ => part(request, &object),
        }
    })
    .await;
    let options = StoreOptions {
        server_side_encryption: Some(ServerSideEncryption {
            keys: StoreKeys::Kms,
            kms_key_id: Some("arn:aws:kms:eu-central-1:1:key/a".to_owned()),
        }),
        storage_class: Some("STANDARD_IA".to_owned()),
        ..options_at(&server.address, PATIENT, HASTY)
    };
    let store = open(&options, "main").unwrap();
    assert_eq!(store.put_new(&key(), b"abc".to_vec().into()).await.unwrap(), Put::Created);
    assert_eq!(server.requests().into_iter().map(|request| request.method).collect::<Vec<_>>(), ["PUT"]);
    let mut upload = store.start_upload(&key(), 0).await.unwrap();
    upload.write(bytes).await.unwrap();
    upload.finish().await.unwrap();
    assert!(server.requests().iter().any(|request| request.target.contains("partNumber=2")));

    let without = StoreOptions { server_side_encryption: None, ..options };
    let error = open(&without, "main").unwrap().put_new(&key(), b"abc".to_vec().into()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Denied);
}

#[tokio::test]
async fn what_the_library_panics_at_is_an_error_of_the_call() {
    let server = Server::start(|_, _| say(500, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let id = folder.path().join("id");
    walward_base::sys::durable::create(&id, b"A\x01K\n", 0o600).unwrap();
    let credentials = Credentials::KeyFiles(KeyFiles {
        access_key_id: KeySource::File(id),
        secret_access_key: KeySource::Given(Secret::new("SK")),
        session_token: None,
    });
    let options = StoreOptions { credentials, ..options_at(&server.address, PATIENT, HASTY) };
    let error = open(&options, "main").unwrap().head(&key()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent, "{}", error.source);
}

#[tokio::test]
async fn what_is_given_up_is_thrown_away() {
    for drop_it in [true, false] {
        let server = Server::start(|_, request| match request.method.as_str() {
            "POST" => {
                say(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
            }
            "DELETE" => say(204, ""),
            _ => Response::Say(200, dated(), Vec::new()),
        })
        .await;
        let mut upload = server.store().start_upload(&key(), 0).await.unwrap();
        upload.write(vec![1; 6 << 20].into()).await.unwrap();
        if drop_it {
            drop(upload);
        } else {
            upload.abort().await;
        }
        for _ in 0..200 {
            if server.requests().iter().any(|r| r.method == "DELETE" && r.target.contains("uploadId=id")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(server.requests().iter().any(|r| r.method == "DELETE"), "the parts stay (dropped: {drop_it})");
    }
}
