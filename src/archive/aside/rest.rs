//! What is still to be moved when a move that was cut is taken up. Pure, over [`Facts`].
//!
//! The lists of the cut move say what may be moved, and nothing else is. They do not say what has to: the kept server may have been in recovery
//! then, or on another host, or an older release wrote them. So what it has with the same content stays, as when a move is new, and so does a
//! backup that needs nothing else. What has taken a name since is another object, and no matter of the move.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Facts, plan};
use walward_pg::WalFileName;
use walward_repo::aside::{Begun, Kept};
use walward_storage::{ObjectInfo, ObjectKey};

/// What becomes of the objects that a cut move lists, as far as it has to be known before it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rest {
    /// The file from which on the life is set aside is the kept server's own: the move does not go on.
    pub begins_in_own: bool,
    /// Objects that stay at their place.
    pub spared: BTreeSet<ObjectKey>,
    /// The WAL among them.
    pub stays: BTreeSet<WalFileName>,
    /// WAL that goes and may be the kept server's own: it has written such a file, and has it no more.
    pub doubtful: BTreeSet<WalFileName>,
}

/// Decides which of the objects that `cut` has `listed` are not moved.
pub fn rest(facts: &Facts, cut: &Begun, listed: &[(ObjectKey, Kept)]) -> Rest {
    if facts.lineage != cut.lineage {
        return Rest::default();
    }
    let listed: BTreeMap<&ObjectKey, &Kept> = listed.iter().map(|(key, kept)| (key, kept)).collect();
    let is_listed = |info: &ObjectInfo| listed.get(&info.key).is_some_and(|kept| kept.is(info));
    let there = || facts.wal.iter().filter(|(_, info)| is_listed(info));
    let own = || there().filter(|(name, _)| facts.own.contains(name));
    let stays: BTreeSet<WalFileName> = own().map(|(name, _)| *name).collect();
    if stays.contains(&cut.from) {
        return Rest { begins_in_own: true, stays, ..Rest::default() };
    }
    let new = plan(&Facts { own: stays.clone(), ..facts.clone() }, cut.from);
    // One without its manifest is on its way out already.
    let whole = facts.backups.iter().filter(|(backup, objects)| {
        let goes = new.backups.iter().any(|(label, _)| *label == backup.label);
        !goes && objects.iter().any(|object| object.key.file_name() == "manifest" && is_listed(object))
    });
    let backups = whole.flat_map(|(_, objects)| objects.iter().filter(|object| is_listed(object)));
    let spared = own().map(|(_, info)| info).chain(backups).map(|info| info.key.clone()).collect();
    let doubtful = there().map(|(name, _)| *name).filter(|name| facts.recycled.contains(name) && !stays.contains(name));
    Rest { begins_in_own: false, spared, doubtful: doubtful.collect(), stays }
}
