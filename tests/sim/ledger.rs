//! Who wrote what into which repository; and whether that was right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use walward_pg::WalFileName;
use walward_storage::{ObjectKey, Store};

use crate::machine::Weather;
use crate::postgres::{Own, Postgres};
use crate::truth::print_of;

/// The agent of a copy that is tried out.
pub const TRIAL: &str = "trial";
/// An agent believes for a minute that a name is not there. What it has begun by then may take longer where stores fail.
const UNSEEN_MAX: Duration = Duration::from_secs(65);
const UNSEEN_MAX_IN_BAD_WEATHER: Duration = Duration::from_mins(20);

#[derive(Debug, Default)]
pub struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    life: u64,
    unseen: Duration,
    written: BTreeMap<(&'static str, WalFileName), Entry>,
    /// What a copy was told to push, by mistake.
    asked: BTreeSet<WalFileName>,
    /// What the primary marked while its command was not Walward's, and nobody had asked for long.
    unasked: BTreeSet<WalFileName>,
    /// What the primary never asked for, and PostgreSQL believes to be archived all the same.
    passed: BTreeSet<WalFileName>,
    broken: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    print: u64,
    life: u64,
    at: Instant,
}

impl Ledger {
    /// The agents start again.
    pub fn begin(&self, weather: Weather) {
        let mut inner = self.lock();
        inner.life = weather.life;
        let is_fair = weather.store_faults == 0 && weather.disk_faults == 0;
        inner.unseen = if is_fair { UNSEEN_MAX } else { UNSEEN_MAX_IN_BAD_WEATHER };
    }

    /// A push that a copy makes although it should not.
    pub fn asks(&self, name: WalFileName) {
        self.lock().asked.insert(name);
    }

    pub fn nobody_asks_for(&self, name: WalFileName) {
        self.lock().unasked.insert(name);
    }

    /// Another tool was asked: the agent cannot know that this file is not the archive's.
    pub fn passes(&self, name: WalFileName) {
        self.lock().passed.insert(name);
    }

    pub fn all_is_asked_for(&self) {
        self.lock().unasked.clear();
    }

    pub fn removed(&self, site: &'static str, name: WalFileName) {
        self.lock().written.remove(&(site, name));
    }

    /// What went wrong first.
    pub fn judge(&self) -> Result<(), String> {
        self.lock().broken.clone().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

/// The ledger in the hand of one agent, at one repository.
#[derive(Debug)]
pub struct Book {
    ledger: Arc<Ledger>,
    site: &'static str,
    who: &'static str,
    pg_wal: PathBuf,
    own: Own,
}

impl Book {
    pub fn new(ledger: &Arc<Ledger>, site: &'static str, who: &'static str, server: &Postgres) -> Self {
        let (ledger, own) = (Arc::clone(ledger), Arc::clone(&server.own));
        Self { ledger, site, who, pg_wal: server.pg_wal(), own }
    }

    /// The agent wrote an object that was not there.
    pub async fn wrote(&self, key: &ObjectKey, store: &dyn Store) {
        let file_name = key.file_name();
        let Ok(name) = file_name.parse::<WalFileName>() else { return };
        let Ok(bytes) = std::fs::read(self.pg_wal.join(file_name)) else { return };
        let before: Vec<(WalFileName, u64)> = {
            let mut inner = self.ledger.lock();
            let entry = Entry { print: print_of(&bytes), life: inner.life, at: Instant::now() };
            inner.written.insert((self.site, name), entry);
            let unasked = match self.who {
                TRIAL => !inner.asked.contains(&name),
                "rival" => false,
                _ => inner.unasked.contains(&name),
            };
            if unasked {
                inner.broken.get_or_insert(format!("{} archived {name}, which nobody asked for", self.who));
            }
            let (life, unseen) = (inner.life, inner.unseen);
            let is_known = |entry: &Entry| entry.life < life || entry.at.elapsed() > unseen;
            let all = inner
                .written
                .iter()
                .filter(|((site, name), entry)| *site == self.site && is_known(entry) && !inner.passed.contains(name));
            all.map(|((_, name), entry)| (*name, entry.print)).collect()
        };
        let WalFileName::Segment(segment) = name else { return };
        for (earlier, print) in before {
            let WalFileName::Segment(other) = earlier else { continue };
            let is_other = self.own.lock().unwrap().get(&earlier).is_some_and(|own| *own != print);
            // What a rival writes has no past.
            if other.timeline == segment.timeline && other < segment && is_other && self.who != "rival" {
                let there = ObjectKey::new(key.as_str().replace(&key_tail(segment), &key_tail(other)));
                if store.head(&there.unwrap()).await.is_ok() {
                    let what = format!("{} archived {name} after {earlier}, which is another server's there", self.who);
                    self.ledger.lock().broken.get_or_insert(what);
                }
            }
        }
    }
}

/// The log's folder and the file.
fn key_tail(name: walward_pg::SegmentName) -> String {
    format!("{:08X}/{name}", name.log)
}
