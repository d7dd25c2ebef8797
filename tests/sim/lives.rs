//! Lives of servers: a volume that is rolled back, a copy that is tried out, an `archive_command` that is taken away; and what
//! the person does who is told that a file has two contents.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use walward_pg::WalFileName;
use walward_pg::archive_status::archiver_order;

use crate::aside;
use crate::disk::Loss;
use crate::machine::{Agent, Weather, note};
use crate::postgres::Command;
use crate::seeds::{self, Broken};
use crate::shape::{Mutant, Shape};
use crate::wal::plain;
use crate::world::World;

/// The first version of a life that begins with a copy.
const COPIES: u8 = 10;
/// After so long without a push nothing is ahead any more (75 s after a failure).
const LEAD_MAX: Duration = Duration::from_secs(76);
/// More often than lives meet in one seed.
const SET_ASIDE_MAX: usize = 60;

impl World {
    /// What happens to servers, by chance.
    pub async fn live(&mut self, agent: &Agent) -> Result<(), String> {
        match self.chance(0..100) {
            0..15 => {
                note(&self.trace, "the primary is started again".to_owned());
                self.primary.start();
                Ok(())
            }
            15..35 => {
                self.copies += 1;
                let folder = self.folder().join(format!("volume-{}", self.copies));
                note(&self.trace, "the primary's volume is copied, cold".to_owned());
                self.volume = Some(self.primary.copy(&folder, COPIES + self.copies));
                Ok(())
            }
            35..55 => {
                if self.volume.is_some()
                    && is_idle(agent).await
                    && let Some(former) = self.volume.take()
                {
                    note(&self.trace, "the primary's volume is rolled back to its copy".to_owned());
                    self.primary.roll_back(former);
                    self.switch(Command::Ours);
                    self.see_ready();
                }
                Ok(())
            }
            55..80 => self.try_a_copy(agent).await,
            _ => {
                let empty = self.chance(0..2) == 0;
                let command = match self.primary.command {
                    Command::Ours if empty => Command::Empty,
                    Command::Ours => Command::Another,
                    Command::Another | Command::Empty => Command::Ours,
                };
                self.switch(command);
                Ok(())
            }
        }
    }

    /// Another `archive_command`.
    pub fn switch(&mut self, command: Command) {
        note(&self.trace, format!("archive_command: {command:?}"));
        self.primary.command = command;
        if command == Command::Ours {
            self.ledger.all_is_asked_for();
            self.see_ready();
        }
    }

    /// The primary has marked a file.
    pub fn marked(&mut self, name: WalFileName) {
        let asks = self.asked_last.is_some_and(|last| last.elapsed() <= LEAD_MAX);
        if self.primary.command != Command::Ours && !asks {
            self.ledger.nobody_asks_for(name);
        }
    }

    /// A copy of the primary is started for a trial, with `archive_command = ''`; it writes, and is promoted.
    async fn try_a_copy(&mut self, agent: &Agent) -> Result<(), String> {
        if self.chance(0..2) == 0 {
            note(&self.trace, "a copy of the primary is started for a trial".to_owned());
            self.copies += 1;
            let folder = self.folder().join(format!("trial-{}", self.copies));
            let copy = self.primary.copy(&folder, COPIES + self.copies);
            self.trial.roll_back(copy);
            self.trial.command = Command::Empty;
        }
        if self.chance(0..3) == 0 {
            self.trial.promote();
        }
        for _ in 0..3 {
            self.trial.finish_segment();
        }
        agent.trial.wake();
        if self.shape.mutant == Mutant::CopyAsks
            && let Some(name) = self.trial.ready().first().copied()
        {
            self.ledger.asks(name);
            let _ = agent.trial.push(name, agent.trial.find(name)).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(())
    }

    /// The person who is told that `first` has two contents keeps the primary's: the other life is set aside in every repository that has
    /// another `first` than the primary's, and in those that have none. The agent is told, as the command tells it.
    pub async fn set_aside(&mut self, agent: &Agent, first: WalFileName) {
        note(&self.trace, format!("the DBA sets the other life aside from {first} on"));
        let mut sites = Vec::new();
        for site in &self.sites {
            // What cannot be read now is found the next time.
            let Ok(there) = site.contents(self.primary.lineage).await else { continue };
            let own = self.primary.own.lock().unwrap();
            if there.get(&first).is_none_or(|print| own.get(&first) != Some(print)) {
                sites.push(site);
            }
        }
        let mut gone = Vec::new();
        let finished = aside::set_aside(&sites, self.primary.data(), (self.primary.lineage, first), &mut gone).await;
        for (site, name) in gone {
            note(&self.trace, format!("{name} has left {site}"));
            self.ledger.removed(site, name);
            // What the primary has and was told of stays: it is nowhere marked again.
            let own = self.primary.own.lock().unwrap().get(&name).copied();
            if !self.primary.path(name).exists() || !self.truth.is_acknowledged_as(name, own) {
                self.truth.set_aside(name);
            }
        }
        // The same command goes on with it, the next time.
        if let Err(why) = finished {
            note(&self.trace, format!("it is not finished: {why}"));
        }
        for archiver in [&agent.archiver, &agent.twin] {
            archiver.forget();
        }
        agent.fetcher.forget();
    }

    /// What is in any repository with other bytes than the primary's: also what its writer was never told of.
    async fn foreign(&self) -> BTreeSet<WalFileName> {
        let mut foreign = BTreeSet::new();
        for site in &self.sites {
            // What cannot be read now is found the next time.
            let Ok(there) = site.contents(self.primary.lineage).await else { continue };
            let own = self.primary.own.lock().unwrap();
            foreign
                .extend(there.into_iter().filter(|(name, print)| own.get(name) != Some(print)).map(|(name, _)| name));
        }
        foreign
    }

    /// The same, of all that is another's, before everything heals.
    pub async fn set_all_aside(&mut self, agent: &Agent) -> Result<(), String> {
        for _ in 0..SET_ASIDE_MAX {
            let Some(first) = self.foreign().await.into_iter().min_by_key(archiver_order) else { return Ok(()) };
            note(&self.trace, format!("{first} is another's"));
            self.set_aside(agent, first).await;
        }
        Err(format!("after {SET_ASIDE_MAX} times there still is what another wrote"))
    }

    fn chance(&mut self, range: std::ops::Range<u32>) -> u32 {
        self.random().random_range(range)
    }
}

/// Waits until nothing is on its way: what was read of the former volume is the former server's.
async fn is_idle(agent: &Agent) -> bool {
    for _ in 0..120 {
        if agent.archiver.counts().1 == 0 && agent.twin.counts().1 == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    false
}

/// A volume is copied, its first life archives one segment more, and the second life begins with three others.
pub fn roll_back(mutant: Mutant) -> Result<(), Broken> {
    seeds::watched(0, move |trace| {
        let shape = Shape { look_ahead: true, lives_of_servers: true, ..plain(false, mutant) };
        let mut world = World::new(0, shape, trace);
        world.alive(Weather::fair(1), Loss::Nothing, async |world, agent| {
            let same = [world.primary.finish_segment(), world.primary.finish_segment()];
            let copy = world.primary.copy(&world.folder().join("volume"), COPIES);
            world.primary.finish_segment();
            world.see_ready();
            while !world.primary.ready().is_empty() {
                world.archive(agent, 10).await?;
            }
            tokio::time::sleep(Duration::from_secs(70)).await;
            world.primary.roll_back(copy);
            for _ in 0..3 {
                world.primary.finish_segment();
            }
            world.see_ready();
            // PostgreSQL asks for what both lives have.
            for name in same {
                let bytes = std::fs::read(world.primary.path(name)).unwrap();
                world.push(&agent.archiver, name, &bytes).await?;
                world.primary.done(name);
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            world.ledger.judge()
        })?;
        world.heal(Loss::Nothing)
    })
}

#[test]
fn a_volume_that_is_rolled_back_mixes_no_lives() {
    seeds::expect("a_volume_that_is_rolled_back_mixes_no_lives", roll_back(Mutant::None));
}
