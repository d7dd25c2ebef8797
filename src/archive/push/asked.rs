//! How an archiver answers PostgreSQL: at once for what is durable already, else when it is, and never later than its deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug};

use super::archiver::Archiver;
use super::delivery::Outcome;
use super::error::PushError;
use super::lead::End;
use super::patience::{Waited, hope_for};
use super::pushed::Pushed;
use super::source::{FileStamp, FileVisit};
use super::state::{InFlight, Why};
use super::upload::why_unwritable;
use walward_base::describe;
use walward_pg::WalFileName;
use walward_repo::LazyRepository;

impl Archiver {
    /// Answers when `name`, which was `found`, is durable in as many repositories as must acknowledge it.
    ///
    /// # Errors
    /// See [`PushError`]. After [`PushError::Deadline`] the upload goes on by itself.
    pub async fn push(&self, name: WalFileName, found: FileVisit) -> Result<Pushed, Arc<PushError>> {
        self.push_counted(name, found).instrument(self.span()).await
    }

    async fn push_counted(&self, name: WalFileName, found: FileVisit) -> Result<Pushed, Arc<PushError>> {
        let begun = Instant::now();
        let (life, marked) = (found.life, found.marked);
        if marked {
            self.state().lead.asked(life, begun);
        }
        // Every step within has a deadline but the file system; a hung one must not hold the client for ever.
        let after = self.0.options.deadline.saturating_mul(3);
        let result = match tokio::time::timeout(after, self.push_uncounted(name, found)).await {
            Ok(result) => result,
            Err(_) => Err(self.late(name, after)),
        };
        match &result {
            Ok(Pushed::LetGo) => self.0.stats.let_go(name),
            Ok(Pushed::PutOff) => {}
            Ok(how) => {
                self.0.stats.acknowledged(name, *how == Pushed::Ahead);
                debug!(segment = %name, ahead = *how == Pushed::Ahead, milliseconds = begun.elapsed().as_millis(), "acknowledged");
            }
            Err(error) => self.0.stats.refused(&describe(error.as_ref()), error.class()),
        }
        if marked {
            let end = if matches!(result, Ok(Pushed::Ahead | Pushed::Now)) { End::Archived } else { End::Not };
            self.state().lead.answered(life, name, end, Instant::now());
        }
        self.wake();
        result
    }

    async fn push_uncounted(&self, name: WalFileName, found: FileVisit) -> Result<Pushed, Arc<PushError>> {
        let earlier_waits = found.earlier_waits;
        let stamp = found.file.map_err(|source| Arc::new(PushError::Read { path: self.path(name), source }))?;
        let is_next = !earlier_waits && !self.is_contradicted();
        if is_next && self.acknowledge(name, stamp) {
            return Ok(Pushed::Ahead);
        }
        let attempt = async {
            if !is_next {
                // Rare, and large: the future of every push would be as large as it.
                Box::pin(self.stand_alone(name, earlier_waits)).await?;
            }
            if self.acknowledge(name, stamp) { Ok(Pushed::Ahead) } else { self.push_now(name, stamp).await }
        };
        match self.queue_limit() {
            Some(limit) => limit.around(name, || self.acknowledge(name, stamp), attempt).await,
            None => attempt.await,
        }
    }

    async fn push_now(&self, name: WalFileName, stamp: FileStamp) -> Result<Pushed, Arc<PushError>> {
        // What is on its way may be an older file of this name. Only what was asked for now may be acknowledged.
        for _ in 0..2 {
            // Or it began before a person changed the archive, and is refused for what was there.
            let is_outdated = {
                let state = self.state();
                state.in_flight.get(&name).is_some_and(|(_, delivery)| delivery.forgotten != state.forgotten)
            };
            match self.within_patience(name, self.start(name, Why::Asked)).await {
                Ok(archived) if archived == stamp => {
                    self.acknowledge(name, stamp);
                    return Ok(Pushed::Now);
                }
                Err(error) if !is_outdated && !matches!(*error, PushError::Replaced(_)) => return Err(error),
                _ => {}
            }
        }
        Err(Arc::new(PushError::Replaced(name)))
    }

    /// What becomes of `running`, which brings `name` to the repositories, as long as there is hope for it.
    async fn within_patience(&self, name: WalFileName, running: InFlight) -> Outcome {
        let repositories = self.repositories();
        let writable = || {
            let state = self.state();
            let stored = state.stored.get(&name);
            let has = |at: usize| stored.is_some_and(|stored| stored.places.contains(&at));
            let may = |(at, lazy): &(usize, &Arc<LazyRepository>)| has(*at) || why_unwritable(lazy).is_none();
            repositories.iter().enumerate().filter(may).count()
        };
        let after = self.0.options.deadline;
        match hope_for(running, after, repositories, writable, self.needed()).await {
            Waited::Done(outcome) => outcome,
            Waited::Late => {
                let late = self.late(name, after);
                // Before it is sealed it is not the repositories that it waits for.
                if self.state().in_flight.get(&name).is_some_and(|(_, delivery)| delivery.sealed_bytes().is_some()) {
                    let why = late.to_string();
                    for lazy in self.waited_for(name) {
                        lazy.standing().writes().open(&why);
                    }
                }
                Err(late)
            }
            Waited::Unanswered => {
                let failing = repositories.iter().filter_map(|lazy| why_unwritable(lazy)).collect();
                Err(Arc::new(PushError::Unanswered { name, failing }))
            }
        }
    }

    /// The repositories that have not answered whether they took `name`.
    fn waited_for(&self, name: WalFileName) -> impl Iterator<Item = &Arc<LazyRepository>> {
        let state = self.state();
        let waiting = state.in_flight.get(&name).map(|(_, delivery)| delivery.waiting()).unwrap_or_default();
        waiting.into_iter().filter_map(|at| self.repositories().get(at))
    }

    /// It took too long, and whom it was waited for.
    fn late(&self, name: WalFileName, after: Duration) -> Arc<PushError> {
        let waiting = self.waited_for(name).map(|lazy| lazy.name().to_owned()).collect();
        Arc::new(PushError::Deadline { name, after, waiting })
    }

    /// Whether this very file is known to be archived; if so, it counts as acknowledged from now on.
    fn acknowledge(&self, name: WalFileName, stamp: FileStamp) -> bool {
        let needed = self.needed();
        match self.state().stored.get_mut(&name) {
            Some(stored) if stored.stamp == stamp && stored.places.len() >= needed && stored.different.is_empty() => {
                stored.acknowledged = true;
                true
            }
            _ => false,
        }
    }
}
