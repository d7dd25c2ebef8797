//! An S3 server of one test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::fault_proxy::FaultProxy;
use super::room::{Daemon, Room, eventually};

pub const BUCKET: &str = "walward-test";

/// moto, in memory, on a free port of the loopback interface, with one bucket.
#[derive(Debug)]
pub struct S3 {
    port: u16,
    server: Daemon,
}

impl S3 {
    pub fn start(room: &Room) -> Self {
        let program = std::env::var_os("WALWARD_TEST_MOTO").map_or_else(|| PathBuf::from("moto_server"), PathBuf::from);
        let port = free_port();
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
        assert!(
            Command::new(&program).arg("--version").stdin(Stdio::null()).output().is_ok(),
            "there is no S3 server at {}; run scripts/test.sh, which installs it and sets WALWARD_TEST_MOTO",
            program.display()
        );
        let server = Daemon::start("moto", command, &room.join("moto.log"), Signal::TERM);
        let s3 = Self { port, server };
        eventually("the S3 server answers", Duration::from_mins(1), || TcpStream::connect(("127.0.0.1", port)).ok());
        let answer = s3.request("PUT", &format!("/{BUCKET}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "cannot make a bucket: {answer}");
        s3
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lines of a `[repository.…]` table, the URL included.
    pub fn settings(&self, prefix: &str) -> String {
        Self::settings_at(&self.endpoint(), prefix)
    }

    /// As [`Self::settings`], by way of another address.
    pub fn settings_at(endpoint: &str, prefix: &str) -> String {
        format!(
            "url = \"s3://{BUCKET}/{prefix}\"\nendpoint = \"{endpoint}\"\nallow_http = true\naccess_key_id = \"test\"\nsecret_access_key = \"test\"\n"
        )
    }

    /// A proxy in front of it.
    pub fn proxy(&self) -> FaultProxy {
        FaultProxy::start(self.port)
    }

    /// Stops answering without closing connections: requests hang.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    /// The names of all objects in the bucket.
    pub fn keys(&self) -> Vec<String> {
        let listing = self.request("GET", &format!("/{BUCKET}?list-type=2"));
        assert!(listing.starts_with("HTTP/1.1 200"), "cannot list: {listing}");
        let parts = listing.split("<Key>").skip(1);
        parts.filter_map(|part| Some(part.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// An empty bucket in the place of the one that was there.
    pub fn empty(&self) {
        for (method, path) in [("POST", "/moto-api/reset"), ("PUT", &format!("/{BUCKET}"))] {
            let answer = self.request(method, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "cannot empty the bucket: {answer}");
        }
    }

    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the S3 server");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // A frozen server does not hear SIGTERM.
        self.thaw();
    }
}

/// A port of the loopback interface that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
