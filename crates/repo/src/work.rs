//! The kinds of work that a lease is taken for, and which of them exclude each other.

use serde::{Deserialize, Serialize};

/// Work on one cluster in one repository.
///
/// One at a time changes what a repository holds. Several may read it at once, and while something is added; what takes something away, or
/// moves it, excludes them, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Taking a base backup.
    Backup,
    /// Copying another repository's backups into this one.
    Copy,
    /// Removing what the retention does not keep.
    Expire,
    /// Putting right what is damaged or missing.
    Repair,
    /// Moving a life of the cluster out of the archive, or back.
    SetAside,
    /// Restoring a cluster.
    Restore,
    /// Proving a restore.
    Drill,
    /// Reading everything, to find damage.
    Verify,
    /// Serving a cluster while it is restored.
    Serve,
}

/// What work does to what a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Adds,
    TakesAway,
}

impl Work {
    /// Every kind of work.
    pub const ALL: [Self; 9] = [
        Self::Backup,
        Self::Copy,
        Self::Expire,
        Self::Repair,
        Self::SetAside,
        Self::Restore,
        Self::Drill,
        Self::Verify,
        Self::Serve,
    ];

    /// The work's name: the lease's folder, and a word for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Copy => "copy",
            Self::Expire => "expire",
            Self::Repair => "repair",
            Self::SetAside => "set-aside",
            Self::Restore => "restore",
            Self::Drill => "drill",
            Self::Verify => "verify",
            Self::Serve => "serve",
        }
    }

    fn effect(self) -> Effect {
        match self {
            Self::Backup | Self::Copy => Effect::Adds,
            Self::Expire | Self::Repair | Self::SetAside => Effect::TakesAway,
            Self::Restore | Self::Drill | Self::Verify | Self::Serve => Effect::Reads,
        }
    }

    /// Whether several may do it at the same time.
    pub fn is_shared(self) -> bool {
        self.effect() == Effect::Reads
    }

    /// Whether it must not be done while `other` is.
    pub fn excludes(self, other: Self) -> bool {
        match (self.effect(), other.effect()) {
            (Effect::Reads, Effect::Reads | Effect::Adds) | (Effect::Adds, Effect::Reads) => false,
            (Effect::Reads, Effect::TakesAway)
            | (Effect::Adds, Effect::Adds | Effect::TakesAway)
            | (Effect::TakesAway, _) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FORMAT.md has this table.
    const TABLE: [(&str, &str); 9] = [
        //            b c e r s r d v s
        ("backup", "   x x x x x . . . ."),
        ("copy", "     x x x x x . . . ."),
        ("expire", "   x x x x x x x x x"),
        ("repair", "   x x x x x x x x x"),
        ("set-aside", "x x x x x x x x x"),
        ("restore", "  . . x x x . . . ."),
        ("drill", "    . . x x x . . . ."),
        ("verify", "   . . x x x . . . ."),
        ("serve", "    . . x x x . . . ."),
    ];

    #[test]
    fn what_excludes_what_is_as_the_table_says() {
        for ((work, (name, row)), at) in Work::ALL.into_iter().zip(TABLE).zip(0..) {
            assert_eq!(work.as_str(), name);
            assert_eq!(serde_json::to_value(work).expect("JSON"), name);
            let row: Vec<bool> = row.split_whitespace().map(|cell| cell == "x").collect();
            assert_eq!(row, Work::ALL.map(|other| work.excludes(other)), "{name}");
            assert_eq!(row, Work::ALL.map(|other| other.excludes(work)), "{name}");
            assert_eq!(work.is_shared(), !row[at], "{name}");
        }
    }
}
