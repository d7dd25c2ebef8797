//! Folders that are held open, and what lies below them.
//!
//! A path is looked up anew at each use, and any part of it may have become a symbolic link meanwhile: who owns a folder could lead
//! root out of it. So what lies below a folder is reached from its descriptor, name by name, and no link is followed on the
//! way: neither between a look and a use, nor between two uses. What a name led to is then changed through its own descriptor.
//!
//! Names are looked up one by one and not by `openat2` with `RESOLVE_BENEATH`: that is not there before Linux 5.6 and in some
//! containers, and a second way that is seldom gone would be a way that nobody tries. Paths below a folder are short, and who works
//! through many files of one folder keeps that one open ([`Nearby`]).
//!
//! | file | |
//! |---|---|
//! | `enter.rs` | from a path that a person wrote to an open folder |
//! | `facts.rs` | what is known of a name without following it |
//! | `nearby.rs` | the folder of the last file, kept open for the next |
//! | `theirs.rs` | what root reads and makes in a folder of another user |

mod enter;
mod facts;
mod nearby;
#[cfg(test)]
mod tests;
mod theirs;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, linkat, mkdirat, openat, readlinkat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;

pub use facts::{Facts, Kind};
pub use nearby::Nearby;

use super::identity::{as_user, is_root};
use enter::{SEARCHED, open_folder};
use theirs::Theirs;

/// A file, without waiting for the other end of a pipe.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A folder that is held open. Clones share the descriptor. All of it is blocking.
///
/// Paths that it is given lie below it: names and nothing else, no `..`, no beginning `/`. A symbolic link on the way, or at the end
/// of it, is an error ([`followed_no_link`]).
#[derive(Debug, Clone)]
pub struct Folder {
    descriptor: Arc<OwnedFd>,
    path: PathBuf,
    /// The device that every folder below must be on, where that was asked for.
    device: Option<u64>,
    /// For root, whose tree it is.
    theirs: Option<Theirs>,
}

/// Why a path below a folder was not gone.
#[derive(Debug, thiserror::Error)]
#[error("{} is a symbolic link, and none is followed there", .0.display())]
struct LinkInTheWay(PathBuf);

/// Why a folder was not entered.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is on another file system than the folder that it belongs to, and none is entered there: nothing would tell that it is missing. \
     Mount one file system for the whole, or move what lies there into it",
    .0.display()
)]
struct OtherDevice(PathBuf);

/// Whether `error` says that a symbolic link was met and not followed.
pub fn followed_no_link(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<LinkInTheWay>() || cause.is::<enter::LinkElsewhere>())
}

/// Opens the file at `path`, as somebody configured it, for reading: it may be a link, too. Its folder is entered as [`Folder::enter`] does and
/// it is opened as [`Folder::open`] does. Blocking.
///
/// # Errors
/// Also when root would be led by another user's link to a file that is not that user's.
pub fn open_led(path: &Path) -> io::Result<File> {
    let mut path = path.to_owned();
    let mut led: Option<enter::LinkElsewhere> = None;
    for _ in 0..enter::LINKS_MAX {
        let (folder, name) = Folder::of(&path)?;
        let error = match folder.open(name) {
            Ok(file) => {
                let owner = Facts::of(&file)?.uid;
                return led.filter(|link| link.uid != owner).map_or(Ok(file), |link| Err(enter::refused(link)));
            }
            Err(error) => error,
        };
        let Some(link) = folder.look(name).ok().filter(|found| found.kind == Kind::Link) else { return Err(error) };
        let target = folder.path().join(folder.read_link(name)?);
        if is_root() && link.uid != 0 {
            let link = enter::LinkElsewhere { link: path, uid: link.uid };
            if led.as_ref().is_some_and(|first| first.uid != link.uid) {
                return Err(enter::refused(link));
            }
            led.get_or_insert(link);
        }
        path = target;
    }
    Err(Errno::LOOP.into())
}

impl Folder {
    /// The folder at `path`, as somebody configured it or asked for it: the path may lead over symbolic links.
    ///
    /// Root is more careful: see [`enter`].
    ///
    /// # Errors
    /// When there is none, or root would be led by another user's link to what is not that user's.
    pub fn enter(path: &Path) -> io::Result<Self> {
        let descriptor = if is_root() { enter::as_root(CWD, path)? } else { enter::as_user(CWD, path)? };
        Self::held(descriptor, path.to_owned(), None)
    }

    /// As [`Folder::enter`], for what this process keeps and later reaches by its path. For root every folder and every link on the way must be
    /// root's own, and no folder one that others may put names in: then nobody else can lead a path elsewhere. Blocking.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotADirectory`] names what is another user's, or open to others.
    pub fn enter_own(path: &Path) -> io::Result<Self> {
        let descriptor = if is_root() { enter::as_root_alone(path)? } else { enter::as_user(CWD, path)? };
        Self::held(descriptor, path.to_owned(), None)
    }

    fn held(descriptor: OwnedFd, path: PathBuf, device: Option<u64>) -> io::Result<Self> {
        let theirs = Theirs::of(&Facts::of(&descriptor)?);
        Ok(Self { descriptor: Arc::new(descriptor), path, device, theirs })
    }

    /// The folder that holds `path`, entered as [`Folder::enter`] does, and the name in it. Blocking.
    pub fn of(path: &Path) -> io::Result<(Self, &OsStr)> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"));
        };
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((Self::enter(folder.unwrap_or(Path::new(".")))?, name))
    }

    /// The folder at `path` below this one where a link is meant to be: pg_wal, a tablespace. Followed as [`Folder::enter`] does.
    pub fn follow(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let at = self.as_fd();
        let descriptor = if is_root() { enter::as_root(at, path)? } else { enter::as_user(at, path)? };
        Self::held(descriptor, self.path.join(path), None)
    }

    /// This folder, below which no other folder is entered than those on its own file system. What lies beside each other in it is there, or
    /// missing, together: a file system that is mounted below can go by itself and leaves an empty folder.
    ///
    /// Devices are compared, of folders only: on an overlay a file may be of another one than its folder.
    pub fn on_one_device(self) -> io::Result<Self> {
        let device = Some(self.facts()?.id.0);
        Ok(Self { device, ..self })
    }

    fn must_be_within(&self, folder: impl AsFd, place: &Path) -> io::Result<()> {
        match self.device {
            Some(device) if Facts::of(folder)?.id.0 != device => Err(io::Error::other(OtherDevice(place.to_owned()))),
            _ => Ok(()),
        }
    }

    /// Where it was found. For messages only: what lies there now may be something else.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Owner, mode and so on of the folder itself.
    pub fn facts(&self) -> io::Result<Facts> {
        Facts::of(&*self.descriptor)
    }

    /// What is known of the file, folder or link at `path`; a link is not followed.
    pub fn look(&self, path: impl AsRef<Path>) -> io::Result<Facts> {
        let path = path.as_ref();
        self.at(path, |folder, name| Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.into()))
    }

    /// The folder at `path`; the empty path is this one.
    ///
    /// # Errors
    /// Also for root, when it lies in another user's tree and that user may not list it.
    pub fn folder(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            return Ok(self.clone());
        }
        let place = self.path.join(path);
        let descriptor = self.at(path, |folder, name| {
            open_folder(folder, name).map_err(|error| in_the_way(folder, name, &place, error))
        })?;
        self.must_be_within(&descriptor, &place)?;
        let inner = Self::held(descriptor, place, self.device)?;
        let Some(theirs) = self.theirs else { return Ok(inner) };
        theirs.must_be_able(theirs::READ | theirs::SEARCH, &inner.facts()?, &inner.path)?;
        Ok(Self { theirs: self.theirs, ..inner })
    }

    /// Opens the file at `path` for reading. Neither a link is followed nor a pipe waited for.
    ///
    /// # Errors
    /// Also when it is no regular file; and for root, when it lies in another user's tree and that user may not read it ([`theirs`]), or when it has
    /// other names and another owner than its folder: who owns a folder may give a name in it to a file of somebody else's (link(2)), and must
    /// not have root read that for them.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        self.at(path, |folder, name| {
            let file = self.open_as(folder, name, path, (READ, theirs::READ))?;
            let facts = Facts::of(&file)?;
            match facts.kind {
                Kind::File => {}
                Kind::Folder => return Err(io::ErrorKind::IsADirectory.into()),
                Kind::Link | Kind::Other => return Err(io::Error::other("it is not a regular file")),
            }
            if facts.is_elsewhere && is_root() && facts.uid != Facts::of(folder)?.uid {
                return Err(io::Error::other(
                    "it belongs to another user than its folder, and has another name elsewhere",
                ));
            }
            Ok(file)
        })
    }

    /// As [`Folder::open`], and waits where the file system waits; whatever is there is opened that the tree's user may read.
    pub fn open_any(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let flags = READ.difference(OFlags::NONBLOCK);
        self.at(path, |folder, name| self.open_as(folder, name, path, (flags, theirs::READ)))
    }

    /// What the user of the tree may not do to the file (`wanted`), root does not do there either.
    fn open_as(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        (flags, wanted): (OFlags, u32),
    ) -> io::Result<File> {
        let opened = openat(folder, name, flags, Mode::empty());
        let file: File = opened.map_err(|error| in_the_way(folder, name, &self.path.join(path), error))?.into();
        let theirs = match self.theirs {
            // It may be a user's folder in a tree of root's.
            None if is_root() => Theirs::of(&Facts::of(folder)?),
            theirs => theirs,
        };
        if let Some(theirs) = theirs {
            theirs.must_be_able(wanted, &Facts::of(&file)?, &self.path.join(path))?;
        }
        Ok(file)
    }

    /// Opens the file at `path` for writing as it is; a link is not followed.
    pub fn open_to_write(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let flags = READ.difference(OFlags::RDONLY).union(OFlags::WRONLY);
        self.at(path, |folder, name| self.open_as(folder, name, path, (flags, theirs::WRITE)))
    }

    /// The content of the file at `path`, opened as [`Folder::open`] does.
    ///
    /// # Errors
    /// Also when it has more than `bytes_max` bytes.
    pub fn read(&self, path: impl AsRef<Path>, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut content = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
        }
        Ok(content)
    }

    /// The names in it, in no order.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        self.each_name(|name| names.push(name.to_owned()))?;
        Ok(names)
    }

    /// Calls `act` with every name in it, in no order.
    pub fn each_name(&self, mut act: impl FnMut(&OsStr)) -> io::Result<()> {
        for entry in Dir::read_from(&*self.descriptor)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                act(name);
            }
        }
        Ok(())
    }

    /// Where the link at `path` leads.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when it is no link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let read = |folder: BorrowedFd<'_>, name: &OsStr| Ok(readlinkat(folder, name, Vec::new())?.into_bytes());
        Ok(OsString::from_vec(self.at(path.as_ref(), read)?).into())
    }

    /// Makes an empty file, to be written; fails with [`io::ErrorKind::AlreadyExists`] when anything is there, a link included.
    pub fn create(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(path.as_ref(), |folder, name| Ok(openat(folder, name, flags, Mode::from_raw_mode(mode))?.into()))
    }

    /// Makes a folder with `mode` less the umask; fails with [`io::ErrorKind::AlreadyExists`] when anything is there.
    pub fn make_folder(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.at(path.as_ref(), |folder, name| Ok(mkdirat(folder, name, Mode::from_raw_mode(mode))?))
    }

    /// Removes a file's or a link's name.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.at(path.as_ref(), |folder, name| Ok(unlinkat(folder, name, AtFlags::empty())?))
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.at(path.as_ref(), |folder, name| Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?))
    }

    /// Gives the file `from` of this folder the name `to`, in place of what is there. Names, not paths.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&*self.descriptor, from, &*self.descriptor, to)?)
    }

    /// As [`Folder::rename`], but fails with [`io::ErrorKind::AlreadyExists`] when `to` is there.
    pub fn rename_new(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let folder = &*self.descriptor;
        match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // NFS and others have no RENAME_NOREPLACE; link(2) refuses an existing name everywhere.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                linkat(folder, from, folder, to, AtFlags::empty())?;
                Ok(unlinkat(folder, from, AtFlags::empty())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Folder::rename`], but fails with [`io::ErrorKind::AlreadyExists`], and changes nothing, when `to` is another file than `seen`.
    pub fn rename_over(&self, from: &OsStr, to: &OsStr, seen: &File) -> io::Result<()> {
        let folder = &*self.descriptor;
        let id = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
        let seen = id(rustix::fs::fstat(seen)?);
        let is_seen = |name: &OsStr| Ok::<_, io::Error>(id(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?) == seen);
        if !is_seen(to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let exchange = || renameat_with(folder, from, folder, to, RenameFlags::EXCHANGE);
        match exchange() {
            // Another file had come between the look and the exchange.
            Ok(()) if !is_seen(from)? => {
                exchange()?;
                Err(io::ErrorKind::AlreadyExists.into())
            }
            Ok(()) => Ok(unlinkat(folder, from, AtFlags::empty())?),
            // NFS and others know no exchange: between look and rename lies a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(renameat(folder, from, folder, to)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the folder's own mode.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&*self.descriptor, Mode::from_raw_mode(mode))?)
    }

    /// Gives the folder itself to a user and a group.
    pub fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::fchown(&*self.descriptor, Some(uid), Some(gid))
    }

    /// Does `work` in this folder; where this is root and the folder another user's, with that user's rights and no other: what is made is the
    /// user's, and what the user may not change is not changed. Blocking.
    pub fn as_its_owner<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(Theirs { uid, gid }) = Theirs::of(&self.facts()?) else { return work(self) };
        let folder = self.clone();
        as_user(uid, gid, move || work(&folder)).flatten()
    }

    /// Whether root alone changes what a name in it stands for: what root has made there is what is found there. Blocking.
    pub fn is_roots_alone(&self) -> io::Result<bool> {
        Ok(is_root() && !enter::others_have_a_say(&self.facts()?, false))
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] when it may not be listed.
    pub fn sync(&self) -> io::Result<()> {
        self.listed(|folder| rustix::fs::fsync(folder))
    }

    /// Makes everything durable that was written to its file system.
    pub fn sync_filesystem(&self) -> io::Result<()> {
        self.listed(|folder| rustix::fs::syncfs(folder))
    }

    /// A folder that may only be searched has a descriptor that is good for nothing else (`O_PATH`).
    fn listed(&self, act: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>) -> io::Result<()> {
        match act(self.as_fd()) {
            Err(Errno::BADF) => Err(io::ErrorKind::PermissionDenied.into()),
            other => Ok(other?),
        }
    }

    /// The folder that this one lies in, which is known as `path`.
    pub fn above(&self, path: &Path) -> io::Result<Self> {
        Self::held(open_folder(self.as_fd(), OsStr::new(".."))?, path.to_owned(), None)
    }

    /// Calls `act` with the folder that holds `path` and the last name of it.
    fn at<T>(&self, path: &Path, act: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<T>) -> io::Result<T> {
        let mut names = path.components().map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} leads out", path.display()))),
        });
        let mut name = names.next().unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))?;
        let mut held: Option<OwnedFd> = None;
        let mut place = self.path.clone();
        for next in names {
            let folder = held.as_ref().map_or_else(|| self.descriptor.as_fd(), AsFd::as_fd);
            place.push(name);
            let inner = openat(folder, name, SEARCHED, Mode::empty());
            let inner = inner.map_err(|error| in_the_way(folder, name, &place, error))?;
            self.must_be_within(&inner, &place)?;
            if let Some(theirs) = self.theirs {
                theirs.must_be_able(theirs::SEARCH, &Facts::of(&inner)?, &place)?;
            }
            held = Some(inner);
            name = next?;
        }
        act(held.as_ref().map_or_else(|| self.descriptor.as_fd(), AsFd::as_fd), name)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What an error means where a link was not followed: "not a directory" and "too many links" are said of it.
fn in_the_way(folder: BorrowedFd<'_>, name: &OsStr, place: &Path, error: Errno) -> io::Error {
    let is_link =
        || statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| Facts::from(found).kind == Kind::Link);
    match error {
        Errno::NOTDIR | Errno::LOOP if is_link() => {
            io::Error::new(io::ErrorKind::NotADirectory, LinkInTheWay(place.to_owned()))
        }
        other => other.into(),
    }
}
