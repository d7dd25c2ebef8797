//! An HTTP proxy in front of a store that does the store's misdeeds, as a test tells it while it runs.
//!
//! One request a connection, a thread each: every request is read whole, then what becomes of it is decided by the mode of
//! that moment. So a test switches a fault on and off without restarting anything, and counts how often it was met.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The store answers.
    Pass,
    /// It is answered with this status and S3 error code, and never reaches the store.
    Answer(u16, &'static str),
    /// A login page answers, with success and a tag, and nothing reaches the store.
    Portal,
    /// The connection is reset as soon as the request was read.
    Reset,
    /// Half of the request reaches the store; then both sides are cut off.
    ResetHalfWay,
    /// The store does what was asked, and its answer is lost.
    LoseAnswer,
    /// Nothing is ever answered.
    BlackHole,
    /// The answer's head and half of its body, then the connection ends.
    Truncate,
    /// The answer comes with one bit flipped in the middle of its body.
    Flip,
    /// Everything goes through at this many bytes a second.
    Slow(u64),
    /// Every third request is reset, the others pass.
    EveryThirdReset,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    mode: Mutex<Mode>,
    /// Requests that met something else than [`Mode::Pass`].
    faults: AtomicU64,
    requests: AtomicU64,
    /// Connections that are in a black hole now.
    held: AtomicU64,
    ended: AtomicBool,
}

/// A listening proxy; it ends with the test.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// A proxy on a free port of the loopback interface, in front of the port `upstream`.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            upstream,
            mode: Mutex::new(Mode::Pass),
            faults: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            held: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if for_thread.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&for_thread);
                // A client that goes away in the middle is none of the proxy's business.
                thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Self { port, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on; requests that are in a black hole stay there.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// How many connections are in a black hole now.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Acquire)
    }

    /// How many requests met a fault so far.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Acquire)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A request: its head with `connection: close`, and its body.
struct Message {
    head: String,
    body: Vec<u8>,
}

fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_mins(5)))?;
    let Some(request) = read_request(&mut client)? else { return Ok(()) };
    let number = shared.requests.fetch_add(1, Ordering::AcqRel);
    let mode = match *shared.mode.lock().unwrap() {
        Mode::EveryThirdReset if number.is_multiple_of(3) => Mode::Reset,
        Mode::EveryThirdReset => Mode::Pass,
        mode => mode,
    };
    if mode != Mode::Pass {
        shared.faults.fetch_add(1, Ordering::AcqRel);
    }
    match mode {
        Mode::Pass | Mode::EveryThirdReset => client.write_all(&exchange(&request, shared, u64::MAX)?),
        Mode::Answer(status, code) => client.write_all(&refusal(&request, status, code)),
        Mode::Portal => client.write_all(&portal(&request)),
        Mode::Reset => reset(&client),
        Mode::ResetHalfWay => {
            let mut store = TcpStream::connect(("127.0.0.1", shared.upstream))?;
            store.write_all(request.head.as_bytes())?;
            store.write_all(&request.body[..request.body.len() / 2])?;
            reset(&store)?;
            reset(&client)
        }
        Mode::LoseAnswer => {
            exchange(&request, shared, u64::MAX)?;
            reset(&client)
        }
        Mode::BlackHole => {
            // Until the client gives up.
            client.set_read_timeout(None)?;
            shared.held.fetch_add(1, Ordering::AcqRel);
            let _ = client.read(&mut [0]);
            shared.held.fetch_sub(1, Ordering::AcqRel);
            Ok(())
        }
        Mode::Truncate => {
            let answer = exchange(&request, shared, u64::MAX)?;
            let body = body_at(&answer);
            // An answer without a body is cut in its head.
            let end = if body < answer.len() { body + (answer.len() - body) / 2 } else { body / 2 };
            client.write_all(&answer[..end])?;
            client.shutdown(Shutdown::Both)
        }
        Mode::Flip => {
            let mut answer = exchange(&request, shared, u64::MAX)?;
            let body = body_at(&answer);
            if body < answer.len() {
                let middle = body + (answer.len() - body) / 2;
                answer[middle] ^= 0x20;
            }
            client.write_all(&answer)
        }
        Mode::Slow(bytes_per_second) => {
            let answer = exchange(&request, shared, bytes_per_second)?;
            write_slowly(&mut client, &answer, bytes_per_second)
        }
    }
}

/// Reads one request; `None` when the client closed without one.
fn read_request(client: &mut TcpStream) -> io::Result<Option<Message>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut chunk)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let mut body = bytes.split_off(head_end);
    let text = String::from_utf8(bytes).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
    let length = header(&text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while body.len() < length {
        match client.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => body.extend_from_slice(&chunk[..count]),
        }
    }
    // The end of the connection ends the answer.
    let lines = text.trim_end().split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = lines.collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close\r\n\r\n";
    Ok(Some(Message { head, body }))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The store's answer, whole.
fn exchange(request: &Message, shared: &Shared, bytes_per_second: u64) -> io::Result<Vec<u8>> {
    let mut store = TcpStream::connect(("127.0.0.1", shared.upstream))?;
    store.write_all(request.head.as_bytes())?;
    write_slowly(&mut store, &request.body, bytes_per_second)?;
    let mut answer = Vec::new();
    store.read_to_end(&mut answer)?;
    Ok(answer)
}

fn write_slowly(stream: &mut TcpStream, bytes: &[u8], bytes_per_second: u64) -> io::Result<()> {
    let begun = Instant::now();
    let mut written = 0;
    for piece in bytes.chunks(16 << 10) {
        stream.write_all(piece)?;
        written += piece.len() as u64;
        let due = Duration::from_millis(written.saturating_mul(1000) / bytes_per_second);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

fn body_at(answer: &[u8]) -> usize {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}

fn refusal(request: &Message, status: u16, code: &str) -> Vec<u8> {
    let body = if request.head.starts_with("HEAD ") {
        String::new()
    } else {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>")
    };
    format!(
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn portal(request: &Message) -> Vec<u8> {
    let page = "<!DOCTYPE html><html><head><title>Guest network</title></head><body>Please sign in.</body></html>";
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: portal\r\nContent-Type: text/html\r\nETag: \"5d41402abc4b2a76b9719d911017c592\"\r\nLast-Modified: Sat, 21 Nov 2026 06:41:58 GMT\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    let body = if request.head.starts_with("HEAD ") { "" } else { page };
    format!("{head}{body}").into_bytes()
}

/// Ends a connection so that the other side sees a reset and not an end.
fn reset(stream: &TcpStream) -> io::Result<()> {
    set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}
