//! What an archiver knows of its files at one moment. All of it is a shortcut: the repositories and archive_status say it again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::delivery::{Delivery, Outcome};
use super::gappy::Gappy;
use super::lead::Lead;
use super::look_ahead::UnderWay;
use super::source::FileStamp;
use super::there::{Presence, There};
use crate::archive::agree::{AGREED_MAX, Parting};
use walward_pg::{Lineage, ServerLife, WalFileName};

/// The pause after the first failed look-ahead; doubled each time up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Why a file is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was asked for.
    Asked,
    /// It will be.
    Ahead,
}

/// A file on its way; everybody who wants it waits for the same one.
pub type InFlight = Shared<BoxFuture<'static, Outcome>>;

/// Whose first file it was that the repositories were looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Looked {
    #[default]
    ForNobody,
    /// Of this life of the server; of none, when a person pushed.
    For(Option<ServerLife>),
}

/// What is known.
#[derive(Default)]
pub struct State {
    /// What is durable somewhere, and was still marked ready when archive_status was read last.
    pub stored: HashMap<WalFileName, Stored>,
    pub in_flight: HashMap<WalFileName, (InFlight, Arc<Delivery>)>,
    /// Archived files that some repositories have not answered for yet.
    pub lagging: Vec<(WalFileName, Arc<Delivery>)>,
    /// Ready files of the last listing that were not looked at yet.
    pub queue: VecDeque<WalFileName>,
    /// What may be taken from it.
    pub lead: Lead,
    /// Names that the archive has.
    pub there: There,
    /// Repositories that missed a file and were not compared with the others since: they may have been somebody else's meanwhile.
    pub uncompared: BTreeSet<usize>,
    /// Repositories that have what comes before the first file, and of which it was not found out in time whether that is this server's.
    pub unjudged: BTreeSet<usize>,
    /// Repositories that are held against what the server still has, before they get a file (`alone.rs`).
    pub unproven: BTreeSet<usize>,
    /// Repositories that lack some of what the server may still have: another can write that there at any time (`alone.rs`).
    pub gappy: BTreeMap<usize, Gappy>,
    /// For whom it was looked whether they hold what comes before the first file (`first_look.rs`).
    pub looked: Looked,
    /// Where repositories contradict each other, as far as is known.
    pub parted: Vec<((usize, usize), Lineage, Parting)>,
    /// Files of this life of the server, and the repositories that are known to have them: this agent wrote them there, or found the same.
    pub own: (Option<ServerLife>, BTreeMap<WalFileName, BTreeSet<usize>>),
    /// Files that failed since one was archived.
    pub failures: u32,
    /// Nothing is uploaded ahead before this.
    pub paused_until: Option<Instant>,
    /// How often it was forgotten what the archive holds.
    pub forgotten: u64,
}

/// A file that is durable somewhere.
pub struct Stored {
    /// The file in pg_wal.
    pub stamp: FileStamp,
    /// The repositories that have it.
    pub places: BTreeSet<usize>,
    /// The repositories that said that they have other content under its name: whose, and since when. They are believed until they say otherwise.
    pub different: BTreeMap<usize, (Lineage, String, jiff::Timestamp)>,
    /// PostgreSQL asked for it and was told.
    pub acknowledged: bool,
}

impl State {
    pub fn under_way(&self) -> UnderWay {
        let mut under_way = UnderWay { failing: self.failures > 0, ..UnderWay::default() };
        for (_, delivery) in self.in_flight.values() {
            match delivery.sealed_bytes() {
                None => under_way.reading += 1,
                Some(bytes) => {
                    under_way.sealed += 1;
                    under_way.sealed_bytes = under_way.sealed_bytes.saturating_add(bytes);
                }
            }
        }
        under_way
    }

    /// Whether repository `at` has still to answer for an archived file other than `name` that a repository had before: what comes after it would
    /// lie after another life's where that file has other content.
    pub fn may_differ(&self, at: usize, name: WalFileName, now: Instant) -> bool {
        self.lagging.iter().any(|(lagging, delivery)| {
            *lagging != name
                && self.there.has(*lagging, now).is_some_and(|there| there != Presence::Nowhere)
                && delivery.waiting().contains(&at)
        })
    }

    /// Whether a file is on its way whose name may be in the archive already, with other content perhaps.
    pub fn is_unsettled(&self, now: Instant) -> bool {
        let lagging = self.lagging.iter().map(|(name, _)| name);
        self.in_flight.keys().chain(lagging).any(|name| self.there.has(*name, now) != Some(Presence::Nowhere))
    }

    /// What is known of this very file under `name`.
    pub fn stored_as(&mut self, name: WalFileName, stamp: FileStamp) -> &mut Stored {
        let fresh = || Stored { stamp, places: BTreeSet::new(), different: BTreeMap::new(), acknowledged: false };
        let stored = self.stored.entry(name).or_insert_with(fresh);
        if stored.stamp != stamp {
            *stored = fresh();
        }
        stored
    }

    /// Repository `at` has the file `name` of this `life` of the server.
    pub fn holds(&mut self, life: Option<ServerLife>, name: WalFileName, at: usize) {
        let (known, names) = &mut self.own;
        if *known != life {
            (*known, *names) = (life, BTreeMap::new());
        }
        names.entry(name).or_default().insert(at);
        if names.len() > AGREED_MAX {
            names.pop_first();
        }
    }

    /// The archive was changed by a person: what is remembered of it, and what was refused because of it, means nothing any more. It is looked
    /// at as by an agent that has just started.
    pub fn forget(&mut self) {
        self.stored.clear();
        self.queue.clear();
        self.lead.forgive();
        self.uncompared.clear();
        self.unjudged.clear();
        self.unproven.clear();
        self.gappy.clear();
        self.looked = Looked::ForNobody;
        (self.there, self.parted, self.own) = (There::default(), Vec::new(), (None, BTreeMap::new()));
        (self.failures, self.paused_until) = (0, None);
        self.forgotten += 1;
    }

    /// The repository of this number was seen to be gone: what it held counts no more.
    pub fn lost(&mut self, at: usize) {
        for stored in self.stored.values_mut() {
            stored.places.remove(&at);
        }
        for places in self.own.1.values_mut() {
            places.remove(&at);
        }
    }

    /// After a failure nothing is uploaded ahead for a while; what failed comes first again.
    pub fn rest(&mut self) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(Instant::now() + pause);
        self.queue.clear();
    }

    /// Files that are in `needed` repositories and that PostgreSQL did not ask for yet.
    pub fn unasked(&self, needed: usize) -> usize {
        self.stored.values().filter(|stored| stored.places.len() >= needed && !stored.acknowledged).count()
    }
}
