//! What backups that were cut off left in a repository: packs without a manifest, which are no backup. Found here, and judged by
//! their age (pure); removing them is for the next backup, under its lease.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::error::RepoError;
use super::lease::Work;
use super::manifest::BackupLabel;
use super::{Repository, layout, stored};
use walward_storage::ObjectInfo;

/// Before this age nothing is said: a backup may be at work, between two packs.
const SAID_AGE_MIN: Duration = Duration::from_hours(1);
/// From this age on it is removed: by then a backup that lost its lease has noticed. Less than a day, so that a backup of each night
/// finds what the one of the night before left.
pub const REMOVED_AGE_MIN: Duration = Duration::from_hours(12);
/// How many folders are listed at once.
const LISTS_AT_ONCE: usize = 8;

/// The objects of one backup that has no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// The backup that would have been.
    pub label: BackupLabel,
    /// Its packs, and its block index, if it has one.
    pub packs: Vec<ObjectInfo>,
}

/// What is to be done about remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: they may be of a backup that is at work.
    MayBeAtWork,
    /// They are worth a word, and too young to be removed.
    Left,
    /// The next backup removes them.
    Removable,
}

impl Remains {
    /// Bytes as stored.
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.size).sum()
    }

    /// When the last pack was written, by the store's clock.
    pub fn newest(&self) -> Option<Timestamp> {
        self.packs.iter().map(|pack| pack.modified).max()
    }

    /// What is to be done at `now`, by the store's clock.
    pub fn judge(&self, now: Timestamp) -> Verdict {
        let age = self.newest().and_then(|newest| Duration::try_from(now.duration_since(newest)).ok());
        match age {
            Some(age) if age >= REMOVED_AGE_MIN => Verdict::Removable,
            Some(age) if age >= SAID_AGE_MIN => Verdict::Left,
            // Written after `now`: clocks differ.
            Some(_) | None => Verdict::MayBeAtWork,
        }
    }
}

/// What there is, the oldest first.
pub async fn find(repository: &Repository) -> Result<Vec<Remains>, RepoError> {
    let mut labels = stored::labels(repository).await?;
    labels.sort();
    let found: Vec<Option<Remains>> =
        stream::iter(labels).map(|label| look_at(repository, label)).buffered(LISTS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// The packs and the block index of `label`, if it has some and no manifest.
pub async fn look_at(repository: &Repository, label: BackupLabel) -> Result<Option<Remains>, RepoError> {
    let manifest = layout::manifest(&label);
    let top = repository.store().list(Some(&layout::backup_root(&label))).await?;
    if top.objects.iter().any(|object| object.key == manifest) {
        return Ok(None);
    }
    let mut packs = repository.store().list(Some(&layout::packs(&label))).await?.objects;
    let index = layout::block_index(&label);
    packs.extend(top.objects.into_iter().filter(|object| object.key == index));
    Ok((!packs.is_empty()).then_some(Remains { label, packs }))
}

/// When the newest state of the lease on backups was written: the store's clock is not behind this. None when there was no lease.
pub async fn store_time(repository: &Repository) -> Result<Option<Timestamp>, RepoError> {
    let states = repository.store().list(Some(&layout::leases(Work::Backup))).await?;
    Ok(states.objects.into_iter().map(|state| state.modified).max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encryption;
    use walward_base::sys::cpu::CpuPool;
    use walward_storage::{ObjectKey, memory};

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 3600 * hours).expect("in range")
    }

    fn remains(hours: &[i64]) -> Remains {
        let label: BackupLabel = "20261121T064158Z-full".parse().expect("a label");
        let key = |number: usize| layout::pack(&label, u32::try_from(number).expect("few"));
        let pack =
            |(number, hour): (usize, &i64)| ObjectInfo { key: key(number), size: 7, modified: at(*hour), tag: None };
        Remains { packs: hours.iter().enumerate().map(pack).collect(), label: label.clone() }
    }

    #[test]
    fn remains_are_judged_by_their_newest_pack() {
        for (packs, now, expected) in [
            (&[0, 5][..], at(5), Verdict::MayBeAtWork),
            (&[0, 5], at(6), Verdict::Left),
            (&[5, 0], at(16), Verdict::Left),
            (&[5, 0], at(17), Verdict::Removable),
            // A store whose clock is ahead of ours keeps them.
            (&[5], at(-100), Verdict::MayBeAtWork),
            (&[], at(100), Verdict::MayBeAtWork),
        ] {
            assert_eq!(remains(packs).judge(now), expected, "{packs:?}");
        }
        assert_eq!(remains(&[1, 2]).bytes(), 14);
    }

    #[tokio::test]
    async fn a_backup_with_a_manifest_has_no_remains() {
        let (pool, now) = (CpuPool::new(1).expect("a thread"), Timestamp::now());
        let made = Repository::create("r", memory(), "main", &Encryption::None, &[], pool, now).await;
        let repository = made.expect("a repository").0;
        let put = async |key: ObjectKey| {
            repository.store().put_new(&key, vec![1, 2].into()).await.expect("put");
        };
        let label = |day: u8| -> BackupLabel { format!("202611{day}T064158Z-full").parse().expect("a label") };
        for (day, finished) in [(21, true), (22, false), (23, true), (24, false)] {
            put(layout::pack(&label(day), 0)).await;
            put(layout::pack(&label(day), 1)).await;
            put(layout::block_index(&label(day))).await;
            if finished {
                put(layout::manifest(&label(day))).await;
            }
        }
        let found = find(&repository).await.expect("found");
        let labels: Vec<&BackupLabel> = found.iter().map(|remains| &remains.label).collect();
        assert_eq!(labels, [&label(22), &label(24)]);
        assert!(found.iter().all(|remains| remains.packs.len() == 3 && remains.bytes() == 6));
    }
}
