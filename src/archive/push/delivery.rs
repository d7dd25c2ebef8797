//! One file on its way, from an archiver or from a process that ends after it: what every repository has answered, and when that decides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::error::PushError;
use super::policy::{CopyState, Decision, judge};
use super::source::FileStamp;
use super::upload::answer_of;
use walward_base::Locked;
use walward_pg::ServerLife;

/// What became of a file: archived, or why not.
pub type Outcome = Result<FileStamp, Arc<PushError>>;

const NOT_SEALED: u64 = u64::MAX;

/// A delivery: decided once, as early as the answers allow; it may go on after that.
pub struct Delivery {
    needed: usize,
    /// How often it was forgotten what the archive holds, when it began.
    pub forgotten: u64,
    /// Cancelled when it is decided.
    decided: CancellationToken,
    /// Bytes of what is sealed, or [`NOT_SEALED`].
    sealed_bytes: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// The file that it began with; where that was not known, the one that was sent.
    stamp: Option<FileStamp>,
    decide: Option<oneshot::Sender<Outcome>>,
    answers: Vec<CopyState>,
    /// In the order in which they came.
    failures: Vec<Arc<PushError>>,
    /// What was decided is that it is archived.
    archived: bool,
    /// The server that it is of, and whether that has marked it.
    whose: (Option<ServerLife>, bool),
}

impl Delivery {
    /// One that must reach `needed` repositories. Whoever waits for it hears through `decide`.
    pub fn new(needed: usize, forgotten: u64, decide: oneshot::Sender<Outcome>) -> Self {
        let state = State {
            stamp: None,
            decide: Some(decide),
            answers: Vec::new(),
            failures: Vec::new(),
            archived: false,
            whose: (None, false),
        };
        Self {
            needed,
            forgotten,
            decided: CancellationToken::new(),
            sealed_bytes: AtomicU64::new(NOT_SEALED),
            state: Mutex::new(state),
        }
    }

    /// Says whose file it is, and whether it is marked.
    pub fn of(&self, life: Option<ServerLife>, marked: bool) {
        self.state().whose = (life, marked);
    }

    /// The server that it is of, and whether that has marked it.
    pub fn whose(&self) -> (Option<ServerLife>, bool) {
        self.state().whose
    }

    /// Says which file it is, where that is known, and whom it goes to, and what that means as it stands.
    pub fn begin(&self, stamp: Option<FileStamp>, answers: Vec<CopyState>) -> Decision {
        let verdict = judge(&answers, self.needed);
        let mut state = self.state();
        (state.stamp, state.answers) = (stamp, answers);
        verdict
    }

    /// Says that it is sealed for some more of the repositories, in so many bytes together, and on its way to them.
    pub fn sealed(&self, bytes: u64) {
        let all = self.sealed_bytes().unwrap_or(0).saturating_add(bytes);
        self.sealed_bytes.store(all.min(NOT_SEALED - 1), Ordering::Relaxed);
    }

    /// How many bytes are on their way to stores; `None` while it is still read.
    pub fn sealed_bytes(&self) -> Option<u64> {
        Some(self.sealed_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != NOT_SEALED)
    }

    /// Whether `stamp` is of the file that it began with: another one may have taken its name before it was read.
    pub fn is_of(&self, stamp: FileStamp) -> bool {
        self.state().stamp == Some(stamp)
    }

    /// Takes the answer of repository `at`. When that decides, and nothing was decided before, answers the outcome: it is for
    /// the caller to note it, and then to say [`Delivery::decide`].
    pub fn answered(&self, stamp: FileStamp, at: usize, result: Result<(), PushError>) -> Option<Outcome> {
        let mut state = self.state();
        if let Some(answer) = state.answers.get_mut(at) {
            *answer = answer_of(&result);
        }
        state.failures.extend(result.err().map(Arc::new));
        let stamp = *state.stamp.get_or_insert(stamp);
        state.decide.as_ref()?;
        match judge(&state.answers, self.needed) {
            Decision::Archived => Some(Ok(stamp)),
            Decision::Refused | Decision::Failed => {
                state.failures.iter().min_by_key(|error| error.urgency()).cloned().map(Err)
            }
            Decision::Wait => None,
        }
    }

    /// What all answers come to, also those after the decision: whether it is archived, which file it is, and what failed, the most urgent first.
    pub fn end(self) -> (Decision, Option<FileStamp>, Vec<PushError>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut failures: Vec<_> = state.failures.into_iter().filter_map(Arc::into_inner).collect();
        failures.sort_by_key(PushError::urgency);
        (judge(&state.answers, self.needed), state.stamp, failures)
    }

    /// Tells whoever waits, unless it was told before.
    pub fn decide(&self, outcome: Outcome) {
        let decide = {
            let mut state = self.state();
            let decide = state.decide.take();
            state.archived |= decide.is_some() && outcome.is_ok();
            decide
        };
        self.decided.cancel();
        if let Some(decide) = decide {
            // Nobody may be waiting: the file was uploaded ahead.
            let _ = decide.send(outcome);
        }
    }

    /// Whether it is decided.
    pub fn is_decided(&self) -> bool {
        self.decided.is_cancelled()
    }

    /// Waits until it is decided.
    pub async fn until_decided(&self) {
        self.decided.cancelled().await;
    }

    /// The repositories that have not answered.
    pub fn waiting(&self) -> Vec<usize> {
        let state = self.state();
        let answers = state.answers.iter().enumerate();
        answers.filter(|(_, answer)| **answer == CopyState::Waiting).map(|(at, _)| at).collect()
    }

    /// The repositories that the file is owed to now that no more is done about it: none when it is not archived, because then
    /// PostgreSQL keeps it.
    pub fn owed(&self) -> Vec<usize> {
        let owes = |answer: &CopyState| matches!(answer, CopyState::Waiting | CopyState::LeftOut | CopyState::Failed);
        let state = self.state();
        let answers = if state.archived { state.answers.as_slice() } else { &[] };
        answers.iter().enumerate().filter(|(_, answer)| owes(answer)).map(|(at, _)| at).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}
