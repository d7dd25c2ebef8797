//! Looks after repositories that cannot be read from, as long as a standby asks for files: the moment one answers again it is asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info};

use walward_base::Locked;
use walward_repo::LazyRepository;

/// How long a repository may take to answer a probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two probes of one repository.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Nobody is looked after for a standby that has not asked for so long. One asks every five seconds (`wal_retrieve_retry_interval`).
const ASKED_MAX: Duration = Duration::from_secs(30);

/// One fetcher's lookout.
#[derive(Debug)]
pub struct Lookout {
    /// Whether each of the repositories is being probed.
    probing: Vec<Arc<AtomicBool>>,
    asked: Arc<Mutex<Option<Instant>>>,
    stop: CancellationToken,
}

impl Lookout {
    /// Over so many repositories.
    pub fn new(repositories: usize, stop: CancellationToken) -> Self {
        Self { probing: (0..repositories).map(|_| Arc::default()).collect(), asked: Arc::default(), stop }
    }

    /// A standby asks.
    pub fn a_standby_asks(&self) {
        *self.asked.locked() = Some(Instant::now());
    }

    /// Why none of `repositories` can be read from; `None` when one can, as far as is known.
    pub fn all_away(&self, repositories: &[Arc<LazyRepository>]) -> Option<String> {
        let why = |lazy: &Arc<LazyRepository>| lazy.standing().reads().why();
        let first = why(repositories.first()?)?;
        if !repositories.iter().all(|lazy| why(lazy).is_some()) {
            return None;
        }
        self.look_after_all(repositories);
        Some(first)
    }

    /// Looks after those of `repositories` that cannot be read from.
    pub fn look_after_all(&self, repositories: &[Arc<LazyRepository>]) {
        let away = repositories.iter().enumerate().filter(|(_, lazy)| lazy.standing().reads().why().is_some());
        away.for_each(|(number, lazy)| self.look_after(number, lazy));
    }

    /// Probes repository `number` until it answers, in a task of its own, unless that is done already.
    pub fn look_after(&self, number: usize, repository: &Arc<LazyRepository>) {
        let Some(probing) = self.probing.get(number) else { return };
        if probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (probing, asked, stop) = (Arc::clone(probing), Arc::clone(&self.asked), self.stop.clone());
        let repository = Arc::clone(repository);
        let is_wanted = move || {
            let asked = *asked.locked();
            asked.is_some_and(|asked| asked.elapsed() < ASKED_MAX)
        };
        let look = async move {
            while is_wanted() && repository.standing().reads().why().is_some() {
                if repository.probe(PROBE_PATIENCE).await.is_ok() {
                    if repository.standing().reads().close() {
                        info!(repository = repository.name(), "the repository can be read from again");
                    }
                    break;
                }
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        let watch = async move {
            tokio::select! {
                () = look => {}
                () = stop.cancelled() => {}
            }
            probing.store(false, Ordering::Release);
        };
        tokio::spawn(watch.in_current_span());
    }
}
