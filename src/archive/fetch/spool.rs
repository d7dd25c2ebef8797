//! The folder where verified segments wait for PostgreSQL. Bounded in bytes, and by the room on its file system; emptied at every
//! start, because after a crash nobody knows whether a file there is whole, and downloading again is cheap.
//!
//! A root agent keeps it only where nobody else can change the way to it ([`folder::Folder::enter_own`]): its files are given away by their
//! paths, and others are told those.
//!
//! A lock on the folder says that an agent uses it: another one that shares the place clears it only when nobody does. A folder that
//! somebody removed is made anew when it is needed. One that another user made in its place is not used: then there is no spool, and files go
//! beside their destination, until that folder is gone. It goes with the last file in it.
//!
//! Nor is one that hangs: what is asked of it has a limit ([`ANSWERS_WITHIN`]), on threads of the cluster's spools that are bounded ([`Ground`]),
//! and as long as something that was given up has not been answered nothing more is asked. Nothing here waits for a file system but what says
//! that it is blocking.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use super::spot::Spot;
use walward_base::Locked;
use walward_base::sys::ground::{Ground, NotDone, Unanswered};
use walward_base::sys::shared::Shared;
use walward_base::sys::{disk, durable, folder};
use walward_repo::facts::Link;

/// How long the spool's file system may take to answer while somebody waits. A standby is told within two seconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How often the folder is made for one file, where another spool takes it away.
const MAKES_MAX: usize = 8;
const DOES_NOT_ANSWER: &str = "the file system of the spool does not answer";

/// One cluster's spool. Clones share it.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    bytes_max: u64,
    /// Bytes that places may take: of this spool, and of older ones of the cluster.
    bytes: Arc<AtomicU64>,
    /// Of these, bytes of files that are not written to their end.
    unfinished: AtomicU64,
    next: AtomicU64,
    /// The folder, locked. None: it is not made yet, or lost, and cannot be made anew. Not held over anything that asks the file system.
    lock: Mutex<Option<folder::Folder>>,
    /// Held while the folder is looked at and made, by a thread that may hang in that.
    making: Mutex<()>,
    /// Whose threads ask the file system.
    ground: Arc<Ground>,
}

/// A place for one file: a spot of its own, and bytes that are counted until it is dropped. The file goes with it.
#[derive(Debug)]
pub struct Place {
    spot: Spot,
    reserved: u64,
    finished: AtomicBool,
    link: OnceLock<Link>,
    /// Set once it is somebody's: nothing else takes its name any more.
    given: Mutex<Option<OwnedMutexGuard<u64>>>,
    /// None: it lies elsewhere.
    folder: Option<Arc<Folder>>,
}

/// What a file that nobody waits for needs room beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The spool's bound.
    pub bytes_max: u64,
    /// What places may take.
    pub bytes: u64,
    /// What files that are on their way may still take.
    pub unfinished: u64,
    /// What is free on the file system; none when that is not known.
    pub free: Option<u64>,
}

/// Whether there is room for a file of `bytes` that nobody waits for: only when there would still be as much again for one that
/// somebody does. Pure.
pub fn has_room_ahead(room: &Room, bytes: u64) -> bool {
    let needed = room.unfinished.saturating_add(bytes.saturating_mul(2));
    room.bytes.saturating_add(bytes) <= room.bytes_max && room.free.is_none_or(|free| needed <= free)
}

/// Whether an agent uses the spool in `folder`. Blocking, briefly.
pub fn is_in_use(folder: &Path) -> bool {
    let Ok(folder) = folder::Folder::enter(folder) else { return false };
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Bytes in use, by the cluster's folder: a spool that is new counts what an older one still holds.
static BYTES: Shared<AtomicU64> = Shared::new();

impl Spool {
    /// A spool in `folder`, which is made when the first file comes.
    pub fn at(folder: &Path, bytes_max: u64) -> Self {
        let of_the_cluster = of_the_cluster(folder);
        Self(Arc::new(Folder {
            path: folder.to_path_buf(),
            bytes_max,
            bytes: BYTES.get(of_the_cluster.display().to_string(), || AtomicU64::new(0)),
            unfinished: AtomicU64::new(0),
            next: AtomicU64::new(0),
            lock: Mutex::default(),
            making: Mutex::default(),
            ground: Ground::of(of_the_cluster),
        }))
    }

    /// An empty spool in `folder`, which is made, or emptied of what an earlier process left. Blocking.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let spool = Self::at(folder, bytes_max);
        spool.0.entered()?;
        spool.0.clear()?;
        Ok(spool)
    }

    /// Makes the folder, within `limit`.
    ///
    /// # Errors
    /// `Err` when its file system does not answer: it is made when that does.
    pub async fn make(&self, limit: Duration) -> Result<io::Result<()>, NotDone> {
        let folder = Arc::clone(&self.0);
        self.0.ground.look_at(&self.0.path, limit, move |_| folder.entered().map(drop)).await
    }

    /// What was asked of the file system and was given up, or was not answered for long: as long as there is that, nothing more is asked.
    pub fn hangs(&self) -> Option<Unanswered> {
        self.0.ground.hangs()
    }

    /// A place for a file of at most `bytes` that PostgreSQL waits for: that is never refused. It is to be [`entered`](Place::enter).
    pub fn place(&self, name: &str, bytes: u64) -> Place {
        self.0.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.reserved(name, bytes)
    }

    /// A place for a file of at most `bytes` that nobody waits for yet, entered, or `None` when there is no room for it.
    pub async fn place_ahead(&self, name: &str, bytes: u64) -> Option<Place> {
        if self.hangs().is_some() {
            return None;
        }
        let folder = Arc::clone(&self.0);
        let look = move |_: &_| {
            folder
                .entered_or_told()
                .ok()
                .map(|entered| (disk::space_of(&entered).ok().map(|space| space.free), entered))
        };
        let (free, entered) = self.0.ground.look_at(&self.0.path, ANSWERS_WITHIN, look).await.ok()??;
        let unfinished = self.0.unfinished.load(Ordering::Acquire);
        let admitted = self.0.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            let room = Room { bytes_max: self.0.bytes_max, bytes: now, unfinished, free };
            has_room_ahead(&room, bytes).then_some(now.saturating_add(bytes))
        });
        let mut place = admitted.ok().map(|_| self.reserved(name, bytes))?;
        place.spot = self.0.spot(Ok(entered), place.path().to_path_buf());
        Some(place)
    }

    fn reserved(&self, name: &str, bytes: u64) -> Place {
        self.0.unfinished.fetch_add(bytes, Ordering::AcqRel);
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        Place {
            spot: self.0.spot(Err("the folder was not entered"), self.0.path.join(format!("{name}.{number}"))),
            reserved: bytes,
            finished: AtomicBool::new(false),
            link: OnceLock::new(),
            given: Mutex::default(),
            folder: Some(Arc::clone(&self.0)),
        }
    }

    /// Waits until what was let go of is removed, for a while at most.
    pub async fn settled(&self) {
        if self.hangs().is_none() {
            self.0.ground.settled(ANSWERS_WITHIN).await;
        }
    }

    /// Removes the folder and what is in it, unless its file system hangs: the process ends, and waits for nothing that is left for later.
    pub async fn end(&self) {
        if self.hangs().is_some() {
            return;
        }
        let folder = Arc::clone(&self.0);
        let remove = move |_: &_| {
            let _ = folder.clear();
            if folder.lock.locked().take().is_some() {
                let _ = std::fs::remove_dir(&folder.path);
            }
        };
        let _ = self.0.ground.look_at(&self.0.path, ANSWERS_WITHIN, remove).await;
    }

    /// The folder of all spools of the cluster, older ones included.
    pub fn of_the_cluster(&self) -> String {
        of_the_cluster(&self.0.path).display().to_string()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// The most bytes it holds.
    pub fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }
}

fn of_the_cluster(folder: &Path) -> &Path {
    folder.parent().unwrap_or(folder)
}

impl Folder {
    /// A spot in the folder that was entered. Where that was lost, nothing can be made in it, whatever has its name by now.
    fn spot(&self, entered: Result<folder::Folder, &'static str>, path: PathBuf) -> Spot {
        Spot::own_in(entered, path, Arc::clone(&self.ground))
    }

    /// The folder, made anew if it is gone. Blocking.
    fn entered(&self) -> io::Result<folder::Folder> {
        let _making = self.making.locked();
        let held = self.lock.locked().clone();
        if let Some(folder) = held
            && self.is_there(&folder)
        {
            return Ok(folder);
        }
        let made = self.make();
        *self.lock.locked() = made.as_ref().ok().cloned();
        made
    }

    /// As [`Folder::entered`]; what stands in the way is told to the log. Blocking.
    fn entered_or_told(&self) -> io::Result<folder::Folder> {
        self.entered().inspect_err(|error| {
            warn!(folder = %self.path.display(), %error, "the spool is gone, and cannot be made anew");
        })
    }

    /// Makes the folder, and locks it. Blocking.
    fn make(&self) -> io::Result<folder::Folder> {
        // WAL is nobody else's to read. The clients of an agent that runs as root must get through to their own files.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        let mut entered = folder::Folder::enter_own(&self.path);
        // A spool that ended here before takes its folder with it when its last file goes: perhaps the one that was made for this.
        for _ in 0..MAKES_MAX {
            if !matches!(&entered, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            let created = durable::create_dir_all_durable(&self.path, mode);
            entered = created.and_then(|()| folder::Folder::enter_own(&self.path));
        }
        let folder = entered?;
        let owner = folder.facts()?.uid;
        if owner != rustix::process::geteuid().as_raw() {
            let why = format!(
                "{} is user {owner}'s by now, and not this agent's: nothing is kept there",
                self.path.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
        }
        // Where locks do not work, nobody clears what may be in use either.
        let _ = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive);
        Ok(folder)
    }

    /// Removes the files of an earlier process. Blocking.
    fn clear(&self) -> io::Result<()> {
        let Some(folder) = self.lock.locked().clone() else { return Ok(()) };
        let mut names = Vec::new();
        folder.each_name(|name| names.push(name.to_owned()))?;
        for name in names {
            let removed = match folder.look(&name) {
                Ok(facts) if facts.kind == folder::Kind::File => folder.remove_file(&name),
                other => other.map(drop),
            };
            // What a spool that ended here before removes at the same time is gone, too.
            removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    /// Whether the folder is the one that was made. Blocking.
    fn is_there(&self, made: &folder::Folder) -> bool {
        let id = |folder: &folder::Folder| folder.facts().ok().map(|facts| facts.id);
        let Some(held) = id(made) else { return false };
        folder::Folder::enter(&self.path).ok().and_then(|found| id(&found)) == Some(held)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Empty by now: every place holds on to it until its file is removed.
        let (path, held) = (self.path.clone(), self.lock.locked().take());
        if held.is_some() {
            self.ground.later(&self.path, move || {
                drop(held);
                let _ = std::fs::remove_dir(path);
            });
        }
    }
}

impl Place {
    /// A place outside the spool: the file goes with it all the same, unless it was moved.
    pub fn beside(spot: Spot) -> Self {
        let (finished, link, given) = (AtomicBool::new(false), OnceLock::new(), Mutex::default());
        Self { spot, reserved: 0, finished, link, given, folder: None }
    }

    /// Enters the spool, where it is in one and that answers: else nothing can be made there.
    pub async fn enter(&mut self) {
        let Some(folder) = self.folder.clone().filter(|_| !self.spot.is_held()) else { return };
        let entered = if folder.ground.hangs().is_some() {
            Err(DOES_NOT_ANSWER)
        } else {
            let of = Arc::clone(&folder);
            let entered = folder.ground.look_at(&folder.path, ANSWERS_WITHIN, move |_| of.entered_or_told()).await;
            if entered.is_err() {
                warn!(folder = %folder.path.display(), "the file system of the spool does not answer: until it does nothing is fetched ahead, and what is asked for goes beside its destination");
            }
            entered.map_or(Err(DOES_NOT_ANSWER), |entered| {
                entered.map_err(|_| "its folder is gone, and was not made anew")
            })
        };
        self.spot = folder.spot(entered, self.path().to_path_buf());
    }

    /// What `look` says, which is blocking, if the file system answers.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        if self.folder.as_ref().is_some_and(|folder| folder.ground.hangs().is_some()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, DOES_NOT_ANSWER));
        }
        let place = Arc::clone(self);
        self.spot.within(ANSWERS_WITHIN, move |_| look(&place)).await
    }

    /// Whether it is in the spool.
    pub fn is_in_spool(&self) -> bool {
        self.folder.is_some()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.spot.path()
    }

    /// Where it is, and as whom it is written.
    pub fn spot(&self) -> &Spot {
        &self.spot
    }

    /// Whether the file may be given to who asked for it to be beside `own`: a file outside the spool is only for whom it was brought, in whose
    /// folder it lies.
    pub fn is_for(&self, own: Option<&Path>) -> bool {
        self.folder.is_some() || own == Some(self.path())
    }

    /// Whether the file is still there, and found by its path: this one, and no other that was made under its name. Blocking.
    pub fn is_there(&self) -> bool {
        let is_own = self.given.locked().is_some() || self.spot.hold().is_ok();
        is_own && self.spot.open().is_ok() && self.spot.is_found_by_its_path()
    }

    /// What is in the file, of which no more than `bytes_max` bytes are read. Blocking.
    pub fn read(&self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.spot.open()?.take(bytes_max).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Gives the file to a user, if one is named. Who asked for one beside its destination has it already: nobody else can put anything there.
    /// Blocking.
    ///
    /// # Errors
    /// Also when something else has the name of the spool's folder, or of the file: the user looks for the file by its path.
    pub fn give(&self, uid: Option<u32>) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            let mut given = self.given.locked();
            if given.is_none() {
                *given = self.spot.hold()?;
            }
            return Ok(());
        };
        if !self.spot.is_found_by_its_path() {
            let why = format!("{} is not the spool that was made any more", folder.path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        match uid {
            Some(uid) => std::os::unix::fs::fchown(self.spot.open()?, Some(uid), None),
            None => Ok(()),
        }
    }

    /// What the file is, and what it continues; none where that is not known.
    pub fn link(&self) -> Option<Link> {
        self.link.get().copied()
    }

    /// The file is written to its end, and is what `link` says.
    pub fn brought(&self, link: Option<Link>) {
        if let Some(link) = link {
            let _ = self.link.set(link);
        }
        self.finished();
    }

    /// The file is written to its end: the file system knows now what it takes.
    fn finished(&self) {
        if !self.finished.swap(true, Ordering::AcqRel)
            && let Some(folder) = &self.folder
        {
            folder.unfinished.fetch_sub(self.reserved, Ordering::AcqRel);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (folder, reserved, finished) = (self.folder.take(), self.reserved, self.finished.load(Ordering::Acquire));
        self.given.locked().take();
        // Gone already when the client moved it.
        self.spot.leave(move || {
            let Some(folder) = folder else { return };
            folder.bytes.fetch_sub(reserved, Ordering::AcqRel);
            if !finished {
                folder.unfinished.fetch_sub(reserved, Ordering::AcqRel);
            }
        });
    }
}

#[cfg(test)]
mod tests;
