//! Which process, told so that another one can find out later whether it is gone.
//!
//! A process id alone says nothing: it is given out again, it means another process in another container, and another machine has
//! its own. Where any of that is in doubt the answer is "not known to be gone".

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process of a machine that has not been started again since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// `/proc/sys/kernel/random/boot_id`: this start of this machine.
    boot: String,
    /// The inode of its namespace of process ids: containers of one machine have the same start.
    namespace: u64,
    /// The process id.
    id: u32,
    /// When it was started, in clock ticks since the machine was: tells it from another of the same id.
    started: u64,
}

impl Process {
    /// This process; `None` where `/proc` does not say.
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// The process `id` of this machine and container, if it lives.
    pub fn of(id: u32) -> Option<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?.ino();
        Some(Self { boot, namespace, id, started: started(id)? })
    }

    /// Whether it is certain that the process has ended. Reads `/proc`.
    pub fn is_gone(&self) -> bool {
        let Some(this) = Self::this() else { return false };
        if this.boot != self.boot || this.namespace != self.namespace {
            return false;
        }
        let Some(id) = i32::try_from(self.id).ok().and_then(Pid::from_raw) else { return false };
        // Another user's process may not be signalled, and may be hidden in /proc, and lives all the same.
        match test_kill_process(id) {
            Err(Errno::SRCH) => true,
            _ => started(self.id).is_some_and(|started| started != self.started),
        }
    }
}

/// `starttime` of proc(5), the 22nd field of `/proc/<id>/stat`. The second one is a name in brackets that may hold anything.
fn started(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// What the process `id`, which works in `folder`, was given as `variable` at its start; `Ok(None)` where it was not. Blocking.
///
/// # Errors
/// Where it cannot be told: the number is another's by now or in another container, or the process is another user's.
pub fn environment(id: i64, folder: &Path, variable: &str) -> io::Result<Option<OsString>> {
    let process = Path::new("/proc").join(id.to_string());
    if process.join("cwd").read_link()? != folder.canonicalize()? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let all = std::fs::read(process.join("environ"))?;
    if all.is_empty() {
        return Err(io::Error::other("the process begins, or has ended"));
    }
    let prefix = format!("{variable}=");
    let value = all.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()));
    Ok(value.map(|value| OsString::from_vec(value.to_vec())))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_gone_when_it_has_ended_and_not_before() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(!process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
        assert!(!Process::this().unwrap().is_gone());
    }

    #[test]
    fn an_id_that_was_given_out_again_is_another_process() {
        let this = Process::this().unwrap();
        assert!(Process { started: this.started + 1, ..this.clone() }.is_gone());
        // One that nobody has.
        assert!(Process { id: 0x7FFF_FFFF, ..this }.is_gone());
    }

    #[test]
    fn of_another_machine_or_container_nothing_is_known() {
        let this = Process::this().unwrap();
        let gone = Process { id: 0x7FFF_FFFF, ..this };
        assert!(!Process { boot: "another".to_owned(), ..gone.clone() }.is_gone());
        assert!(!Process { namespace: 7, ..gone }.is_gone());
    }

    #[test]
    fn what_a_process_was_given_is_told_where_it_works_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").current_dir(folder.path()).env("WALWARD_SOCKET", "/run/x y").env_remove("WALWARD_OTHER");
        let mut child = command.spawn().unwrap();
        let id = i64::from(child.id());
        let given = |folder: &Path, variable: &str| environment(id, folder, variable);
        // It has its environment a moment after it was started.
        let begun = std::time::Instant::now();
        while !given(folder.path(), "WALWARD_SOCKET").is_ok_and(|value| value.is_some())
            && begun.elapsed() < std::time::Duration::from_secs(30)
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(given(folder.path(), "WALWARD_SOCKET").unwrap(), Some("/run/x y".into()));
        assert_eq!(given(folder.path(), "WALWARD_OTHER").unwrap(), None);
        assert!(given(Path::new("/"), "WALWARD_SOCKET").is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(given(folder.path(), "WALWARD_SOCKET").is_err());
    }
}
