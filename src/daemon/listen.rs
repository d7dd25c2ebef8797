//! The socket: systemd's, or our own.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::Mode;

use walward_base::sys::durable;
use walward_base::sys::folder::Folder;
use walward_base::sys::identity::is_root;

/// The listening socket, and its path when it is ours to remove.
pub struct Listening {
    /// Non-blocking.
    pub listener: UnixListener,
    /// Removed at the end; `None` when systemd owns the socket.
    pub path: Option<PathBuf>,
}

/// Takes the socket that systemd hands over (sd_listen_fds(3)), or binds `path`. A socket file that nobody listens on is
/// replaced; one that somebody listens on is an error.
pub fn listen(path: &Path) -> anyhow::Result<Listening> {
    let handed = listenfd::ListenFd::from_env().take_unix_listener(0).context("take systemd's socket")?;
    let listening = match handed {
        Some(listener) => Listening { listener, path: None },
        None => Listening { listener: bind(path)?, path: Some(path.to_path_buf()) },
    };
    listening.listener.set_nonblocking(true).context("set the socket to non-blocking")?;
    Ok(listening)
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| Folder::enter(folder).is_err()) {
        // Who may put a file here may answer in the agent's place.
        durable::create_dir_all_durable(folder, 0o755)
            .with_context(|| format!("make the socket's folder {}", folder.display()))?;
    }
    // Who may talk is decided by credentials; the mode lets the clusters' owners reach an agent that runs as root. The socket has it from
    // its first moment: a mode that is set later is set by the path, and what lies there by then may be something else. At this time no
    // other file is made.
    let closed = if is_root() { 0o111 } else { 0o177 };
    let umask = rustix::process::umask(Mode::from(closed));
    let bound = bind_over_stale(path);
    rustix::process::umask(umask);
    bound
}

fn bind_over_stale(path: &Path) -> anyhow::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                bail!("another agent listens on {}; stop it first, or set agent.socket", path.display());
            }
            remove(path).with_context(|| format!("remove the stale socket {}", path.display()))?;
            UnixListener::bind(path)
        }
        other => other,
    };
    listener.with_context(|| format!("listen on {}", path.display()))
}

/// Removes the name of the socket.
pub fn remove(path: &Path) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    folder.remove_file(name)
}
