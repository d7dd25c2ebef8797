//! A temporary folder, the user that things run as in it, and processes that end with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client_program::walward_wal;

/// Who runs PostgreSQL when the tests run as root, which it refuses.
fn unprivileged() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user named postgres");
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields[2].parse().expect("a user id"), fields[3].parse().expect("a group id")))
    })
}

/// A temporary folder that belongs to the unprivileged user, with Walward's binaries in reach of that user.
#[derive(Debug)]
pub struct Room {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Room {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("walward-test-").tempdir().expect("a temporary folder");
        let mut room = Self { programs: PathBuf::new(), folder };
        room.give_away(room.path());
        let built = walward_wal().parent().expect("a folder").to_path_buf();
        // Root's home is closed to others, and the build folder may lie there.
        let reachable = unprivileged().is_none()
            || built.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 0o001 != 0));
        room.programs = if reachable { built } else { room.copy_programs() };
        room
    }

    fn copy_programs(&self) -> PathBuf {
        let folder = self.make_folder("bin");
        let programs = [env!("CARGO_BIN_EXE_walward"), env!("CARGO_BIN_EXE_walwardd")].map(Path::new);
        for program in programs.into_iter().chain([walward_wal()]) {
            let copy = folder.join(program.file_name().expect("a name"));
            if fs::hard_link(program, &copy).is_err() {
                fs::copy(program, &copy).expect("a copy of the program");
            }
        }
        folder
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// One of Walward's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Makes a folder (0700) that belongs to the unprivileged user.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let folder = self.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode");
        self.give_away(&folder);
        folder
    }

    /// Writes a file (0600) that belongs to the unprivileged user.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.write_with_mode(name, content, 0o600)
    }

    /// Writes a file with `mode` that belongs to the unprivileged user.
    pub fn write_with_mode(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let file = self.join(name);
        fs::write(&file, content).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("its mode");
        self.give_away(&file);
        file
    }

    /// Makes `path` the unprivileged user's.
    pub fn give_away(&self, path: &Path) {
        if let Some((user, group)) = unprivileged() {
            chown(path, Some(user), Some(group)).expect("chown");
        }
    }

    /// The folder becomes root's: as /run, in which the system makes folders for its users. Needs root.
    pub fn as_made_by_the_system(&self) {
        chown(self.path(), Some(0), Some(0)).expect("chown");
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// A command as the unprivileged user, in this folder, with nothing to read and a plain environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("HOME", self.path());
        for variable in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "WALWARD_CONFIG", "WALWARD_SOCKET"] {
            command.env_remove(variable);
        }
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a command that must succeed and returns what it printed.
    pub fn run(&self, command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A process that ends with the test, with its output in a file that is shown when the test fails.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    /// What `drop` begins with; SIGKILL follows.
    gentle: Signal,
}

impl Daemon {
    /// Starts `command`, its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path, gentle: Signal) -> Self {
        let open = || fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        command.stdout(open()).stderr(open());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), gentle }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // Already gone is as good.
        let _ = kill_process(pid, signal);
    }

    /// The most memory that was resident since it began, in MiB; 0 when it has ended.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map_or(0, |kib: u64| kib >> 10)
    }

    /// Its exit, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits for its end; panics when it takes longer.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(begun.elapsed() < patience, "{} still runs after {patience:?}\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        const TAIL_BYTES: u64 = 12_000;
        let mut text = Vec::new();
        if let Ok(mut file) = fs::File::open(&self.log) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)));
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(self.gentle);
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- log of {} ({}) ----\n{}", self.name, self.log.display(), self.log_tail());
        }
    }
}

/// Waits until `look` gives a value; panics with `what` when it takes too long.
pub fn eventually<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
