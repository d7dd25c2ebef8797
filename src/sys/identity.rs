//! Being somebody else for a moment.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

/// Whether this process may become anybody.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Connects to a Unix socket as the user `uid`: the kernel tells the other side who it was that connected (`SO_PEERCRED`,
/// unix(7)). Needs root. Only a thread of its own changes, which ends with the call. Blocking.
pub fn connect_as(uid: u32, socket: &Path) -> io::Result<UnixStream> {
    let socket: PathBuf = socket.to_owned();
    let connecting = std::thread::spawn(move || {
        let user = Uid::from_raw(uid);
        set_thread_res_uid(user, user, user)?;
        UnixStream::connect(socket)
    });
    connecting.join().unwrap_or_else(|_| Err(io::Error::other("the thread that connects died")))
}

/// The name of the user `uid`, as /etc/passwd has it. Blocking.
pub fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }

    #[test]
    fn a_connection_is_made_as_oneself_or_by_root_as_another() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let me = rustix::process::geteuid().as_raw();
        let _stream = connect_as(me, &socket).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(rustix::net::sockopt::socket_peercred(&accepted).unwrap().uid.as_raw(), me);
        assert_eq!(rustix::process::geteuid().as_raw(), me, "the caller stays who it is");
    }
}
