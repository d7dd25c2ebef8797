//! An HTTP server for tests that answers as told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use md5::{Digest, Md5};

use super::*;
use walward_base::{Secret, hex};

/// One request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Whether the client only tries what the server does.
    pub(super) fn is_trial(&self) -> bool {
        self.target.contains("/.walward-")
    }
}

/// What to send back.
pub(super) enum Response {
    /// A status and a body, with further header lines.
    Say(u16, Vec<String>, Vec<u8>),
    /// An announced length, and fewer bytes.
    BreakOff(u64, Vec<u8>),
    /// Nothing, for ever.
    Silence,
}

pub(super) fn say(status: u16, body: &str) -> Response {
    Response::Say(status, Vec::new(), body.as_bytes().to_vec())
}

pub(super) fn refuse(status: u16, code: &str) -> Response {
    say(status, &format!("<Error><Code>{code}</Code><Message>because</Message></Error>"))
}

/// A server on a free port of this machine. It ends when dropped.
pub(super) struct Server {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?.to_ascii_lowercase();
    let mut line = head.split_whitespace();
    let (method, target) = (line.next()?.to_uppercase(), String::from_utf8(bytes[..end].to_vec()).ok()?);
    let target = target.split_whitespace().nth(1)?.to_owned();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { method, target, head, body: bytes[end..end + length].to_vec() })
}

impl Server {
    /// Answers request number `n` (from 0) with `answer(n, request)`; not those by which the client finds out whether the
    /// server creates conditionally, which it is told to do.
    pub(super) async fn start(answer: impl Fn(usize, &Request) -> Response + Send + Sync + 'static) -> Self {
        Self::listen(true, answer).await
    }

    /// Answers every request so.
    pub(super) async fn start_bare(answer: impl Fn(usize, &Request) -> Response + Send + Sync + 'static) -> Self {
        Self::listen(false, answer).await
    }

    async fn listen(sound: bool, answer: impl Fn(usize, &Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (requests, answer) = (Arc::clone(&seen), Arc::new(answer));
        let trials = Arc::new(Mutex::new(HashSet::new()));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (requests, answer, trials) = (Arc::clone(&requests), Arc::clone(&answer), Arc::clone(&trials));
                tokio::spawn(async move {
                    let Some(request) = read_request(&mut stream).await else { return };
                    let told = if sound && request.is_trial() {
                        match request.method.as_str() {
                            "PUT" if !trials.lock().unwrap().insert(request.target.clone()) => {
                                refuse(412, "PreconditionFailed")
                            }
                            "GET" => Response::Say(200, dated(), vec![0]),
                            _ => Response::Say(200, dated(), Vec::new()),
                        }
                    } else {
                        let number = {
                            let mut requests = requests.lock().unwrap();
                            requests.push(request.clone());
                            requests.len() - 1
                        };
                        answer(number, &request)
                    };
                    let (status, headers, length, body) = match told {
                        Response::Say(status, headers, body) => {
                            (status, tagged(headers, &request), body.len() as u64, body)
                        }
                        Response::BreakOff(length, body) => (200, dated(), length, body),
                        Response::Silence => return std::future::pending().await,
                    };
                    let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
                    for line in headers {
                        head.push_str(&line);
                        head.push_str("\r\n");
                    }
                    head.push_str("\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    if request.method != "HEAD" {
                        let _ = stream.write_all(&body).await;
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, seen, task }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        store_at(&self.address, PATIENT, PATIENT)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// When an object was written, and a tag: to a write, the one that proves its bytes.
pub(super) fn dated() -> Vec<String> {
    vec!["last-modified: Sat, 21 Nov 2026 06:41:58 GMT".to_owned(), TAG.to_owned()]
}

const TAG: &str = "etag: \"x\"";

fn tagged(headers: Vec<String>, request: &Request) -> Vec<String> {
    let proof = || format!("etag: \"{}\"", hex::encode(&Md5::digest(&request.body)));
    headers.into_iter().map(|line| if line == TAG && request.method == "PUT" { proof() } else { line }).collect()
}

/// The bytes of an object that were asked for.
pub(super) fn part(request: &Request, bytes: &[u8]) -> Response {
    let Some(range) = request.head.lines().find_map(|line| line.strip_prefix("range: bytes=")) else {
        return Response::Say(200, dated(), bytes.to_vec());
    };
    let (start, last) = range.trim().split_once('-').unwrap();
    let (start, end) = match start {
        "" => (bytes.len().saturating_sub(last.parse().unwrap()), bytes.len()),
        start => (start.parse::<usize>().unwrap(), last.parse::<usize>().unwrap() + 1),
    };
    let mut headers = dated();
    headers.push(format!("content-range: bytes {start}-{}/{}", end - 1, bytes.len()));
    Response::Say(206, headers, bytes[start..end].to_vec())
}

/// For what shall succeed, on however busy a machine.
pub(super) const PATIENT: Duration = Duration::from_secs(30);
/// For what shall fail in the end.
pub(super) const HASTY: Duration = Duration::from_millis(200);

pub(super) fn store_at(address: &str, request_timeout: Duration, retry_deadline: Duration) -> Arc<dyn Store> {
    open(&options_at(address, request_timeout, retry_deadline), "main").unwrap()
}

pub(super) fn options_at(address: &str, request_timeout: Duration, retry_deadline: Duration) -> StoreOptions {
    StoreOptions {
        endpoint: Some(format!("http://{address}")),
        allow_http: true,
        credentials: Credentials::Keys {
            access_key_id: "AK".to_owned(),
            secret_access_key: Secret::new("SK"),
            session_token: None,
        },
        limits: Limits {
            request_timeout,
            retry_deadline,
            retry_first_backoff: Duration::from_millis(1),
            retry_max_backoff: Duration::from_millis(20),
            part_bytes: 5 << 20,
            ..Limits::default()
        },
        ..StoreOptions::new("s3://bucket/prefix")
    }
}

pub(super) fn key() -> ObjectKey {
    ObjectKey::new("wal/object").unwrap()
}
