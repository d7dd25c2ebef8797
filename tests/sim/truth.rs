//! What the model knows of each WAL file that anybody tried to archive.

use std::collections::{BTreeMap, BTreeSet};

use walward_pg::{SegmentName, WalFileName};

use crate::faults::mix;

/// Whose bytes: a life of a server.
pub type Version = u8;

#[derive(Debug, Default)]
struct File {
    /// What was tried.
    tried: BTreeSet<u64>,
    acknowledged: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Truth(BTreeMap<WalFileName, File>);

/// Stands for bytes.
pub fn print_of(bytes: &[u8]) -> u64 {
    mix(0, &bytes)
}

impl Truth {
    /// Somebody tries to archive it.
    pub fn tried(&mut self, name: WalFileName, bytes: &[u8]) {
        self.0.entry(name).or_default().tried.insert(print_of(bytes));
    }

    /// Somebody was told that it is durable.
    pub fn acknowledge(&mut self, name: WalFileName, bytes: &[u8]) -> Result<(), String> {
        let file = self.0.entry(name).or_default();
        let print = print_of(bytes);
        match file.acknowledged.replace(print) {
            Some(before) if before != print => {
                Err(format!("{name} was acknowledged with other bytes than these that were acknowledged now"))
            }
            _ => Ok(()),
        }
    }

    /// A person moved it out of the archive.
    pub fn set_aside(&mut self, name: WalFileName) {
        self.0.entry(name).or_default().acknowledged = None;
    }

    /// Whether somebody was told that it is durable with these bytes.
    pub fn is_acknowledged_as(&self, name: WalFileName, print: Option<u64>) -> bool {
        print.is_some() && self.0.get(&name).is_some_and(|file| file.acknowledged == print)
    }

    pub fn is_acknowledged(&self, name: WalFileName) -> bool {
        self.0.get(&name).is_some_and(|file| file.acknowledged.is_some())
    }

    /// Whether two contents were tried under it.
    pub fn is_contested(&self, name: WalFileName) -> bool {
        self.0.get(&name).is_some_and(|file| file.tried.len() > 1)
    }

    pub fn acknowledged(&self) -> Vec<WalFileName> {
        self.0.iter().filter(|(_, file)| file.acknowledged.is_some()).map(|(name, _)| *name).collect()
    }

    /// A segment after `name` on its timeline that was acknowledged.
    pub fn acknowledged_after(&self, name: WalFileName) -> Option<WalFileName> {
        let WalFileName::Segment(segment) = name else { return None };
        let after = |other: &WalFileName| match other {
            WalFileName::Segment(other) => other.timeline == segment.timeline && *other > segment,
            _ => false,
        };
        self.acknowledged().into_iter().find(after)
    }

    /// Whether the archive can know that WAL went on with `next` where `name` is missing: somebody tried to archive that, or the
    /// history that leads to it.
    pub fn goes_on(&self, name: WalFileName, next: SegmentName) -> bool {
        let left = |other: &WalFileName| matches!(other, WalFileName::History(later) if *later >= next.timeline);
        let elsewhere = matches!(name, WalFileName::Segment(segment) if segment.timeline < next.timeline);
        self.0.contains_key(&WalFileName::Segment(next)) || elsewhere && self.0.keys().any(left)
    }

    pub fn names(&self) -> BTreeSet<WalFileName> {
        self.0.keys().copied().collect()
    }

    /// Judges bytes that were given out under a name.
    pub fn check(&self, name: WalFileName, bytes: &[u8]) -> Result<(), String> {
        let print = print_of(bytes);
        let Some(file) = self.0.get(&name) else { return Err(format!("{name} came, which nobody archived")) };
        let right = match file.acknowledged {
            Some(acknowledged) => acknowledged == print,
            None => file.tried.contains(&print),
        };
        if right { Ok(()) } else { Err(format!("{name} came with other bytes than were archived")) }
    }
}
