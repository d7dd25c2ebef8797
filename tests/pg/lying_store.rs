//! An S3 server that accepts "create only if absent" and overwrites, as Garage does: moto behind a proxy that drops the
//! condition.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{Site, SiteOptions, StoreKind, eventually};

/// Forwards every request to `server` without its conditions; answers the URL to use instead.
fn without_conditions(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = server.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = server.clone();
            std::thread::spawn(move || forward(&client, &TcpStream::connect(server).unwrap()));
        }
    });
    url
}

fn forward(client: &TcpStream, mut server: &TcpStream) {
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut requests = BufReader::new(client);
    let mut line = String::new();
    let mut body = 0;
    while requests.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        let lower = line.to_ascii_lowercase();
        if let Some(length) = lower.strip_prefix("content-length:") {
            body = length.trim().parse().unwrap();
        }
        if !lower.starts_with("if-none-match:") && server.write_all(line.as_bytes()).is_err() {
            break;
        }
        if lower == "\r\n" && copy(&mut requests.by_ref().take(std::mem::take(&mut body)), &mut server).is_err() {
            break;
        }
        line.clear();
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = back.join();
}

#[test]
fn a_store_that_overwrites_what_it_was_told_not_to_is_survived_and_named() {
    let mut site = Site::prepare(SiteOptions { store: StoreKind::S3, ..SiteOptions::default() });
    let endpoint = site.s3.as_ref().unwrap().endpoint();
    site.write_config(&site.config_text().replace(&endpoint, &without_conditions(&endpoint)));
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);

    let copy = |name: &str| {
        let path = site.room.make_folder("copies").join(name);
        site.client(&["--cluster", "main", "fetch", &segment, path.to_str().unwrap()]).expect(0);
        fs::read(path).unwrap()
    };
    let push = |bytes: &[u8]| {
        let file = site.put_wal(&segment, bytes);
        site.client(&["--cluster", "main", "push", file.to_str().unwrap()])
    };
    let bytes = copy("first");
    push(&bytes).expect(0);
    let mut other = bytes.clone();
    other[60] ^= 1;
    push(&other).expect(1).says(&segment);
    assert!(copy("second") == bytes, "the archive was changed");

    let advice = "let only one server archive each timeline";
    // The agent keeps what it found for some seconds, and before its first write it had nothing to say.
    eventually("status names the store", Duration::from_secs(30), || {
        let said = site.walward(&["status"]).expect(0).stdout;
        (said.contains("and overwrites all the same") && said.contains(advice)).then_some(())
    });
    site.walward(&["check"]).says("WARNING  writing").says("and overwrites all the same").says(advice);
    let probe = site.walward(&["--json", "repo", "probe"]).expect(1).json();
    assert_eq!((&probe["creates"], &probe["conditional_create"]), (&"overwrites".into(), &false.into()), "{probe}");
}
