//! What was seen of a repository that lacks files, so that a list alone tells what has come into its gaps since. Pure.
//!
//! Before the last file of a repository that lacks nothing nobody can write any more. Into a gap another server can, at any time, and this server's
//! files that were proven long ago lie after that.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::debt::held::Held;
use walward_pg::{Lineage, SegmentName, SegmentSize, WalFileName};

/// How old a list may be by which a file goes to a repository that lacks others.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// What was seen of one repository. Nothing at first.
#[derive(Debug, Default)]
pub struct Gappy(Option<Seen>);

#[derive(Debug)]
struct Seen {
    /// When it was listed.
    listed: Instant,
    /// What lay there, and was compared or came from a server of which that is known.
    held: Held,
}

impl Gappy {
    /// It `held` this when it was listed, and was compared.
    pub fn seen(listed: Instant, held: Held) -> Self {
        Self(Some(Seen { listed, held }))
    }

    /// The same, where nothing was seen of it yet.
    pub fn seen_first(&mut self, listed: Instant, held: Held) {
        self.0.get_or_insert(Seen { listed, held });
    }

    /// Whether it has to be listed before it gets a file.
    pub fn is_due(&self, now: Instant) -> bool {
        self.0.as_ref().is_none_or(|seen| now >= seen.listed + LOOK_INTERVAL)
    }

    /// Of what lies `there` of a lineage in repository `at`, what was not seen and is not known to be this server's. None where nothing was seen yet.
    pub fn new_of(
        &self,
        (at, lineage): (usize, Lineage),
        there: &BTreeSet<SegmentName>,
        size: SegmentSize,
        is_own: impl Fn(SegmentName) -> bool,
    ) -> Option<BTreeSet<SegmentName>> {
        let seen = self.0.as_ref()?;
        let is_new = |segment: &&SegmentName| {
            !seen.held.has(at, lineage, WalFileName::Segment(**segment), size) && !is_own(**segment)
        };
        Some(there.iter().filter(is_new).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_pg::Timeline;

    #[test]
    fn what_came_into_a_gap_is_new_unless_this_agent_wrote_it_and_is_looked_for_once_a_minute() {
        let (size, lineage) = (SegmentSize::DEFAULT, Lineage { major: 15, system_identifier: 7 });
        let segment = |number| SegmentName::from_number(Timeline(1), number, size).expect("a segment");
        let segments = |numbers: &[u64]| numbers.iter().map(|number| segment(*number)).collect::<BTreeSet<_>>();
        let mut held = Held::default();
        for number in [4, 5] {
            held.add(2, lineage, WalFileName::Segment(segment(number)), size);
        }
        let (begun, is_own) = (Instant::now(), |found| found == segment(6));
        let gappy = Gappy::seen(begun, held);
        assert!(!gappy.is_due(begun) && gappy.is_due(begun + LOOK_INTERVAL));
        let new_of = |numbers: &[u64]| gappy.new_of((2, lineage), &segments(numbers), size, is_own);
        assert_eq!(new_of(&[4, 5, 6]), Some(segments(&[])));
        assert_eq!(new_of(&[3, 4, 5, 6, 7]), Some(segments(&[3, 7])));
        let unseen = Gappy::default();
        assert!(unseen.is_due(begun));
        assert_eq!(unseen.new_of((2, lineage), &segments(&[4]), size, is_own), None);
        let mut gappy = gappy;
        gappy.seen_first(begun + LOOK_INTERVAL, Held::default());
        assert!(gappy.is_due(begun + LOOK_INTERVAL), "what was seen before stays");
    }
}
