//! `walward-wal` at the hands of agents that are missing, broken, slow or lying: its exit codes are what PostgreSQL goes by.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client_program::walward_wal;

const NAME: &str = "000000010000000000000001";

/// What PostgreSQL reads as "no such file" is 1 to 125; as "stop", everything above and every signal.
const FETCH_FAILED: i32 = 255;

struct Outcome {
    /// -1 when a signal ended it.
    code: i32,
    stderr: String,
}

fn run(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Outcome { code: output.status.code().unwrap_or(-1), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn client(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(walward_wal());
    command.current_dir(folder).env("WALWARD_SOCKET", folder.join("socket")).args(arguments);
    command
}

fn push(folder: &Path) -> Outcome {
    run(&mut client(folder, &["--timeout", "1", "push", "pg_wal/000000010000000000000001"]))
}

fn fetch(folder: &Path) -> Outcome {
    run(&mut client(folder, &["--timeout", "1", "fetch", NAME, "pg_wal/RECOVERYXLOG"]))
}

/// A folder like a data directory, with an agent in it that takes one request a connection and answers with `answer`.
fn with_agent(answer: impl Fn(UnixStream) + Send + 'static) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pg_wal")).unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut header = [0; 8];
            stream.read_exact(&mut header).unwrap();
            let length = u32::from_le_bytes(header[4..8].try_into().unwrap());
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).unwrap();
            answer(stream);
        }
    });
    folder
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'W', b'W', 1, kind];
    frame.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    frame.extend(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    let mut field = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    field.extend(text.as_bytes());
    field
}

fn done(code: u8, message: &str) -> Vec<u8> {
    frame(0x81, &[vec![code], text(message)].concat())
}

fn answering(bytes: Vec<u8>) -> TempDir {
    with_agent(move |mut stream| {
        // The client may have gone already; that is its right.
        let _ = stream.write_all(&bytes);
    })
}

#[test]
fn a_missing_agent_fails_a_push_and_stops_a_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = push(folder.path());
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("socket") && outcome.stderr.contains("walwardd"), "{}", outcome.stderr);
    let outcome = fetch(folder.path());
    assert_eq!(outcome.code, FETCH_FAILED);
    assert!(outcome.stderr.contains("socket"), "{}", outcome.stderr);
}

#[test]
fn an_agent_that_starts_a_moment_later_is_waited_for_by_a_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let agent = thread::spawn(move || {
        thread::sleep(Duration::from_millis(700));
        let listener = UnixListener::bind(socket).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&done(1, "not in any repository")).unwrap();
        let _ = stream.read(&mut [0; 1024]);
    });
    assert_eq!(fetch(folder.path()).code, 1);
    agent.join().unwrap();
}

#[test]
fn whatever_an_agent_says_wrongly_is_never_absent_and_never_archived() {
    let mut other_version = done(0, "");
    other_version[2] = 2;
    let mut other_magic = done(1, "");
    other_magic[0] = b'X';
    let long_text = frame(0x81, &[vec![1], 1000_u32.to_le_bytes().to_vec()].concat());
    let trailing = frame(0x81, &[vec![1], text(""), vec![0]].concat());
    let endless = [b"WW\x01\x81".to_vec(), u32::MAX.to_le_bytes().to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing at all", vec![]),
        ("half a header", done(1, "")[..5].to_vec()),
        ("half a payload", done(1, "text")[..11].to_vec()),
        ("another protocol", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("another magic number", other_magic),
        ("another version", other_version),
        ("a frame without end", endless),
        ("an unknown frame", frame(0x7f, &[])),
        ("a field longer than the frame", long_text),
        ("bytes after the last field", trailing),
        ("a text that is not UTF-8", frame(0x81, &[1, 1, 0, 0, 0, 0xff])),
        ("the answer to another question", frame(0x84, &[vec![0], text("{}")].concat())),
        ("working, then nothing", frame(0x85, &[])),
    ];
    for (what, bytes) in cases {
        let folder = answering(bytes);
        let outcome = push(folder.path());
        assert_eq!(outcome.code, 1, "push: {what}: {}", outcome.stderr);
        assert!(!outcome.stderr.is_empty(), "push: {what}: says nothing");
        let outcome = fetch(folder.path());
        assert_eq!(outcome.code, FETCH_FAILED, "fetch: {what}: {}", outcome.stderr);
        assert!(!outcome.stderr.is_empty(), "fetch: {what}: says nothing");
    }
}

#[test]
fn every_code_of_the_agent_is_passed_on_in_its_safe_range() {
    for code in 0..=255_u8 {
        let folder = answering(done(code, "because"));
        let pushed = push(folder.path()).code;
        assert!(pushed <= 125 && (pushed == 0) == (code == 0), "push: {code} became {pushed}");
        let fetched = fetch(folder.path()).code;
        let expected = if code == 1 { 1 } else { FETCH_FAILED };
        assert_eq!(fetched, expected, "fetch: {code} became {fetched}");
    }
}

#[test]
fn the_agents_text_is_one_line_on_standard_error() {
    let folder = answering(done(1, "cannot reach the store"));
    let outcome = push(folder.path());
    assert!(outcome.stderr.contains("cannot reach the store"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{}", outcome.stderr);
}

#[test]
fn a_silent_agent_is_given_up_and_a_working_one_is_not() {
    let folder = with_agent(|stream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    });
    let begun = Instant::now();
    let outcome = push(folder.path());
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("did not answer"), "{}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());

    let folder = with_agent(|mut stream| {
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(400));
            let _ = stream.write_all(&frame(0x85, &[]));
        }
        let _ = stream.write_all(&done(0, ""));
    });
    assert_eq!(push(folder.path()).code, 0);
}

#[test]
fn a_silent_agent_stops_a_recovery() {
    let folder = with_agent(|stream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    });
    assert_eq!(fetch(folder.path()).code, FETCH_FAILED);
}

/// What a standby is told: it asks again, and must neither wait nor die.
const GO_ON: i32 = 1;

/// A standby is told within two seconds. Twice that on a busy machine: what used to be is five and sixty.
const TOLD: Duration = Duration::from_secs(4);

fn fetch_as_postgresql(folder: &Path, arguments: &[&str], name: &str) -> (i32, Duration) {
    let begun = Instant::now();
    let mut command = client(folder, &[&["fetch"], arguments, &[name, "pg_wal/RECOVERYXLOG"]].concat());
    (run(&mut command).code, begun.elapsed())
}

#[test]
fn a_standby_is_told_at_once_where_there_is_no_agent_and_a_recovery_that_may_end_never_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pg_wal")).unwrap();
    let signal = |name: &str| fs::write(folder.path().join(name), "").unwrap();
    assert_eq!(fetch_as_postgresql(folder.path(), &[], NAME).0, FETCH_FAILED, "neither");
    signal("recovery.signal");
    for arguments in [&[][..], &["--on-error=target"]] {
        assert_eq!(fetch_as_postgresql(folder.path(), arguments, NAME).0, FETCH_FAILED, "one-shot");
    }
    // Standby wins, as in PostgreSQL.
    signal("standby.signal");
    for arguments in [&[][..], &["--on-error=target"], &["--on-error=retry"]] {
        let (code, took) = fetch_as_postgresql(folder.path(), arguments, NAME);
        assert_eq!(code, GO_ON, "{arguments:?}");
        assert!(took < TOLD, "{arguments:?}: {took:?}");
    }
    assert_eq!(fetch_as_postgresql(folder.path(), &["--on-error=abort"], NAME).0, FETCH_FAILED, "said by hand");
}

/// PostgreSQL removes the signal file, and then asks for the history that it copies into the new one. It has it in pg_wal.
#[test]
fn the_last_question_of_a_promotion_does_not_end_the_server() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pg_wal")).unwrap();
    fs::write(folder.path().join("pg_wal/00000002.history"), "1\t0/5000000\tpromoted\n").unwrap();
    for name in ["00000001.history", "00000002.history"] {
        assert_eq!(fetch_as_postgresql(folder.path(), &[], name).0, GO_ON, "{name}");
    }
    // Without it the new timeline would have no past.
    assert_eq!(fetch_as_postgresql(folder.path(), &[], "00000003.history").0, FETCH_FAILED);
}

#[test]
fn a_standby_is_told_at_once_whatever_an_agent_does_wrong() {
    let silent = |stream: UnixStream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    };
    let folders = [
        ("silent", with_agent(silent)),
        ("gone", with_agent(drop)),
        ("half a frame", answering(done(1, "")[..5].to_vec())),
        ("nonsense", answering(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
        ("claims that it placed the file", answering(done(0, ""))),
        ("refuses", answering(done(255, "not yours"))),
    ];
    for (what, folder) in folders {
        fs::write(folder.path().join("standby.signal"), "").unwrap();
        let (code, took) = fetch_as_postgresql(folder.path(), &[], NAME);
        assert_eq!(code, GO_ON, "{what}");
        assert!(took < TOLD, "{what}: {took:?}");
        assert!(!folder.path().join("pg_wal/RECOVERYXLOG").exists(), "{what}");
    }
}

/// A promotion asks four or five times. Each would wait for a second.
#[test]
fn an_agent_that_hangs_holds_a_standby_once_and_not_at_every_question() {
    let folder = with_agent(|stream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    });
    fs::write(folder.path().join("standby.signal"), "").unwrap();
    let took: Vec<Duration> = (0..5)
        .map(|_| {
            let (code, took) = fetch_as_postgresql(folder.path(), &[], NAME);
            assert_eq!(code, GO_ON);
            took
        })
        .collect();
    assert!(took[0] >= Duration::from_secs(1), "an agent that is slow is heard: {took:?}");
    assert!(took[1..].iter().sum::<Duration>() < Duration::from_secs(3), "{took:?}");
}

/// The next answer takes longer than what one that was silent is given, and is waited for all the same.
#[test]
fn an_agent_that_was_silent_is_heard_when_it_speaks_again_and_no_recovery_that_may_end_is_told_early() {
    let spool = tempfile::tempdir().unwrap();
    let hand_over = frame(0x82, &text(spool.path().join(NAME).to_str().unwrap()));
    let asked = AtomicUsize::new(0);
    let folder = with_agent(move |mut stream| {
        // The standby is the first; to the others nothing is said meanwhile.
        let is_standby = asked.fetch_add(1, Ordering::Relaxed) == 0;
        for _ in 0..15 {
            thread::sleep(Duration::from_millis(100));
            if is_standby {
                let _ = stream.write_all(&frame(0x85, &[]));
            }
        }
        let _ = stream.write_all(&hand_over);
        let _ = stream.read(&mut [0]);
    });
    let pg_wal = folder.path().join("pg_wal");
    let remark = pg_wal.join("walward-agent-silent");
    for (signal, arguments) in
        [("standby.signal", &[][..]), ("recovery.signal", &["--on-error=target"]), ("recovery.signal", &[])]
    {
        fs::write(folder.path().join(signal), "").unwrap();
        fs::write(&remark, "").unwrap();
        fs::write(spool.path().join(NAME), "whole").unwrap();
        let (code, _) = fetch_as_postgresql(folder.path(), arguments, NAME);
        assert_eq!(code, 0, "{signal} {arguments:?}");
        assert_eq!(fs::read_to_string(pg_wal.join("RECOVERYXLOG")).unwrap(), "whole");
        assert_eq!(remark.exists(), signal != "standby.signal", "{signal}");
        fs::remove_file(folder.path().join(signal)).unwrap();
        fs::remove_file(pg_wal.join("RECOVERYXLOG")).unwrap();
    }
}

/// One that is stopped, or that hangs: the kernel's queue of connections fills, and connecting itself takes for ever.
#[test]
fn an_agent_that_accepts_nobody_holds_neither_a_push_nor_a_standby() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(folder.path().join("socket")).unwrap();
    let begun = Instant::now();
    let outcome = push(folder.path());
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    fs::write(folder.path().join("standby.signal"), "").unwrap();
    fs::create_dir(folder.path().join("pg_wal")).unwrap();
    let (code, took) = fetch_as_postgresql(folder.path(), &[], NAME);
    assert!(code == GO_ON && took < TOLD, "{code} after {took:?}");
}

/// Who can put a socket there says "archived", and PostgreSQL removes its WAL.
#[test]
fn what_a_stranger_may_have_put_in_the_agents_place_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = answering(done(0, ""));
    assert_eq!(push(folder.path()).code, 0);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = push(folder.path());
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("not believed"), "{}", outcome.stderr);
    assert_eq!(fetch(folder.path()).code, FETCH_FAILED);
}

#[test]
fn a_file_of_the_agent_is_placed_whole() {
    let spool = tempfile::tempdir().unwrap();
    let source = spool.path().join(NAME);
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&source, &content).unwrap();
    let folder = hands_over(&source);
    let outcome = fetch(folder.path());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(fs::read(folder.path().join("pg_wal/RECOVERYXLOG")).unwrap(), content);
    let left: Vec<PathBuf> =
        fs::read_dir(folder.path().join("pg_wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "temporary files are left: {left:?}");
}

#[test]
fn a_file_that_cannot_be_placed_stops_a_recovery() {
    let spool = tempfile::tempdir().unwrap();
    let folder = hands_over(&spool.path().join("gone"));
    assert_eq!(fetch(folder.path()).code, FETCH_FAILED);

    let source = spool.path().join(NAME);
    fs::write(&source, b"content").unwrap();
    let folder = hands_over(&source);
    fs::remove_dir(folder.path().join("pg_wal")).unwrap();
    assert_eq!(fetch(folder.path()).code, FETCH_FAILED);

    let folder = hands_over(spool.path());
    assert_eq!(fetch(folder.path()).code, FETCH_FAILED, "a folder was handed over");
}

fn hands_over(source: &Path) -> TempDir {
    let reply = frame(0x82, &text(source.to_str().unwrap()));
    with_agent(move |mut stream| {
        let _ = stream.write_all(&reply);
        // Stays open until the client has taken the file.
        let _ = stream.read(&mut [0; 1]);
    })
}

#[test]
fn wrong_usage_is_said_and_safe() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["push"][..],
        &["push", "a", "b"],
        &["--wrong", "push", "a"],
        &["push", "--timeout", "soon", "a"],
        &["push", "--timeout", "0", "a"],
    ] {
        let outcome = run(&mut client(folder.path(), arguments));
        assert!((1..=125).contains(&outcome.code), "{arguments:?}: {}", outcome.code);
        assert!(outcome.stderr.contains("walward-wal"), "{arguments:?}: {}", outcome.stderr);
    }
    for arguments in [
        &[][..],
        &["fetch"],
        &["fetch", NAME],
        &["fetch", NAME, "x", "y"],
        &["fetch", "--on-error=ignore", NAME, "x"],
        &["--cluster", "push", "fetch", NAME],
        &["fetch", "push"],
        &["pull", NAME, "x"],
        &["--socket"],
    ] {
        let outcome = run(&mut client(folder.path(), arguments));
        assert_eq!(outcome.code, FETCH_FAILED, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("walward-wal"), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn help_and_version_are_answered_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    for argument in ["--help", "--version"] {
        let output = client(folder.path(), &[argument]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("walward-wal"));
    }
}

/// Memory for the largest legal reply is missing: the process may die by a signal (PostgreSQL stops on one) or say 255.
#[test]
fn no_memory_is_never_absent() {
    let folder = with_agent(|mut stream| {
        let _ = stream.write_all(&[b"WW\x01\x81".to_vec(), (16_u32 << 20).to_le_bytes().to_vec()].concat());
        let _ = stream.read(&mut [0; 1]);
    });
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 12000; exec \"$0\" --timeout 1 fetch 000000010000000000000001 x"]);
    shell.arg(walward_wal()).current_dir(folder.path());
    let outcome = run(shell.env("WALWARD_SOCKET", folder.path().join("socket")));
    assert!(outcome.code == -1 || outcome.code == FETCH_FAILED, "{}: {}", outcome.code, outcome.stderr);
}

/// Built as a release from the two things that it may use, the compiler and `crates/wire`: nothing else can be in it.
#[test]
fn the_client_builds_from_std_and_wire_alone_and_is_small() {
    const BYTES_MAX: u64 = 1 << 20;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/wire/src");
    let folder = tempfile::tempdir().unwrap();
    let rustc = |arguments: &[&str]| {
        let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "-O", "-C", "codegen-units=1", "--cap-lints", "allow"])
            .args(arguments)
            .current_dir(folder.path())
            .env("CARGO_PKG_VERSION", env!("CARGO_PKG_VERSION"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (library, main) = (sources.join("lib.rs"), sources.join("main.rs"));
    rustc(&["--crate-type", "rlib", "--crate-name", "walward_wire", library.to_str().unwrap()]);
    let library = "walward_wire=libwalward_wire.rlib";
    rustc(&["--extern", library, "-C", "strip=symbols", "-o", "client", main.to_str().unwrap()]);
    let bytes = fs::metadata(folder.path().join("client")).unwrap().len();
    assert!(bytes < BYTES_MAX, "the client has {bytes} bytes");
}

/// What cargo links, with everything of the library at hand, has no runtime in it either. Debug information is stripped
/// first: it names what the linker dropped.
#[test]
fn the_client_has_no_runtime_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let contains = |program: &Path, needle: &[u8]| {
        let stripped = folder.path().join("stripped");
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status().unwrap();
        assert!(status.success(), "strip (binutils) cannot read {}", program.display());
        fs::read(&stripped).unwrap().windows(needle.len()).any(|window| window == needle)
    };
    assert!(contains(Path::new(env!("CARGO_BIN_EXE_walwardd")), b"tokio"), "the search itself is broken");
    // The last one is the unwinder's shared library, whose loading took a third of the client's start.
    for needle in [&b"tokio"[..], b"rustls", b"object_store", b"serde", b"libgcc_s.so"] {
        assert!(!contains(walward_wal(), needle), "the client has {} in it", String::from_utf8_lossy(needle));
    }
}
