//! When a file counts as archived, and which repositories are asked to take it. Pure.

use std::num::NonZeroUsize;

/// In how many repositories a file must be durable before PostgreSQL is told so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// In all of them.
    #[default]
    All,
    /// In so many.
    Number(NonZeroUsize),
}

impl Acknowledge {
    /// How many of `repositories` that is.
    pub fn needed(self, repositories: usize) -> usize {
        match self {
            Self::All => repositories,
            Self::Number(number) => number.get().min(repositories),
        }
    }

    /// Whether what was acknowledged is all in the rest of `all` repositories while `away` of them cannot be asked.
    pub fn is_met_without(self, away: usize, all: usize) -> bool {
        away < self.needed(all)
    }
}

/// What is known of one file at one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// It is on its way.
    Waiting,
    /// It is not sent there this time: the repository rests after failures.
    LeftOut,
    /// It is durable there.
    Durable,
    /// It could not be written.
    Failed,
    /// Other content has its name there.
    Different,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It cannot be told yet.
    Wait,
    /// It is archived; what other repositories lack is owed to them.
    Archived,
    /// It is refused: a repository holds other content under its name. That is so however many others took it.
    Refused,
    /// Too few repositories took it.
    Failed,
}

/// Judges by what every repository answered so far.
pub fn judge(answers: &[CopyState], needed: usize) -> Decision {
    let count = |wanted| answers.iter().filter(|answer| **answer == wanted).count();
    if count(CopyState::Different) > 0 {
        Decision::Refused
    } else if count(CopyState::Durable) >= needed {
        Decision::Archived
    } else if count(CopyState::Waiting) > 0 {
        Decision::Wait
    } else {
        Decision::Failed
    }
}

/// Before a file is sent: who gets it. It is durable in those that `durable` says; a repository that rests after failures is
/// left out where enough others remain, so that it costs them no time and no memory; and so is one that missed files, until it
/// was compared: what another server wrote to it meanwhile must not be continued. Where too few were compared, those come first that have at least
/// what comes before the file.
pub fn begin(places: &[CopyFacts], needed: usize) -> Vec<CopyState> {
    let are_enough = |suits: &dyn Fn(&CopyFacts) -> bool| {
        places.iter().filter(|place| place.durable || suits(place)).count() >= needed
    };
    let is_awake = |place: &CopyFacts| !place.resting;
    let is_compared = |place: &CopyFacts| !place.resting && !place.uncompared;
    let has_missed_none = |place: &CopyFacts| !place.resting && !place.missed;
    let suits: &dyn Fn(&CopyFacts) -> bool = if are_enough(&is_compared) {
        &is_compared
    } else if are_enough(&has_missed_none) {
        &has_missed_none
    } else if are_enough(&is_awake) {
        &is_awake
    } else {
        &|_| true
    };
    let answer = |place: &CopyFacts| match place {
        CopyFacts { durable: true, .. } => CopyState::Durable,
        place if suits(place) => CopyState::Waiting,
        CopyFacts { .. } => CopyState::LeftOut,
    };
    places.iter().map(answer).collect()
}

/// How many have the file or are asked to take it.
pub fn asked(answers: &[CopyState]) -> usize {
    answers.iter().filter(|answer| matches!(answer, CopyState::Durable | CopyState::Waiting)).count()
}

/// What is known of a repository before a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFacts {
    /// The file is durable there.
    pub durable: bool,
    /// It failed lately.
    pub resting: bool,
    /// What lies in it before the file was not compared with the others.
    pub uncompared: bool,
    /// It missed a file that comes before, or may have, and was not compared with the others since.
    pub missed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places() -> impl Strategy<Value = Vec<CopyFacts>> {
        let place = any::<(bool, bool, bool, bool)>().prop_map(|(durable, resting, uncompared, missed)| CopyFacts {
            durable,
            resting,
            uncompared: uncompared || missed,
            missed,
        });
        proptest::collection::vec(place, 1..6)
    }

    #[test]
    fn all_is_all_and_a_number_never_more_than_there_are() {
        let number = |number| Acknowledge::Number(NonZeroUsize::new(number).expect("not zero"));
        assert_eq!(Acknowledge::All.needed(3), 3);
        assert_eq!((number(1).needed(3), number(2).needed(3), number(9).needed(3)), (1, 2, 3));
    }

    proptest! {
        #[test]
        fn whoever_is_needed_is_asked(places in places(), needed in 1usize..6) {
            let needed = needed.min(places.len());
            let answers = begin(&places, needed);
            prop_assert!(asked(&answers) >= needed);
            for (place, answer) in places.iter().zip(&answers) {
                prop_assert_eq!(place.durable, *answer == CopyState::Durable);
                prop_assert!(place.resting || place.uncompared || *answer != CopyState::LeftOut);
            }
            // Who may be another's by now is asked only where too few others remain.
            let sure = places.iter().filter(|place| place.durable || !place.resting && !place.uncompared).count();
            let doubtful = |(place, answer): (&CopyFacts, &CopyState)| place.uncompared && *answer == CopyState::Waiting;
            prop_assert!(sure < needed || !places.iter().zip(&answers).any(doubtful));
            // And who missed something, only where even with those that did not too few do.
            let complete = places.iter().filter(|place| place.durable || !place.resting && !place.missed).count();
            let missed = |(place, answer): (&CopyFacts, &CopyState)| place.missed && *answer == CopyState::Waiting;
            prop_assert!(complete < needed || !places.iter().zip(&answers).any(missed));
        }

        #[test]
        fn archived_is_said_only_of_what_enough_repositories_have_and_none_contradicts(
            places in places(),
            needed in 1usize..6,
            ends in proptest::collection::vec(0u8..3, 6),
        ) {
            let needed = needed.min(places.len());
            let mut answers = begin(&places, needed);
            for (at, end) in ends.iter().enumerate().take(places.len()) {
                let verdict = judge(&answers, needed);
                let durable = answers.iter().filter(|answer| **answer == CopyState::Durable).count();
                let different = answers.contains(&CopyState::Different);
                prop_assert_eq!(verdict == Decision::Archived, durable >= needed && !different);
                prop_assert_eq!(verdict == Decision::Refused, different);
                if answers[at] == CopyState::Waiting {
                    answers[at] = [CopyState::Durable, CopyState::Failed, CopyState::Different][usize::from(*end)];
                }
            }
            // Once everybody has answered, nobody waits for a verdict.
            prop_assert_ne!(judge(&answers, needed), Decision::Wait);
        }
    }
}
