//! One WAL file from the repositories, in rounds, and how long that may take.
//!
//! One deadline bounds all of it, opening repositories included. It is shared: each repository has an equal part of what is left, so
//! that one that hangs leaves time for the next. A file whose bytes arrive is not cut off by it: then the time between two pieces is
//! bounded, and the whole by the slowest that a store may be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::one_file::{AtHole, FetchError, RepositoryAnswer, Retrieved, Want, one};
use super::progress::Progress;
use super::spot::Spot;
use walward_base::{ErrorClass, describe};
use walward_repo::LazyRepository;

/// The first pause between rounds over the repositories; doubled each time up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long one repository may take for one file, besides the time that its bytes take at [`BYTES_PER_SECOND_MIN`].
const TURN_MAX: Duration = Duration::from_mins(2);
/// A store slower than this is of no use to a recovery.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// How long a file that is arriving may stand still after the deadline.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a retrieval goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Round after round until then.
    Until(Instant),
    /// One round, in which every repository has all its time.
    OneRound,
    /// One round until then; what the last repository has begun by then goes on with all its time.
    Soon(Instant),
}

/// What a repository could not give although it was asked before the one that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The class of its failure.
    pub class: ErrorClass,
    /// What failed, in one line.
    pub text: String,
}

/// Brings what is wanted to `spot` as [`retrieve_noting`] does, for `deadline`; one round when that is zero.
pub async fn retrieve(
    repositories: &[Arc<LazyRepository>],
    want: &Want,
    spot: &Spot,
    deadline: Duration,
    at_hole: AtHole,
) -> Result<Retrieved, FetchError> {
    let until = Instant::now() + deadline;
    let patience = if deadline.is_zero() { Patience::OneRound } else { Patience::Until(until) };
    let (progress, mut passed_over) = (Progress::default(), Vec::new());
    let mut pause = PAUSE_FIRST;
    loop {
        let retrieved =
            retrieve_noting(repositories, want, spot, (patience, at_hole), &progress, &mut passed_over).await;
        // Somebody may make room.
        match retrieved {
            Err(FetchError::Write { .. }) if Instant::now() + pause < until => tokio::time::sleep(pause).await,
            other => return other,
        }
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// Brings what is wanted to `spot` (a temporary name: it may be left unfinished there on an error), trying every repository in
/// order, again and again after a failure as long as `patience` lasts (a hole is one, with [`AtHole::Wait`]). A repository that
/// failed lately is asked after the others; `passed_over` takes what failed before the file was there.
///
/// # Errors
/// [`FetchError::Write`] at once: no repository is to blame, and none is asked after it.
pub async fn retrieve_noting(
    repositories: &[Arc<LazyRepository>],
    want: &Want,
    spot: &Spot,
    (patience, at_hole): (Patience, AtHole),
    progress: &Progress,
    passed_over: &mut Vec<PassedOver>,
) -> Result<Retrieved, FetchError> {
    let name = want.name;
    let mut pause = PAUSE_FIRST;
    if repositories.is_empty() {
        return Err(FetchError::NoRepository);
    }
    loop {
        let (mut failure, mut hole) = (None, None);
        let now = Instant::now();
        let mut in_order: Vec<(usize, &Arc<LazyRepository>)> = repositories.iter().enumerate().collect();
        let is_away = |lazy: &LazyRepository| lazy.standing().reads().why().is_some();
        in_order.sort_by_key(|(_, lazy)| (is_away(lazy), lazy.standing().is_resting(now)));
        let asked = in_order.len();
        for (turn, (number, repository)) in in_order.into_iter().enumerate() {
            let left = asked.saturating_sub(turn);
            let until = match patience {
                Patience::Until(until) => Some(share(until, left)),
                Patience::Soon(until) if left > 1 => Some(share(until, left)),
                Patience::Soon(_) | Patience::OneRound => None,
            };
            progress.turn_of(number);
            let answer = in_time(repository, want, spot, until, progress).await;
            note(repository, &answer);
            match answer {
                Ok(RepositoryAnswer::File(bytes, link)) => return Ok(Retrieved::File { bytes, link }),
                Ok(RepositoryAnswer::Absent) => {}
                // Not the end of the archive. It may be on its way: several are uploaded at once.
                Ok(RepositoryAnswer::Hole(error @ FetchError::LetGo { .. })) => hole = Some(error),
                Ok(RepositoryAnswer::Hole(error)) => {
                    hole.get_or_insert(error);
                }
                Err(error @ FetchError::Write { .. }) => return Err(error),
                Err(error) => {
                    let text = describe(&error);
                    warn!(segment = %name, repository = repository.name(), error_class = %error.class(), error = text, "cannot fetch");
                    passed_over.push(PassedOver { class: error.class(), text });
                    failure.get_or_insert(error);
                }
            }
        }
        // One repository that could not be asked makes "absent" a guess, whatever the others say.
        // And what was let go does not come by itself.
        let is_lost = matches!(hole, Some(FetchError::LetGo { .. }));
        let told = failure.is_none() && (is_lost || at_hole == AtHole::Tell);
        let Some(error) = failure.or(hole) else { return Ok(Retrieved::Absent) };
        match patience {
            Patience::Until(until) if !told && Instant::now() + pause < until => tokio::time::sleep(pause).await,
            _ => return Err(error),
        }
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// Until when one of `left` repositories may be waited for.
pub fn share(until: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    now + until.saturating_duration_since(now) / left
}

/// Notes what an answer says about the repository as a whole.
fn note(repository: &LazyRepository, answer: &Result<RepositoryAnswer, FetchError>) {
    let standing = repository.standing();
    match answer {
        Ok(_) => {
            standing.answered();
            if standing.reads().close() {
                info!(repository = repository.name(), "the repository can be read from again");
            }
        }
        Err(error @ (FetchError::Repository { .. } | FetchError::TooSlow { .. })) => {
            standing.failed(error.class(), Instant::now());
            if error.class() == ErrorClass::Transient {
                standing.reads().open(&describe(error));
            }
        }
        Err(_) => {}
    }
}

/// As [`one`], bounded in time: a store that drips holds nobody for ever.
async fn in_time(
    lazy: &LazyRepository,
    want: &Want,
    spot: &Spot,
    until: Option<Instant>,
    progress: &Progress,
) -> Result<RepositoryAnswer, FetchError> {
    let begun = Instant::now();
    let mut work = Box::pin(one(lazy, want, spot, until, progress));
    let limit = || {
        let seconds = progress.bytes_max() / BYTES_PER_SECOND_MIN;
        let turn = begun + TURN_MAX + Duration::from_secs(seconds);
        let Some(until) = until else { return turn };
        let silence = until.saturating_duration_since(begun).min(SILENCE_MAX);
        progress.last().map_or(until, |last| until.max((last + silence).min(turn)))
    };
    loop {
        tokio::select! {
            biased;
            answer = &mut work => return answer,
            () = sleep_until(limit()) => {}
        }
        if limit() <= Instant::now() {
            let after = begun.elapsed();
            return Err(FetchError::TooSlow { name: want.name, repository: lazy.name().to_owned(), after });
        }
    }
}
