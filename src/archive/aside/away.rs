//! A life leaves the archive.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::carry::{compare, copy_over, present};
use super::{AsideError, AsidePlan, Rest, failed};
use walward_repo::aside::{self, Aside, Begun, Kept, Stage};
use walward_repo::{RepoError, Repository, layout};
use walward_storage::{ObjectInfo, ObjectKey};

/// Objects that are copied, or removed, at the same time.
const AT_ONCE: usize = 4;
/// How often it is looked whether another agent has brought something back that it thought was lacking.
const LOOKS: usize = 3;

/// How one object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ObjectState {
    /// It is at its place, and its copy has its bytes.
    Copied(ObjectInfo),
    /// It is set aside. What has its name is another life's.
    Moved,
    /// It is not moved: it is the kept life's.
    Spared,
    /// Something else removed it, or put another object in its place, before it was copied.
    Gone,
}

/// The move of one life out of one repository. To be held under the lease.
pub struct Away<'a> {
    repository: &'a Repository,
    begun: Begun,
    objects: Vec<(ObjectKey, Kept)>,
    /// In the order of `objects`, once they were copied.
    standings: Vec<ObjectState>,
    /// Nothing can have been copied before.
    is_new: bool,
    /// Those of `objects` that stay.
    spared: BTreeSet<ObjectKey>,
}

impl<'a> Away<'a> {
    /// Writes down that `plan` is moved. `begun` says who does it and why; its counts are filled in.
    pub async fn begin(repository: &'a Repository, begun: Begun, plan: &AsidePlan) -> Result<Self, AsideError> {
        let failed = failed(repository, "write down what is set aside");
        let kept = plan.objects();
        let begun = Begun {
            lists: aside::lists(kept.len()),
            objects: kept.len() as u64,
            bytes: plan.bytes(),
            backups: plan.backups.iter().map(|(label, _)| label.clone()).collect(),
            ..begun
        };
        aside::begin(repository, &begun, &kept).await.map_err(&failed)?;
        let objects = aside::objects(repository, &begun).await.map_err(failed)?;
        Ok(Self { repository, begun, objects, standings: Vec::new(), is_new: true, spared: BTreeSet::new() })
    }

    /// Takes up a move that was cut, of which `rest` is left.
    pub async fn resume(repository: &'a Repository, cut: &Aside, rest: Rest) -> Result<Self, AsideError> {
        let objects = aside::objects(repository, &cut.begun).await;
        let objects = objects.map_err(failed(repository, "read what is set aside"))?;
        let (begun, spared) = (cut.begun.clone(), rest.spared);
        Ok(Self { repository, begun, objects, standings: Vec::new(), is_new: false, spared })
    }

    /// What is moved.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Copies what is still at its place, and compares each with its copy. `on_object` hears of the bytes of each that is aside.
    pub async fn copy(&mut self, mut on_object: impl FnMut(u64)) -> Result<(), AsideError> {
        let failed = failed(self.repository, "set an object aside");
        let store = |error| failed(RepoError::from(error));
        let there = present(self.repository, self.objects.iter().map(|(key, _)| key)).await.map_err(store)?;
        let aside: Vec<ObjectKey> =
            self.objects.iter().map(|(key, _)| layout::set_aside(&self.begun.id, key)).collect();
        let copied =
            if self.is_new { BTreeSet::new() } else { present(self.repository, aside.iter()).await.map_err(store)? };
        let mut standings = Vec::new();
        let each = self.objects.iter().zip(&aside).map(|((key, kept), copy)| {
            let (is_there, is_copied) = (there.contains(key), copied.contains(copy));
            self.copy_one((key, kept), copy, is_there, is_copied)
        });
        let mut each = stream::iter(each).buffered(AT_ONCE);
        while let Some(standing) = each.try_next().await? {
            let bytes = self.objects.get(standings.len()).map_or(0, |(_, kept)| kept.bytes);
            on_object(bytes);
            standings.push(standing);
        }
        drop(each);
        // What an unmounted disk leaves takes copies just as well.
        self.repository.confirm_alive().await.map_err(failed)?;
        (self.standings, self.is_new) = (standings, false);
        Ok(())
    }

    async fn copy_one(
        &self,
        (key, kept): (&ObjectKey, &Kept),
        copy: &ObjectKey,
        is_there: bool,
        is_copied: bool,
    ) -> Result<ObjectState, AsideError> {
        let store = &**self.repository.store();
        let failed = failed(self.repository, "set an object aside");
        let failed = |error| failed(RepoError::from(error));
        if self.spared.contains(key) {
            return Ok(ObjectState::Spared);
        }
        match (is_there, is_copied) {
            (false, true) => return Ok(ObjectState::Moved),
            (false, false) => return Ok(ObjectState::Gone),
            (true, false) => {}
            (true, true) => {
                let (original, is_same) = compare(store, key, copy).await.map_err(failed)?;
                match (is_same, kept.is(&original)) {
                    (true, _) => return Ok(ObjectState::Copied(original)),
                    (false, false) => return Ok(ObjectState::Moved),
                    // The copy was never right: it is made again.
                    (false, true) => {}
                }
            }
        }
        // Only what was listed is copied.
        if !kept.is(&store.head(key).await.map_err(failed)?) {
            return Ok(ObjectState::Gone);
        }
        let (original, is_same) = copy_over(store, key, copy).await.map_err(failed)?;
        if is_same && kept.is(&original) {
            return Ok(ObjectState::Copied(original));
        }
        store.delete(copy).await.map_err(failed)?;
        Err(AsideError::BadCopy { repository: self.repository.name().to_owned(), object: self.repository.shown(copy) })
    }

    /// Removes what was copied, in its order, but for the file from which on the life is set aside.
    pub async fn remove(&mut self) -> Result<(), AsideError> {
        let last = layout::wal_file(self.begun.lineage, self.begun.from);
        self.remove_each(|key| *key != last).await
    }

    /// Removes that file, and what has come back meanwhile byte for byte: another agent may bring what it thinks is lacking. (What it sealed
    /// anew is another object, and stays: the kept life is refused there, and it is set aside from there on.) To be called when
    /// [`Away::remove`] is done in all repositories. The objects that something else had removed before they were copied.
    pub async fn finish(&mut self, host: &str) -> Result<Vec<ObjectKey>, AsideError> {
        self.remove_each(|_| true).await?;
        for _ in 0..LOOKS {
            self.copy(|_| {}).await?;
            if !self.standings.iter().any(|standing| matches!(standing, ObjectState::Copied(_))) {
                break;
            }
            self.remove_each(|_| true).await?;
        }
        let failed = failed(self.repository, "write down that it is set aside");
        self.repository.confirm_alive().await.map_err(&failed)?;
        let done = aside::reach(self.repository, &self.begun.id, Stage::Aside, Timestamp::now(), host).await;
        done.map_err(failed)?;
        let each = self.objects.iter().zip(&self.standings);
        let gone = each.filter(|(_, standing)| **standing == ObjectState::Gone).map(|((key, _), _)| key.clone());
        Ok(gone.collect())
    }

    async fn remove_each(&mut self, which: impl Fn(&ObjectKey) -> bool) -> Result<(), AsideError> {
        let failed = failed(self.repository, "take an object out of the archive");
        let chosen: Vec<(usize, ObjectInfo)> = self
            .standings
            .iter()
            .enumerate()
            .filter_map(|(at, standing)| match standing {
                ObjectState::Copied(info) if which(&info.key) => Some((at, info.clone())),
                _ => None,
            })
            .collect();
        // The manifest of a backup goes before any other object of it, and WAL after all backups.
        for some in
            chosen.chunk_by(|(_, a), (_, b)| layout::is_wal(&a.key) == layout::is_wal(&b.key) && !is_manifest(a))
        {
            let each = some.iter().map(async |(at, info)| {
                // Where another object has its name by now, that one stays.
                self.repository.store().delete_same(info).await.map(|_| *at).map_err(|error| failed(error.into()))
            });
            let removed: Vec<usize> = stream::iter(each).buffered(AT_ONCE).try_collect().await?;
            for at in removed {
                if let Some(standing) = self.standings.get_mut(at) {
                    *standing = ObjectState::Moved;
                }
            }
        }
        Ok(())
    }
}

fn is_manifest(info: &ObjectInfo) -> bool {
    info.key.file_name() == "manifest"
}
