//! What recoveries were given last: each goes on from there, and the archive must still have it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::one_file::Want;
use super::seam;
use walward_base::Locked;
use walward_base::sys::ground::Ground;
use walward_base::sys::shared::Shared;
use walward_pg::{SegmentName, SegmentSize, ServerLife, WalFileName};
use walward_repo::facts::Link;

/// How long the data directory may take to say whose it is, while a server waits for that.
const LOOK_TIME_MAX: Duration = Duration::from_secs(1);
/// Of so many recoveries it is remembered.
const RECOVERIES_MAX: usize = 16;

/// What the recoveries of one cluster were given last. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Given(Arc<Mutex<Vec<Recovery>>>);

/// The last segment that a recovery was given, and the digest of its content.
type Last = (Want, Option<[u8; 32]>);

/// A recovery, and what it was given last. One ends with the life of its server: what comes after it in the same place begins where its backup does.
#[derive(Debug)]
struct Recovery {
    life: Option<ServerLife>,
    last: Last,
}

/// By the folder of a cluster's spools, of each of the newest [`RECOVERIES_MAX`] recoveries, the newest last. A configuration that is read anew
/// does not make an agent forget it.
static GIVEN: Shared<Mutex<Vec<Recovery>>> = Shared::new();

impl Given {
    /// To the recoveries of the cluster whose spools lie in `folder`.
    pub(super) fn of(folder: String) -> Self {
        Self(GIVEN.get(folder, || Mutex::new(Vec::new())))
    }

    /// The last segment that the recovery was given that wants something now, where that is remembered.
    pub(super) fn last(&self, want: &Want, life: Option<ServerLife>) -> Option<Last> {
        self.0.locked().iter().find(|known| known.is_that_of(want, life)).map(|known| known.last.clone())
    }

    /// The recovery was given what it wanted.
    pub(super) fn remember(&self, want: &Want, life: Option<ServerLife>, link: Option<Link>) {
        if !matches!(want.name, WalFileName::Segment(_)) {
            return;
        }
        let mut all = self.0.locked();
        all.retain(|known| !known.is_in_the_place_of(want));
        if all.len() == RECOVERIES_MAX {
            all.remove(0);
        }
        all.push(Recovery { life, last: (want.clone(), link.map(|link| link.digest)) });
    }

    /// The archive was changed by hand: what was given may be another life's.
    pub(super) fn forget(&self) {
        self.0.locked().clear();
    }

    /// The segment that the recovery was given last and that what it wants now, with this `link`, does not continue. Where it is not remembered
    /// what it was given, what it has in pg_wal counts.
    pub(super) async fn seam(
        &self,
        want: &Want,
        life: Option<ServerLife>,
        link: Link,
        size: Option<SegmentSize>,
    ) -> Option<SegmentName> {
        let before = link.predecessor?.name;
        match (self.last(want, life), size, &want.pg_wal) {
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

impl Recovery {
    /// Whether it is the one that wants something now, in this `life` of its server, where that is known.
    fn is_that_of(&self, want: &Want, life: Option<ServerLife>) -> bool {
        let is_another = matches!((self.life, life), (Some(one), Some(other)) if one != other);
        self.is_in_the_place_of(want) && !is_another
    }

    fn is_in_the_place_of(&self, want: &Want) -> bool {
        let (given, _) = &self.last;
        (&given.lineage, &given.pg_wal) == (&want.lineage, &want.pg_wal)
    }
}

/// The life of the server that keeps its WAL in `pg_wal`, where that is found out in time.
pub(super) async fn life_at(pg_wal: Option<PathBuf>) -> Option<ServerLife> {
    let data_directory = pg_wal?.parent()?.to_path_buf();
    let ground = Ground::of(&data_directory);
    let look = ground.look(move || ServerLife::read(&data_directory).ok().flatten());
    tokio::time::timeout(LOOK_TIME_MAX, look).await.ok().flatten().flatten()
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
        given.remember(&want("000000010000000000000009"), None, Some(Link { digest: [1; 32], predecessor: None }));
        let next = want("00000002000000000000000A");
        let seam = given.seam(&next, None, link("000000020000000000000009"), None).await;
        assert_eq!(
            seam,
            Some("000000010000000000000009".parse().expect("a name")),
            "its server was on timeline 2 before"
        );
        assert_eq!(given.seam(&next, None, link("000000010000000000000009"), None).await, None);
    }

    #[tokio::test]
    async fn what_an_earlier_recovery_in_the_same_place_was_given_is_held_against_none_that_comes_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let given = Given::of("another folder of this test alone".to_owned());
        let pg_wal = folder.path().join("pg_wal");
        let live = async |started: u32| {
            let lines = format!("77\n/data\n{started}\n5432\n\n\n\nready\n");
            walward_base::sys::durable::replace(&folder.path().join("postmaster.pid"), lines.as_bytes(), 0o600)
                .expect("written");
            life_at(Some(pg_wal.clone())).await
        };
        let want = |name: &str| Want { pg_wal: Some(pg_wal.clone()), ..Want::new(None, name.parse().expect("a name")) };
        let first = live(1_700_000_000).await;
        assert!(first.is_some());
        // It was promoted in this segment, and a backup began with the next.
        given.remember(&want("000000010000000000000005"), first, Some(Link { digest: [1; 32], predecessor: None }));
        let before = Predecessor { name: "000000020000000000000005".parse().expect("a name"), digest: [1; 32] };
        let link = Link { digest: [2; 32], predecessor: Some(before) };
        let next = want("000000020000000000000006");
        assert!(given.seam(&next, first, link, None).await.is_some(), "the same recovery");
        let second = live(1_700_000_099).await;
        assert_eq!(given.last(&next, second), None);
        assert_eq!(given.seam(&next, second, link, None).await, None);
        given.remember(&next, second, Some(link));
        assert_eq!(given.last(&next, second).map(|(last, _)| last.name), Some(next.name));
        assert_eq!(given.0.locked().len(), 1, "the earlier one has ended");
    }
}
