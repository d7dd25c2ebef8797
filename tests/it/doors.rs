//! The real agent at the hands of clients that are broken, slow, many, or after something that is not theirs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tempfile::TempDir;
use walward_pg::{ControlFile, WalFileName, synthetic};
use walward_wire::client::Conversation;
use walward_wire::{OnError, Reply, Request};

const SEGMENT: &str = "000000010000000000000003";
/// How long the agent lets a client take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A data directory with a real pg_control, a repository, and an agent that serves them.
struct Host {
    agent: Child,
    metrics: u16,
    folder: TempDir,
}

impl Host {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
        fs::create_dir_all(data.join("global")).unwrap();
        fs::copy(fixture(), data.join("global/pg_control")).unwrap();
        fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.path().join("walward.toml");
        let text = format!(
            "[agent]\nsocket = {socket:?}\nspool_directory = {spool:?}\nlog.level = \"debug\"\nmetrics_listen = \"127.0.0.1:{metrics}\"\n\
             [repository.store]\nurl = \"file://{repository}\"\nencryption = \"none\"\n\
             [cluster.main]\ndata_directory = {data:?}\nconnection = \"host=/nowhere user=nobody\"\nrepositories = [\"store\"]\n",
            socket = folder.path().join("socket"),
            spool = folder.path().join("spool"),
            repository = folder.path().join("repository").display(),
        );
        fs::write(&config, text).unwrap();
        let setup = Command::new(env!("CARGO_BIN_EXE_walward"))
            .arg("--config")
            .arg(&config)
            .args(["--no-input", "--cluster", "main", "setup"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_walwardd"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut host = Self { agent, metrics, folder };
        let begun = Instant::now();
        // The socket is there before the port is.
        while !host.log().contains("walwardd is ready") {
            assert!(begun.elapsed() < Duration::from_secs(30), "the agent does not start:\n{}", host.log());
            assert!(host.agent.try_wait().unwrap().is_none(), "the agent ended:\n{}", host.log());
            thread::sleep(Duration::from_millis(20));
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).unwrap()
    }

    /// The final answer.
    fn ask(&self, request: &Request) -> Reply {
        let mut conversation = Conversation::start(&self.path("socket"), request, Duration::from_secs(30)).unwrap();
        loop {
            match conversation.next_reply() {
                Ok(Reply::Working | Reply::Event(_)) => {}
                Ok(reply) => return reply,
                Err(error) => panic!("{request:?}: {error}\n{}", self.log()),
            }
        }
    }

    fn push(&self, cluster: &str, path: impl AsRef<Path>) -> (u8, String) {
        match self.ask(&Request::Push { cluster: cluster.to_owned(), path: path.as_ref().to_path_buf() }) {
            Reply::Done { code, text } => (code, text),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for the status, which must come: a slow machine is no reason not to, a door that stays shut is.
    fn is_served(&self, when: &str) {
        let begun = Instant::now();
        let reply = self.ask(&Request::Admin("{\"op\":\"status\"}".to_owned()));
        let Reply::Result { code: 0, json } = reply else { panic!("{when}: {reply:?}") };
        assert!(json.contains("\"main\""), "{when}: {json}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{when}: the answer took {:?}", begun.elapsed());
    }

    /// A number of /proc/PID/status.
    fn proc_status(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.agent.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Puts a segment that is right into `pg_wal` of `data`.
    fn write_segment(&self, data: &str, name: &str) -> PathBuf {
        let control = ControlFile::read(&self.path("data")).unwrap();
        let WalFileName::Segment(segment) = name.parse().unwrap() else { panic!("{name}") };
        let content = vec![0; usize::try_from(control.segment_size.bytes()).unwrap()];
        let bytes = synthetic::segment(segment, control.segment_size, control.lineage(), content);
        let path = self.path(data).join("pg_wal").join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The names of the archived files.
    fn archived(&self) -> Vec<String> {
        let mut folders = vec![self.path("repository/main/wal")];
        let mut names = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pid = i32::try_from(self.agent.id()).ok().and_then(Pid::from_raw).unwrap();
        let _ = kill_process(pid, Signal::KILL);
        let _ = self.agent.wait();
        if thread::panicking() {
            eprintln!("---- log of the agent ----\n{}", self.log());
        }
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/15/pg_control")
}

fn make_pipe(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo (coreutils)");
    assert!(status.success());
}

/// A frame of a kind with a payload, and the length that it claims to have.
fn frame(kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    [&[b'W', b'W', 1, kind][..], &length.to_le_bytes(), payload].concat()
}

#[test]
fn a_frame_that_breaks_a_rule_ends_its_connection_and_nothing_else() {
    let host = Host::start();
    let right = Request::Admin("{\"op\":\"status\"}".to_owned()).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = right.clone();
        bytes[at] = byte;
        bytes
    };
    let long_path = Request::Push { cluster: String::new(), path: PathBuf::from("/x".repeat(40_000)) }.encode();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half a header", right[..5].to_vec()),
        ("half a payload", right[..right.len() - 3].to_vec()),
        ("another magic number", with(0, b'X')),
        ("another version", with(2, 2)),
        ("version 0", with(2, 0)),
        ("an unknown kind", with(3, 0x7f)),
        ("a reply", Reply::Done { code: 0, text: String::new() }.encode()),
        ("one byte more than allowed", frame(3, (64 << 10) + 1, &[])),
        ("four gigabytes promised", frame(3, u32::MAX, &[0; 100])),
        ("a path too long for a request", long_path),
        ("a field longer than the frame", frame(3, 8, &[0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4])),
        ("a field of no bytes where two are due", frame(1, 4, &[0; 4])),
        ("bytes after the last field", frame(3, 6, &[1, 0, 0, 0, b'x', 0])),
        ("a name that is not UTF-8", frame(1, 9, &[1, 0, 0, 0, 0xff, 0, 0, 0, 0])),
        ("another protocol", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in &cases {
        let mut stream = host.connect();
        stream.set_read_timeout(Some(REQUEST_DEADLINE * 2)).unwrap();
        // The agent may have heard enough before the end.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(
            ended.as_ref().is_ok_and(|count| *count == 0)
                || ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "{what}: {ended:?} {answer:?}"
        );
    }
    host.is_served("after all of them");
    // What is JSON and no request is told so.
    for json in ["", "[]", "{\"op\":\"restore\"}", "{\"op\":\"status\",\"more\":1}", &"[".repeat(60_000)] {
        let reply = host.ask(&Request::Admin(json.to_owned()));
        assert!(matches!(&reply, Reply::Done { code: 2, text } if !text.is_empty()), "{reply:?}");
    }
}

#[test]
fn who_never_ends_a_request_is_cut_off_while_others_are_served() {
    let host = Host::start();
    let begun = Instant::now();
    let mut drips: Vec<UnixStream> = (0..8).map(|_| host.connect()).collect();
    for stream in &mut drips {
        stream.write_all(&frame(1, 60_000, &[])).unwrap();
    }
    // A byte now and then: every one within any patience, the whole in none.
    let mut rounds = 0;
    while !drips.is_empty() {
        drips.retain_mut(|stream| stream.write_all(&[1]).is_ok());
        assert!(begun.elapsed() < REQUEST_DEADLINE * 6, "{} still talk after {:?}", drips.len(), begun.elapsed());
        if rounds % 8 == 0 {
            host.is_served("while others drip");
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(250));
    }
    assert!(begun.elapsed() > REQUEST_DEADLINE / 2, "they were not given the time to end: {:?}", begun.elapsed());
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    const CONNECTIONS: usize = 10_000;
    let host = Host::start();
    host.is_served("at first");
    let (resident, descriptors) = (host.proc_status("VmRSS"), host.proc_status("FDSize"));
    // As many at once as this process may have, so that most of them are open on this side at the same time.
    let limit = getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
    let open_max = usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)).unwrap_or(usize::MAX) - 200;
    let mut open = std::collections::VecDeque::new();
    for number in 0..CONNECTIONS {
        if open.len() >= open_max {
            open.pop_front();
        }
        open.push_back(host.connect());
        if number % 1000 == 999 {
            host.is_served(&format!("after {} idle connections", number + 1));
        }
    }
    host.write_segment("data", SEGMENT);
    assert_eq!(host.push("main", host.path("data/pg_wal").join(SEGMENT)), (0, String::new()));
    let grown = host.proc_status("VmRSS").saturating_sub(resident);
    assert!(grown < 64 << 10, "the agent has grown by {grown} kB");
    // Table of descriptors: 256 connections and the agent's own, not ten thousand.
    assert!(host.proc_status("FDSize") <= descriptors.max(1024), "{} descriptors", host.proc_status("FDSize"));
    assert!(open.len() > 200, "too few were open at the same time: {}", open.len());
}

#[test]
fn a_path_leads_nowhere_but_into_the_clusters_own_pg_wal() {
    let host = Host::start();
    let own = host.write_segment("data", SEGMENT);
    fs::create_dir_all(host.path("other/pg_wal")).unwrap();
    let foreign = host.write_segment("other", "000000010000000000000004");
    let pg_wal = host.path("data/pg_wal");
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, host.path(name)).unwrap();
    link(&foreign, "data/pg_wal/000000010000000000000004");
    link(Path::new("/etc/passwd"), "data/pg_wal/000000010000000000000005");
    link(&host.path("other/pg_wal"), "data/elsewhere");
    link(&host.path("data"), "alias");
    make_pipe(&pg_wal.join("000000010000000000000006"));
    fs::create_dir(pg_wal.join("000000010000000000000007")).unwrap();
    fs::write(host.path("data/postgresql.conf"), "# a file of the cluster").unwrap();

    let long = format!("{}/{SEGMENT}", "x/".repeat(5000));
    let cases: Vec<(&str, &str, PathBuf)> = vec![
        ("out of pg_wal and into another", "main", pg_wal.join("../../other/pg_wal/000000010000000000000004")),
        ("another data directory", "main", foreign.clone()),
        ("another data directory, no cluster said", "", foreign.clone()),
        ("a link to another file", "main", pg_wal.join("000000010000000000000004")),
        ("a link to a file of the system", "main", pg_wal.join("000000010000000000000005")),
        ("a link to another folder", "main", host.path("data/elsewhere/000000010000000000000004")),
        ("a pipe", "main", pg_wal.join("000000010000000000000006")),
        ("a folder", "main", pg_wal.join("000000010000000000000007")),
        ("a file of the cluster that is no WAL", "main", host.path("data/postgresql.conf")),
        ("a file of the system", "main", PathBuf::from("/etc/passwd")),
        ("pg_wal itself", "main", pg_wal.clone()),
        ("a path that ends in ..", "main", pg_wal.join("..")),
        ("a relative path", "main", PathBuf::from("pg_wal").join(SEGMENT)),
        ("a relative path, no cluster said", "", PathBuf::from("pg_wal").join(SEGMENT)),
        ("no path", "main", PathBuf::new()),
        ("a root", "main", PathBuf::from("/")),
        ("a name in a folder of the root", "main", PathBuf::from("/").join(SEGMENT)),
        ("a zero byte", "main", PathBuf::from(format!("{}/\0/{SEGMENT}", pg_wal.display()))),
        ("a path that no system takes", "main", pg_wal.join(long)),
        ("a cluster that is a path", "../main", own.clone()),
        ("a cluster in capitals", "MAIN", own.clone()),
        ("a file that is not there", "main", pg_wal.join("000000010000000000000008")),
    ];
    for (what, cluster, path) in cases {
        let begun = Instant::now();
        let (code, text) = host.push(cluster, &path);
        assert!((1..=125).contains(&code) && text.len() > 15, "{what}: {code} {text:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: took {:?}", begun.elapsed());
        assert_eq!(host.archived(), Vec::<String>::new(), "{what}: something was archived");
    }
    // What is the cluster's own, however it is spelled.
    for (cluster, path) in [
        ("", own.clone()),
        ("main", pg_wal.join("../pg_wal").join(SEGMENT)),
        ("", host.path("alias/pg_wal").join(SEGMENT)),
    ] {
        assert_eq!(host.push(cluster, &path), (0, String::new()), "{}", path.display());
    }
    assert_eq!(host.archived(), [SEGMENT]);

    // Names that are no WAL are not looked for, in a repository or anywhere else.
    for name in
        ["../../../../etc/passwd", "/etc/passwd", "..", "", "RECOVERYXLOG", "000000010000000000000003/../x", "x\0"]
    {
        let destination = host.path("data/pg_wal/RECOVERYXLOG");
        let (name, cluster) = (name.to_owned(), "main".to_owned());
        let reply = host.ask(&Request::Fetch { cluster, name, destination, on_error: OnError::Abort });
        assert!(matches!(&reply, Reply::Done { code: 255, text } if text.len() > 5), "{reply:?}");
    }
}

#[test]
fn a_pipe_in_the_place_of_pg_control_does_not_hold_the_agent() {
    let host = Host::start();
    let own = host.write_segment("data", SEGMENT);
    let control = host.path("data/global/pg_control");
    fs::remove_file(&control).unwrap();
    make_pipe(&control);
    // More often than the agent has threads that could wait.
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let (code, text) = host.push("main", &own);
                assert!(code == 1 && text.contains("regular file"), "{code} {text}");
                let (name, cluster) = (SEGMENT.to_owned(), "main".to_owned());
                let destination = host.path("data/pg_wal/RECOVERYXLOG");
                let reply = host.ask(&Request::Fetch { cluster, name, destination, on_error: OnError::Abort });
                assert!(matches!(&reply, Reply::Done { code: 255, text } if text.contains("pg_control")), "{reply:?}");
            });
        }
    });
    host.is_served("with a pipe for pg_control");
    fs::remove_file(&control).unwrap();
    fs::copy(fixture(), &control).unwrap();
    assert_eq!(host.push("main", &own), (0, String::new()));
}

#[test]
fn connections_to_metrics_are_bounded_and_end() {
    let host = Host::start();
    let address = ("127.0.0.1", host.metrics);
    // The table begins with the size that this process's has.
    let descriptors = host.proc_status("FDSize");
    // Fewer than wait to be accepted on any system.
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    host.is_served("while metrics are besieged");
    assert!(host.proc_status("FDSize") <= descriptors.max(64), "{} descriptors", host.proc_status("FDSize"));
    drop(idle);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // The connection is kept alive, and the agent ends it.
    let mut page = String::new();
    let _ = stream.read_to_string(&mut page);
    assert!(page.contains("walward_repository_reachable{cluster=\"main\",repository=\"store\"} 1"), "{page}");
}

#[test]
fn the_agent_leaves_no_core() {
    let host = Host::start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.agent.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<&str> = line.split_whitespace().filter(|word| *word == "0").collect();
    assert_eq!(values.len(), 2, "{line}");
}

/// A second agent, with a umask that opens everything, on the spool directory of the first.
#[test]
fn a_second_agent_leaves_the_spool_of_the_first_alone_and_its_umask_opens_no_door() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start();
    let spools = || {
        let entries = fs::read_dir(host.path("spool/main")).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_str().unwrap().parse::<u64>().is_ok()).collect::<Vec<_>>()
    };
    let first = spools();
    assert_eq!(first.len(), 1);
    // What an agent left that was killed.
    fs::create_dir(host.path("spool/main/7")).unwrap();
    let text = fs::read_to_string(host.path("walward.toml")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("metrics_listen"));
    let text = lines.collect::<Vec<_>>().join("\n").replacen("/socket\"", "/made/socket\"", 1);
    fs::write(host.path("second.toml"), text).unwrap();
    let mut second = Command::new("sh")
        .args(["-c", "umask 000; exec \"$0\" --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_walwardd"))
        .arg(host.path("second.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(host.path("second.log")).unwrap())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(host.path("second.log")).unwrap().contains("walwardd is ready") {
        assert!(begun.elapsed() < Duration::from_secs(30) && second.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(20));
    }
    let mode = |name: &str| fs::metadata(host.path(name)).unwrap().permissions().mode() & 0o7777;
    let expected = if rustix::process::geteuid().is_root() { 0o666 } else { 0o600 };
    assert_eq!((mode("made"), mode("made/socket")), (0o755, expected));
    let both = spools();
    assert!(both.contains(&first[0]) && both.len() == 2, "{first:?}, then {both:?}");
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    second.wait().unwrap();
    host.is_served("after the other has gone");
}
