//! From a path to an open folder.
//!
//! A path that a person wrote may lead over symbolic links, and mostly over the person's own: a data directory is often one. Other
//! users can put links, too, where they may write, and for root each of them is a choice that somebody else made. So root
//! follows a link of another user only where that leads to a folder of the same user: they could have got there themselves. A link
//! of root's own leads anywhere.
//!
//! The way is gone name by name with descriptors: what was looked at is what is entered.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::facts::{Facts, Kind};

/// As many links as the kernel follows in one path (path_resolution(7)).
pub(super) const LINKS_MAX: usize = 40;
/// A folder that can be listed and synced.
const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A folder that names can be looked up in, whether or not it may be listed.
pub(super) const SEARCHED: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A name as it is found, a link included.
const FOUND: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A link of a user that leads root to what is not that user's.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is a symbolic link of user {uid} and leads to what is not that user's: root does not follow it; \
     name the folder itself, or let root own the link",
    link.display()
)]
pub(super) struct LinkElsewhere {
    pub(super) link: PathBuf,
    pub(super) uid: u32,
}

/// What others may change on a way that must be root's alone.
#[derive(Debug, thiserror::Error)]
#[error("{} is another user's, or others may write to it; root keeps nothing there: choose a folder that only root can change", .0.display())]
struct OthersHaveASay(PathBuf);

/// Opens the folder of that name, to be listed where that is allowed.
pub(super) fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    match openat(folder, name, LISTED, Mode::empty()) {
        Err(Errno::ACCESS) => openat(folder, name, SEARCHED, Mode::empty()),
        other => other,
    }
}

/// With the rights of an ordinary user: the kernel says what may be followed.
pub(super) fn as_user(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(at, path, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(openat(at, path, flags | OFlags::PATH, Mode::empty())?),
        other => Ok(other?),
    }
}

/// With root's rights.
pub(super) fn as_root(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    go(at, path, false)
}

/// With root's rights, where nobody else has a say on the way.
pub(super) fn as_root_alone(path: &Path) -> io::Result<OwnedFd> {
    go(CWD, &std::path::absolute(path)?, true)
}

fn go(at: BorrowedFd<'_>, path: &Path, alone: bool) -> io::Result<OwnedFd> {
    let mut way: VecDeque<OsString> = VecDeque::new();
    let mut at = begin(at, path, &mut way)?;
    let mut place = if path.is_absolute() { PathBuf::from("/") } else { PathBuf::new() };
    let mut links = 0;
    // The first link that is another user's.
    let mut led: Option<LinkElsewhere> = None;
    while let Some(name) = way.pop_front() {
        let found = openat(&at, &name, FOUND, Mode::empty())?;
        let facts = Facts::of(&found)?;
        if alone && others_have_a_say(&facts, way.is_empty()) {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, OthersHaveASay(place.join(&name))));
        }
        match facts.kind {
            Kind::Folder => {
                place.push(&name);
                at = found;
            }
            Kind::Link => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                if facts.uid != 0 {
                    let link = LinkElsewhere { link: place.join(&name), uid: facts.uid };
                    match &led {
                        Some(first) if first.uid != link.uid => return Err(refused(link)),
                        Some(_) => {}
                        None => led = Some(link),
                    }
                }
                let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    place = PathBuf::from("/");
                    at = begin(at.as_fd(), &target, &mut way)?;
                } else {
                    put_before(&target, &mut way);
                }
            }
            Kind::File | Kind::Other => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    match led {
        Some(link) if Facts::of(&at)?.uid != link.uid => Err(refused(link)),
        _ => Ok(open_folder(at.as_fd(), OsStr::new("."))?),
    }
}

/// Whether others than root may change what a name in the folder, or the link itself, leads to. In a folder with the sticky bit nobody
/// does that to what is root's, so that on the way to such a thing (not `is_last`) it may be open to all. Pure.
pub(super) fn others_have_a_say(found: &Facts, is_last: bool) -> bool {
    const STICKY: u32 = 0o1000;
    let group_writes = found.mode & 0o020 != 0 && found.gid != 0;
    let others_write = found.mode & 0o002 != 0 || group_writes;
    found.uid != 0 || (found.kind == Kind::Folder && others_write && (is_last || found.mode & STICKY == 0))
}

pub(super) fn refused(link: LinkElsewhere) -> io::Error {
    // Not "permission denied": nobody lacks a right here.
    io::Error::new(io::ErrorKind::NotADirectory, link)
}

/// Where `path` begins, `at` unless it is absolute; its names go before those in `way`.
fn begin(at: BorrowedFd<'_>, path: &Path, way: &mut VecDeque<OsString>) -> io::Result<OwnedFd> {
    put_before(path, way);
    let start = if path.is_absolute() { "/" } else { "." };
    Ok(openat(at, start, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn put_before(path: &Path, way: &mut VecDeque<OsString>) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => way.push_front(name.to_owned()),
            Component::ParentDir => way.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}
