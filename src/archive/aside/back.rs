//! A life that was set aside comes back into the archive.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::carry::{compare, copy_new, copy_over, present};
use super::{AsideError, failed};
use walward_repo::aside::{self, Aside, Begun, Stage};
use walward_repo::{RepoError, Repository, layout};
use walward_storage::{ObjectInfo, ObjectKey};

/// Objects that are compared, copied or removed at the same time. WAL is held in memory meanwhile, as it is stored.
const AT_ONCE: usize = 2;

/// The move of one life back into one repository. To be held under the lease.
pub struct Back<'a> {
    repository: &'a Repository,
    begun: Begun,
    /// In the order in which they come back: each where it is aside, where it belongs, and its bytes.
    objects: Vec<(ObjectKey, ObjectKey, u64)>,
}

impl<'a> Back<'a> {
    /// Reads what belongs to `aside`.
    pub async fn read(repository: &'a Repository, aside: &Aside) -> Result<Self, AsideError> {
        let failed = failed(repository, "read what is set aside");
        let kept = aside::objects(repository, &aside.begun).await.map_err(failed)?;
        // The other way round: histories, then WAL from the oldest on, then backups, each with its manifest last.
        let each =
            kept.into_iter().rev().map(|(key, kept)| (layout::set_aside(&aside.begun.id, &key), key, kept.bytes));
        let mut objects: Vec<_> = each.collect();
        objects.sort_by_key(|(_, key, _)| Reverse((layout::is_wal(key), layout::is_history(key))));
        Ok(Self { repository, begun: aside.begun.clone(), objects })
    }

    /// Into which repository.
    pub fn repository(&self) -> &Repository {
        self.repository
    }

    /// What comes back.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Whether every object can come back: none of the names holds other content, and none of the objects is gone.
    ///
    /// # Errors
    /// [`AsideError::Taken`], [`AsideError::Gone`].
    pub async fn judge(&self) -> Result<(), AsideError> {
        self.sources().await.map(drop)
    }

    /// Which of the objects are aside, and which are in the archive already.
    async fn sources(&self) -> Result<(BTreeSet<ObjectKey>, BTreeSet<ObjectKey>), AsideError> {
        let failed = failed(self.repository, "compare what is set aside with the archive");
        let store = |error| failed(RepoError::from(error));
        let aside = present(self.repository, self.objects.iter().map(|(aside, ..)| aside)).await.map_err(store)?;
        let there = present(self.repository, self.objects.iter().map(|(_, key, _)| key)).await.map_err(store)?;
        let gone: Vec<_> =
            self.objects.iter().filter(|(copy, key, _)| !aside.contains(copy) && !there.contains(key)).collect();
        if let Some((_, first, _)) = gone.first() {
            let (repository, count) = (self.repository.name().to_owned(), gone.len());
            return Err(AsideError::Gone { repository, first: first.to_string(), count });
        }
        let both = self.objects.iter().filter(|(copy, key, _)| aside.contains(copy) && there.contains(key));
        let compared = both.map(async |(copy, key, _)| {
            compare(&**self.repository.store(), key, copy).await.map(|(_, is_same)| (key, is_same))
        });
        let compared: Vec<_> = stream::iter(compared).buffered(AT_ONCE).try_collect().await.map_err(store)?;
        let taken: Vec<_> = compared.into_iter().filter(|(_, is_same)| !is_same).collect();
        match taken.first() {
            Some((first, _)) => Err(self.taken(first, taken.len())),
            None => Ok((aside, there)),
        }
    }

    fn taken(&self, first: &ObjectKey, count: usize) -> AsideError {
        AsideError::Taken { repository: self.repository.name().to_owned(), first: first.to_string(), count }
    }

    /// Puts everything back, then removes what was aside. `on_object` hears of the bytes of each object that is in the archive again.
    ///
    /// # Errors
    /// As [`Back::judge`]; nothing is overwritten.
    pub async fn put_back(&self, host: &str, mut on_object: impl FnMut(u64)) -> Result<(), AsideError> {
        let failed = failed(self.repository, "put back what was set aside");
        let (aside, there) = self.sources().await?;
        let begun = aside::reach(self.repository, &self.begun.id, Stage::Returning, Timestamp::now(), host).await;
        begun.map_err(&failed)?;
        // Groups whose order counts: histories, WAL, packs, each manifest.
        let group = |key: &ObjectKey| (layout::is_wal(key), layout::is_history(key), key.file_name() == "manifest");
        for some in self.objects.chunk_by(|(_, a, _), (_, b, _)| group(a) == group(b)) {
            let lacking = some.iter().filter(|(_, key, _)| !there.contains(key));
            let each = lacking.map(async |(copy, key, bytes)| self.put_one(copy, key).await.map(|()| *bytes));
            let mut each = stream::iter(each).buffered(AT_ONCE);
            while let Some(bytes) = each.try_next().await? {
                on_object(bytes);
            }
        }
        self.repository.confirm_alive().await.map_err(&failed)?;
        let copies = self.objects.iter().filter(|(copy, ..)| aside.contains(copy));
        let removed = copies.map(|(copy, key, _)| self.drop_one(copy, key));
        stream::iter(removed).buffered(AT_ONCE).try_collect::<()>().await?;
        self.repository.confirm_alive().await.map_err(&failed)?;
        let done = aside::reach(self.repository, &self.begun.id, Stage::Returned, Timestamp::now(), host).await;
        done.map_err(failed)
    }

    async fn put_one(&self, copy: &ObjectKey, key: &ObjectKey) -> Result<(), AsideError> {
        let store = &**self.repository.store();
        // Of a backup without a manifest the names are free, and its packs are large.
        let is_back = if layout::is_wal(key) || key.file_name() == "manifest" {
            copy_new(store, copy, key).await
        } else {
            copy_over(store, copy, key).await.map(|(_, is_same)| is_same)
        };
        let failed = failed(self.repository, "put an object back");
        if is_back.map_err(|error| failed(error.into()))? { Ok(()) } else { Err(self.taken(key, 1)) }
    }

    /// Removes a copy whose original is in the archive again, compared a last time.
    async fn drop_one(&self, copy: &ObjectKey, key: &ObjectKey) -> Result<(), AsideError> {
        let store = &**self.repository.store();
        let failed = failed(self.repository, "remove a copy that was put back");
        let (info, is_same): (ObjectInfo, bool) =
            compare(store, copy, key).await.map_err(|error| failed(error.into()))?;
        if !is_same {
            return Err(self.taken(key, 1));
        }
        store.delete_same(&info).await.map(drop).map_err(|error| failed(error.into()))
    }
}
