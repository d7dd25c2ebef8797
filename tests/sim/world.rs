//! One seed from its beginning to its end: lives of the agent that end badly, a last one in which everything heals, and what
//! must hold all the while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::Instant;
use walward::archive::{Archiver, Asker, FetchError, Fetched, PushError, Rejection, Want};
use walward::outcome::Exit;
use walward_pg::{Timeline, TimelineHistory, WalFileName};

use crate::disk::{Loss, scratch};
use crate::faults::mix;
use crate::ledger::Ledger;
use crate::machine::{Agent, FETCH_DEADLINE, PUSH_DEADLINE, SetUp, Site, Trace, Weather, note};
use crate::postgres::{Command, FIRST, Postgres, SEGMENT_BYTES, segment, size};
use crate::shape::{Mutant, Shape};
use crate::truth::Truth;

/// The longest that a fetch may take: its deadline, and one round over the repositories at the slowest that a store may be
/// (two minutes and four seconds each) for what is on its way ahead of it, for itself, and for its last round.
const FETCH_MAX: Duration = Duration::from_secs(FETCH_DEADLINE.as_secs() + 3 * 2 * 124);
/// Promotions of one seed.
const PROMOTIONS_MAX: u32 = 4;

pub const PRIMARY: u8 = 1;
pub const RIVAL: u8 = 2;
const TRIED: u8 = 3;

/// What a run saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub refused: u64,
    pub cuts: u64,
    pub failed_pushes: u64,
    pub failed_fetches: u64,
}

pub struct World {
    pub shape: Shape,
    pub sites: Vec<Site>,
    pub primary: Postgres,
    pub rival: Option<Postgres>,
    /// A copy of the primary that is tried out.
    pub trial: Postgres,
    /// A cold copy of the primary's volume.
    pub volume: Option<Postgres>,
    pub copies: u8,
    /// When the primary asked last, in this life of the agent.
    pub asked_last: Option<Instant>,
    pub truth: Truth,
    pub ledger: Arc<Ledger>,
    pub tally: Tally,
    pub trace: Trace,
    random: StdRng,
    folder: TempDir,
    weather: Weather,
}

/// What PostgreSQL would see a `fetch` end with.
#[derive(Debug)]
pub enum Ended {
    Placed(Vec<u8>),
    Absent,
    /// It is nowhere, and the archive goes on after it.
    Hole,
    Failed,
}

impl Ended {
    fn exit(&self) -> Exit {
        match self {
            Self::Placed(_) => Exit::Done,
            Self::Absent => Exit::Absent,
            Self::Hole | Self::Failed => Exit::FetchFailed,
        }
    }
}

impl World {
    pub fn new(seed: u64, shape: Shape, trace: &Trace) -> Self {
        let folder = scratch();
        let key = folder.path().join("key");
        walward_base::sys::durable::create(&key, walward_repo::keys::key_file_text().as_bytes(), 0o600).unwrap();
        let site = |(name, key)| Site::new(name, &shape, seed, (folder.path(), trace), key);
        let keys = [("one", shape.sealed.then_some(key)), ("two", None)];
        let sites = keys.into_iter().take(shape.repositories).map(site).collect();
        let primary = Postgres::new(&folder.path().join("primary"), PRIMARY, seed);
        let rival = shape.rival.then(|| Postgres::new(&folder.path().join("rival"), RIVAL, seed));
        let trial = Postgres::new(&folder.path().join("trial"), TRIED, seed);
        std::fs::create_dir_all(folder.path().join("standby/pg_wal")).unwrap();
        note(trace, format!("seed {seed}: {shape:?}"));
        Self {
            shape,
            sites,
            primary,
            rival,
            trial,
            volume: None,
            copies: 0,
            asked_last: None,
            truth: Truth::default(),
            ledger: Arc::default(),
            tally: Tally::default(),
            trace: Arc::clone(trace),
            random: StdRng::seed_from_u64(mix(seed, &"model")),
            folder,
            weather: Weather::fair(0),
        }
    }

    /// All lives, and the last in which everything heals.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.shape.lives {
            let cut = match self.shape.cut_within {
                0 => None,
                within => Some(self.random.random_range(1..=within)),
            };
            let life = self.weather.life + 1;
            let (store_faults, disk_faults) = (self.shape.store_faults, self.shape.disk_faults);
            let loss = self.loss();
            self.begin(Weather { life, store_faults, disk_faults, cut }, loss)?;
        }
        let loss = self.loss();
        self.heal(loss)
    }

    /// What the machines lose when they start again.
    fn loss(&mut self) -> Loss {
        match self.random.random_range(0..5) {
            0 => Loss::All,
            1 => Loss::Nothing,
            _ => Loss::Some(self.random.random()),
        }
    }

    /// One life that does what chance wants.
    pub fn begin(&mut self, weather: Weather, loss: Loss) -> Result<(), String> {
        self.alive(weather, loss, async |world, agent| {
            for _ in 0..world.shape.actions {
                if agent.is_over(&world.sites) {
                    break;
                }
                world.act(agent).await?;
                agent.check_bounds(world.sites.len())?;
                world.ledger.judge()?;
            }
            Ok(())
        })
    }

    /// Starts the machines, sets the repositories up if need be, runs the agent, and lets `work` have it.
    pub fn alive(
        &mut self,
        weather: Weather,
        loss: Loss,
        work: impl AsyncFnOnce(&mut Self, &Agent) -> Result<(), String>,
    ) -> Result<(), String> {
        self.weather = weather;
        note(&self.trace, format!("life {}: {weather:?}, {loss:?} of what was not synced is lost", weather.life));
        for site in &mut self.sites {
            site.restart(weather, loss, self.folder.path(), &self.trace, self.shape.mutant);
        }
        let clock = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = clock.map_err(|error| error.to_string())?;
        let spool = self.folder.path().join("spool");
        let done = runtime.block_on(async {
            for site in &mut self.sites {
                match site.set_up(self.primary.lineage).await {
                    Ok(()) => {}
                    Err(SetUp::Failed(error)) if weather.disk_faults > 0 || weather.cut.is_some() => {
                        note(&self.trace, error);
                        return Ok(());
                    }
                    Err(SetUp::Failed(error) | SetUp::Gone(error)) => return Err(error),
                }
            }
            let servers = (&self.primary, self.rival.as_ref(), &self.trial);
            let shape = (&self.shape, weather);
            let agent = Agent::start(&self.sites, servers, &self.ledger, shape, &spool, &self.trace)?;
            self.asked_last = None;
            if self.shape.look_ahead {
                for archiver in [agent.archiver.clone(), agent.trial.clone()] {
                    tokio::spawn(async move { archiver.look_ahead(tokio_util::sync::CancellationToken::new()).await });
                }
            }
            let done = work(self, &agent).await;
            done.and_then(|()| self.ledger.judge())
        });
        // The process dies as it stands: what is under way is dropped.
        drop(runtime);
        self.tally.cuts += u64::from(self.sites.iter().filter_map(Site::disk).any(|disk| disk.is_dead()));
        done
    }

    /// What is done next, by chance.
    async fn act(&mut self, agent: &Agent) -> Result<(), String> {
        match self.random.random_range(0..100) {
            0..25 => {
                for _ in 0..self.random.random_range(1..=3) {
                    let name = self.primary.finish_segment();
                    note(&self.trace, format!("PostgreSQL finished {name}"));
                    self.marked(name);
                    if let (WalFileName::Segment(segment), true) = (name, self.random.random_ratio(1, 8)) {
                        self.primary.write(WalFileName::BackupHistory(segment, 0x28));
                    }
                }
                self.see_ready();
                Ok(())
            }
            25..58 => {
                let most = self.random.random_range(1..=5);
                self.archive(agent, most).await
            }
            58..68 => {
                let names: Vec<_> = self.truth.names().into_iter().collect();
                if names.is_empty() {
                    return Ok(());
                }
                let name = names[self.random.random_range(0..names.len())];
                self.fetch(agent, name).await.map(|_| ())
            }
            68..72 => {
                let name = WalFileName::Segment(segment(self.primary.timeline + 1, self.primary.next + 7));
                self.fetch(agent, name).await.map(|_| ())
            }
            72..79 => {
                let from = self.random.random_range(FIRST..=self.primary.next);
                self.recover(agent, from).await.map(|_| ())
            }
            79..84 if self.primary.timeline <= PROMOTIONS_MAX => {
                note(&self.trace, "a standby is promoted".to_owned());
                self.primary.promote();
                self.see_ready();
                Ok(())
            }
            84..90 if self.rival.is_some() => self.rival_acts(agent).await,
            84..90 | 97..99 if self.shape.lives_of_servers => self.live(agent).await,
            90..92 => self.two_agents(agent).await,
            92..94 => {
                // PostgreSQL crashed before it had marked what was archived; and what is marked twice is pushed twice.
                let archived: Vec<_> =
                    self.truth.acknowledged().into_iter().filter(|name| self.primary.path(*name).exists()).collect();
                if !archived.is_empty() {
                    let name = archived[self.random.random_range(0..archived.len())];
                    if !self.truth.is_contested(name) {
                        note(&self.trace, format!("{name} is marked again"));
                        self.primary.mark(name);
                    }
                }
                Ok(())
            }
            94..97 => {
                self.primary.checkpoint();
                Ok(())
            }
            _ => {
                tokio::time::sleep(Duration::from_secs(self.random.random_range(1..90))).await;
                Ok(())
            }
        }
    }

    /// What is marked may be uploaded at any moment from now on.
    pub fn see_ready(&mut self) {
        for name in self.primary.ready() {
            let bytes = std::fs::read(self.primary.path(name)).unwrap();
            self.truth.tried(name, &bytes);
        }
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// PostgreSQL's archiver: one file after the other until one fails, at most `most` of them (`pgarch_ArchiverCopyLoop`).
    pub async fn archive(&mut self, agent: &Agent, most: usize) -> Result<(), String> {
        let asks_without = self.shape.mutant == Mutant::AsksWithoutCommand;
        match self.primary.command {
            Command::Empty if !asks_without => return Ok(()),
            Command::Another if !asks_without => {
                for name in self.primary.ready() {
                    self.ledger.passes(name);
                    self.primary.done(name);
                }
                return Ok(());
            }
            Command::Ours | Command::Empty | Command::Another => {}
        }
        for name in self.primary.ready().into_iter().take(most) {
            if agent.is_over(&self.sites) {
                return Ok(());
            }
            let bytes = std::fs::read(self.primary.path(name)).unwrap();
            let pushed = self.push(&agent.archiver, name, &bytes).await?;
            self.asked_last = Some(Instant::now());
            match pushed {
                // Killed before it could say so to itself.
                Push::Done if self.random.random_ratio(1, 12) => return Ok(()),
                Push::Done => self.primary.done(name),
                Push::Different(_) if self.shape.mutant == Mutant::RefusedIsPassed => {
                    self.primary.done(name);
                    agent.end();
                    return Ok(());
                }
                Push::Different(first) => {
                    self.set_aside(agent, first).await;
                    return Ok(());
                }
                Push::Failed => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One push, and everything that must hold of its answer.
    pub async fn push(&mut self, archiver: &Archiver, name: WalFileName, bytes: &[u8]) -> Result<Push, String> {
        self.truth.tried(name, bytes);
        let begun = Instant::now();
        let answer = archiver.push(name, archiver.find(name)).await;
        let took = begun.elapsed();
        if took > 3 * PUSH_DEADLINE + Duration::from_secs(1) {
            return Err(format!("push {name} took {took:?}"));
        }
        self.judge(name, bytes, &answer)
    }

    fn judge(
        &mut self,
        name: WalFileName,
        bytes: &[u8],
        answer: &Result<walward::archive::Pushed, Arc<PushError>>,
    ) -> Result<Push, String> {
        note(&self.trace, format!("push {name}: {}", shown(answer)));
        match answer.as_ref().map_err(AsRef::as_ref) {
            Ok(_) => {
                self.tally.acknowledged += 1;
                self.truth.acknowledge(name, bytes)?;
                Ok(Push::Done)
            }
            Err(PushError::Different { .. }) if self.truth.is_contested(name) => {
                self.tally.refused += 1;
                Ok(Push::Different(name))
            }
            Err(PushError::Follows { earlier, .. }) if self.truth.is_contested(*earlier) => {
                self.tally.refused += 1;
                Ok(Push::Different(*earlier))
            }
            Err(PushError::Follows { earlier, .. }) => {
                Err(format!("{name} was refused because of {earlier}, although nobody wrote other bytes"))
            }
            Err(PushError::Different { .. }) => Err(format!("{name} was refused, although nobody wrote other bytes")),
            Err(PushError::Rejected { reason, .. }) if !matches!(reason, Rejection::UnknownLineage { .. }) => {
                Err(format!("{name} was rejected: {reason}"))
            }
            Err(PushError::Died(_)) => Err(format!("the upload of {name} panicked")),
            Err(_) => {
                self.tally.failed_pushes += 1;
                Ok(Push::Failed)
            }
        }
    }

    /// The former primary, or a clone, archives a segment of its own under a name of the primary's.
    async fn rival_acts(&mut self, agent: &Agent) -> Result<(), String> {
        let (Some(rival), Some(archiver)) = (&mut self.rival, &agent.rival) else { return Ok(()) };
        let number = self.random.random_range(FIRST..=self.primary.next + 1);
        rival.timeline = self.primary.timeline;
        rival.next = number;
        let name = rival.finish_segment();
        let bytes = std::fs::read(rival.path(name)).unwrap();
        rival.give_up(name);
        self.push(archiver, name, &bytes).await.map(|_| ())
    }

    /// A standby with `archive_mode = always` pushes the same file through an agent of its own at the same moment; or the rival
    /// pushes another one under its name.
    async fn two_agents(&mut self, agent: &Agent) -> Result<(), String> {
        if self.primary.command != Command::Ours {
            return Ok(());
        }
        let Some(name) = self.primary.ready().first().copied() else { return Ok(()) };
        let own = std::fs::read(self.primary.path(name)).unwrap();
        let (mut archiver, mut bytes) = (&agent.twin, own.clone());
        if let (Some(rival), Some(archives), WalFileName::Segment(segment)) = (&mut self.rival, &agent.rival, name)
            && self.random.random()
        {
            rival.timeline = segment.timeline.0;
            rival.next = segment.number(size()).unwrap();
            rival.finish_segment();
            rival.give_up(name);
            bytes = std::fs::read(rival.path(name)).unwrap();
            archiver = archives;
        }
        self.truth.tried(name, &bytes);
        let (first, second) = tokio::join!(
            agent.archiver.push(name, agent.archiver.find(name)),
            archiver.push(name, archiver.find(name))
        );
        self.asked_last = Some(Instant::now());
        self.judge(name, &own, &first)?;
        self.judge(name, &bytes, &second).map(|_| ())
    }

    /// One `fetch` as PostgreSQL asks for it, and everything that must hold of its end.
    pub async fn fetch(&mut self, agent: &Agent, name: WalFileName) -> Result<Ended, String> {
        let begun = Instant::now();
        let fetched = agent.fetcher.fetch(Want::new(Some(self.primary.lineage), name), Asker::OneShot, None).await;
        let took = begun.elapsed();
        agent.check_bounds(self.sites.len())?;
        let ended = match fetched {
            Ok(Fetched::File(place)) => {
                let destination = self.standby().join("RECOVERYXLOG");
                walward_wire::place(place.path(), &destination, None)
                    .map_err(|error| format!("{name} cannot be placed: {error}"))?;
                Ended::Placed(std::fs::read(&destination).unwrap())
            }
            Ok(Fetched::Absent) => Ended::Absent,
            // A history that another command has taken is as missing as a segment.
            Err(FetchError::Hole { next, .. } | FetchError::HistoryLost { next, .. })
                if self.truth.goes_on(name, next) =>
            {
                Ended::Hole
            }
            Err(FetchError::Hole { next, .. } | FetchError::HistoryLost { next, .. }) => {
                return Err(format!("after {name} there is {next}, which nobody archived"));
            }
            Err(error) => {
                note(&self.trace, walward_base::describe(&error));
                Ended::Failed
            }
        };
        note(&self.trace, format!("fetch {name}: {:?} after {took:?}", ended.exit()));
        if took > FETCH_MAX {
            return Err(format!("fetch {name} took {took:?}"));
        }
        match &ended {
            Ended::Placed(bytes) => self.truth.check(name, bytes)?,
            Ended::Absent | Ended::Hole if self.truth.is_acknowledged(name) => {
                return Err(format!("{name} was acknowledged, and fetch says that it is absent"));
            }
            // Only a list tells what is after it, and a stale one may not know.
            Ended::Absent if self.weather.store_faults == 0 => {
                if let Some(after) = self.truth.acknowledged_after(name) {
                    return Err(format!("fetch says that {name} is absent, and {after} after it was acknowledged"));
                }
            }
            Ended::Absent | Ended::Hole => {}
            Ended::Failed => self.tally.failed_fetches += 1,
        }
        Ok(ended)
    }

    fn standby(&self) -> PathBuf {
        self.folder.path().join("standby/pg_wal")
    }

    /// A recovery from segment `from` of the first timeline to the end of the archive, along the newest timeline
    /// (`findNewestTimeLine`, timeline.c; `XLogFileReadAnyTLI`, xlogrecovery.c). The fetch that it ended or stopped with.
    pub async fn recover(&mut self, agent: &Agent, from: u64) -> Result<Ended, String> {
        note(&self.trace, format!("a recovery begins at segment {from}"));
        let mut history = TimelineHistory::root(Timeline(1));
        loop {
            let next = Timeline(history.timeline.0 + 1);
            match self.fetch(agent, WalFileName::History(next)).await? {
                Ended::Placed(text) => {
                    let parsed = TimelineHistory::parse(next, &String::from_utf8_lossy(&text));
                    history = parsed.map_err(|error| format!("the history of {next}: {error}"))?;
                }
                Ended::Absent => break,
                stopped => return Ok(stopped),
            }
        }
        let mut timelines: Vec<(u32, u64)> = history
            .parents
            .iter()
            .map(|(timeline, _)| *timeline)
            .chain([history.timeline])
            .map(|timeline| (timeline.0, history.begin_of(timeline).map_or(0, |begin| begin.0 / SEGMENT_BYTES)))
            .collect();
        timelines.reverse();
        let (mut number, mut current) = (from, 0);
        loop {
            let mut found = None;
            for (timeline, begin) in &timelines {
                if *timeline < current || number < *begin {
                    continue;
                }
                match self.fetch(agent, WalFileName::Segment(segment(*timeline, number))).await? {
                    Ended::Placed(_) => {
                        found = Some(*timeline);
                        break;
                    }
                    Ended::Absent => {}
                    stopped => return Ok(stopped),
                }
            }
            let Some(timeline) = found else { break };
            current = timeline;
            number += 1;
            // Replay.
            tokio::time::sleep(Duration::from_millis(self.random.random_range(1..200))).await;
        }
        note(&self.trace, format!("the recovery ended before segment {number}"));
        Ok(Ended::Absent)
    }

    /// Everything heals: nothing that was acknowledged is missing, and what waits is archived without anybody's help.
    pub fn heal(&mut self, loss: Loss) -> Result<(), String> {
        let weather = Weather::fair(self.weather.life + 1);
        self.switch(Command::Ours);
        // A person keeps the primary's life.
        self.alive(weather, loss, async |world, agent| world.set_all_aside(agent).await)?;
        self.alive(Weather::fair(weather.life + 1), Loss::Nothing, async |world, agent| {
            world.read_all_from_each().await?;
            world.catch_up(agent).await?;
            world.read_all_from_each().await?;
            world.continues_in_each().await?;
            if let Ended::Failed = world.recover(agent, FIRST).await? {
                return Err("a recovery stopped, although nothing is broken".to_owned());
            }
            agent.check_bounds(world.sites.len())?;
            world.same_again_and_other_bytes(agent).await?;
            world.tell_apart().await
        })
    }

    /// PostgreSQL's archiver works off what waits.
    pub async fn catch_up(&mut self, agent: &Agent) -> Result<(), String> {
        let mut failed = 0;
        loop {
            let before = self.primary.ready();
            if before.is_empty() {
                return Ok(());
            }
            let refused = self.tally.failed_pushes;
            self.archive(agent, usize::MAX).await?;
            if agent.is_over(&self.sites) {
                return Err(format!("{} waits, and the agent has ended, although nothing is broken", before[0]));
            }
            failed += self.tally.failed_pushes - refused;
            if failed > 0 {
                return Err(format!("{} cannot be archived, although nothing is broken", self.primary.ready()[0]));
            }
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.random.random_range(0..of.len())])
    }
}

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Done,
    /// A file has two contents, and which.
    Different(WalFileName),
    Failed,
}

fn shown(answer: &Result<walward::archive::Pushed, Arc<PushError>>) -> String {
    match answer {
        Ok(how) => format!("{how:?}"),
        Err(error) => walward_base::describe(error.as_ref()),
    }
}
