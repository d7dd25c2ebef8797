//! `aside/<id>/…`: a life of the cluster that was moved out of the archive, and the records of the move.
//!
//! A life is moved object by object, each to its own name below `aside/<id>/`, byte for byte: sealed as it is, it opens again once it
//! is back under its own name. What is to be moved is written down first, in lists, then `begun.json`, which commits to them.
//! Nothing else is ever moved under this id, and `done.json` says that all of it is. Likewise `returning.json` and
//! `returned.json` on the way back.
//!
//! A crash leaves lists without `begun.json`, which mean nothing, or a move that was cut ([`Stage::Cut`], [`Stage::Returning`]): the lists
//! say what is left to do.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::aside_id::{AsideId, AsideIdError};
use super::error::RepoError;
use super::format::FormatError;
use super::{Repository, checked_json, generations, layout};
use walward_base::ErrorClass;
use walward_pg::{Lineage, WalFileName};
use walward_storage::{ObjectInfo, ObjectKey};

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;
/// Objects that one list names: of the longest names and tags they stay below the bound of a text.
const LIST_OBJECTS_MAX: usize = 1000;
/// Records that are read at once.
const READS_AT_ONCE: usize = 8;

/// `begun.json`: what is set aside, by whom and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// Version of this record; this code reads and writes 1.
    pub format: u32,
    /// The id in the name.
    pub id: AsideId,
    /// Whose WAL.
    pub lineage: Lineage,
    /// The file from which on the life was set aside.
    pub from: WalFileName,
    /// When, by the clock of the host that did it.
    pub begun: Timestamp,
    /// That host.
    pub host: String,
    /// The user of the operating system, where it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What was given as the reason; may be empty.
    pub reason: String,
    /// How many lists there are, numbered from 0.
    pub lists: u32,
    /// How many objects the lists name.
    pub objects: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// Labels of the backups among them.
    pub backups: Vec<String>,
}

/// `list/<nnnnn>.json`: some of the objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Version of this record; this code reads and writes 1.
    pub format: u32,
    /// The number in the name.
    pub number: u32,
    /// In the order in which they leave the archive.
    pub objects: Vec<Kept>,
}

/// One object, as it was when it was listed: an object that took its name later is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Its own name.
    pub key: String,
    /// Its length as stored.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub written: Timestamp,
    /// What the store tells it from others by, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl Kept {
    /// The object that a listing has shown.
    pub fn of(info: &ObjectInfo) -> Self {
        let (bytes, written) = (info.size, info.modified);
        Self { key: info.key.as_str().to_owned(), bytes, written, tag: info.tag.clone() }
    }

    /// Whether `info` is about that very object.
    pub fn is(&self, info: &ObjectInfo) -> bool {
        // Some stores quote a tag in one answer and not in the other.
        let bare = |tag: &Option<String>| tag.as_ref().map(|tag| tag.trim_matches('"').to_owned());
        let (key, size, modified) = (info.key.clone(), self.bytes, self.written);
        let listed = ObjectInfo { key, size, modified, tag: bare(&self.tag) };
        listed.is_same(&ObjectInfo { tag: bare(&info.tag), ..info.clone() })
    }
}

/// `done.json`, `returning.json` and `returned.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Version of this record; this code reads and writes 1.
    pub format: u32,
    /// When, by the clock of the host that did it.
    pub at: Timestamp,
    /// That host.
    pub host: String,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The move out of the archive was begun and not finished.
    Cut,
    /// It is aside.
    Aside,
    /// The move back was begun and not finished.
    Returning,
    /// It is in the archive again.
    Returned,
}

impl Stage {
    /// The record that says so.
    fn record(self) -> &'static str {
        match self {
            Self::Cut => "begun.json",
            Self::Aside => "done.json",
            Self::Returning => "returning.json",
            Self::Returned => "returned.json",
        }
    }
}

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// What, by whom and why.
    pub begun: Begun,
    /// How far.
    pub stage: Stage,
}

/// Writes the lists, then the record that commits to them. `objects` are in the order in which they leave the archive. To be called
/// under the lease: what others left that got no further than lists is removed.
pub async fn begin(repository: &Repository, begun: &Begun, objects: &[Kept]) -> Result<(), RepoError> {
    sweep(repository).await?;
    for (number, objects) in (0u32..).zip(objects.chunks(LIST_OBJECTS_MAX)) {
        let list = List { format: FORMAT, number, objects: objects.to_vec() };
        put(repository, &layout::aside_list(&begun.id, number), &list).await?;
    }
    put(repository, &layout::aside_record(&begun.id, Stage::Cut.record()), begun).await
}

/// Removes lists that no record commits to.
async fn sweep(repository: &Repository) -> Result<(), RepoError> {
    let store = repository.store();
    for id in store.list(Some(&layout::asides())).await?.folders.iter().filter_map(|folder| folder.parse().ok()) {
        if look(repository, &id).await?.is_none() {
            for list in store.list(Some(&layout::aside_lists(&id))).await?.objects {
                store.delete(&list.key).await?;
            }
        }
    }
    Ok(())
}

/// How many lists `objects` make.
pub fn lists(objects: usize) -> u32 {
    u32::try_from(objects.div_ceil(LIST_OBJECTS_MAX)).unwrap_or(u32::MAX)
}

/// Says that `stage` is reached. Said already, it is a success.
pub async fn reach(
    repository: &Repository,
    id: &AsideId,
    stage: Stage,
    at: Timestamp,
    host: &str,
) -> Result<(), RepoError> {
    let key = layout::aside_record(id, stage.record());
    if repository.exists(&key).await? {
        return Ok(());
    }
    put(repository, &key, &Step { format: FORMAT, at, host: host.to_owned() }).await
}

async fn put<T: Serialize>(repository: &Repository, key: &ObjectKey, record: &T) -> Result<(), RepoError> {
    let shown = repository.shown(key);
    let bytes = checked_json::encode(record, None).map_err(|error| RepoError::damaged(&shown, error))?;
    if bytes.len() as u64 > checked_json::BYTES_MAX {
        return Err(RepoError::damaged_text(&shown, "it would be longer than a record may be"));
    }
    if repository.put_small(key, &bytes).await? { Ok(()) } else { Err(RepoError::Contended { object: shown }) }
}

/// Everything that was ever set aside, the oldest first, and what is wrong with records that cannot be read.
pub async fn all(repository: &Repository) -> Result<(Vec<Aside>, Vec<RepoError>), RepoError> {
    let listing = repository.store().list(Some(&layout::asides())).await?;
    let mut ids: Vec<AsideId> = listing.folders.iter().filter_map(|folder| folder.parse().ok()).collect();
    ids.sort();
    let read: Vec<_> = stream::iter(ids)
        .map(async |id| match look(repository, &id).await {
            Ok(found) => Ok(found.map(Ok)),
            Err(error) if matches!(error.class(), ErrorClass::Corrupt) => Ok(Some(Err(error))),
            Err(error) => Err(error),
        })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let (mut asides, mut damaged) = (Vec::new(), Vec::new());
    for found in read.into_iter().flatten() {
        match found {
            Ok(aside) => asides.push(aside),
            Err(error) => damaged.push(error),
        }
    }
    Ok((asides, damaged))
}

/// What was set aside as `id`, if anything was.
pub async fn look(repository: &Repository, id: &AsideId) -> Result<Option<Aside>, RepoError> {
    let listing = repository.store().list(Some(&layout::aside_root(id))).await?;
    let has = |stage: Stage| listing.objects.iter().any(|object| object.key.file_name() == stage.record());
    let Some(stage) =
        [Stage::Returned, Stage::Returning, Stage::Aside, Stage::Cut].into_iter().find(|stage| has(*stage))
    else {
        return Ok(None);
    };
    let key = layout::aside_record(id, Stage::Cut.record());
    let bytes = generations::fetch(&**repository.store(), &key).await?;
    let shown = repository.shown(&key);
    let begun: Begun =
        checked_json::decode(&bytes, FORMAT).map_err(|error: FormatError| RepoError::damaged(&shown, error))?;
    if begun.id != *id {
        return Err(RepoError::damaged_text(&shown, "it belongs under another name"));
    }
    Ok(Some(Aside { begun, stage }))
}

/// The objects of `begun`, in the order in which they leave the archive.
pub async fn objects(repository: &Repository, begun: &Begun) -> Result<Vec<(ObjectKey, Kept)>, RepoError> {
    let lists: Vec<Vec<(ObjectKey, Kept)>> = stream::iter(0..begun.lists)
        .map(|number| list(repository, &begun.id, number))
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let objects: Vec<_> = lists.into_iter().flatten().collect();
    if objects.len() as u64 == begun.objects {
        Ok(objects)
    } else {
        let shown = repository.shown(&layout::aside_record(&begun.id, Stage::Cut.record()));
        Err(RepoError::damaged_text(&shown, "its lists name more objects, or fewer, than it says"))
    }
}

async fn list(repository: &Repository, id: &AsideId, number: u32) -> Result<Vec<(ObjectKey, Kept)>, RepoError> {
    let key = layout::aside_list(id, number);
    let shown = repository.shown(&key);
    let bytes = generations::fetch(&**repository.store(), &key).await?;
    let list: List =
        checked_json::decode(&bytes, FORMAT).map_err(|error: FormatError| RepoError::damaged(&shown, error))?;
    let named = |kept: Kept| {
        let key = layout::parse_archived(&kept.key);
        key.map(|key| (key, kept)).ok_or_else(|| RepoError::damaged_text(&shown, "it names what is never set aside"))
    };
    if list.number == number {
        list.objects.into_iter().map(named).collect()
    } else {
        Err(RepoError::damaged_text(&shown, "it belongs under another name"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = AsideId::new("2026-11-30T06:41:58.9Z".parse().expect("a time"));
        assert!(id.as_str().starts_with("20261130T064158Z-") && id.as_str().len() == 25, "{id}");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for text in ["", "20261130T064158Z", "20261130T064158Z-1A2B3C4D", "20261330T064158Z-1a2b3c4d", "../x-1a2b3c4d"]
        {
            assert!(text.parse::<AsideId>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_longest_list_is_no_longer_than_a_text_may_be(key in "[a-z]{150}", tag in "\"[\"a-z]{60}\"") {
            let written = Timestamp::MAX;
            let kept = Kept { key, bytes: u64::MAX, written, tag: Some(tag) };
            let list = List { format: FORMAT, number: u32::MAX, objects: vec![kept; LIST_OBJECTS_MAX] };
            let bytes = checked_json::encode(&list, None).expect("JSON");
            prop_assert!((bytes.len() as u64) < checked_json::BYTES_MAX);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = (checked_json::decode::<Begun>(&bytes, FORMAT), checked_json::decode::<List>(&bytes, FORMAT));
            let _ = (checked_json::decode::<Step>(&bytes, FORMAT), text.parse::<AsideId>());
        }
    }
}
