//! What comes into repositories, as their stores see it: whose life each file is of, and that nothing comes after a file of another.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use tokio::time::Instant;
use walward_pg::WalFileName;
use walward_repo::Repository;
use walward_storage::{Creates, Listing, ObjectInfo, ObjectKey, Payload, Put, Store, StoreError, StoredObject, Upload};

use crate::machine::read_whole;
use crate::postgres::Own;
use crate::truth::print_of;

/// What is in the repositories, by what the stores said to those who wrote it.
#[derive(Debug, Default)]
pub struct Book {
    /// What each life wrote, or had inherited.
    pub lives: Vec<Own>,
    /// The repositories.
    pub sites: Vec<&'static str>,
    pub life: u64,
    pub unseen: Duration,
    pub told_lately: Duration,
    pub held: BTreeMap<(&'static str, WalFileName), Held>,
    /// What each server was told is archived.
    pub told: BTreeMap<(&'static str, WalFileName), Held>,
    pub broken: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub print: u64,
    pub life: u64,
    pub at: Instant,
}

impl Book {
    fn is_of_one_life(&self, one: (WalFileName, u64), other: (WalFileName, u64)) -> bool {
        self.lives.iter().any(|own| {
            let own = own.lock().unwrap();
            own.get(&one.0) == Some(&one.1) && own.get(&other.0) == Some(&other.1)
        })
    }

    /// Whether some two lives have written different files of this name.
    pub fn is_contested(&self, name: WalFileName) -> bool {
        let prints: BTreeSet<u64> =
            self.lives.iter().filter_map(|own| own.lock().unwrap().get(&name).copied()).collect();
        prints.len() > 1
    }

    pub fn of(&self, site: &'static str) -> BTreeMap<WalFileName, u64> {
        let held = self.held.iter().filter(|((at, _), _)| *at == site);
        held.map(|((_, name), held)| (*name, held.print)).collect()
    }

    /// A server was told that this file of its own is archived.
    pub fn told(&mut self, who: &'static str, name: WalFileName, print: u64) {
        self.told.entry((who, name)).or_insert(Held { print, life: self.life, at: Instant::now() });
    }

    /// `can_be_known` says of an earlier file whether anything could have told the writer whose it is.
    fn wrote(
        &mut self,
        (who, site): (&'static str, &'static str),
        (name, print): (WalFileName, u64),
        can_be_known: impl Fn(WalFileName) -> bool,
    ) {
        let known = |held: &Held| held.life < self.life || held.at.elapsed() > self.unseen;
        if self
            .told
            .get(&(who, name))
            .is_some_and(|told| told.print != print && (told.life < self.life || told.at.elapsed() > self.told_lately))
        {
            let what = format!("{who} brought {name} to {site}, which its own server has archived otherwise");
            self.broken.get_or_insert(what);
        }
        for ((at, earlier), held) in &self.held {
            let comes_first = match (earlier, &name) {
                (WalFileName::Segment(earlier), WalFileName::Segment(later)) => {
                    earlier.timeline == later.timeline && earlier < later
                }
                (WalFileName::History(timeline), WalFileName::Segment(later)) => *timeline == later.timeline,
                _ => false,
            };
            let fits = !comes_first || *at != site || !known(held);
            if !fits && !self.is_of_one_life((*earlier, held.print), (name, print)) && can_be_known(*earlier) {
                let what = format!("{who} brought {name} to {site}, after {earlier}, which is of another life there");
                self.broken.get_or_insert(what);
            }
        }
        self.held.insert((site, name), Held { print, life: self.life, at: Instant::now() });
    }
}

/// Who does not see which repository.
pub type Away = Arc<Mutex<BTreeSet<(&'static str, &'static str)>>>;

pub type SharedBook = Arc<Mutex<Book>>;

/// A store as one agent sees it, that writes down what comes into it.
#[derive(Debug)]
pub struct Noted {
    pub who: &'static str,
    pub site: &'static str,
    pub inner: Arc<dyn Store>,
    /// The same, open.
    pub repository: Repository,
    pub book: SharedBook,
    /// Who sees which repository not.
    pub away: Away,
    /// The server's own files.
    pub pg_wal: PathBuf,
    /// How far its clock is ahead.
    pub clock: SignedDuration,
    /// The other one: where this is said of its files, a name is all that is compared.
    pub taken_from: Option<Arc<dyn Store>>,
}

impl Noted {
    fn told(&self, mut info: ObjectInfo) -> ObjectInfo {
        info.modified += self.clock;
        info
    }

    async fn shown(&self, key: &ObjectKey) -> &Arc<dyn Store> {
        match &self.taken_from {
            Some(other) if key.as_str().starts_with("wal/") && other.head(key).await.is_ok() => other,
            _ => &self.inner,
        }
    }
}

#[async_trait]
impl Store for Noted {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn creates(&self) -> Creates {
        self.inner.creates()
    }

    async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<Put, StoreError> {
        // A network takes its time.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let put = self.inner.put_new(key, payload).await?;
        if let (Put::Created, Ok(name)) = (put, key.file_name().parse::<WalFileName>())
            && let Ok(bytes) = read_whole(&self.repository, key).await
        {
            let away = self.away.lock().unwrap().clone();
            let mut book = self.book.lock().unwrap();
            // An agent that sees no other repository, and whose server has let go of all that came before: it looks at what is next.
            let sees_another =
                book.sites.iter().any(|other| *other != self.site && !away.contains(&(self.who, *other)));
            let has = |earlier: WalFileName| self.pg_wal.join(earlier.to_string()).exists();
            book.wrote((self.who, self.site), (name, print_of(&bytes)), |earlier| sees_another || has(earlier));
        }
        Ok(put)
    }

    async fn get(&self, key: &ObjectKey) -> Result<StoredObject, StoreError> {
        let StoredObject { info, body } = self.shown(key).await.get(key).await?;
        Ok(StoredObject { info: self.told(info), body })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.shown(key).await.get_range(key, range).await
    }

    async fn get_range_of(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.get_range(&object.key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        Ok(self.told(self.shown(key).await.head(key).await?))
    }

    async fn list(&self, folder: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        let Listing { folders, objects } = self.inner.list(folder).await?;
        Ok(Listing { folders, objects: objects.into_iter().map(|info| self.told(info)).collect() })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn start_upload(&self, key: &ObjectKey, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.start_upload(key, expected_bytes).await
    }
}
