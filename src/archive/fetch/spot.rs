//! Where a fetched file is written, and as whom: by its path or in a folder that is held open as this process, or beside the destination that a server in recovery named.
//!
//! Beside a destination the folder is somebody else's, for an agent that runs as root. It is entered once, and what was entered is looked at and
//! held open: afterwards the path may lead elsewhere. Names in it are made, read and removed with the rights of the user whose folder it is, in a
//! thread that has no other, so that root does nothing there that this user could not do.
//!
//! The file system of either may hang: files are made and written within a limit, and closed and removed while nobody waits, all of it on the
//! threads of a ground ([`Ground`]) and not on the runtime's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use walward_base::sys::folder::Folder;
use walward_base::sys::ground::{Ground, NotDone, Steps};
use walward_base::sys::identity;
use walward_base::sys::shared::Shared;

/// What is added to the name of the destination until the file is verified.
const UNVERIFIED: &str = ".walward-unverified";

/// By the path: spots beside one destination have one name. How many files were made under it; held while one is made or removed.
static NAMES: Shared<Mutex<u64>> = Shared::new();

#[derive(Debug, Clone)]
struct Name {
    files: Arc<Mutex<u64>>,
    /// Which of them is this spot's.
    own: Arc<AtomicU64>,
}

/// A place for one file.
#[derive(Debug, Clone)]
pub struct Spot {
    path: PathBuf,
    /// Where another spot may have its name.
    shared: Option<Name>,
    way: Way,
    /// Whose threads work there.
    ground: Arc<Ground>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Writing {
    spot: Spot,
    /// None while a thread has it, which keeps it when it was not waited for.
    file: Option<File>,
}

#[derive(Debug, Clone)]
enum Way {
    /// The path is looked up at each use, as this process.
    Path,
    Held(Held),
    /// The folder was lost, or does not answer: nothing is made or read there, whatever has its name.
    Lost(&'static str),
}

#[derive(Debug, Clone)]
struct Held {
    folder: Folder,
    /// The user and the group that the work is done as; none: as this process.
    owner: Option<(u32, u32)>,
}

impl Spot {
    /// At `path`, as this process.
    pub fn own(path: PathBuf) -> Self {
        let ground = Ground::of(path.parent().unwrap_or(&path));
        Self { path, shared: None, way: Way::Path, ground }
    }

    /// In `folder`, which is this process's, or, `Err`, in none, and why: `path` gives the name there, and is for messages and for who asked.
    pub fn own_in(folder: Result<Folder, &'static str>, path: PathBuf, ground: Arc<Ground>) -> Self {
        let way = folder.map_or_else(Way::Lost, |folder| Way::Held(Held { folder, owner: None }));
        Self { path, shared: None, way, ground }
    }

    /// Beside `destination`, where this process may write for the user `peer` who asks: see [`may_write`]. Else none. Blocking.
    pub fn beside(destination: &Path, peer: u32) -> Option<Self> {
        let (spot, owner) = Self::beside_as(destination).ok()?;
        may_write(rustix::process::geteuid().as_raw(), peer, owner).then_some(spot)
    }

    /// Beside `destination`, for this process itself: an ordinary user may write where others let them. Blocking.
    pub fn beside_for_oneself(destination: &Path) -> io::Result<Self> {
        Ok(Self::beside_as(destination)?.0)
    }

    /// Root works as the owner of the folder, every other as itself. With whose the folder is.
    fn beside_as(destination: &Path) -> io::Result<(Self, u32)> {
        let (folder, name) = Folder::of(destination)?;
        let mut unverified = name.to_owned();
        unverified.push(UNVERIFIED);
        let facts = folder.facts()?;
        let owner = (facts.uid != 0 && identity::is_root()).then_some((facts.uid, facts.gid));
        let path = destination.with_file_name(unverified);
        // As all that looks at a data directory.
        let ground = folder.path();
        let ground = Ground::of(ground.parent().unwrap_or(ground));
        let files = NAMES.get(path.display().to_string(), || Mutex::new(0));
        let shared = Some(Name { files, own: Arc::default() });
        Ok((Self { path, shared, way: Way::Held(Held { folder, owner }), ground }, facts.uid))
    }

    /// Where it is. For messages, and for who asked: what lies there now may be something else.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is in a folder that is held open.
    pub fn is_held(&self) -> bool {
        matches!(self.way, Way::Held(_))
    }

    /// A new file that only its owner can read. What an earlier try left under the name is removed, not written into. Blocking.
    pub fn create(&self) -> io::Result<File> {
        self.at(|folder, name| {
            match folder.remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            folder.create(name, 0o600)
        })
    }

    /// As [`Spot::create`], when an earlier file of the name is removed; all of it within `limit`.
    pub async fn make(&self, limit: Duration) -> io::Result<Writing> {
        let (spot, files) = (self.clone(), timeout(limit, self.lock()).await);
        let mut files = files.map_err(|_| no_answer(&self.path))?;
        let make = move |steps: &Steps| {
            if let (Some(files), Some(name)) = (&mut files, &spot.shared) {
                **files += 1;
                name.own.store(**files, Ordering::Relaxed);
            }
            let made = spot.create();
            // It may have been removed already, by who did not wait.
            if made.is_ok() && steps.are_given_up() {
                let _ = spot.remove();
            }
            (made, files)
        };
        let file = self.within(limit, make).await?.0?;
        Ok(Writing { spot: self.clone(), file: Some(file) })
    }

    /// What `look` says, which blocks, within `limit`.
    pub async fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        look: impl FnOnce(&Steps) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.ground.look_at(&self.path, limit, look).await.map_err(|error| match error {
            NotDone::Died => io::Error::other("the thread that looked died"),
            NotDone::Hangs(_) | NotDone::NoThread | NotDone::Cancelled => no_answer(&self.path),
        })
    }

    /// Keeps others from taking the name as long as what is answered lives; `None` where nobody else has it.
    ///
    /// # Errors
    /// Another spot's file has the name by now, or is being made.
    pub fn hold(&self) -> io::Result<Option<OwnedMutexGuard<u64>>> {
        let Some(name) = &self.shared else { return Ok(None) };
        match Arc::clone(&name.files).try_lock_owned() {
            Ok(files) if *files == name.own.load(Ordering::Relaxed) => Ok(Some(files)),
            _ => {
                let why = format!("another file has the name {} by now", self.path.display());
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
        }
    }

    /// Waits until nothing is being made or removed here.
    pub async fn settled(&self) {
        drop(self.lock().await);
    }

    async fn lock(&self) -> Option<OwnedMutexGuard<u64>> {
        match &self.shared {
            Some(name) => Some(Arc::clone(&name.files).lock_owned().await),
            None => None,
        }
    }

    /// Removes the file, if it is still there, and then does what comes `after`: nobody waits for either where there is a runtime. What has the
    /// name next is made later.
    pub fn leave(&self, after: impl FnOnce() + Send + 'static) {
        let files = match &self.shared {
            None => None,
            Some(name) => match Arc::clone(&name.files).try_lock_owned() {
                Ok(files) if *files == name.own.load(Ordering::Relaxed) => Some(files),
                // Another's by now; or held by who makes the next one, who removes this before.
                _ => return after(),
            },
        };
        if matches!(self.way, Way::Lost(_)) {
            return after();
        }
        let spot = self.clone();
        self.ground.later(&self.path, move || {
            let _ = spot.remove();
            drop(files);
            after();
        });
    }

    /// The file, to be read. Blocking.
    pub fn open(&self) -> io::Result<File> {
        self.at(|folder, name| folder.open(name))
    }

    /// Gives the file the name `to`, in place of what is there. Blocking.
    pub fn place(&self, to: &OsStr) -> io::Result<()> {
        let to = to.to_owned();
        self.at(move |folder, name| folder.rename(name.as_os_str(), &to))
    }

    /// Whether the path still leads to the folder that is held open: who is told the path looks there. Blocking.
    pub fn is_found_by_its_path(&self) -> bool {
        let id = |folder: &Folder| folder.facts().ok().map(|facts| facts.id);
        match &self.way {
            Way::Path => true,
            Way::Held(held) => {
                let found = Folder::of(&self.path).ok().and_then(|(folder, _)| id(&folder));
                found.is_some() && found == id(&held.folder)
            }
            Way::Lost(_) => false,
        }
    }

    /// Removes the file. Blocking.
    pub fn remove(&self) -> io::Result<()> {
        self.at(|folder, name| folder.remove_file(name))
    }

    /// Calls `work` with the folder and the name in it, as whom it is done.
    fn at<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder, &Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Held { folder, owner } = match &self.way {
            Way::Held(held) => held,
            Way::Path => {
                let (folder, name) = Folder::of(&self.path)?;
                return work(&folder, Path::new(name));
            }
            Way::Lost(why) => return Err(io::Error::new(io::ErrorKind::NotFound, *why)),
        };
        let name = PathBuf::from(self.path.file_name().unwrap_or_default());
        match owner {
            Some((uid, gid)) => {
                let folder = folder.clone();
                identity::as_user(*uid, *gid, move || work(&folder, &name)).flatten()
            }
            None => work(folder, &name),
        }
    }
}

impl Writing {
    /// Writes what comes next, within `limit`. After an error nothing more is written.
    pub async fn write(&mut self, chunk: Bytes, limit: Duration) -> io::Result<()> {
        let mut file = self.file.take().ok_or_else(|| no_answer(&self.spot.path))?;
        let write = move |_: &Steps| file.write_all(&chunk).map(|()| file);
        self.file = Some(self.spot.within(limit, write).await??);
        Ok(())
    }

    /// Closes the file, within `limit`: a file system may write only then.
    pub async fn end(mut self, limit: Duration) -> io::Result<()> {
        let file = self.file.take();
        let spot = self.spot.clone();
        spot.within(limit, move |_| drop(file)).await
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.spot.ground.later(&self.spot.path, move || drop(file));
        }
    }
}

fn no_answer(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the file system of {} does not answer", path.display()))
}

/// Whether a process of `me` may write in a folder of `owner` because `peer` asks: `me` is that user or becomes it, and `peer` is that user or
/// could. Pure.
fn may_write(me: u32, peer: u32, owner: u32) -> bool {
    (me == owner || me == 0) && (peer == owner || peer == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    use super::*;

    const USER: u32 = 54_321;
    const LONG: Duration = Duration::from_mins(10);

    #[test]
    fn beside_a_destination_is_written_for_the_owner_of_the_folder_and_as_nobody_else() {
        for (me, peer, owner, may) in [
            (26, 26, 26, true),
            (26, 0, 26, true),
            (0, 26, 26, true),
            (0, 0, 26, true),
            (0, 0, 0, true),
            (0, 1000, 26, false),
            (0, 26, 0, false),
            (70, 26, 26, false),
            (26, 1000, 26, false),
        ] {
            assert_eq!(may_write(me, peer, owner), may, "{me} {peer} {owner}");
        }
    }

    /// A folder of a user's: for root, of another one.
    fn folder() -> (tempfile::TempDir, u32) {
        let folder = tempfile::tempdir().expect("a folder");
        if identity::is_root() {
            chown(folder.path(), Some(USER), Some(USER)).expect("given away");
        }
        let owner = folder.path().metadata().expect("there").uid();
        (folder, owner)
    }

    #[test]
    fn it_is_a_new_file_of_the_folders_owner_and_goes_again() {
        let (folder, owner) = folder();
        let spot = Spot::beside(&folder.path().join("RECOVERYXLOG"), owner).expect("allowed");
        assert_eq!(spot.path(), folder.path().join("RECOVERYXLOG.walward-unverified"));
        for _ in 0..2 {
            spot.create().expect("made");
            let found = spot.path().symlink_metadata().expect("there");
            assert_eq!((found.uid(), found.mode() & 0o777, found.len()), (owner, 0o600, 0));
            spot.open().expect("it can be read");
        }
        spot.remove().expect("removed");
        assert!(!spot.path().exists());
    }

    #[tokio::test]
    async fn a_file_is_removed_before_the_next_of_its_name_is_made_and_nobody_waits_for_it() {
        let (folder, owner) = folder();
        let destination = folder.path().join("RECOVERYXLOG");
        let spot = || Spot::beside(&destination, owner).expect("allowed");
        let (first, second) = (spot(), spot());
        first.make(LONG).await.expect("made");
        // As a removal that hangs: neither who leaves nor who makes the next one does anything meanwhile.
        let hung = first.lock().await;
        first.leave(|| ());
        let mut made = Box::pin(second.make(LONG));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut made).await.is_err());
        assert!(first.path().exists());
        drop(hung);
        made.await.expect("made");
        second.leave(|| ());
        second.settled().await;
        assert!(!second.path().exists());
        for _ in 0..100 {
            let earlier = spot();
            earlier.make(LONG).await.expect("made");
            earlier.leave(|| ());
            second.make(LONG).await.expect("made");
            assert!(second.path().exists(), "it was made after the removal");
            earlier.leave(|| ());
            second.settled().await;
            assert!(second.path().exists(), "it is another one's");
        }
    }

    #[test]
    fn no_link_leads_away_from_it_neither_in_its_own_place_nor_in_its_folders() {
        let (folder, owner) = folder();
        let other = tempfile::tempdir().expect("a folder");
        let secret = other.path().join("RECOVERYXLOG.walward-unverified");
        walward_base::sys::durable::create(&secret, b"root's", 0o600).expect("a file");
        let pg_wal = folder.path().join("pg_wal");
        std::fs::create_dir(&pg_wal).expect("a folder");
        chown(&pg_wal, Some(owner), None).expect("given away");
        let spot = Spot::beside(&pg_wal.join("RECOVERYXLOG"), owner).expect("allowed");
        symlink(&secret, spot.path()).expect("a link");
        assert!(spot.open().is_err(), "nothing is read through a link");
        spot.create().expect("in the link's place");
        assert!(spot.path().symlink_metadata().expect("there").is_file());
        // The folder that was entered is the one that is used, whatever takes its name.
        let moved = folder.path().join("moved");
        rustix::fs::rename(&pg_wal, &moved).expect("moved");
        symlink(other.path(), &pg_wal).expect("a link");
        spot.create().expect("in the folder that was entered");
        spot.remove().expect("removed");
        assert_eq!(std::fs::read(&secret).expect("there"), b"root's");
        assert_eq!(std::fs::read_dir(&moved).expect("there").count(), 0);
        assert_eq!(std::fs::read_dir(other.path()).expect("there").count(), 1);
    }

    /// Whoever owns a folder can move into it what root made in another of theirs: it is not read for them, and a folder that became root's
    /// alone is not written to.
    #[test]
    #[ignore = "needs root"]
    fn as_root_beside_a_destination_root_has_no_rights_of_its_own() {
        let (folder, owner) = folder();
        let spot = Spot::beside(&folder.path().join("RECOVERYXLOG"), owner).expect("allowed");
        walward_base::sys::durable::create(spot.path(), b"root's", 0o600).expect("a file");
        assert_eq!(spot.open().expect_err("not the owner's").kind(), io::ErrorKind::PermissionDenied);
        spot.remove().expect("who owns the folder may");
        chown(folder.path(), Some(0), Some(0)).expect("taken back");
        assert_eq!(spot.create().expect_err("not the owner's").kind(), io::ErrorKind::PermissionDenied);
    }
}
