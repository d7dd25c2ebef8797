//! `walwardd` of one test.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::room::{Daemon, Room, eventually};

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    process: Daemon,
}

impl Agent {
    /// Starts it and waits until its socket answers.
    pub fn start(room: &Room, config: &Path, socket: &Path, log: &Path) -> Self {
        let mut command = room.command(room.program("walwardd"));
        command.arg("--config").arg(config);
        let process = Daemon::start("walwardd", command, log, Signal::TERM);
        let mut agent = Self { socket: socket.to_owned(), process };
        eventually("the agent answers", Duration::from_secs(30), || {
            if let Some(status) = agent.process.ended() {
                panic!("walwardd ended: {status}\n{}", agent.process.log());
            }
            UnixStream::connect(&agent.socket).ok()
        });
        agent
    }

    /// SIGTERM, and waits for its end, which must be clean.
    pub fn stop(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(Duration::from_secs(30));
        assert!(status.success(), "walwardd ended with {status}\n{}", self.process.log());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(Duration::from_secs(10));
    }

    /// SIGHUP.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }

    /// It is there, and does nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The most memory that was resident since it began, in MiB.
    pub fn peak_mib(&self) -> u64 {
        self.process.peak_mib()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until `text` stands in the log after the first `from` bytes.
    pub fn wait_logged(&self, from: usize, text: &str) {
        eventually(&format!("{text:?} in the agent's log"), Duration::from_secs(20), || {
            self.log().get(from..).is_some_and(|log| log.contains(text)).then_some(())
        });
    }
}
