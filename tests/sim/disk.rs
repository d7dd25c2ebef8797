//! A disk whose power can be cut. What is read and written goes to a real folder (in memory, where there is one); what would
//! be left of it after a power cut is kept beside it, and changes only with an fsync.
//!
//! As strict as POSIX allows: an fsync of a file keeps its bytes but not its name, one of a folder keeps the names in it but
//! neither their bytes nor the folder's own name. What was not synced may be there after the cut, or not, or in part: the
//! bytes cut short, zeroed or anything. A rename happens whole or not at all.
//!
//! As unkind as Linux: a sync that fails forgets what it was to keep. Reads show it, and a later sync of the same file, folder or
//! file system succeeds and keeps it no more: only what is written or named anew. An error is told to the caller of the sync that
//! failed and, once, to each descriptor of the file system, and of the folder, that was opened before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, Weak};
use std::thread::ThreadId;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use walward_base::Locked;
use walward_base::sys::steps::{self, Step, Watcher};

use crate::faults::mix;
use crate::machine::{Trace, note};

/// What happens to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// The power goes before the step has an effect.
    Cut,
    /// An error, without an effect.
    Before(io::ErrorKind),
    /// An error, and the effect.
    After(io::ErrorKind),
}

/// A step as the one who decides about it sees it: its number on this disk, and what it does to what, without random names.
#[derive(Debug)]
pub struct Seen {
    pub number: u64,
    pub what: String,
}

/// Who decides what happens to each step.
pub type Decide = Box<dyn FnMut(&Seen) -> Verdict + Send>;

/// A disk that lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lies {
    /// An fsync of a file keeps nothing.
    pub files: bool,
    /// An fsync of a folder keeps nothing.
    pub folders: bool,
    /// Whoever called a sync that failed calls it again, and believes the second one.
    pub retried: bool,
}

/// What becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    All,
    /// Nothing is lost: the process died, the machine did not.
    Nothing,
    /// Some of it.
    Some(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    inode: u64,
    folder: bool,
}

type Names = BTreeMap<OsString, Entry>;

#[derive(Debug, Clone)]
struct Content {
    bytes: Arc<[u8]>,
    /// Keeps the inode's number from being used again.
    _held: Arc<File>,
}

/// Folders and files by inode.
#[derive(Debug, Clone, Default)]
struct Tree {
    folders: HashMap<u64, Names>,
    files: HashMap<u64, Content>,
}

/// What is on a disk at the moment of a cut.
#[derive(Debug)]
pub struct Wreck {
    root: u64,
    synced: Tree,
    now: Tree,
    renames: Vec<[(u64, OsString); 2]>,
}

pub struct Disk {
    root: PathBuf,
    state: Mutex<State>,
}

struct State {
    decide: Decide,
    lies: Lies,
    steps: u64,
    synced: Tree,
    /// Files of which a sync failed, kept open so that their inodes are not used again.
    given_up: HashMap<u64, File>,
    /// Names of which a sync failed: what they stood for then.
    forgotten: HashMap<(u64, OsString), Option<Entry>>,
    /// How many syncs failed, and how many of them each descriptor of the file system has told or is too young for.
    failures: u64,
    watched: HashMap<u64, u64>,
    /// Folders, and the threads that have changed a name there and not synced it yet: each holds a descriptor of the folder that is older.
    named: HashSet<(u64, ThreadId)>,
    /// Those of them that are still to hear of a sync that failed since.
    told: HashSet<(u64, ThreadId)>,
    /// From and to, since the beginning.
    renames: Vec<[(u64, OsString); 2]>,
    wreck: Option<Arc<Wreck>>,
    trace: Option<(&'static str, Trace)>,
}

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

/// Sends each step to the disk that it is on.
struct Switchboard;

impl Watcher for Switchboard {
    fn step(&self, step: Step<'_>, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let path = path_of(&step);
        let disk = {
            let mut disks = DISKS.locked();
            disks.retain(|disk| disk.strong_count() > 0);
            disks.iter().filter_map(Weak::upgrade).find(|disk| path.starts_with(&disk.root))
        };
        match disk {
            Some(disk) => disk.step(step, act),
            None => act(),
        }
    }
}

fn path_of<'a>(step: &Step<'a>) -> &'a Path {
    match *step {
        Step::Create(path)
        | Step::Write(path, _)
        | Step::SyncFile(path)
        | Step::Rename(_, path)
        | Step::RenameNew(_, path)
        | Step::Remove(path)
        | Step::MakeFolder(path)
        | Step::RemoveFolder(path)
        | Step::SyncFolder(path)
        | Step::WatchFileSystem(path, _)
        | Step::SyncFileSystem(path, _) => path,
    }
}

/// A folder in memory if there is one: a real fsync is not what is tried here.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = &mut tempfile::Builder::new();
    let builder = builder.prefix("walward-sim-");
    let folder = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    folder.expect("a folder for the simulation")
}

impl Disk {
    /// The folder `root` with all that is in it, as a disk on which all of that is durable.
    pub fn new(root: &Path, lies: Lies, decide: Decide) -> Arc<Self> {
        WATCH.call_once(|| steps::watch(Box::new(Switchboard)));
        let state = State {
            decide,
            lies,
            steps: 0,
            synced: read_tree(root),
            given_up: HashMap::new(),
            forgotten: HashMap::new(),
            failures: 0,
            watched: HashMap::new(),
            named: HashSet::new(),
            told: HashSet::new(),
            renames: Vec::new(),
            wreck: None,
            trace: None,
        };
        let disk = Arc::new(Self { root: root.to_owned(), state: Mutex::new(state) });
        DISKS.locked().push(Arc::downgrade(&disk));
        disk
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the power was cut.
    pub fn is_dead(&self) -> bool {
        self.state().wreck.is_some()
    }

    /// Every step from now on is a line of `trace`.
    pub fn trace_to(&self, name: &'static str, trace: &Trace) {
        self.state().trace = Some((name, Arc::clone(trace)));
    }

    /// Cuts the power now, unless it is off already, and gives what is on the disk. Every later step fails.
    pub fn cut(&self) -> Arc<Wreck> {
        let mut state = self.state();
        self.wreck(&mut state)
    }

    /// The process that used the disk died, and the machine did not: the next one finds everything, and what was not
    /// synced is not.
    pub fn go_on(&self, decide: Decide) {
        let mut state = self.state();
        state.wreck = None;
        state.decide = decide;
        state.steps = 0;
        // Whoever held a descriptor is dead.
        state.named.clear();
        state.told.clear();
    }

    fn wreck(&self, state: &mut State) -> Arc<Wreck> {
        if let Some(wreck) = &state.wreck {
            return Arc::clone(wreck);
        }
        let wreck = Arc::new(Wreck {
            root: inode(&self.root).expect("the root is there"),
            synced: state.synced.clone(),
            now: read_tree(&self.root),
            renames: state.renames.clone(),
        });
        state.wreck = Some(Arc::clone(&wreck));
        wreck
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    fn shown(&self, step: &Step<'_>) -> String {
        let name = |path: &Path| {
            let path = path.strip_prefix(&self.root).unwrap_or(path);
            let temporary = path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(".walward-"));
            if temporary {
                path.with_file_name("(temporary)").display().to_string()
            } else {
                path.display().to_string()
            }
        };
        match *step {
            Step::Create(path) => format!("create {}", name(path)),
            Step::Write(path, bytes) => format!("write {} {bytes}", name(path)),
            Step::SyncFile(path) => format!("fsync {}", name(path)),
            Step::Rename(from, to) => format!("rename {} over {}", name(from), name(to)),
            Step::RenameNew(from, to) => format!("rename {} to {}", name(from), name(to)),
            Step::Remove(path) => format!("remove {}", name(path)),
            Step::MakeFolder(path) => format!("mkdir {}", name(path)),
            Step::SyncFolder(path) => format!("fsync folder {}", name(path)),
            Step::RemoveFolder(path) => format!("rmdir {}", name(path)),
            Step::WatchFileSystem(..) => "open the file system".to_owned(),
            Step::SyncFileSystem(..) => "syncfs".to_owned(),
        }
    }

    fn step(&self, step: Step<'_>, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        let gone = || io::Error::other("the power is off");
        if state.wreck.is_some() {
            return Err(gone());
        }
        state.steps += 1;
        let seen = Seen { number: state.steps, what: self.shown(&step) };
        let verdict = (state.decide)(&seen);
        if let Some((name, trace)) = &state.trace {
            let outcome = if verdict == Verdict::Go { String::new() } else { format!("  <- {verdict:?}") };
            note(trace, format!("    disk {name} {:>4}: {}{outcome}", seen.number, seen.what));
        }
        match verdict {
            Verdict::Go => state.effect(&step, &self.root, act),
            Verdict::Cut => {
                self.wreck(state);
                Err(gone())
            }
            Verdict::Before(kind) => {
                let is_sync = state.fail(&step, &self.root)?;
                if is_sync && state.lies.retried {
                    return state.effect(&step, &self.root, act);
                }
                Err(kind.into())
            }
            Verdict::After(kind) => {
                state.effect(&step, &self.root, act)?;
                Err(kind.into())
            }
        }
    }
}

impl State {
    /// A step that fails without an effect. Whether it was a sync: what that was to keep is forgotten.
    fn fail(&mut self, step: &Step<'_>, root: &Path) -> io::Result<bool> {
        match *step {
            Step::SyncFile(path) => self.forget_file(inode(path)?, path)?,
            Step::SyncFolder(path) => {
                let folder = inode(path)?;
                self.forget_names(folder, &read_names(path)?);
                // Who has named something there and not synced it yet opened the folder before: the error is told there as well.
                self.named.remove(&(folder, std::thread::current().id()));
                self.told.extend(self.named.iter().filter(|(of, _)| *of == folder));
            }
            Step::SyncFileSystem(..) => {
                let mut folders = vec![root.to_owned()];
                while let Some(folder) = folders.pop() {
                    let names = read_names(&folder)?;
                    self.forget_names(inode(&folder)?, &names);
                    for (name, entry) in names {
                        let path = folder.join(name);
                        if entry.folder {
                            folders.push(path);
                        } else {
                            self.forget_file(entry.inode, &path)?;
                        }
                    }
                }
            }
            _ => return Ok(false),
        }
        self.failures += 1;
        if let Step::SyncFileSystem(_, number) = *step {
            self.watched.insert(number, self.failures);
        }
        Ok(true)
    }

    fn forget_file(&mut self, number: u64, path: &Path) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        if self.synced.files.get(&number).is_none_or(|content| *content.bytes != *bytes) {
            self.given_up.insert(number, File::open(path)?);
        }
        Ok(())
    }

    fn forget_names(&mut self, folder: u64, now: &Names) {
        let synced = self.synced.folders.get(&folder).cloned().unwrap_or_default();
        for name in synced.keys().chain(now.keys()) {
            if synced.get(name) != now.get(name) {
                self.forgotten.insert((folder, name.clone()), now.get(name).copied());
            }
        }
    }

    fn keep_file(&mut self, number: u64, content: Content) {
        if !self.given_up.contains_key(&number) {
            self.synced.files.insert(number, content);
        }
    }

    /// Keeps the names of a folder, but those that were forgotten and stand for the same since.
    fn keep_names(&mut self, folder: u64, mut now: Names) {
        let synced = self.synced.folders.entry(folder).or_default();
        self.forgotten.retain(|(of, name), stood_for| {
            let stands = *of != folder || now.get(name) == stood_for.as_ref();
            if *of == folder && stands {
                match synced.get(name) {
                    Some(old) => now.insert(name.clone(), *old),
                    None => now.remove(name),
                };
            }
            stands
        });
        *synced = now;
    }

    fn effect(&mut self, step: &Step<'_>, root: &Path, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        match *step {
            Step::Create(_) | Step::MakeFolder(_) | Step::Write(..) | Step::RemoveFolder(_) => act()?,
            Step::Remove(path) => {
                act()?;
                self.named.insert((inode(path.parent().unwrap_or(path))?, std::thread::current().id()));
            }
            Step::SyncFile(path) => {
                if !self.lies.files {
                    self.keep_file(inode(path)?, read_file(path)?);
                }
            }
            Step::Rename(from, to) | Step::RenameNew(from, to) => {
                let place = |path: &Path| {
                    let folder = path.parent().unwrap_or(path);
                    Ok::<_, io::Error>((inode(folder)?, path.file_name().unwrap_or_default().to_owned()))
                };
                let ends = [place(from)?, place(to)?];
                act()?;
                self.named.insert((ends[1].0, std::thread::current().id()));
                self.renames.push(ends);
            }
            Step::SyncFolder(path) => {
                let descriptor = (inode(path)?, std::thread::current().id());
                self.named.remove(&descriptor);
                if self.told.remove(&descriptor) && !self.lies.retried {
                    return Err(io::Error::other("a sync of this folder failed since it was opened"));
                }
                if !self.lies.folders {
                    self.keep_names(inode(path)?, read_names(path)?);
                }
            }
            Step::WatchFileSystem(_, number) => {
                self.watched.insert(number, self.failures);
            }
            Step::SyncFileSystem(_, number) => {
                if !self.lies.files {
                    let tree = read_tree(root);
                    tree.files.into_iter().for_each(|(number, content)| self.keep_file(number, content));
                    tree.folders.into_iter().for_each(|(number, names)| self.keep_names(number, names));
                }
                let told = self.watched.insert(number, self.failures).expect("a descriptor that was opened");
                if told < self.failures && !self.lies.retried {
                    return Err(io::Error::other("a sync failed since this descriptor was opened"));
                }
            }
        }
        Ok(())
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::symlink_metadata(path)?.ino())
}

fn read_file(path: &Path) -> io::Result<Content> {
    Ok(Content { bytes: std::fs::read(path)?.into(), _held: Arc::new(File::open(path)?) })
}

/// The names in a folder. Links and pipes are nobody's here.
fn read_names(folder: &Path) -> io::Result<Names> {
    let mut names = Names::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_file() {
            names.insert(entry.file_name(), Entry { inode: inode(&entry.path())?, folder: kind.is_dir() });
        }
    }
    Ok(names)
}

/// Everything below `root`. What vanishes meanwhile (a temporary file that its maker removes) is left out.
fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let (Ok(number), Ok(mut names)) = (inode(&folder), read_names(&folder)) else { continue };
        names.retain(|name, entry| {
            let path = folder.join(name);
            if entry.folder {
                folders.push(path);
                return true;
            }
            let content = read_file(&path);
            content.map(|content| tree.files.insert(entry.inode, content)).is_ok()
        });
        tree.folders.insert(number, names);
    }
    tree
}

impl Wreck {
    /// Makes the folder `to`, which must not exist, and in it what the next start finds.
    pub fn recover(&self, loss: Loss, to: &Path) {
        std::fs::create_dir(to).expect("the new disk is made");
        self.folder(loss, self.root, to);
    }

    /// Whether the newer of two states of a name is what is left. Alike for a name whenever it is asked.
    fn is_newer(loss: Loss, folder: u64, name: &OsStr) -> bool {
        match loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Some(seed) => mix(seed, &(folder, name)) & 1 == 1,
        }
    }

    fn entry(&self, loss: Loss, folder: u64, name: &OsStr) -> Option<Entry> {
        let of = |tree: &Tree| tree.folders.get(&folder).and_then(|names| names.get(name)).copied();
        let (old, new) = (of(&self.synced), of(&self.now));
        if old == new || !Self::is_newer(loss, folder, name) {
            return old;
        }
        // A name that went by a rename is there until the new one is.
        let gone_to = self.renames.iter().rev().find(|[from, _]| (from.0, &*from.1) == (folder, name));
        if let (Some(old), None, Some([_, to])) = (old, new, gone_to)
            && self.entry(loss, to.0, &to.1).is_none_or(|entry| entry.inode != old.inode)
        {
            return Some(old);
        }
        new
    }

    fn folder(&self, loss: Loss, number: u64, to: &Path) {
        let trees = [&self.synced, &self.now];
        let names: BTreeSet<&OsString> =
            trees.iter().filter_map(|tree| tree.folders.get(&number)).flat_map(BTreeMap::keys).collect();
        for name in names {
            let Some(entry) = self.entry(loss, number, name) else { continue };
            let path = to.join(name);
            if entry.folder {
                std::fs::create_dir(&path).expect("a folder is made again");
                self.folder(loss, entry.inode, &path);
            } else {
                std::fs::write(&path, self.content(loss, entry.inode)).expect("a file is made again");
            }
        }
    }

    fn content(&self, loss: Loss, number: u64) -> Vec<u8> {
        let of = |tree: &Tree| tree.files.get(&number).map_or_else(Vec::new, |content| content.bytes.to_vec());
        let (old, mut new) = (of(&self.synced), of(&self.now));
        let Loss::Some(seed) = loss else {
            return if loss == Loss::Nothing && self.now.files.contains_key(&number) { new } else { old };
        };
        if old == new || new.is_empty() || !new.starts_with(&old) {
            return old;
        }
        let mut random = StdRng::seed_from_u64(mix(seed, &number));
        let written = random.random_range(old.len()..=new.len());
        match random.random_range(0..4) {
            0 => return old,
            // Cut short.
            1 => new.truncate(written),
            // The length was written and the bytes were not.
            2 => new[written..].fill(0),
            // The blocks are whoever's they were before.
            _ => random.fill_bytes(&mut new[written..]),
        }
        new
    }
}

#[cfg(test)]
mod tests;
