//! The name of every object of a cluster's repository, relative to the cluster's folder, and the way back where a listing
//! needs it. Pure.
//!
//! ```text
//! cluster/<generation>.json                        identity
//! keys/<generation>-<root id>.json                 key slots
//! wal/<lineage>/<timeline>.history                 timeline histories
//! wal/<lineage>/<timeline>/<log>/<file>            segments, partial segments, backup histories
//! backup/<label>/pack/<nnnnn>                      tar streams
//! backup/<label>/blocks                            which blocks an incremental backup stores
//! backup/<label>/manifest                          written last
//! backup/<label>/hold                              pinned
//! gap/<lineage>/<first>-<last>.json                WAL that was let go
//! aside/<id>/<step>.json                           a life that was set aside, and how far that is
//! aside/<id>/list/<nnnnn>.json                     what belongs to it
//! aside/<id>/{wal,backup}/…                        its objects, each under its own name
//! lease/<work>/<fencing>.json                      who is at work
//! lease/<work>/<token>/<fencing>.json              the same, of work that several may do at once
//! lease/<work>/[<token>/]clock-<digits>            what time the store has
//! ```
//!
//! Generations have 8 decimal digits, packs and lists 5, fencing numbers 20, so that names sort as numbers do.

use super::aside_id::AsideId;
use super::keys::RootId;
use super::manifest::BackupLabel;
use super::work::Work;
use walward_base::hex;
use walward_pg::{Lineage, Timeline, WalFileName};
use walward_storage::{KeyError, ObjectKey};

/// A key made of parts that are valid by their types.
fn key(path: String) -> ObjectKey {
    match ObjectKey::new(path) {
        Ok(key) => key,
        Err(error) => unreachable!("an object's name made of checked parts: {error}"),
    }
}

/// The folder of the identity's generations.
pub fn identities() -> ObjectKey {
    key("cluster".to_owned())
}

/// One generation of the cluster's identity.
pub fn identity(generation: u32) -> ObjectKey {
    key(format!("cluster/{generation:08}.json"))
}

/// The folder of the key slots' generations.
pub fn all_keys() -> ObjectKey {
    key("keys".to_owned())
}

/// One generation of the key slots that wrap the root key `root`. No two setups have a root key in common, so that neither can write
/// under the other's name.
pub fn keys(generation: u32, root: RootId) -> ObjectKey {
    key(format!("keys/{generation:08}-{root}.json"))
}

/// Generation and root key in the name of key slots, or `None` when the name is of none.
pub fn parse_keys(file_name: &str) -> Option<(u32, RootId)> {
    let (generation, root) = file_name.strip_suffix(".json")?.split_once('-')?;
    let (generation, root) = (generation.parse().ok()?, RootId::parse(root)?);
    (keys(generation, root).file_name() == file_name).then_some((generation, root))
}

/// A name that a person typed.
pub fn given(text: &str) -> Result<ObjectKey, KeyError> {
    ObjectKey::new(text)
}

/// A name under which a check of the store writes, and removes, what nobody else does.
pub fn scratch() -> ObjectKey {
    key(format!("probe/{}", hex::encode(&rand::random::<[u8; 8]>())))
}

/// The number in the name of a generation's object (`00000001.json`), or `None` when the name is of no generation.
pub fn parse_generation(file_name: &str) -> Option<u32> {
    let number = file_name.strip_suffix(".json")?.parse().ok()?;
    (format!("{number:08}.json") == file_name).then_some(number)
}

/// The folder of the lineages.
pub fn lineages() -> ObjectKey {
    key("wal".to_owned())
}

/// The folder of a lineage's WAL: histories and timelines' folders lie directly in it.
pub fn wal_root(lineage: Lineage) -> ObjectKey {
    key(format!("wal/{lineage}"))
}

/// The folder of a timeline's WAL: the logs' folders lie directly in it.
pub fn wal_timeline(lineage: Lineage, timeline: Timeline) -> ObjectKey {
    key(format!("wal/{lineage}/{:08X}", timeline.0))
}

/// The folder of one log (the middle eight digits of a segment's name) of a timeline.
pub fn wal_log(lineage: Lineage, timeline: Timeline, log: u32) -> ObjectKey {
    key(format!("wal/{lineage}/{:08X}/{log:08X}", timeline.0))
}

/// Where a WAL file of `lineage` lies: `wal/<lineage>/<timeline>/<log>/<name>`; histories lie directly in `wal/<lineage>`.
pub fn wal_file(lineage: Lineage, name: WalFileName) -> ObjectKey {
    match name {
        WalFileName::History(_) => key(format!("wal/{lineage}/{name}")),
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            key(format!("wal/{lineage}/{:08X}/{:08X}/{name}", segment.timeline.0, segment.log))
        }
    }
}

/// The timeline or log that the name of a folder spells: eight upper-case hexadecimal digits.
pub fn parse_word(folder: &str) -> Option<u32> {
    let number = u32::from_str_radix(folder, 16).ok()?;
    (format!("{number:08X}") == folder).then_some(number)
}

/// The folder of the backups: each is a folder in it, named by its label.
pub fn backups() -> ObjectKey {
    key("backup".to_owned())
}

/// The folder of one backup.
pub fn backup_root(label: &BackupLabel) -> ObjectKey {
    key(format!("backup/{label}"))
}

/// The folder of a backup's packs.
pub fn packs(label: &BackupLabel) -> ObjectKey {
    key(format!("backup/{label}/pack"))
}

/// One pack of a backup.
pub fn pack(label: &BackupLabel, number: u32) -> ObjectKey {
    key(format!("backup/{label}/pack/{number:05}"))
}

/// Which blocks of which files an incremental backup stores.
pub fn block_index(label: &BackupLabel) -> ObjectKey {
    key(format!("backup/{label}/blocks"))
}

/// A backup's manifest: its existence is the backup's.
pub fn manifest(label: &BackupLabel) -> ObjectKey {
    key(format!("backup/{label}/manifest"))
}

/// What pins a backup.
pub fn hold(label: &BackupLabel) -> ObjectKey {
    key(format!("backup/{label}/hold"))
}

/// The folder of the records of WAL of `lineage` that was let go.
pub fn gaps(lineage: Lineage) -> ObjectKey {
    key(format!("gap/{lineage}"))
}

/// The record of the files from `first` to `last`, which were let go.
pub fn gap(lineage: Lineage, first: WalFileName, last: WalFileName) -> ObjectKey {
    key(format!("gap/{lineage}/{first}-{last}.json"))
}

/// The first and last file in the name of a gap's record, or `None` when the name is of none.
pub fn parse_gap(file_name: &str) -> Option<(WalFileName, WalFileName)> {
    let (first, last) = file_name.strip_suffix(".json")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The folder of the lives that were set aside.
pub fn asides() -> ObjectKey {
    key("aside".to_owned())
}

/// The folder of one of them.
pub fn aside_root(id: &AsideId) -> ObjectKey {
    key(format!("aside/{id}"))
}

/// A record of how far one of them is.
pub fn aside_record(id: &AsideId, record: &str) -> ObjectKey {
    key(format!("aside/{id}/{record}"))
}

/// The folder of the lists of what belongs to one of them.
pub fn aside_lists(id: &AsideId) -> ObjectKey {
    key(format!("aside/{id}/list"))
}

/// A list of what belongs to one of them.
pub fn aside_list(id: &AsideId, number: u32) -> ObjectKey {
    key(format!("aside/{id}/list/{number:05}.json"))
}

/// Where an object lies while it is set aside.
pub fn set_aside(id: &AsideId, object: &ObjectKey) -> ObjectKey {
    key(format!("aside/{id}/{object}"))
}

/// The name of an object of the archive, as a record spells it; `None` when it is of none that may be set aside.
pub fn parse_archived(text: &str) -> Option<ObjectKey> {
    let is_archived = text.starts_with("wal/") || text.starts_with("backup/");
    ObjectKey::new(text).ok().filter(|_| is_archived)
}

/// Whether an object of the archive is WAL, and no backup's.
pub fn is_wal(object: &ObjectKey) -> bool {
    object.as_str().starts_with("wal/")
}

/// Whether an object of the archive is a timeline's history.
pub fn is_history(object: &ObjectKey) -> bool {
    is_wal(object) && matches!(object.file_name().parse(), Ok(WalFileName::History(_)))
}

/// The folder that an object lies in; `None` for one in the root.
pub fn folder_of(object: &ObjectKey) -> Option<ObjectKey> {
    let (folder, _) = object.as_str().rsplit_once('/')?;
    Some(key(folder.to_owned()))
}

/// The folder of the leases on one kind of work.
pub fn leases(work: Work) -> ObjectKey {
    key(format!("lease/{}", work.as_str()))
}

/// The folder of one reader's lease on work that several may do at once.
pub fn reader_lease(work: Work, token: &str) -> ObjectKey {
    key(format!("lease/{}/{token}", work.as_str()))
}

/// One state of the lease in `folder`.
pub fn lease(folder: &ObjectKey, fencing: u64) -> ObjectKey {
    key(format!("{folder}/{fencing:020}.json"))
}

/// A name in the lease's `folder` for an object whose time is the store's time of now; nobody else uses it.
pub fn lease_clock(folder: &ObjectKey) -> ObjectKey {
    key(format!("{folder}/{LEASE_CLOCK}{}", hex::encode(&rand::random::<[u8; 8]>())))
}

const LEASE_CLOCK: &str = "clock-";

/// Whether the name of an object in a lease's folder is one of [`lease_clock`].
pub fn is_lease_clock(name: &str) -> bool {
    name.starts_with(LEASE_CLOCK)
}

/// The fencing number in the name of a lease's object, or `None` when it is of none.
pub fn parse_fencing(file_name: &str) -> Option<u64> {
    let number = file_name.strip_suffix(".json")?.parse().ok()?;
    (format!("{number:020}.json") == file_name).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use walward_pg::SegmentName;

    const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7_437_223_446_531_284_312 };

    #[test]
    fn names_are_what_the_documentation_says() {
        let name = |text: &str| text.parse::<WalFileName>().expect("a WAL file's name");
        let wal = |text: &str| wal_file(LINEAGE, name(text)).to_string();
        assert_eq!(wal("0000000A.history"), "wal/15-7437223446531284312/0000000A.history");
        assert_eq!(
            wal("0000000A000000010000002B"),
            "wal/15-7437223446531284312/0000000A/00000001/0000000A000000010000002B"
        );
        assert_eq!(
            wal("0000000A000000010000002B.00000028.backup"),
            "wal/15-7437223446531284312/0000000A/00000001/0000000A000000010000002B.00000028.backup"
        );
        let label: BackupLabel = "20261121T064158Z-full".parse().expect("a label");
        assert_eq!(pack(&label, 7).as_str(), "backup/20261121T064158Z-full/pack/00007");
        assert_eq!(manifest(&label).as_str(), "backup/20261121T064158Z-full/manifest");
        assert_eq!(identity(3).as_str(), "cluster/00000003.json");
        let root = RootId::for_tests(0xA5);
        assert_eq!(keys(3, root).as_str(), "keys/00000003-a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5.json");
        let (first, last) = (name("0000000A000000010000002B"), name("0000000A0000000100000030"));
        let gap = gap(LINEAGE, first, last);
        assert_eq!(gap.as_str(), "gap/15-7437223446531284312/0000000A000000010000002B-0000000A0000000100000030.json");
        assert_eq!(parse_gap(gap.file_name()), Some((first, last)));
        let folder = leases(crate::lease::Work::Backup);
        assert_eq!(lease(&folder, 12).as_str(), "lease/backup/00000000000000000012.json");
        let folder = reader_lease(crate::lease::Work::Restore, &"0".repeat(32));
        let name = "lease/restore/00000000000000000000000000000000/00000000000000000012.json";
        assert_eq!(lease(&folder, 12).as_str(), name);
    }

    proptest! {
        #[test]
        fn numbers_in_names_are_read_back(generation: u32, fencing: u64) {
            prop_assert_eq!(parse_generation(identity(generation).file_name()), Some(generation));
            let root = RootId::for_tests(u8::try_from(fencing % 256).expect("a byte"));
            prop_assert_eq!(parse_keys(keys(generation, root).file_name()), Some((generation, root)));
            let folder = leases(crate::lease::Work::Backup);
            prop_assert_eq!(parse_fencing(lease(&folder, fencing).file_name()), Some(fencing));
        }

        #[test]
        fn every_wal_file_lies_in_the_folder_of_its_log(timeline in 1u32.., log: u32, segment: u32) {
            let segment = SegmentName { timeline: Timeline(timeline), log, segment };
            let key = wal_file(LINEAGE, WalFileName::Partial(segment));
            let folder = wal_log(LINEAGE, Timeline(timeline), log);
            prop_assert_eq!(key.as_str(), format!("{folder}/{segment}.partial"));
            prop_assert_eq!(parse_word(folder.file_name()), Some(log));
            prop_assert_eq!(parse_word(wal_timeline(LINEAGE, Timeline(timeline)).file_name()), Some(timeline));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = (parse_generation(&text), parse_fencing(&text), parse_word(&text), parse_gap(&text), parse_keys(&text));
        }
    }
}
