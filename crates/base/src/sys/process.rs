//! Other programs: run, bounded in time and output, without a shell.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::format_duration;

/// A program that writes more than this to its standard output is refused.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// So much of the end of its standard error goes into a message.
const COMPLAINT_BYTES_MAX: usize = 1 << 10;

/// Why a program gave no output that could be used. The output itself, which may be a key, is never part of it.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no program in the list.
    #[error("the command is empty: write the program and its arguments as a list")]
    Empty,
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The first of the arguments.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with something else than 0, or by a signal.
    #[error("{program} {}{}", ending(*status), said(complaint))]
    Failed {
        /// The first of the arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to its standard error.
        complaint: String,
    },
    /// It was killed because it took too long.
    #[error("{program} was stopped because it had not ended within {}{}", format_duration(*limit), said(complaint))]
    TimedOut {
        /// The first of the arguments.
        program: String,
        /// How long it was given.
        limit: Duration,
        /// The end of what it wrote to its standard error.
        complaint: String,
    },
    /// It was killed because it wrote too much.
    #[error("{program} was stopped because it wrote more than {OUTPUT_BYTES_MAX} bytes to its standard output")]
    TooMuchOutput {
        /// The first of the arguments.
        program: String,
    },
    /// Reading from it failed.
    #[error("cannot read what {program} says")]
    Read {
        /// The first of the arguments.
        program: String,
        /// Why.
        source: io::Error,
    },
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

fn said(complaint: &str) -> String {
    if complaint.is_empty() { String::new() } else { format!(", saying: {complaint}") }
}

/// Ends a process group when dropped, so that nothing outlives a call that failed or was given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Fails when everything in it has ended already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs `argv` (program and arguments; no shell) with our environment and an empty standard input, and answers what it
/// wrote to its standard output, which is wiped from memory when dropped.
///
/// After `limit` it is killed with all its descendants that did not leave its process group; so it is when the future is
/// dropped. It has ended when its outputs are closed, those that it left to descendants included.
pub async fn run<S: AsRef<OsStr>>(argv: &[S], limit: Duration) -> Result<Zeroizing<Vec<u8>>, ProcessError> {
    let [program, arguments @ ..] = argv else { return Err(ProcessError::Empty) };
    let name = || program.as_ref().to_string_lossy().into_owned();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ProcessError::Start { program: name(), source })?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (output, complaints) = (child.stdout.take(), child.stderr.take());
    let mut complaint = Vec::new();

    let outcome = {
        let work = async {
            let (output, (), status) = tokio::try_join!(
                whole(output),
                async { tail(complaints, &mut complaint).await.map_err(Broke::Read) },
                async { child.wait().await.map_err(Broke::Read) }
            )?;
            Ok::<_, Broke>((output, status))
        };
        tokio::time::timeout(limit, work).await
    };
    let complaint = shown(&complaint);
    match outcome {
        Ok(Ok((output, status))) => {
            // It was waited for: the number may belong to somebody else from now on.
            group.0 = None;
            if status.success() { Ok(output) } else { Err(ProcessError::Failed { program: name(), status, complaint }) }
        }
        Ok(Err(Broke::TooMuch)) => Err(ProcessError::TooMuchOutput { program: name() }),
        Ok(Err(Broke::Read(source))) => Err(ProcessError::Read { program: name(), source }),
        Err(_) => Err(ProcessError::TimedOut { program: name(), limit, complaint }),
    }
}

/// Why the reading of outputs ended early.
enum Broke {
    TooMuch,
    Read(io::Error),
}

/// Everything that comes, up to [`OUTPUT_BYTES_MAX`].
async fn whole(from: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, Broke> {
    // Never grows, so no copy of a secret is left behind in freed memory.
    let mut bytes = Zeroizing::new(vec![0; OUTPUT_BYTES_MAX + 1]);
    let mut length = 0;
    let Some(mut from) = from else { return Ok(Zeroizing::default()) };
    loop {
        let Some(free) = bytes.get_mut(length..).filter(|free| !free.is_empty()) else { return Err(Broke::TooMuch) };
        match from.read(free).await.map_err(Broke::Read)? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// The last bytes that come, at most twice [`COMPLAINT_BYTES_MAX`].
async fn tail(from: Option<impl AsyncRead + Unpin>, end: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = [0; COMPLAINT_BYTES_MAX];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        end.extend(buffer.iter().take(read));
        let spare = end.len().saturating_sub(2 * COMPLAINT_BYTES_MAX);
        end.drain(..spare);
    }
}

/// The end of what was said, in one line.
fn shown(complaint: &[u8]) -> String {
    let spare = complaint.len().saturating_sub(COMPLAINT_BYTES_MAX);
    let text = String::from_utf8_lossy(complaint.get(spare..).unwrap_or_default()).into_owned();
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<Zeroizing<Vec<u8>>, ProcessError> {
        run(&["/bin/sh", "-c", script], limit).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_output_of_a_success_is_the_answer() {
        assert_eq!(*sh("echo key; echo noise >&2", LONG).await.unwrap(), b"key\n");
        assert_eq!(*run(&["/bin/echo", "$HOME; a b"], LONG).await.unwrap(), b"$HOME; a b\n");
        assert!(sh("cat", LONG).await.unwrap().is_empty(), "standard input is empty");
    }

    #[tokio::test]
    async fn a_failure_shows_how_it_ended_and_what_it_said_but_not_its_output() {
        let error = sh("echo secret; echo 'no such' >&2; echo key >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh ended with exit code 3, saying: no such key");
        let error = sh("kill -9 $$", LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh was ended by signal 9");
        assert!(matches!(run(&["/nonexistent"], LONG).await, Err(ProcessError::Start { .. })));
        assert!(matches!(run::<&str>(&[], LONG).await, Err(ProcessError::Empty)));
    }

    #[tokio::test]
    async fn too_much_output_is_refused_at_once() {
        let exactly = sh("head -c 65536 /dev/zero", LONG).await.unwrap();
        assert_eq!(exactly.len(), OUTPUT_BYTES_MAX);
        let began = Instant::now();
        let error = sh("cat /dev/zero", LONG).await.unwrap_err();
        assert!(matches!(error, ProcessError::TooMuchOutput { .. }) && began.elapsed() < LONG / 2);
    }

    #[tokio::test]
    async fn endless_complaints_are_cut() {
        let error = sh("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1", LONG).await.unwrap_err();
        assert!(error.to_string().ends_with("end") && error.to_string().len() < 2_000, "{error}");
    }

    #[tokio::test]
    async fn the_deadline_ends_it_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script = format!("(sleep 1; touch {}) & echo waiting >&2; wait", mark.display());
        let error = sh(&script, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(&error, ProcessError::TimedOut { complaint, .. } if complaint == "waiting"), "{error}");
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(!mark.exists(), "a child outlived the deadline");
    }
}
