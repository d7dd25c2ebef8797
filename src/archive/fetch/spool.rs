//! The folder where verified segments wait for PostgreSQL. Bounded in bytes, and by the room on its file system; emptied at every
//! start, because after a crash nobody knows whether a file there is whole, and downloading again is cheap.
//!
//! A root agent keeps it only where nobody else can change the way to it ([`folder::Folder::enter_own`]): its files are given away by their
//! paths, and others are told those.
//!
//! A lock on the folder says that an agent uses it: another one that shares the place clears it only when nobody does. A folder that
//! somebody removed is made anew when it is needed. One that another user made in its place is not used: then there is no spool, and files go
//! beside their destination, until that folder is gone. It goes with the last file in it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::FlockOperation;

use super::spot::Spot;
use walward_base::Locked;
use walward_base::sys::shared::Shared;
use walward_base::sys::{disk, durable, folder};
use walward_repo::facts::Link;

/// One cluster's spool.
#[derive(Debug)]
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
    /// The folder, locked. None: it is lost, and cannot be made anew.
    lock: Mutex<Option<folder::Folder>>,
}

/// A place for one file: a spot of its own, and bytes that are counted until it is dropped. The file goes with it.
#[derive(Debug)]
pub struct Place {
    spot: Spot,
    reserved: u64,
    finished: AtomicBool,
    link: OnceLock<Link>,
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
    /// An empty spool in `folder`, which is made, or emptied of what an earlier process left. Blocking.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let of_the_cluster = folder.parent().unwrap_or(folder).display().to_string();
        let spool = Self(Arc::new(Folder {
            path: folder.to_path_buf(),
            bytes_max,
            bytes: BYTES.get(of_the_cluster, || AtomicU64::new(0)),
            unfinished: AtomicU64::new(0),
            next: AtomicU64::new(0),
            lock: Mutex::default(),
        }));
        spool.0.make()?;
        spool.0.clear()?;
        Ok(spool)
    }

    /// A place for a file of at most `bytes` that PostgreSQL waits for: that is never refused.
    pub fn place(&self, name: &str, bytes: u64) -> Place {
        self.renew();
        self.0.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.reserved(name, bytes)
    }

    /// A place for a file of at most `bytes` that nobody waits for yet, or `None` when there is no room for it.
    pub fn place_ahead(&self, name: &str, bytes: u64) -> Option<Place> {
        if !self.renew() {
            return None;
        }
        let (free, unfinished) =
            (disk::space(&self.0.path).ok().map(|space| space.free), self.0.unfinished.load(Ordering::Acquire));
        let admitted = self.0.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            let room = Room { bytes_max: self.0.bytes_max, bytes: now, unfinished, free };
            has_room_ahead(&room, bytes).then_some(now.saturating_add(bytes))
        });
        admitted.ok().map(|_| self.reserved(name, bytes))
    }

    fn reserved(&self, name: &str, bytes: u64) -> Place {
        self.0.unfinished.fetch_add(bytes, Ordering::AcqRel);
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        Place {
            spot: self.0.spot(&format!("{name}.{number}")),
            reserved: bytes,
            finished: AtomicBool::new(false),
            link: OnceLock::new(),
            folder: Some(Arc::clone(&self.0)),
        }
    }

    /// Makes the folder anew if it is gone. Whether it is there.
    fn renew(&self) -> bool {
        let made = if self.0.is_there() { Ok(()) } else { self.0.make() };
        if let Err(error) = &made {
            *self.0.lock.locked() = None;
            tracing::warn!(folder = %self.0.path.display(), %error, "the spool is gone, and cannot be made anew");
        }
        made.is_ok()
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

impl Folder {
    /// A spot in the folder that was made. Where that is gone, nothing can be made in it, whatever has its name by now.
    fn spot(&self, name: &str) -> Spot {
        let path = self.path.join(name);
        match self.lock.locked().as_ref() {
            Some(folder) => Spot::own_in(folder.clone(), path),
            None => Spot::lost(path),
        }
    }

    /// Makes the folder, and locks it.
    fn make(&self) -> io::Result<()> {
        // WAL is nobody else's to read. The clients of an agent that runs as root must get through to their own files.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        let folder = match folder::Folder::enter_own(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_dir_all_durable(&self.path, mode)?;
                folder::Folder::enter_own(&self.path)?
            }
            other => other?,
        };
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
        *self.lock.locked() = Some(folder);
        Ok(())
    }

    /// Removes the files of an earlier process.
    fn clear(&self) -> io::Result<()> {
        let lock = self.lock.locked();
        let Some(folder) = lock.as_ref() else { return Ok(()) };
        let mut names = Vec::new();
        folder.each_name(|name| names.push(name.to_owned()))?;
        for name in names {
            if folder.look(&name)?.kind == folder::Kind::File {
                folder.remove_file(&name)?;
            }
        }
        Ok(())
    }

    /// Whether the folder is the one that was made.
    fn is_there(&self) -> bool {
        let lock = self.lock.locked();
        let id = |folder: &folder::Folder| folder.facts().ok().map(|facts| facts.id);
        let Some(held) = lock.as_ref().and_then(id) else { return false };
        folder::Folder::enter(&self.path).ok().and_then(|found| id(&found)) == Some(held)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Empty by now: every place holds on to it.
        let _ = std::fs::remove_dir(&self.path);
    }
}

impl Place {
    /// A place outside the spool: the file goes with it all the same, unless it was moved.
    pub fn beside(spot: Spot) -> Self {
        Self { spot, reserved: 0, finished: AtomicBool::new(false), link: OnceLock::new(), folder: None }
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

    /// Whether the file is still there, and found by its path. Blocking.
    pub fn is_there(&self) -> bool {
        self.spot.open().is_ok() && self.spot.is_found_by_its_path()
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
    /// Also when something else has the name of the spool's folder: the user looks for the file by its path.
    pub fn give(&self, uid: Option<u32>) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
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
        // Gone already when the client moved it.
        self.spot.leave();
        self.finished();
        if let Some(folder) = &self.folder {
            folder.bytes.fetch_sub(self.reserved, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_gives_back_what_was_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(&folder.path().join("main/1"), 30).expect("a spool");
        let first = spool.place_ahead("a", 16).expect("room");
        assert!(spool.place_ahead("b", 16).is_none());
        let urgent = spool.place("b", 16);
        assert_eq!(spool.bytes(), 32);
        std::fs::File::create(first.path()).expect("a file");
        let path = first.path().to_path_buf();
        drop((first, urgent));
        assert_eq!(spool.bytes(), 0);
        assert!(!path.exists());
    }

    #[test]
    fn a_spool_that_is_replaced_counts_until_it_is_empty_and_its_folder_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str| folder.path().join("main").join(name);
        let old = Spool::open(&of("1"), 30).expect("a spool");
        let place = old.place("a", 16);
        std::fs::File::create(place.path()).expect("a file");
        let new = Spool::open(&of("2"), 30).expect("a spool");
        assert!(new.place_ahead("b", 16).is_none());
        drop(old);
        assert!(place.path().exists());
        drop(place);
        assert!(new.place_ahead("b", 16).is_some() && !of("1").exists());
        drop(new);
        assert!(!of("2").exists());
    }

    #[test]
    fn what_an_earlier_process_left_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = folder.path().join("000000010000000000000001.0");
        std::fs::File::create(&left).expect("a file");
        let _spool = Spool::open(folder.path(), 30).expect("a spool");
        assert!(!left.exists());
    }

    /// As when a cleaner removes it, and another user makes a folder of its name.
    #[test]
    fn what_has_the_name_of_a_spool_that_was_removed_is_not_written_to_and_nothing_in_it_is_handed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, strangers) = (folder.path().join("cluster/7"), folder.path().join("strangers"));
        let spool = Spool::open(&path, 30).expect("a spool");
        let before = spool.place("a", 1);
        before.spot().create().expect("made");
        std::fs::remove_dir_all(&path).expect("removed");
        std::fs::create_dir(&strangers).expect("a folder");
        durable::create(&strangers.join("a.0"), b"forged", 0o600).expect("a file");
        std::os::unix::fs::symlink(&strangers, &path).expect("a link");
        for to in [Some(0), None] {
            assert!(before.give(to).is_err());
        }
        assert!(before.read(9).is_err() && !before.is_there());
        // Whatever the spool is by now, a place of the old one leads nowhere.
        let old = Place::beside(before.spot().clone());
        assert!(old.spot().create().is_err(), "nothing is made in what is gone");
        drop((before, old));
        assert_eq!(std::fs::read(strangers.join("a.0")).expect("there"), b"forged");
    }

    #[test]
    fn a_file_whose_folder_was_moved_is_not_handed_over_by_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster/7");
        let spool = Spool::open(&path, 30).expect("a spool");
        let place = spool.place("a", 1);
        place.spot().create().expect("made");
        place.give(None).expect("it is where it says");
        durable::rename(&path, &folder.path().join("moved")).expect("moved");
        std::fs::create_dir(&path).expect("a folder");
        durable::create(place.path(), b"forged", 0o600).expect("a file");
        assert!(place.give(None).is_err() && !place.is_there());
    }

    #[test]
    #[ignore = "needs root"]
    fn as_root_what_another_user_made_in_a_spools_place_is_no_spool_until_it_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster/7");
        let of_a_stranger = |path: &Path| {
            std::fs::create_dir(path).expect("a folder");
            std::os::unix::fs::chown(path, Some(54_321), None).expect("a stranger's");
        };
        let spool = Spool::open(&path, 30).expect("a spool");
        std::fs::remove_dir_all(&path).expect("removed");
        of_a_stranger(&path);
        let place = spool.place("a", 1);
        assert!(place.spot().create().is_err() && place.give(None).is_err());
        assert!(spool.place_ahead("b", 1).is_none());
        assert_eq!(std::fs::read_dir(&path).expect("listed").count(), 0);
        std::fs::remove_dir(&path).expect("removed");
        spool.place("a", 1).spot().create().expect("made anew");
        assert!(Spool::open(&folder.path().join("cluster/8"), 30).is_ok());
        of_a_stranger(&folder.path().join("cluster/9"));
        Spool::open(&folder.path().join("cluster/9"), 30).expect_err("a stranger's");
    }

    #[test]
    fn what_nobody_waits_for_leaves_room_for_what_somebody_does() {
        const MIB: u64 = 1 << 20;
        let room = |unfinished, free| Room { bytes_max: 1 << 30, bytes: 0, unfinished, free: Some(free) };
        // A file system of 40 MiB, and segments of 16: the one that is asked for, and none ahead of it before it is whole.
        assert!(!has_room_ahead(&room(16 * MIB, 40 * MIB), 16 * MIB));
        assert!(!has_room_ahead(&room(0, 24 * MIB), 16 * MIB));
        assert!(has_room_ahead(&room(0, 40 * MIB), 16 * MIB));
        assert!(has_room_ahead(&Room { free: None, ..room(0, 0) }, 16 * MIB));
    }

    #[test]
    fn what_lies_outside_the_spool_is_given_to_nobody_but_who_asked_for_it_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let spool = Spool::open(&path("spool"), 30).expect("a spool");
        assert!(spool.place("a", 1).is_for(None) && spool.place("a", 1).is_for(Some(&path("one"))));
        let beside = Place::beside(Spot::own(path("one")));
        assert!(beside.is_for(Some(&path("one"))));
        assert!(!beside.is_for(Some(&path("two"))) && !beside.is_for(None));
    }

    #[test]
    fn a_spool_that_is_in_use_is_known_and_one_that_was_removed_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster/7");
        let spool = Spool::open(&path, 30).expect("a spool");
        assert!(is_in_use(&path));
        std::fs::remove_dir_all(folder.path().join("cluster")).expect("removed");
        let place = spool.place("a", 1);
        std::fs::File::create(place.path()).expect("a file");
        assert!(is_in_use(&path));
        // A connection may hold on to a file for longer than the configuration lasts.
        drop(spool);
        assert!(is_in_use(&path) && place.path().exists());
        drop(place);
        assert!(!path.exists(), "nothing is left of it");
    }
}
