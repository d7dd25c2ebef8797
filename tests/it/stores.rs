//! The programs against a real object store, which `scripts/object-stores.sh run STORE` starts.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn variable(name: &str) -> String {
    let name = format!("WALWARD_TEST_STORE_{name}");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/object-stores.sh run STORE …"))
}

struct Setup {
    _folder: tempfile::TempDir,
    config: PathBuf,
}

/// A configuration with the store at `endpoint`, and further lines for it.
fn setup(endpoint: &str, further: &str) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let (url, key, secret) = (variable("URL"), variable("KEY"), variable("SECRET"));
    let secret_path = folder.path().join("secret");
    let secret_file = secret_path.display().to_string();
    let write = |path: &PathBuf, text: &str| {
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    write(&secret_path, &secret);
    let credentials = match url.split("://").next().unwrap() {
        "s3" => format!(
            "access_key_id = {key:?}\nsecret_access_key_file = {secret_file:?}\nregion = {:?}",
            variable("REGION")
        ),
        "az" => format!("account = {key:?}\naccount_key_file = {secret_file:?}"),
        _ => format!("service_account_file = {:?}", variable("SERVICE_ACCOUNT")),
    };
    let config = folder.path().join("walward.toml");
    let text = format!(
        "[repository.store]\nurl = \"{url}/probe-{}\"\nendpoint = {endpoint:?}\n{credentials}\nencryption = \"none\"\n{further}\n\
         [cluster.main]\ndata_directory = {:?}\nconnection = \"host=/nowhere\"\nrepositories = [\"store\"]\n",
        std::process::id(),
        folder.path().display().to_string()
    );
    write(&config, &text);
    Setup { _folder: folder, config }
}

fn probe(setup: &Setup, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walward"));
    for name in
        ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "no_proxy", "all_proxy"]
    {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).arg("--config").arg(&setup.config).args(["--json", "repo", "probe"]);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
#[ignore = "needs a server: scripts/object-stores.sh run STORE …"]
fn a_real_store_is_probed_and_what_it_can_do_is_said() {
    let output = probe(&setup(&variable("ENDPOINT"), "allow_http = true"), &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {output:?}"));
    println!("{text}");
    assert_eq!(report["schema"], "walward.repo-probe/1");
    let creates = variable("CREATES");
    let once = creates == "once";
    assert_eq!(report["conditional_create"], once, "{text}");
    // A store that races is not always caught, and one that is caught may have let all win.
    if creates != "races" {
        assert_eq!(report["creates"], creates.as_str(), "{text}");
    }
    for check in report["checks"].as_array().unwrap() {
        let about_creating = ["conditional_create", "create_race"].contains(&check["name"].as_str().unwrap());
        assert!(check["ok"] == true || (about_creating && !once), "{check}");
    }
    assert_eq!(output.status.code(), Some(i32::from(!once)));
    let asked = ["moto", "ceph"].contains(&std::env::var("WALWARD_TEST_STORE").unwrap().as_str());
    assert_eq!(report["object_lock"], if asked { "off" } else { "unknown" }, "{text}");
}

/// A proxy that connects wherever it is asked to, and counts.
fn connecting_proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || connect(client, &counter));
        }
    });
    (address, count)
}

fn connect(mut client: TcpStream, counter: &AtomicUsize) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    let mut server = TcpStream::connect(target).unwrap();
    counter.fetch_add(1, Ordering::SeqCst);
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    let _ = back.join();
}

#[test]
#[ignore = "needs a server: scripts/object-stores.sh run moto …"]
fn a_real_store_behind_tls_is_reached_as_the_environments_proxies_say() {
    let further = format!("ca_file = {:?}", variable("CA"));
    let setup = setup(&variable("TLS_ENDPOINT"), &further);
    let (proxy, count) = connecting_proxy();
    let output = probe(&setup, &[("HTTPS_PROXY", &proxy)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let through = count.load(Ordering::SeqCst);
    assert!(through > 0);
    let output = probe(&setup, &[("HTTPS_PROXY", &proxy), ("NO_PROXY", "localhost")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = probe(&setup, &[("HTTP_PROXY", &proxy)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(count.load(Ordering::SeqCst), through);
}
