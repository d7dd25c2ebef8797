//! Whether a stranger could listen where the agent should: what answers on a socket decides what PostgreSQL takes for archived, and
//! what it replays.
//!
//! Who listens on a Unix socket is who could make its file. So every folder on the way must be one that no stranger can write to; in
//! one that all may write to, as /tmp, the sticky bit keeps what lies there its owner's, who must be root or the user who asks.
//! (`SO_PEERCRED` would tell less: systemd listens as root for agents that run as others, and who the agent's user is, the client cannot
//! know.)

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;
/// As the kernel has it (`MAXSYMLINKS`, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A user and the group, as the system counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// Owner and mode of one file on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// The owner.
    pub by: User,
    /// Permissions with the sticky bit.
    pub mode: u32,
}

impl From<&Metadata> for Owned {
    fn from(metadata: &Metadata) -> Self {
        Self { by: User { uid: metadata.uid(), gid: metadata.gid() }, mode: metadata.mode() }
    }
}

impl Owned {
    /// Whether every user may make files in this folder.
    pub fn all_may_write(self) -> bool {
        self.mode & OTHERS_WRITE != 0
    }
}

/// Whether others than its owner, root, and the group of `me` may make files in this folder.
pub fn others_may_write(folder: Owned, me: Option<User>) -> bool {
    let by_group = folder.by.gid != 0 && me.is_none_or(|me| me.gid != folder.by.gid);
    folder.all_may_write() || (folder.mode & GROUP_WRITES != 0 && by_group)
}

/// Whether `found` in `folder` may be of a stranger's making, in the eyes of `me`. Pure.
pub fn may_be_a_strangers(folder: Owned, found: Owned, me: Option<User>) -> bool {
    let is_ours = found.by.uid == 0 || me.is_some_and(|me| me.uid == found.by.uid);
    others_may_write(folder, me) && !(folder.mode & STICKY != 0 && is_ours)
}

/// The first file on the way to `socket`, links followed, that may be of a stranger's making; `None` when there is none, or when the
/// way ends before the socket: then nobody listens there.
pub fn stranger_on_the_way(socket: &Path) -> io::Result<Option<PathBuf>> {
    let mut me = None;
    first_on_the_way(socket, |folder, found| {
        // Who asks is only looked up where it matters: a folder of the system's is nobody's to write to.
        if others_may_write(folder, None) {
            me = me.or_else(|| myself().ok());
        }
        may_be_a_strangers(folder, found, me)
    })
}

/// The first folder or link on the way to `file` that another user than root may change, when it is root that asks; `file` itself does not
/// count. That user may lead root elsewhere between a look and a use.
pub fn led_by_another(file: &Path) -> io::Result<Option<PathBuf>> {
    let Some(folder) = file.parent().filter(|_| myself().is_ok_and(|me| me.uid == 0)) else { return Ok(None) };
    first_on_the_way(folder, |folder, found| found.by.uid != 0 || may_be_a_strangers(folder, found, None))
}

/// Whose socket it is: the agent's user, or root, where no stranger is on the way ([`stranger_on_the_way`]).
pub fn owner(socket: &Path) -> Option<u32> {
    Some(fs::metadata(socket).ok()?.uid())
}

/// The first file on the way to `path`, links followed, for which `is_wanted` says so of its folder and it.
fn first_on_the_way(path: &Path, mut is_wanted: impl FnMut(Owned, Owned) -> bool) -> io::Result<Option<PathBuf>> {
    let mut rest: VecDeque<OsString> = VecDeque::new();
    ahead(&std::path::absolute(path)?, &mut rest);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let mut folder = Owned::from(&fs::symlink_metadata(&at)?);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            folder = Owned::from(&fs::symlink_metadata(&at)?);
            continue;
        }
        let path = at.join(name);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let found = Owned::from(&metadata);
        if is_wanted(folder, found) {
            return Ok(Some(path));
        }
        if metadata.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many links"));
            }
            let target = fs::read_link(&path)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
                folder = Owned::from(&fs::symlink_metadata(&at)?);
            }
            ahead(&target, &mut rest);
        } else {
            (at, folder) = (path, found);
        }
    }
    Ok(None)
}

/// Puts the names of `path` in front of `rest`.
fn ahead(path: &Path, rest: &mut VecDeque<OsString>) {
    for component in path.components().rev() {
        match component {
            Component::Normal(_) | Component::ParentDir => rest.push_front(component.as_os_str().to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// The effective user and group of this thread, from /proc (proc_pid_status(5)): the standard library does not tell them.
pub(crate) fn myself() -> io::Result<User> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let effective = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    match (effective("Uid:"), effective("Gid:")) {
        (Some(uid), Some(gid)) => Ok(User { uid, gid }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    const ME: User = User { uid: 1000, gid: 1000 };

    fn owned(uid: u32, gid: u32, mode: u32) -> Owned {
        Owned { by: User { uid, gid }, mode }
    }

    #[test]
    fn what_strangers_may_make_is_not_believed() {
        let socket = |uid| owned(uid, uid, 0o666);
        for (folder, found, is_a_strangers) in [
            // As packages make it: the agent's user alone writes there, whoever that is.
            (owned(0, 0, 0o755), socket(7), false),
            (owned(7, 7, 0o755), socket(7), false),
            // Anybody may have put it there.
            (owned(0, 0, 0o777), socket(0), true),
            (owned(7, 7, 0o777), socket(1000), true),
            // Anybody may have been there first.
            (owned(0, 0, 0o1777), socket(7), true),
            (owned(0, 0, 0o1777), socket(1000), false),
            (owned(0, 0, 0o1777), socket(0), false),
            (owned(7, 7, 0o775), socket(7), true),
            (owned(7, 1000, 0o2775), socket(7), false),
            (owned(0, 0, 0o775), socket(7), false),
        ] {
            assert_eq!(may_be_a_strangers(folder, found, Some(ME)), is_a_strangers, "{folder:?} {found:?}");
        }
        assert!(may_be_a_strangers(owned(0, 0, 0o1777), socket(1000), None));
    }

    #[test]
    fn every_folder_on_the_way_counts_and_links_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (run, link) = (folder.path().join("run"), folder.path().join("link"));
        fs::create_dir(&run).expect("made");
        symlink("run/../run", &link).expect("made");
        let socket = link.join("socket");
        assert_eq!(stranger_on_the_way(&socket).expect("looked"), None, "nobody listens");
        let _listener = UnixListener::bind(&socket).expect("listening");
        assert_eq!(stranger_on_the_way(&socket).expect("looked"), None);
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
        open(&run, 0o777);
        let found = stranger_on_the_way(&socket).expect("looked").expect("a stranger may listen");
        assert!(found.ends_with("run/socket"), "{found:?}");
        open(&run, 0o1777);
        assert_eq!(stranger_on_the_way(&socket).expect("looked"), None, "it is our own socket");
        open(&run, 0o755);
        open(folder.path(), 0o777);
        let found =
            stranger_on_the_way(&socket).expect("looked").expect("a stranger may have put another folder there");
        assert_eq!(found, link);
        symlink(folder.path().join("circle"), folder.path().join("circle")).expect("made");
        open(folder.path(), 0o755);
        stranger_on_the_way(&folder.path().join("circle/socket")).expect_err("it leads nowhere");
    }
}
