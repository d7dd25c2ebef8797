//! Whether a file that was not archived waits, is let go, or is put off. Pure.

use std::time::Duration;

use walward_pg::WalFileName;

/// How long a failure of the store is believed without trying again. Files that are let go meanwhile cost no deadline each:
/// PostgreSQL may write faster than deadlines pass.
const FAILURE_BELIEVED: Duration = Duration::from_mins(1);

/// What is known when a file could not be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// `archive.queue_limit`, bytes; none when it is off.
    pub limit: Option<u64>,
    /// WAL that waits, bytes.
    pub waiting: u64,
    /// How long ago the store failed last, and nothing was archived since; none when it works, or was not tried.
    pub failed: Option<Duration>,
    /// It is WAL, which PostgreSQL removes when it was told to forget it. A timeline's or a backup's history is a few bytes.
    pub is_wal: bool,
}

/// What to do with a file that was not archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetGoDecision {
    /// It waits, because of this.
    Keep(&'static str),
    /// PostgreSQL is told to forget it, because of this.
    LetGo(&'static str),
    /// PostgreSQL is told to go on, because of this, and the file is archived from where it lies when the store is back.
    PutOff(&'static str),
}

/// Decides. Pure.
pub fn judge(facts: &Facts) -> LetGoDecision {
    let Some(limit) = facts.limit else { return LetGoDecision::Keep("there is no queue_limit") };
    match facts.failed {
        None => LetGoDecision::Keep("the store has not failed"),
        Some(since) if since > FAILURE_BELIEVED => LetGoDecision::Keep("the store was not tried lately"),
        Some(_) if facts.waiting <= limit => LetGoDecision::Keep("no more waits than queue_limit allows"),
        Some(_) if facts.is_wal => LetGoDecision::LetGo("more waits than queue_limit allows, and the store fails"),
        Some(_) => LetGoDecision::PutOff("it keeps WAL from being let go, of which more waits than queue_limit allows"),
    }
}

/// Whether letting it go frees anything.
pub fn is_wal(name: WalFileName) -> bool {
    matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn facts() -> impl Strategy<Value = Facts> {
        let failed = proptest::option::of((0u64..200).prop_map(Duration::from_secs));
        let facts = (proptest::option::of(0u64..100), 0u64..200, failed, any::<bool>());
        facts.prop_map(|(limit, waiting, failed, is_wal)| Facts {
            limit: limit.map(|limit| limit * SIZE),
            waiting: waiting * SIZE,
            failed,
            is_wal,
        })
    }

    proptest! {
        #[test]
        fn nothing_is_let_go_but_beyond_a_limit_while_the_store_fails(facts in facts()) {
            let verdict = judge(&facts);
            if !matches!(verdict, LetGoDecision::Keep(_)) {
                prop_assert!(facts.limit.is_some_and(|limit| facts.waiting > limit));
                prop_assert!(facts.failed.is_some_and(|since| since <= FAILURE_BELIEVED));
                prop_assert_eq!(matches!(verdict, LetGoDecision::LetGo(_)), facts.is_wal, "nothing else frees anything");
            }
        }

        /// More waiting, a lower limit or a younger failure never turn "let go" into "keep".
        #[test]
        fn the_verdict_is_monotone(facts in facts(), more in 0u64..50) {
            if let LetGoDecision::LetGo(_) = judge(&facts) {
                let worse = Facts {
                    limit: facts.limit.map(|limit| limit.saturating_sub(more * SIZE)),
                    waiting: facts.waiting + more * SIZE,
                    failed: facts.failed.map(|since| since.saturating_sub(Duration::from_secs(more))),
                    is_wal: true,
                };
                prop_assert!(matches!(judge(&worse), LetGoDecision::LetGo(_)));
            }
        }

        /// PostgreSQL's archiver over a store that comes and goes: the queue never stays beyond the limit while the store is
        /// away, what is let go is the oldest and no more than needed, and nothing is while the store works.
        #[test]
        fn a_queue_stays_within_its_limit_and_loses_no_more_than_that(
            limit in 0u64..20,
            steps in proptest::collection::vec((0u64..6, any::<bool>()), 1..200),
        ) {
            let (mut next, mut written) = (0u64, 0u64);
            let mut failed = false;
            for (arrive, works) in steps {
                written += arrive;
                let before = written - next;
                let mut gone = 0;
                loop {
                    let waiting = (written - next) * SIZE;
                    let known = failed.then_some(Duration::ZERO);
                    let verdict = judge(&Facts { limit: Some(limit * SIZE), waiting, failed: known, is_wal: true });
                    if next < written && matches!(verdict, LetGoDecision::LetGo(_)) {
                        prop_assert!(!works || failed);
                        gone += 1;
                    } else if next < written && works {
                        failed = false;
                    } else {
                        failed |= next < written;
                        if next == written || written - next <= limit {
                            break;
                        }
                        continue;
                    }
                    next += 1;
                }
                prop_assert!(gone <= before.saturating_sub(limit));
                prop_assert!(works || written - next <= limit);
            }
        }
    }
}
