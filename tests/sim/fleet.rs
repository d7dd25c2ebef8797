//! Two or three repositories of which fewer are enough, each out of a server's reach for a while, and a copy of the server that archives
//! into them, too; and the debt that is brought afterwards.
//!
//! What must hold: what was acknowledged is in as many of them as was said at any moment, with the bytes of the server that was told so; what
//! lies in one of them after a file that two lives wrote is of one of these lives alone, whoever wrote or brought it; no agent
//! brings another life's file where its own server has archived that name; where they do not agree it is told; and where they do,
//! all have everything in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walward::archive::{Acknowledge, ArchiveOptions, Archiver, PushError};
use walward::health::ArchiveStats;
use walward_base::{ErrorClass, describe};
use walward_pg::archive_status::archiver_order;
use walward_pg::{Lineage, WalFileName};
use walward_storage::fault::{Fault, Plan};

use crate::aside;
use crate::disk::scratch;
use crate::faults::{mix, of_store};
use crate::machine::{CLUSTER, MEMORY_MIB, PUSH_DEADLINE, SetUp, Site, Trace, note};
use crate::noted::{Away, Book, Noted, SharedBook};
use crate::postgres::Postgres;
use crate::shape::{Mutant, Shape};
use crate::wal::plain;

pub const PRIMARY: &str = "primary";
pub const COPY: &str = "copy";
/// What an agent has begun before it can have seen a file: a listing that it believes for a minute, and a push that goes on.
const UNSEEN_MAX: Duration = Duration::from_mins(5);
const UNSEEN_MAX_IN_BAD_WEATHER: Duration = Duration::from_mins(20);
/// What a comparison has listed before its agent's server was told that a file is archived.
const TOLD_LATELY: Duration = Duration::from_secs(30);
/// Longer than repositories that owe each other nothing are left uncompared.
const COMPARED_WITHIN: Duration = Duration::from_mins(75);
/// More often than lives meet in one repository.
const SET_ASIDE_MAX: usize = 60;

/// What a seed stands for.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub repositories: usize,
    /// In how many of them a file must be.
    pub acknowledge: usize,
    pub sealed: bool,
    pub look_ahead: bool,
    /// A copy of the primary comes to life and archives.
    pub copied: bool,
    pub lives: u64,
    pub actions: u32,
    /// One call to a store in so many fails; 0 is none.
    pub store_faults: u64,
    /// How far the second store's clock is ahead, hours.
    pub clock: i64,
    pub mutant: Mutant,
}

impl Setting {
    pub fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(mix(seed, &"debts"));
        let mut pick = |of: &[u64]| of[random.random_range(0..of.len())];
        Self {
            sealed: pick(&[0, 0, 0, 1]) == 1,
            look_ahead: pick(&[0, 1]) == 1,
            copied: pick(&[0, 1, 1]) == 1,
            lives: pick(&[1, 2, 3]),
            actions: pick(&[10, 16, 24]) as u32,
            store_faults: pick(&[0, 0, 6, 15]),
            clock: [0, 0, 2, -2][pick(&[0, 1, 2, 3]) as usize],
            // Three in every other seed.
            repositories: pick(&[2, 3]) as usize,
            acknowledge: pick(&[1, 1, 2]) as usize,
            mutant: Mutant::None,
        }
        .of_three()
        .possible()
    }

    /// With three more has to happen until they differ.
    fn of_three(self) -> Self {
        Self { actions: if self.repositories > 2 { 2 * self.actions } else { self.actions }, ..self }
    }

    /// Of two repositories one is enough, or none could be away.
    pub fn possible(self) -> Self {
        Self { acknowledge: self.acknowledge.min(self.repositories - 1), ..self }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub failed: u64,
    pub refused: u64,
    /// Files that came to a repository later.
    pub paid: u64,
    pub parted: u64,
    /// Steps after which something waited that was not known to be the server's.
    pub waited: u64,
}

pub struct Fleet {
    setting: Setting,
    seed: u64,
    pub sites: Vec<Site>,
    pub primary: Postgres,
    pub copy: Option<Postgres>,
    copies: u8,
    /// In how many repositories what was acknowledged must be: as many as that takes, until a person sets files aside.
    needed: usize,
    /// What servers were told is archived.
    acknowledged: BTreeMap<(&'static str, WalFileName), u64>,
    book: SharedBook,
    pub away: Away,
    pub tally: Tally,
    random: StdRng,
    folder: TempDir,
    trace: Trace,
}

/// The agents of one life.
pub struct Agents {
    pub primary: Archiver,
    copy: Option<Archiver>,
}

impl Fleet {
    pub fn new(seed: u64, setting: Setting, trace: &Trace) -> Self {
        let folder = scratch();
        let key = folder.path().join("key");
        walward_base::sys::durable::create(&key, walward_repo::keys::key_file_text().as_bytes(), 0o600).unwrap();
        let shape = Shape { disks: false, ..plain(setting.sealed, Mutant::None) };
        let keys = [("one", setting.sealed.then_some(key)), ("two", None), ("three", None)];
        let sites = keys
            .into_iter()
            .take(setting.repositories)
            .map(|(name, key)| Site::new(name, &shape, seed, (folder.path(), trace), key));
        let sites: Vec<Site> = sites.collect();
        let primary = Postgres::new(&folder.path().join(PRIMARY), 1, seed);
        let book = SharedBook::default();
        {
            let mut book = book.lock().unwrap();
            book.lives.push(Arc::clone(&primary.own));
            book.sites = sites.iter().map(|site| site.name).collect();
        }
        note(trace, format!("seed {seed}: {setting:?}"));
        Self {
            setting,
            seed,
            sites,
            primary,
            copy: None,
            copies: 0,
            needed: setting.acknowledge,
            acknowledged: BTreeMap::new(),
            book,
            away: Away::default(),
            tally: Tally::default(),
            random: StdRng::seed_from_u64(mix(seed, &"fleet")),
            folder,
            trace: Arc::clone(trace),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// What is in a repository.
    pub fn held(&self, site: &'static str) -> BTreeMap<WalFileName, u64> {
        self.book().of(site)
    }

    fn say(&self, line: String) {
        note(&self.trace, line);
    }

    fn chance(&mut self, range: Range<u32>) -> u32 {
        self.random.random_range(range)
    }

    pub fn run(&mut self) -> Result<(), String> {
        for life in 1..=self.setting.lives {
            self.alive(life, self.setting.store_faults, async |fleet, agents| {
                for _ in 0..fleet.setting.actions {
                    if !fleet.act(agents).await? {
                        return Ok(());
                    }
                    fleet.judge()?;
                    let facts = agents.primary.repository_facts();
                    fleet.tally.waited += u64::from(facts.iter().any(|facts| facts.waits.is_some()));
                }
                fleet.settle(agents).await
            })?;
        }
        self.heal()
    }

    /// The agents run for one life.
    pub fn alive(
        &mut self,
        life: u64,
        store_faults: u64,
        work: impl AsyncFnOnce(&mut Self, &mut Agents) -> Result<(), String>,
    ) -> Result<(), String> {
        self.say(format!("life {life}, one call in {store_faults} fails"));
        {
            let mut book = self.book();
            book.life = life;
            book.told_lately = if store_faults == 0 { TOLD_LATELY } else { UNSEEN_MAX_IN_BAD_WEATHER };
            book.unseen = if store_faults == 0 { UNSEEN_MAX } else { UNSEEN_MAX_IN_BAD_WEATHER };
        }
        if self.setting.mutant == Mutant::OnlyThoseThere && life <= self.setting.lives {
            self.turn();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let done = runtime.block_on(async {
            for site in &mut self.sites {
                if let Err(SetUp::Failed(error) | SetUp::Gone(error)) = site.set_up(self.primary.lineage).await {
                    return Err(error);
                }
            }
            let primary = self.agent(PRIMARY, &self.primary, (life, store_faults)).await;
            let copy = match &self.copy {
                Some(copy) => Some(self.agent(COPY, copy, (life, store_faults)).await),
                None => None,
            };
            let mut agents = Agents { primary, copy };
            let done = work(self, &mut agents).await.and_then(|()| self.judge());
            let paid = agents.primary.repository_facts();
            self.tally.paid += paid.iter().map(|facts| facts.paid_total).sum::<u64>();
            done
        });
        drop(runtime);
        done
    }

    async fn agent(&self, who: &'static str, server: &Postgres, (life, faults): (u64, u64)) -> Archiver {
        let mut repositories = Vec::new();
        let is_there = |site: &Site| !self.away.lock().unwrap().contains(&(who, site.name));
        let all = self.setting.mutant != Mutant::OnlyThoseThere || !self.sites.iter().any(is_there);
        for (at, site) in self.sites.iter().enumerate().filter(|(_, site)| all || is_there(site)) {
            let (away, name) = (Arc::clone(&self.away), site.name);
            let Plan::By(mut other) = of_store(mix(self.seed, &(life, who, name)), faults) else { unreachable!() };
            let trace = Arc::clone(&self.trace);
            let plan = Plan::By(Box::new(move |call| {
                let is_away = away.lock().unwrap().contains(&(who, name));
                let fault = if is_away { Some(Fault::Before(ErrorClass::Transient)) } else { other(call) };
                let what = fault.map_or_else(String::new, |fault| format!("  <- {fault:?}"));
                if call.verb == "put" || fault.is_some() && !is_away {
                    note(&trace, format!("  {who} {name}: {} {}{what}", call.verb, call.key));
                }
                fault
            }));
            let by_name = self.setting.mutant == Mutant::NamesCompared && at == 1;
            let noted = Noted {
                who,
                site: name,
                inner: site.store(),
                repository: site.open().await.unwrap(),
                book: Arc::clone(&self.book),
                away: Arc::clone(&self.away),
                pg_wal: server.pg_wal(),
                clock: SignedDuration::from_hours(if at == 1 { self.setting.clock } else { 0 }),
                taken_from: by_name.then(|| self.sites[0].store()),
            };
            repositories.push(site.lazy(Arc::new(noted), plan));
        }
        let options = ArchiveOptions {
            acknowledge: Acknowledge::Number(self.setting.acknowledge.try_into().unwrap()),
            workers: 4,
            look_ahead: 8,
            deadline: PUSH_DEADLINE,
            rescan_interval: Duration::from_secs(10),
            writer: who.to_owned(),
        };
        let memory = (Arc::new(Semaphore::new(MEMORY_MIB as usize)), MEMORY_MIB);
        let stop = CancellationToken::new();
        let stats = Arc::new(ArchiveStats::default());
        let archiver = Archiver::new(CLUSTER, server.data(), repositories, options, memory, stats, stop);
        let (ahead, debts) = (archiver.clone(), archiver.clone());
        if self.setting.look_ahead {
            tokio::spawn(async move { ahead.look_ahead(CancellationToken::new()).await });
        }
        if self.setting.mutant != Mutant::DebtsForgotten {
            tokio::spawn(async move { debts.work_off(CancellationToken::new()).await });
        }
        archiver
    }

    /// What is done next, by chance. Whether the agents go on.
    async fn act(&mut self, agents: &mut Agents) -> Result<bool, String> {
        match self.chance(0..100) {
            0..20 => {
                let most = self.chance(1..4);
                (0..most).for_each(|_| _ = self.primary.finish_segment());
            }
            20..50 => return self.archive(agents, PRIMARY).await,
            50..58 if self.copy.is_some() => {
                let most = self.chance(1..4);
                let copy = self.copy.as_mut().unwrap();
                (0..most).for_each(|_| _ = copy.finish_segment());
            }
            58..72 if self.copy.is_some() => return self.archive(agents, COPY).await,
            50..60 if self.setting.copied => {
                self.copy_lives(agents).await;
            }
            72..90 if self.setting.repositories > 2 => {
                self.turn();
                // Long enough for what is owed to be looked at.
                tokio::time::sleep(Duration::from_secs(150)).await;
                if self.copy.is_some() && self.chance(0..2) == 0 {
                    let most = self.chance(1..4);
                    for _ in 0..most {
                        self.primary.finish_segment();
                        self.copy.as_mut().unwrap().finish_segment();
                    }
                    return Ok(self.archive(agents, PRIMARY).await? && self.archive(agents, COPY).await?);
                }
            }
            72..86 => self.unplug(),
            86..88 => {
                self.say("a standby is promoted".to_owned());
                self.primary.promote();
            }
            // What the server has recycled proves nothing, and a repository that is alone gets the next files: that is known, and told.
            88..91 if self.copy.is_none() || self.setting.repositories == 2 => self.primary.checkpoint(),
            91..93 => return Ok(false),
            _ => {
                let seconds = self.chance(1..900);
                tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            }
        }
        Ok(true)
    }

    pub async fn copy_lives(&mut self, agents: &mut Agents) {
        self.copies += 1;
        let copy = self.primary.copy(&self.folder.path().join(format!("copy-{}", self.copies)), 9 + self.copies);
        self.say("a copy of the primary comes to life".to_owned());
        self.book().lives.push(Arc::clone(&copy.own));
        let life = self.book().life;
        agents.copy = Some(self.agent(COPY, &copy, (life, self.setting.store_faults)).await);
        self.copy = Some(copy);
    }

    /// A server loses sight of a repository, or sees it again.
    fn unplug(&mut self) {
        let who = if self.copy.is_some() && self.chance(0..2) == 0 { COPY } else { PRIMARY };
        let site = ["two", "one"][usize::from(self.chance(0..4) == 0)];
        let mut away = self.away.lock().unwrap();
        let gone = !away.remove(&(who, site));
        if gone {
            away.insert((who, site));
        }
        drop(away);
        self.say(format!("{who} {} repository {site}", if gone { "loses sight of" } else { "sees again" }));
    }

    /// The network parts otherwise than before: each repository is seen by one of the servers, by both, or by none.
    fn turn(&mut self) {
        let names: Vec<_> = self.sites.iter().map(|site| site.name).collect();
        let mut of_primary: BTreeSet<_> = names.iter().copied().filter(|_| self.chance(0..2) == 0).collect();
        let mut of_copy: BTreeSet<_> = names.iter().copied().filter(|_| self.chance(0..2) == 0).collect();
        let first = self.chance(0..names.len() as u32) as usize;
        let at = |number: usize| names[number % names.len()];
        match self.chance(0..5) {
            // One each, and what is left is seen by neither.
            0 | 1 => (of_primary, of_copy) = ([at(first)].into(), [at(first + 1)].into()),
            // All but one.
            2 | 3 => of_primary = (1..names.len()).map(|further| at(first + further)).collect(),
            _ => {}
        }
        let gone = |who, seen: &BTreeSet<_>| {
            names.iter().copied().filter(|name| !seen.contains(name)).map(|name| (who, name)).collect::<Vec<_>>()
        };
        let gone: BTreeSet<_> = gone(PRIMARY, &of_primary).into_iter().chain(gone(COPY, &of_copy)).collect();
        self.say(format!("not seen: {gone:?}"));
        *self.away.lock().unwrap() = gone;
    }

    /// A server's archiver: one file after the other until one fails. Whether the agents go on.
    pub async fn archive(&mut self, agents: &Agents, who: &'static str) -> Result<bool, String> {
        let archiver = if who == PRIMARY { Some(&agents.primary) } else { agents.copy.as_ref() };
        let Some(archiver) = archiver else { return Ok(true) };
        for _ in 0..4 {
            let server = if who == PRIMARY { &self.primary } else { self.copy.as_ref().unwrap() };
            let Some(name) = server.ready().first().copied() else { return Ok(true) };
            let print = server.own.lock().unwrap().get(&name).copied();
            let answer = archiver.push(name, archiver.find(name)).await;
            let text = answer.as_ref().map_or_else(|error| describe(error.as_ref()), |how| format!("{how:?}"));
            self.say(format!("{who} pushes {name}: {text}"));
            match answer.as_ref().map_err(AsRef::as_ref) {
                Ok(_) => {
                    server.done(name);
                    self.tally.acknowledged += 1;
                    self.acknowledged.insert((who, name), print.unwrap());
                    self.book().told(who, name, print.unwrap());
                    self.judge()?;
                }
                Err(PushError::Different { .. }) if self.book().is_contested(name) => return Ok(self.refused()),
                Err(PushError::Follows { earlier, .. }) if self.book().is_contested(*earlier) => {
                    return Ok(self.refused());
                }
                Err(PushError::Different { .. } | PushError::Follows { .. }) => {
                    return Err(format!("{name} of the {who} was refused, although nobody wrote other bytes: {text}"));
                }
                Err(PushError::Rejected { .. } | PushError::Died(_) | PushError::Read { .. }) => {
                    return Err(format!("{name} of the {who}: {text}"));
                }
                Err(_) => {
                    self.tally.failed += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Whether the agents go on: the person who is told may not be there.
    fn refused(&mut self) -> bool {
        self.tally.refused += 1;
        self.chance(0..3) > 0
    }

    /// What was acknowledged is somewhere, with the bytes of the server that was told; and nothing is a mixture.
    pub fn judge(&self) -> Result<(), String> {
        let book = self.book();
        if let Some(broken) = &book.broken {
            return Err(broken.clone());
        }
        for ((who, name), print) in &self.acknowledged {
            let has = |site: &&Site| book.held.get(&(site.name, *name)).is_some_and(|held| held.print == *print);
            if self.sites.iter().filter(has).count() < self.needed {
                return Err(format!("{name} of the {who} was acknowledged, and too few repositories have it"));
            }
        }
        Ok(())
    }

    /// The names that any two have with two contents.
    fn parted(&self) -> BTreeSet<WalFileName> {
        let mut prints: BTreeMap<WalFileName, BTreeSet<u64>> = BTreeMap::new();
        for ((_, name), held) in &self.book().held {
            prints.entry(*name).or_default().insert(held.print);
        }
        prints.into_iter().filter(|(_, prints)| prints.len() > 1).map(|(name, _)| name).collect()
    }

    /// Everybody sees everything, for long enough: what does not agree is told, and otherwise nothing is owed.
    async fn settle(&mut self, agents: &Agents) -> Result<(), String> {
        self.away.lock().unwrap().clear();
        self.say("everything can be reached".to_owned());
        tokio::time::sleep(COMPARED_WITHIN).await;
        self.judge()?;
        if self.setting.store_faults > 0 {
            return Ok(());
        }
        let facts = agents.primary.repository_facts();
        let told = facts.iter().find_map(|facts| facts.differs.clone());
        let parted = self.parted();
        match (parted.first(), told) {
            (None, None) => self.nothing_is_owed(agents),
            (Some(first), None) => Err(format!("the repositories have two contents of {first}, and nobody is told")),
            (None, Some(told)) => Err(format!("{told} is said to have two contents, and has one")),
            (Some(_), Some(_)) => {
                self.tally.parted += 1;
                Ok(())
            }
        }
    }

    fn nothing_is_owed(&self, agents: &Agents) -> Result<(), String> {
        let all: Vec<_> = self.sites.iter().map(|site| (site.name, self.held(site.name))).collect();
        let pairs = all.iter().flat_map(|here| all.iter().map(move |there| (&here.1, &there.1, there.0)));
        for (here, there, name) in pairs {
            // What is older than all that it has is not owed to it where its clock says so.
            let first = there.keys().find(|name| matches!(name, WalFileName::Segment(_)));
            let is_owed = |file: &WalFileName| {
                let later = matches!((first, file), (Some(first), WalFileName::Segment(_)) if first <= file);
                later || self.setting.clock <= 0 && name == "two" || self.setting.clock >= 0 && name != "two"
            };
            if let Some(lacking) = here.keys().find(|file| is_owed(file) && !there.contains_key(*file)) {
                return Err(format!("repository {name} was never brought {lacking}"));
            }
        }
        let owing = agents.primary.repository_facts().iter().any(|facts| facts.files > 0);
        if owing { Err("it is said that something is owed, and nothing is".to_owned()) } else { Ok(()) }
    }

    /// The copy ends, a person sets aside what is not the primary's, and both repositories get all that is.
    pub fn heal(&mut self) -> Result<(), String> {
        self.copy = None;
        self.needed = 1;
        self.acknowledged.retain(|(who, _), _| *who == PRIMARY);
        self.away.lock().unwrap().clear();
        let life = self.setting.lives + 1;
        self.alive(life, 0, async |fleet, agents| fleet.set_aside(agents).await)?;
        self.alive(life + 1, 0, async |fleet, agents| {
            fleet.primary.finish_segment();
            while !fleet.primary.ready().is_empty() {
                let failed = (fleet.tally.failed, fleet.tally.refused);
                fleet.archive(agents, PRIMARY).await?;
                if failed != (fleet.tally.failed, fleet.tally.refused) {
                    return Err(format!("{} cannot be archived, although nothing is broken", fleet.primary.ready()[0]));
                }
            }
            fleet.settle(agents).await?;
            let lineage = fleet.primary.lineage;
            for site in &fleet.sites {
                let there = site.contents(lineage).await.map_err(|error| describe(&error))?;
                if there != fleet.held(site.name) {
                    return Err(format!("repository {} holds other files than it was brought", site.name));
                }
            }
            Ok(())
        })
    }

    async fn set_aside(&mut self, agents: &Agents) -> Result<(), String> {
        let lineage: Lineage = self.primary.lineage;
        for site in &self.sites {
            for _ in 0..SET_ASIDE_MAX {
                let own = self.primary.own.lock().unwrap().clone();
                let foreign = self.held(site.name).into_iter().filter(|(name, print)| own.get(name) != Some(print));
                let Some(first) = foreign.map(|(name, _)| name).min_by_key(archiver_order) else { break };
                self.say(format!("the DBA sets aside what follows {first} in repository {}", site.name));
                let mut gone = Vec::new();
                aside::set_aside(&[site], self.primary.data(), (lineage, first), &mut gone).await?;
                for (at, name) in gone {
                    self.book().held.remove(&(at, name));
                    // What the server has no more may go with the other life: it is named, and lies aside.
                    if !self.primary.path(name).exists() {
                        self.acknowledged.remove(&(PRIMARY, name));
                    }
                }
                agents.primary.forget();
            }
        }
        Ok(())
    }
}
