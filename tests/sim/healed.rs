//! What must hold once nothing is broken any more; and, one thing after the other, what the end of a fetch says when something
//! is.

use std::sync::Arc;
use std::time::Duration;

use walward::archive::{AtHole, FetchError, PushError, Retrieved, Spot, Want, archive_file, retrieve};
use walward::catalogue::seams;
use walward_base::ErrorClass;
use walward_pg::WalFileName;
use walward_repo::LazyRepository;
use walward_storage::fault::{Fault, Plan};

use crate::machine::{Agent, Site, note};
use crate::postgres::{Postgres, segment};
use crate::world::World;

/// Every call goes wrong in the same way.
fn always(fault: Fault) -> Plan {
    Plan::By(Box::new(move |_| Some(fault)))
}

/// No call goes wrong.
fn never() -> Plan {
    Plan::By(Box::new(|_| None))
}

fn sound(sites: &[Site]) -> Vec<Arc<LazyRepository>> {
    sites.iter().map(|site| site.lazy(site.store(), never())).collect()
}

impl World {
    async fn ask(
        &self,
        repositories: &[Arc<LazyRepository>],
        name: WalFileName,
    ) -> Result<Result<Vec<u8>, Retrieved>, FetchError> {
        let path = self.folder().join("asked");
        let want = Want::new(Some(self.primary.lineage), name);
        let found = retrieve(repositories, &want, &Spot::own(path.clone()), Duration::ZERO, AtHole::Tell).await?;
        Ok(match found {
            Retrieved::File { .. } => Ok(std::fs::read(&path).unwrap()),
            Retrieved::Absent => Err(found),
        })
    }

    /// Every repository by itself has all that was acknowledged.
    pub async fn read_all_from_each(&self) -> Result<(), String> {
        for repository in sound(&self.sites) {
            for name in self.truth.acknowledged() {
                let told =
                    |what: &str| format!("{name} was acknowledged, and repository {}: {what}", repository.name());
                match self.ask(std::slice::from_ref(&repository), name).await {
                    Ok(Ok(bytes)) => self.truth.check(name, &bytes)?,
                    Ok(Err(_)) => return Err(told("does not have it")),
                    Err(error) => return Err(told(&walward_base::describe(&error))),
                }
            }
        }
        Ok(())
    }

    /// In every repository each segment that was acknowledged continues the one before it.
    pub async fn continues_in_each(&self) -> Result<(), String> {
        let segments = self.truth.acknowledged().into_iter().filter_map(|name| match name {
            WalFileName::Segment(segment) => Some(segment),
            WalFileName::Partial(_) | WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
        });
        let segments: Vec<_> = segments.collect();
        for lazy in sound(&self.sites) {
            let repository = lazy.get().await.map_err(|error| walward_base::describe(&error))?;
            let (name, lineage) = (repository.name().to_owned(), self.primary.lineage);
            let seams = seams(&[repository], lineage, segments.iter().copied()).await;
            if let Some(why) = seams.warning() {
                return Err(why);
            }
            note(
                &self.trace,
                format!("{} segments of repository {name} were compared with the one before", seams.compared),
            );
            if let Some(seam) = seams.found.first() {
                return Err(format!("in repository {name} {} does not continue {}", seam.segment, seam.before));
            }
        }
        Ok(())
    }

    /// The same bytes again are a success; others are refused, and nothing is overwritten.
    pub async fn same_again_and_other_bytes(&mut self, agent: &Agent) -> Result<(), String> {
        let Some(name) = self.pick(&self.truth.acknowledged()) else { return Ok(()) };
        let repositories = sound(&self.sites);
        let fetched = self.ask(&repositories, name).await.map_err(|error| error.to_string())?;
        let Ok(mut bytes) = fetched else { return Err(format!("{name} is gone")) };
        let stranger = Postgres::new(&self.folder().join("stranger"), 3, 0);
        std::fs::write(stranger.path(name), &bytes).unwrap();
        let again = archive_file(&repositories, &stranger.pg_wal(), name, "stranger").await;
        again.map_err(|error| format!("{name} was not taken again: {error}"))?;
        match name {
            WalFileName::Segment(_) | WalFileName::Partial(_) => *bytes.last_mut().unwrap() ^= 1,
            WalFileName::History(_) | WalFileName::BackupHistory(..) => bytes.extend(b"# another\n"),
        }
        std::fs::write(stranger.path(name), &bytes).unwrap();
        note(&self.trace, format!("{name} is pushed again, and with other bytes"));
        match archive_file(&repositories, &stranger.pg_wal(), name, "stranger").await {
            Err(PushError::Different { .. }) => {}
            Err(error) => return Err(format!("other bytes under {name} were not told from a failure: {error}")),
            Ok(_) => return Err(format!("other bytes under {name} were taken")),
        }
        self.fetch(agent, name).await.map(|_| ())
    }

    /// Absent, unreachable and corrupt are three things.
    pub async fn tell_apart(&mut self) -> Result<(), String> {
        let unknown = WalFileName::Segment(segment(self.primary.timeline, self.primary.next + 100));
        let absent = self.ask(&sound(&self.sites), unknown).await;
        if !matches!(absent, Ok(Err(Retrieved::Absent))) {
            return Err(format!("{unknown}, which nobody archived, is not absent: {absent:?}"));
        }
        let Some(known) = self.pick(&self.truth.acknowledged()) else { return Ok(()) };
        note(&self.trace, format!("{known} and {unknown} are asked for while something is broken"));
        for (fault, class) in [
            (Fault::Before(ErrorClass::Transient), ErrorClass::Transient),
            (Fault::Hang, ErrorClass::Transient),
            (Fault::Before(ErrorClass::Denied), ErrorClass::Denied),
            (Fault::Before(ErrorClass::Permanent), ErrorClass::Permanent),
            (Fault::Corrupt, ErrorClass::Corrupt),
        ] {
            for broken in 0..self.sites.len() {
                let plan = |at| if at == broken { always(fault) } else { never() };
                let sites = self.sites.iter().enumerate();
                let repositories: Vec<_> = sites.map(|(at, site)| site.lazy(site.store(), plan(at))).collect();
                // The one that works has it; but it cannot speak for the other.
                match self.ask(&repositories, known).await {
                    Ok(Ok(bytes)) if self.sites.len() > 1 => self.truth.check(known, &bytes)?,
                    Err(error) if self.sites.len() == 1 && error.class() == class => {}
                    other => return Err(format!("{fault:?} in repository {broken}: {known} is {}", kind(&other))),
                }
                match self.ask(&repositories, unknown).await {
                    Err(error) if error.class() == class => {}
                    other => return Err(format!("{fault:?} in repository {broken}: {unknown} is {}", kind(&other))),
                }
            }
        }
        for site in &self.sites {
            let Some(disk) = site.disk() else { continue };
            let (mounted, away) = (disk.root().join("repository"), disk.root().join("away"));
            std::fs::rename(&mounted, &away).unwrap();
            let answers = [self.ask(&[site.lazy(site.store(), never())], known).await, {
                std::fs::create_dir_all(mounted.join(crate::machine::CLUSTER)).unwrap();
                self.ask(&[site.lazy(site.store(), never())], known).await
            }];
            std::fs::remove_dir_all(&mounted).unwrap();
            std::fs::rename(&away, &mounted).unwrap();
            if let Some(other) = answers.iter().find(|answer| answer.is_ok()) {
                return Err(format!("a disk that is not mounted: {known} is {}", kind(other)));
            }
        }
        Ok(())
    }
}

fn kind(answer: &Result<Result<Vec<u8>, Retrieved>, FetchError>) -> String {
    match answer {
        Ok(Ok(_)) => "placed".to_owned(),
        Ok(Err(retrieved)) => format!("{retrieved:?}"),
        Err(error) => format!("{} ({})", walward_base::describe(error), error.class()),
    }
}
