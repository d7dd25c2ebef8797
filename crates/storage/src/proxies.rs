//! Proxies, private authorities and buckets in host names: what goes where.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::conformance::real_store;
use super::server::*;
use super::*;
use walward_base::{ErrorClass, Secret};

/// Nobody has this name: only a proxy can answer for it.
const NOWHERE: &str = "http://s3.walward.invalid";

#[tokio::test]
async fn requests_for_a_bucket_in_the_host_name_go_through_the_proxy_with_its_password() {
    let proxy = Server::start(|_, _| Response::Say(200, dated(), b"x".to_vec())).await;
    let options = StoreOptions {
        endpoint: Some(NOWHERE.to_owned()),
        virtual_hosted_style: true,
        proxy: Some(Secret::new(format!("http://me:geheim@{}", proxy.address))),
        ..options_at("", PATIENT, PATIENT)
    };
    open(&options, "main").unwrap().head(&key()).await.unwrap();
    let seen = proxy.requests();
    assert_eq!(seen[0].target, "http://bucket.s3.walward.invalid/prefix/main/wal/object");
    // me:geheim
    assert!(seen[0].head.contains("proxy-authorization: basic bwu6z2vozwlt"), "{}", seen[0].head);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_its_password_is_not() {
    let proxy = Server::start(|_, _| say(407, "<html>log in first</html>")).await;
    let options = StoreOptions {
        endpoint: Some(NOWHERE.to_owned()),
        proxy: Some(Secret::new(format!("http://me:geheim@{}", proxy.address))),
        ..options_at("", PATIENT, HASTY)
    };
    let error = open(&options, "main").unwrap().head(&key()).await.unwrap_err();
    let cause = error.source.to_string();
    assert_eq!(error.class, ErrorClass::Denied);
    assert!(cause.contains("the proxy wants credentials") && !cause.contains("geheim"), "{cause}");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = StoreOptions { proxy: Some(Secret::new(format!("http://me:geheim@{gone}"))), ..options };
    let error = open(&options, "main").unwrap().head(&key()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
    assert!(!error.source.to_string().contains("geheim"), "{}", error.source);
}

/// A proxy that connects wherever it is asked to, and counts.
async fn connecting_proxy() -> (String, &'static AtomicUsize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count: &AtomicUsize = Box::leak(Box::default());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
#[ignore = "needs a server: scripts/object-stores.sh run moto …"]
async fn a_real_store_behind_tls_is_reached_with_its_authority_alone_and_through_a_proxy() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (options, _) = real_store();
    let endpoint = Some(variable("WALWARD_TEST_STORE_TLS_ENDPOINT"));
    let options = StoreOptions { endpoint, allow_http: false, ..options };
    let folder = format!("tls-{:016x}", rand::random::<u64>());

    let error = open(&options, &folder).unwrap().put_new(&key(), vec![1].into()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Permanent);
    assert!(error.source.to_string().contains("is not trusted"), "{}", error.source);

    let options = StoreOptions { ca_file: Some(variable("WALWARD_TEST_STORE_CA").into()), ..options };
    let store = open(&options, &folder).unwrap();
    assert_eq!(store.put_new(&key(), vec![1].into()).await.unwrap(), Put::Created);

    let (address, count) = connecting_proxy().await;
    let options = StoreOptions { proxy: Some(Secret::new(format!("http://{address}"))), ..options };
    let store = open(&options, &folder).unwrap();
    assert_eq!(store.put_new(&key(), vec![2].into()).await.unwrap(), Put::Exists);
    assert_eq!(store.get_range(&key(), 0..1).await.unwrap(), vec![1]);
    assert!(count.load(Ordering::Relaxed) > 0);
}
