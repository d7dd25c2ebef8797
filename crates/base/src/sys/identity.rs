//! Being somebody else for a moment.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Whether this process may become anybody.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Connects to a Unix socket as the user `uid`: the kernel tells the other side who it was that connected (`SO_PEERCRED`,
/// unix(7)). Needs root. Only a thread of its own changes, which ends with the call. Blocking.
pub fn connect_as(uid: u32, socket: &Path) -> io::Result<UnixStream> {
    let socket: PathBuf = socket.to_owned();
    on_a_thread(move || {
        become_user(uid)?;
        UnixStream::connect(socket)
    })
}

/// Runs `work` with the rights of the user `uid` in the group `gid`, and in no other: for files in folders of theirs. Needs root,
/// unless this process is that user. Only a thread of its own changes, which ends with the call. Blocking.
pub fn as_user<T: Send + 'static>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let is_other = rustix::process::geteuid().as_raw() != uid;
    on_a_thread(move || {
        if is_other {
            stay_user(uid, gid)?;
        }
        Ok(work())
    })
}

/// Takes every right but those of the user `uid` in the group `gid` from the thread that calls. Needs root. Not for threads that do other work,
/// too.
pub fn stay_user(uid: u32, gid: u32) -> io::Result<()> {
    let group = Gid::from_raw(gid);
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    become_user(uid)
}

/// The kernel changes this thread alone; the C library would change all (setresuid(2), "C library/kernel differences").
///
/// Only the effective id changes, which takes root's rights over files away with it (capabilities(7)). With the real or the saved one this user
/// could send the thread a signal (kill(2)), and end the whole process.
fn become_user(uid: u32) -> io::Result<()> {
    let (real, before) = (rustix::process::getuid(), rustix::process::geteuid());
    Ok(set_thread_res_uid(real, Uid::from_raw(uid), before)?)
}

fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("the thread that was somebody else died")))
}

/// The name of the user `uid`, as /etc/passwd has it. Blocking.
pub fn user_name(uid: u32) -> Option<String> {
    users().into_iter().find_map(|(name, id)| (id == uid).then_some(name))
}

/// The user called `name`, as /etc/passwd has it. Blocking.
pub fn user_id(name: &str) -> Option<u32> {
    users().into_iter().find_map(|(found, id)| (found == name).then_some(id))
}

/// Whether the user `uid` is a member of the group `gid`, as /etc/passwd and /etc/group have it. Blocking.
pub fn is_member(uid: u32, gid: u32) -> bool {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let is = |field: Option<&String>, id: u32| field.and_then(|text| text.parse().ok()) == Some(id);
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some(user) = users.lines().map(fields).find(|user| is(user.get(2), uid)) else { return false };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let lists = |members: &String| members.split(',').any(|member| user.first().is_some_and(|name| name == member));
    is(user.get(3), gid)
        || groups.lines().map(fields).any(|group| is(group.get(2), gid) && group.get(3).is_some_and(lists))
}

fn users() -> Vec<(String, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
        assert_eq!((user_id("root"), user_id("no such user")), (Some(0), None));
        assert!(is_member(0, 0) && !is_member(0, u32::MAX - 7) && !is_member(u32::MAX - 7, 0));
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

    /// A signal to one thread ends the process: whoever owns the files that root works on must not be able to send one.
    #[test]
    #[ignore = "needs root"]
    fn as_root_the_user_that_a_thread_works_as_cannot_kill_it() {
        use std::os::unix::process::CommandExt;
        const USER: u32 = 64_321;
        let (said, told) = std::sync::mpsc::sync_channel(1);
        let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let worker = std::thread::spawn(move || {
            as_user(USER, USER, move || {
                let file = tempfile::NamedTempFile::new().map(|file| file.as_file().metadata().unwrap());
                said.send((rustix::thread::gettid(), std::os::unix::fs::MetadataExt::uid(&file.unwrap()))).unwrap();
                let _ = wait.recv();
            })
        });
        let (thread, owner) = told.recv().unwrap();
        assert_eq!(owner, USER, "it works as that user");
        let kill = |uid: u32| {
            let shell = format!("kill -0 {}", thread.as_raw_nonzero());
            std::process::Command::new("sh").args(["-c", &shell]).uid(uid).output().unwrap()
        };
        assert!(kill(0).status.success(), "the thread is there");
        let killed = kill(USER);
        assert!(!killed.status.success(), "{killed:?}");
        drop(done);
        worker.join().unwrap().unwrap();
    }

    #[test]
    fn work_is_done_as_oneself_or_by_root_as_another() {
        let ids = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let me = ids();
        assert_eq!(as_user(me.0, me.1, ids).unwrap(), me);
        let (other, group) = (me.0 + 7, me.1 + 7);
        match as_user(other, group, move || (ids(), rustix::process::getgroups().unwrap().len())) {
            Ok(found) => assert!(is_root() && found == ((other, group), 0), "{found:?}"),
            Err(error) => assert!(!is_root() && error.kind() == io::ErrorKind::PermissionDenied, "{error}"),
        }
        assert_eq!(ids(), me, "the caller stays who it is");
    }
}
