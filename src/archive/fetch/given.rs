//! What recoveries were given last: each goes on from there, and the archive must still have it.

use std::sync::{Arc, Mutex};

use super::one_file::Want;
use super::seam;
use walward_base::Locked;
use walward_base::sys::shared::Shared;
use walward_pg::{SegmentName, SegmentSize, WalFileName};
use walward_repo::facts::Link;

/// Of so many recoveries it is remembered.
const RECOVERIES_MAX: usize = 16;

/// What the recoveries of one cluster were given last. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Given(Arc<Mutex<Vec<Last>>>);

/// The last segment that a recovery was given, and the digest of its content.
type Last = (Want, Option<[u8; 32]>);

/// By the folder of a cluster's spools, of each of the newest [`RECOVERIES_MAX`] recoveries, the newest last. A configuration that is read anew
/// does not make an agent forget it.
static GIVEN: Shared<Mutex<Vec<Last>>> = Shared::new();

impl Given {
    /// To the recoveries of the cluster whose spools lie in `folder`.
    pub(super) fn of(folder: String) -> Self {
        Self(GIVEN.get(folder, || Mutex::new(Vec::new())))
    }

    /// The last segment that the recovery was given that wants something now, where that is remembered.
    pub(super) fn last(&self, want: &Want) -> Option<Last> {
        self.0.locked().iter().find(|(given, _)| is_of_one_recovery(given, want)).cloned()
    }

    /// The recovery was given what it wanted.
    pub(super) fn remember(&self, want: &Want, link: Option<Link>) {
        if !matches!(want.name, WalFileName::Segment(_)) {
            return;
        }
        let mut all = self.0.locked();
        all.retain(|(given, _)| !is_of_one_recovery(given, want));
        if all.len() == RECOVERIES_MAX {
            all.remove(0);
        }
        all.push((want.clone(), link.map(|link| link.digest)));
    }

    /// The archive was changed by hand: what was given may be another life's.
    pub(super) fn forget(&self) {
        self.0.locked().clear();
    }

    /// The segment that the recovery was given last and that what it wants now, with this `link`, does not continue. Where it is not remembered
    /// what it was given, what it has in pg_wal counts.
    pub(super) async fn seam(&self, want: &Want, link: Link, size: Option<SegmentSize>) -> Option<SegmentName> {
        let before = link.predecessor?.name;
        match (self.last(want), size, &want.pg_wal) {
            (Some((last, Some(digest))), ..) if last.name == WalFileName::Segment(before) => {
                (link.continues(before, &digest) == Some(false)).then_some(before)
            }
            // Its server was promoted elsewhere than the history says that the recovery follows.
            (Some((Want { name: WalFileName::Segment(last), .. }, _)), ..)
                if before.is_on_another_timeline_than(last) =>
            {
                Some(last)
            }
            (_, Some(size), Some(pg_wal)) => seam::in_pg_wal_in_time(pg_wal, size, link).await,
            _ => None,
        }
    }
}

fn is_of_one_recovery(one: &Want, other: &Want) -> bool {
    (&one.lineage, &one.pg_wal) == (&other.lineage, &other.pg_wal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_repo::facts::Predecessor;

    #[tokio::test]
    async fn what_continues_another_timeline_than_the_recovery_was_given_is_a_seam() {
        let given = Given::of("a folder of this test alone".to_owned());
        let want = |name: &str| Want::new(None, name.parse().expect("a name"));
        let link = |before: &str| Link {
            digest: [2; 32],
            predecessor: Some(Predecessor { name: before.parse().expect("a name"), digest: [1; 32] }),
        };
        given.remember(&want("000000010000000000000009"), Some(Link { digest: [1; 32], predecessor: None }));
        let next = want("00000002000000000000000A");
        let seam = given.seam(&next, link("000000020000000000000009"), None).await;
        assert_eq!(
            seam,
            Some("000000010000000000000009".parse().expect("a name")),
            "its server was on timeline 2 before"
        );
        assert_eq!(given.seam(&next, link("000000010000000000000009"), None).await, None);
    }
}
