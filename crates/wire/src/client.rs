//! The client: one request, one answer, an exit code that PostgreSQL reads rightly.
//!
//! The exit codes are the whole point. `push`: 0 durable, 1 failed (PostgreSQL tries again), 2 usage; never above 125, which
//! would restart the archiver silently (`pgarch_archiveXlog`, src/backend/postmaster/pgarch.c). `fetch`: 0 placed, 1 absent,
//! 255 everything else; for a standby 1 everything else, within two seconds, with an agent or without.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::asker::{self, Recovery, Wanted};
use super::codec::{FrameHeader, HEADER_BYTES, REPLY_BYTES_MAX, WireError};
use super::message::{OnError, Reply, Request};
use super::silence::Silence;
use super::{DEFAULT_SOCKET, EXIT_FETCH_FAILED, place, trust};

/// How long the agent may be silent before the client gives up, when nothing else is said.
pub const SILENCE_MAX: Duration = Duration::from_mins(1);

/// How long the agent may be silent where a standby asks: an agent that is well gives a sign of life within a fraction of it.
const STANDBY_SILENCE_MAX: Duration = Duration::from_secs(1);

/// The same for its first sign of life, where it was silent for the whole of that a moment ago.
const STANDBY_SILENCE_AGAIN: Duration = Duration::from_millis(250);

/// The stack of the thread that connects.
const STACK_BYTES: usize = 64 << 10;

/// The longest silence that may be asked for: beyond a day somebody mistyped, and the clock must not overflow.
const TIMEOUT_SECONDS_MAX: u64 = 86_400;

/// How long `fetch` waits for an agent that is not there (it may be restarting) before it stops the recovery.
const FETCH_CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The pauses before a request is sent again to an agent that went away without a word.
const RESTART_PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// The socket: what was given, else the environment, else the default.
pub fn socket_path(given: Option<&OsStr>) -> PathBuf {
    given
        .map(PathBuf::from)
        .or_else(|| env::var_os("WALWARD_SOCKET").filter(|value| !value.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// Why no answer came.
#[derive(Debug)]
pub enum ClientError {
    /// The agent cannot be reached.
    Connect(PathBuf, io::Error),
    /// A stranger may be listening in the agent's place: the file or folder that tells.
    Stranger(PathBuf, PathBuf),
    /// The agent went away before it answered: it was stopped or killed.
    Gone,
    /// The conversation broke off.
    Talk(io::Error),
    /// What came back is not the protocol.
    Protocol(WireError),
    /// The agent said nothing for this long.
    Silence(Duration),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(path, error) => write!(
                f,
                "cannot reach the agent at {}: {error}; is walwardd running (systemctl status walward), and is this the right socket?",
                path.display()
            ),
            Self::Stranger(socket, found) => write!(
                f,
                "the agent's socket {} is not believed: {} lies where others than root, its owner's group and you may put files; move the socket to a folder that only the agent's user can write to (agent.socket), or close that one",
                socket.display(),
                found.display()
            ),
            Self::Gone => {
                f.write_str("the agent went away without an answer; its log says why (journalctl -u walward)")
            }
            Self::Talk(error) => {
                write!(f, "the agent broke off the conversation: {error}; its log says why (journalctl -u walward)")
            }
            Self::Protocol(error) => write!(f, "the agent's answer cannot be read: {error}"),
            Self::Silence(duration) => {
                write!(f, "the agent did not answer for {} s; its log may say why", duration.as_secs_f32())
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Whether somebody listens, and says nothing.
    fn is_silence(&self) -> bool {
        match self {
            Self::Silence(_) => true,
            Self::Connect(_, error) => error.kind() == io::ErrorKind::TimedOut,
            Self::Stranger(..) | Self::Gone | Self::Talk(_) | Self::Protocol(_) => false,
        }
    }
}

/// An open conversation. Blocking.
pub struct Conversation {
    stream: UnixStream,
    silence_max: Duration,
}

/// How long the client waits.
#[derive(Debug, Clone, Copy)]
struct Waits {
    /// For the agent's first sign of life.
    first: Duration,
    /// For every further one.
    silence: Duration,
    /// For an agent that is not there; without it, nothing is waited for, and nothing asked twice.
    absence: Option<Duration>,
}

impl Conversation {
    /// Connects, once it is sure that no stranger listens there, and sends `request`.
    pub fn start(socket: &Path, request: &Request, silence_max: Duration) -> Result<Self, ClientError> {
        let failed = |error| ClientError::Connect(socket.to_path_buf(), error);
        if let Some(found) = trust::stranger_on_the_way(socket).map_err(failed)? {
            return Err(ClientError::Stranger(socket.to_path_buf(), found));
        }
        Self::start_unasked(socket, request, silence_max)
    }

    /// As [`Conversation::start`], whoever listens: for those who trust no answer.
    pub fn start_unasked(socket: &Path, request: &Request, silence_max: Duration) -> Result<Self, ClientError> {
        let stream = connect(socket, silence_max).map_err(|error| ClientError::Connect(socket.to_path_buf(), error))?;
        let mut conversation = Self { stream, silence_max };
        conversation.stream.set_write_timeout(Some(silence_max)).map_err(ClientError::Talk)?;
        conversation.bear(silence_max)?;
        match conversation.stream.write_all(&request.encode()) {
            Err(error) if is_end(&error) => return Err(ClientError::Gone),
            other => other.map_err(|error| conversation.talk(error))?,
        }
        Ok(conversation)
    }

    /// From now on the agent may be silent for so long.
    fn bear(&mut self, silence_max: Duration) -> Result<(), ClientError> {
        self.silence_max = silence_max;
        self.stream.set_read_timeout(Some(silence_max)).map_err(ClientError::Talk)
    }

    /// The next frame of the answer.
    pub fn next_reply(&mut self) -> Result<Reply, ClientError> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header).map_err(|error| match error {
            // Between frames: nothing was half said.
            ClientError::Talk(cause) if is_end(&cause) && header == [0; HEADER_BYTES] => ClientError::Gone,
            other => other,
        })?;
        let header = FrameHeader::parse(header, REPLY_BYTES_MAX).map_err(ClientError::Protocol)?;
        let length = usize::try_from(header.length).map_err(|_| ClientError::Protocol(WireError::Shape))?;
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        Reply::decode(header.kind, &payload).map_err(ClientError::Protocol)
    }

    /// Fills `buffer` within the time of silence allowed: an agent that drips bytes does not hold the client for ever.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.silence_max;
        let mut rest = buffer;
        while !rest.is_empty() {
            if Instant::now() >= deadline {
                return Err(ClientError::Silence(self.silence_max));
            }
            match self.stream.read(rest) {
                Ok(0) => return Err(ClientError::Talk(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.talk(error)),
            }
        }
        Ok(())
    }

    fn talk(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silence(self.silence_max),
            _ => ClientError::Talk(error),
        }
    }
}

/// Connects within `patience`: an agent that hangs accepts nobody, and once its queue is full, connecting takes for ever.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (sender, connected) = mpsc::sync_channel(1);
    let path = socket.to_path_buf();
    let dial = move || drop(sender.send(UnixStream::connect(path)));
    thread::Builder::new().stack_size(STACK_BYTES).spawn(dial)?;
    connected.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// What the command line of `walward-wal` asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Print how it is used and exit 0.
    Help,
    /// Print the version and exit 0.
    Version,
    /// Talk to the agent.
    Ask {
        /// Where the agent listens.
        socket: PathBuf,
        /// How long it may be silent.
        silence_max: Duration,
        /// What to ask.
        request: Request,
        /// Whether a segment that is absent may be replaced by its `.partial`.
        use_partial: bool,
    },
}

/// How `walward-wal` is used.
pub const USAGE: &str = "\
usage: walward-wal [OPTIONS] push PATH
       walward-wal [OPTIONS] fetch [--on-error=auto|abort|retry|target] NAME DESTINATION

Hands WAL files to the agent (walwardd) and takes them from it. In postgresql.conf:

    archive_command = 'walward-wal push %p'
    restore_command = 'walward-wal fetch %f %p'

options:
  --socket PATH      where the agent listens (default: $WALWARD_SOCKET, else /run/walward/walward.sock)
  --cluster NAME     the cluster's name in walward.toml (default: known by the data directory)
  --timeout SECONDS  how long the agent may be silent (default: 60, at most 86400; a standby's fetch never waits longer than 1)
  --on-error=auto    fetch: when it cannot be found out whether the file exists, do as retry where the data directory has a
                     standby.signal, and as abort anywhere else (default)
  --on-error=abort   fetch: exit 255, after the agent's deadline: PostgreSQL stops
  --on-error=retry   fetch: exit 1, within two seconds; only for a standby, which asks again
  --on-error=target  fetch: as auto, but exit 1 where a segment is missing and later ones are there; only for a recovery
                     with a target, which PostgreSQL refuses to end before it
                     (a history that cannot be had is 255 but for a standby, whatever is said)
  --use-partial      fetch: where a segment is absent, place NAME.partial instead, if that was archived
  --help, --version

exit codes: push: 0 durable in every repository, 1 failed (PostgreSQL tries again), 2 usage
            fetch: 0 placed, 1 absent from every repository, 255 anything else (a standby: 1)";

/// Reads the command line (without the program's name). `directory` is the working directory, which makes paths absolute.
pub fn parse_arguments(arguments: impl Iterator<Item = OsString>, directory: &Path) -> Result<Command, String> {
    let mut socket: Option<OsString> = None;
    let mut cluster = String::new();
    let mut silence_max = SILENCE_MAX;
    let mut given = None;
    let mut use_partial = false;
    let mut words: Vec<OsString> = Vec::new();
    let mut arguments = arguments;
    let mut options_end = false;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        if options_end || !text.starts_with("--") {
            words.push(argument);
            continue;
        }
        let (option, inline) = match text.split_once('=') {
            Some((option, value)) => (option, Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value =
            || inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("option {option} needs a value"));
        match option {
            "--" => options_end = true,
            "--help" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            "--use-partial" => use_partial = true,
            "--socket" => socket = Some(value()?),
            "--cluster" => {
                cluster = value()?.into_string().map_err(|_| "the cluster's name is not UTF-8".to_owned())?;
            }
            "--timeout" => {
                let seconds = value()?.to_str().and_then(|text| text.parse().ok());
                let seconds = seconds.filter(|seconds| (1..=TIMEOUT_SECONDS_MAX).contains(seconds));
                silence_max =
                    Duration::from_secs(seconds.ok_or("--timeout needs a number of seconds from 1 to 86400")?);
            }
            "--on-error" => {
                given = match value()?.to_str() {
                    Some("auto") => None,
                    Some("abort") => Some(OnError::Abort),
                    Some("retry") => Some(OnError::Retry),
                    Some("target") => Some(OnError::Target),
                    _ => return Err("--on-error is auto, abort, retry or target".to_owned()),
                };
            }
            _ => return Err(format!("unknown option {option}")),
        }
    }
    let request = match words.as_slice() {
        [verb, path] if verb == "push" => Request::Push { cluster, path: directory.join(path) },
        [verb, name, destination] if verb == "fetch" => {
            let name = name.to_str().ok_or("the file's name is not UTF-8")?.to_owned();
            let destination = directory.join(destination);
            let data_directory = destination.parent().and_then(Path::parent).unwrap_or(directory);
            let wanted = Wanted::of(data_directory, &name);
            let on_error = asker::on_error(given, Recovery::of(data_directory), wanted);
            Request::Fetch { cluster, name, destination, on_error }
        }
        [] => return Err("say push or fetch".to_owned()),
        [verb, ..] if verb == "push" => return Err("push takes exactly one path".to_owned()),
        [verb, ..] if verb == "fetch" => return Err("fetch takes exactly a name and a destination".to_owned()),
        [verb, ..] => return Err(format!("unknown command {:?}; say push or fetch", verb.to_string_lossy())),
    };
    if use_partial && !matches!(request, Request::Fetch { .. }) {
        return Err("--use-partial goes with fetch".to_owned());
    }
    Ok(Command::Ask { socket: socket_path(socket.as_deref()), silence_max, request, use_partial })
}

/// As [`ask`]; where a segment is clearly absent and `use_partial` says so, its `.partial` is asked for in its place.
pub fn ask_with_partial(socket: &Path, silence_max: Duration, request: Request, use_partial: bool) -> (u8, String) {
    let (code, text) = ask(socket, silence_max, &request);
    match request {
        // Code 1 without a word is "absent"; with one it is a failure that a standby is to see as 1.
        Request::Fetch { cluster, name, destination, on_error }
            if use_partial && code == 1 && text.is_empty() && is_segment(&name) =>
        {
            let partial = format!("{name}.partial");
            let request = Request::Fetch { cluster, name: partial.clone(), destination, on_error };
            match ask(socket, silence_max, &request) {
                (0, _) => (0, format!("{name} is absent: {partial} was placed instead, and recovery ends with it")),
                other => other,
            }
        }
        _ => (code, text),
    }
}

fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Asks the agent and does what it says. Returns the exit code and a text for standard error (empty: nothing to say).
pub fn ask(socket: &Path, silence_max: Duration, request: &Request) -> (u8, String) {
    match request {
        Request::Push { .. } => {
            let waits = Waits { first: silence_max, silence: silence_max, absence: Some(Duration::ZERO) };
            match converse(socket, waits, request) {
                // Whatever the agent says, PostgreSQL must not see a code that restarts its archiver.
                Ok((Reply::Done { code, text }, _)) => (code.min(125), text),
                Ok((other, _)) => (1, format!("unexpected answer from the agent: {other:?}")),
                Err(error) => (1, error.to_string()),
            }
        }
        Request::Fetch { destination, on_error, .. } => {
            // PostgreSQL never runs as root: this is a person.
            match trust::led_by_another(destination) {
                Ok(None) => {}
                Ok(Some(other)) => return (EXIT_FETCH_FAILED, refused_root(&other)),
                Err(error) => return (EXIT_FETCH_FAILED, format!("cannot look at {}: {error}", destination.display())),
            }
            // A standby goes on without the file and asks again; it must not wait here, nor die.
            let (failed, waits, silence) = match on_error {
                OnError::Retry => {
                    let (left, silence) = (Silence::beside(destination), silence_max.min(STANDBY_SILENCE_MAX));
                    let first = if left.counts() { silence.min(STANDBY_SILENCE_AGAIN) } else { silence };
                    (1, Waits { first, silence, absence: None }, Some(left))
                }
                OnError::Abort | OnError::Target => {
                    let absence = Some(FETCH_CONNECT_PATIENCE);
                    (EXIT_FETCH_FAILED, Waits { first: silence_max, silence: silence_max, absence }, None)
                }
            };
            let answer = converse(socket, waits, request);
            match (&answer, silence) {
                (Err(error), Some(silence)) if error.is_silence() => silence.met(),
                (Ok(_), Some(silence)) => silence.broken(),
                _ => {}
            }
            match answer {
                // The agent removes what was not moved when the connection closes: it stays open until the file is in place.
                Ok((Reply::File(source), _open)) => match place(&source, destination, trust::owner(socket)) {
                    Ok(()) => (0, String::new()),
                    Err(error) => {
                        (failed, format!("cannot bring {} to {}: {error}", source.display(), destination.display()))
                    }
                },
                // Only a clear "absent" may look like one. 0 would claim a file that nobody placed.
                Ok((Reply::Done { code: 1, text }, _)) => (1, text),
                Ok((Reply::Done { text, .. }, _)) => (failed, text),
                Ok((other, _)) => (failed, format!("unexpected answer from the agent: {other:?}")),
                Err(error) => (failed, error.to_string()),
            }
        }
        Request::Admin(_) => (2, "not a request of this client".to_owned()),
    }
}

/// What root is told whose way to a file leads over what another user may change.
fn refused_root(other: &Path) -> String {
    format!(
        "{} is not root's alone, and its owner could lead root to another file: run this as the owner (sudo -u USER), or use `walward wal fetch`",
        other.display()
    )
}

/// Whether `argument` is a word that asks for a WAL file, here, in `walward` or in the tools whose words that knows, or is one mistyped.
pub fn may_mean_fetch(argument: &OsStr) -> bool {
    let argument = argument.as_encoded_bytes();
    [&b"fetch"[..], b"archive-get", b"wal-fetch"].iter().any(|word| argument.starts_with(word))
}

/// The exit code for a command line that cannot be used.
pub fn usage_code(arguments: &[OsString]) -> u8 {
    if arguments.iter().any(|argument| may_mean_fetch(argument)) {
        return EXIT_FETCH_FAILED;
    }
    failure_code(arguments.iter().cloned(), 2)
}

/// The exit code for a failure outside the conversation (usage, panic): safe for the verb, the first word that is neither an
/// option nor the value of one.
pub fn failure_code(arguments: impl Iterator<Item = OsString>, otherwise: u8) -> u8 {
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str().unwrap_or_default() {
            "--socket" | "--cluster" | "--timeout" | "--on-error" => drop(arguments.next()),
            option if option.starts_with("--") => {}
            "push" => return otherwise,
            _ => break,
        }
    }
    // Whatever is not clearly a push is answered as a fetch: 255 restarts an archiver at worst, 1 could end a recovery early.
    EXIT_FETCH_FAILED
}

/// The final reply, and the conversation that it came in.
///
/// An agent that goes away without a word, before it answered, is being restarted or was killed: the request is sent again a
/// few times, so that an upgrade of the agent fails no archive_command and stops no recovery. Requests may be repeated.
fn converse(socket: &Path, waits: Waits, request: &Request) -> Result<(Reply, Conversation), ClientError> {
    let Some(mut absence) = waits.absence else { return converse_once(socket, waits, request, Duration::ZERO) };
    let mut pauses = RESTART_PAUSES.iter();
    loop {
        match converse_once(socket, waits, request, absence) {
            Err(ClientError::Gone) => match pauses.next() {
                Some(pause) => {
                    thread::sleep(*pause);
                    absence = absence.max(*pause);
                }
                None => return Err(ClientError::Gone),
            },
            other => return other,
        }
    }
}

fn converse_once(
    socket: &Path,
    waits: Waits,
    request: &Request,
    absence: Duration,
) -> Result<(Reply, Conversation), ClientError> {
    let begun = Instant::now();
    let mut conversation = loop {
        match Conversation::start(socket, request, waits.first) {
            Err(ClientError::Connect(..)) if begun.elapsed() < absence => {
                thread::sleep(Duration::from_millis(200));
            }
            other => break other?,
        }
    };
    loop {
        match conversation.next_reply()? {
            Reply::Working | Reply::Event(_) => conversation.bear(waits.silence)?,
            reply => return Ok((reply, conversation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        parse_arguments(line.split_whitespace().map(OsString::from), Path::new("/data"))
    }

    #[test]
    fn relative_paths_are_of_the_data_directory() {
        let Ok(Command::Ask { request, .. }) = parse("push pg_wal/000000010000000000000001") else { panic!() };
        assert_eq!(
            request,
            Request::Push { cluster: String::new(), path: "/data/pg_wal/000000010000000000000001".into() }
        );
    }

    #[test]
    fn options_may_stand_anywhere() {
        let Ok(Command::Ask { socket, silence_max, request, .. }) = parse(
            "--socket /s fetch --on-error=retry 000000010000000000000001 pg_wal/RECOVERYXLOG --cluster main --timeout 7",
        ) else {
            panic!()
        };
        assert_eq!(socket, PathBuf::from("/s"));
        assert_eq!(silence_max, Duration::from_secs(7));
        let expected = Request::Fetch {
            cluster: "main".into(),
            name: "000000010000000000000001".into(),
            destination: "/data/pg_wal/RECOVERYXLOG".into(),
            on_error: OnError::Retry,
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn wrong_usage_is_said() {
        for line in [
            "",
            "push",
            "push a b",
            "fetch a",
            "pull a",
            "--socket",
            "push a --wrong",
            "push a --timeout 0",
            "push a --timeout 18446744073709551615",
            "fetch a b --on-error=ignore",
            "fetch a b --on-error",
            "push a --use-partial",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_failure_never_reads_as_absent() {
        let code = |line: &str| failure_code(line.split_whitespace().map(OsString::from), 1);
        assert_eq!(code("fetch a b"), 255);
        assert_eq!(code("nonsense"), 255);
        assert_eq!(code(""), 255);
        assert_eq!(code("push a"), 1);
        assert_eq!(code("--socket fetch push a"), 1);
        assert_eq!(code("--cluster push fetch a b"), 255);
        assert_eq!(code("fetch push"), 255);
        let code = |line: &str| usage_code(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for line in ["fetch", "fetchh a b", "--frobnicate push fetch a b", "push --frobnicate archive-get", "nonsense"]
        {
            assert_eq!(code(line), 255, "{line}");
        }
        for line in ["push", "push a b", "--frobnicate push a"] {
            assert_eq!(code(line), 2, "{line}");
        }
    }
}
