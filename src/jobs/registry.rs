//! All jobs of an agent.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::job::{Ended, Job};
use crate::outcome::Exit;
use walward_base::Locked;
use walward_report::Work;

/// So many ended jobs are remembered.
const ENDED_MAX: usize = 64;

/// The jobs of this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were begun.
    jobs: Vec<Arc<Job>>,
    is_closed: bool,
}

impl State {
    /// By when it is begun, so that no agent before or after this one has another job of the name.
    fn new_id(&self, kind: &Work) -> String {
        let stem = format!("{}-{}", kind.kind(), Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
        let is_free = |id: &String| self.jobs.iter().all(|job| job.id() != id);
        let mut numbered = (2..).map(|number: u64| format!("{stem}-{number}"));
        std::iter::once(stem.clone()).find(is_free).or_else(|| numbered.find(is_free)).unwrap_or(stem)
    }
}

/// Why a job was not begun.
#[derive(Debug)]
pub enum NotBegun {
    /// This one of the same kind runs for the cluster.
    Runs(Arc<Job>),
    /// The agent is stopping.
    Stopping,
}

impl Registry {
    /// Begins a job about `cluster`: `work` gets what it says how far it is with, and what tells it to end. It runs until it ends.
    ///
    /// # Errors
    /// One of the kind runs for the cluster, or the agent is stopping.
    pub fn begin<F: Future<Output = (Exit, Result<String, String>)> + Send + 'static>(
        &self,
        (cluster, data_directory): (&str, &Path),
        kind: Work,
        work: impl FnOnce(watch::Sender<Work>, CancellationToken) -> F,
    ) -> Result<Arc<Job>, NotBegun> {
        let mut state = self.0.state.locked();
        if state.is_closed {
            return Err(NotBegun::Stopping);
        }
        let of_the_kind = |job: &&Arc<Job>| job.cluster() == cluster && job.report().work.kind() == kind.kind();
        if let Some(running) = state.jobs.iter().filter(of_the_kind).find(|job| job.ended().is_none()) {
            return Err(NotBegun::Runs(Arc::clone(running)));
        }
        let id = state.new_id(&kind);
        let (tell, progress) = watch::channel(kind);
        let (end, ended) = watch::channel(None);
        let cancel = CancellationToken::new();
        let job =
            Arc::new(Job::new(id, (cluster.to_owned(), data_directory.to_owned()), progress, ended, cancel.clone()));
        let work = AssertUnwindSafe(work(tell, cancel)).catch_unwind();
        self.0.tasks.spawn(async move {
            let ended = match work.await {
                Ok((exit, result)) => Ended { at: Timestamp::now(), exit, result },
                Err(_) => Ended::died(Timestamp::now()),
            };
            end.send_replace(Some(ended));
        });
        state.jobs.push(Arc::clone(&job));
        let ended = state.jobs.iter().filter(|job| job.ended().is_some()).count();
        if ended > ENDED_MAX
            && let Some(oldest) = state.jobs.iter().position(|job| job.ended().is_some())
        {
            state.jobs.remove(oldest);
        }
        Ok(job)
    }

    /// The job of this name.
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.0.state.locked().jobs.iter().find(|job| job.id() == id).cloned()
    }

    /// All that are remembered, those that were begun last at the end.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.0.state.locked().jobs.clone()
    }

    /// Cancels all, and lets no more begin.
    pub fn close(&self) {
        let mut state = self.0.state.locked();
        state.is_closed = true;
        for job in &state.jobs {
            job.cancel();
        }
        self.0.tasks.close();
    }

    /// After [`Registry::close`]: waits until all have ended.
    pub async fn ended(&self) {
        self.0.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_report::{BackupPhase, BackupProgress, JobState};

    fn backup() -> Work {
        Work::Backup(BackupProgress::new(Timestamp::UNIX_EPOCH))
    }

    async fn until_cancelled(tell: watch::Sender<Work>, cancel: CancellationToken) -> (Exit, Result<String, String>) {
        let copying = BackupProgress { phase: BackupPhase::Copying, ..BackupProgress::new(Timestamp::UNIX_EPOCH) };
        tell.send_replace(Work::Backup(copying));
        cancel.cancelled().await;
        (Exit::Interrupted, Err("interrupted".to_owned()))
    }

    #[tokio::test]
    async fn one_of_a_kind_runs_for_a_cluster_and_goes_on_with_nobody_watching() {
        let registry = Registry::default();
        let job = registry.begin(("main", Path::new("/data")), backup(), until_cancelled).expect("begun");
        let Err(NotBegun::Runs(running)) = registry.begin(("main", Path::new("/data")), backup(), until_cancelled)
        else {
            panic!("two")
        };
        assert_eq!(running.id(), job.id());
        let other = registry
            .begin(("other", Path::new("/data")), backup(), async |_, _| (Exit::Done, Ok("{}".to_owned())))
            .expect("begun");
        assert_ne!(other.id(), job.id());
        assert_eq!(other.end().await.exit, Exit::Done);
        // Who watches goes, and another one comes.
        let mut watching = job.watching();
        while tokio::time::timeout(std::time::Duration::from_millis(200), watching.next()).await.is_ok() {}
        drop(watching);
        let last = job.report();
        assert!(matches!(last.work, Work::Backup(BackupProgress { phase: BackupPhase::Copying, .. })));
        assert_eq!((last.state, last.code), (JobState::Running, None));
        let found = registry.find(job.id()).expect("remembered");
        found.cancel();
        assert_eq!(found.end().await.exit, Exit::Interrupted);
        let report = job.report();
        assert_eq!((report.state, report.error.as_deref()), (JobState::Cancelled, Some("interrupted")));
        registry.begin(("main", Path::new("/data")), backup(), until_cancelled).expect("the place is free");
        registry.close();
        registry.ended().await;
        assert!(registry.all().iter().all(|job| job.ended().is_some()));
        assert!(matches!(
            registry.begin(("main", Path::new("/data")), backup(), until_cancelled),
            Err(NotBegun::Stopping)
        ));
    }

    #[tokio::test]
    async fn one_that_dies_is_told_and_gives_its_place_back() {
        let registry = Registry::default();
        let dies = async |_, _| panic!("as a defect would");
        let job = registry.begin(("main", Path::new("/data")), backup(), dies).expect("begun");
        let ended = job.end().await;
        assert_eq!(ended.exit, Exit::Failed);
        assert!(ended.result.expect_err("failed").contains("log"));
        registry.begin(("main", Path::new("/data")), backup(), dies).expect("the place is free");
    }

    #[tokio::test]
    async fn ended_ones_are_forgotten_in_the_end_and_running_ones_never() {
        let registry = Registry::default();
        let first = registry.begin(("first", Path::new("/data")), backup(), until_cancelled).expect("begun");
        for number in 0..ENDED_MAX + 10 {
            let job = registry
                .begin(("main", Path::new("/data")), backup(), async move |_, _| (Exit::Done, Ok(number.to_string())))
                .expect("begun");
            job.end().await;
        }
        assert!(registry.all().len() <= ENDED_MAX + 2);
        assert!(registry.find(first.id()).is_some());
    }
}
