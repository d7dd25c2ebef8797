//! What records say of `wal_level`. While it is minimal, relations are filled without WAL, so that nothing is known of their blocks.
//!
//! A server writes its level at the start whenever it is not what pg_control says, from 17 on also with every checkpoint
//! (`XLogReportParameters` and `CreateCheckPoint`, src/backend/access/transam/xlog.c, 13 to 18).

use crate::lsn::Lsn;

/// The first and the last record that say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The position of the first.
    pub first: Lsn,
    /// The position of the last.
    pub last: Lsn,
}

/// What a stretch of WAL says of `wal_level`, if anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels {
    /// Where it says minimal.
    pub minimal: Option<Said>,
    /// Where it says replica or logical.
    pub sufficient: Option<Said>,
}

impl Levels {
    /// Whether the level is minimal at the end of the stretch, if it says so. Where it does not, what the stretch before says holds.
    pub fn ends_minimal(&self) -> Option<bool> {
        match (self.minimal, self.sufficient) {
            (None, None) => None,
            (minimal, sufficient) => Some(minimal.map(|said| said.last) >= sufficient.map(|said| said.last)),
        }
    }

    /// Where the level became minimal; what comes after is unknown until [`Levels::came_back`].
    pub fn went_minimal(&self) -> Option<Lsn> {
        self.minimal.map(|said| said.first)
    }

    /// A position from which on the level is not minimal any more: after all records that say minimal.
    pub fn came_back(&self) -> Option<Lsn> {
        let said = self.sufficient.filter(|_| self.ends_minimal() == Some(false))?;
        Some(if Some(said.first) > self.minimal.map(|said| said.last) { said.first } else { said.last })
    }

    /// A record at `lsn` says the level.
    pub(super) fn say(&mut self, is_minimal: bool, lsn: Lsn) {
        let said = Some(Said { first: lsn, last: lsn });
        self.merge(&if is_minimal {
            Self { minimal: said, sufficient: None }
        } else {
            Self { minimal: None, sufficient: said }
        });
    }

    /// Adds what another stretch says.
    pub fn merge(&mut self, other: &Self) {
        self.minimal = both(self.minimal, other.minimal);
        self.sufficient = both(self.sufficient, other.sufficient);
    }
}

fn both(one: Option<Said>, other: Option<Said>) -> Option<Said> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Said { first: one.first.min(other.first), last: one.last.max(other.last) }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_holds_and_what_is_not_said_is_not_known() {
        let mut levels = Levels::default();
        assert_eq!((levels.ends_minimal(), levels.came_back()), (None, None));
        levels.say(false, Lsn(10));
        assert_eq!(
            (levels.ends_minimal(), levels.went_minimal(), levels.came_back()),
            (Some(false), None, Some(Lsn(10)))
        );
        levels.say(true, Lsn(20));
        assert_eq!(
            (levels.ends_minimal(), levels.went_minimal(), levels.came_back()),
            (Some(true), Some(Lsn(20)), None)
        );
        levels.say(false, Lsn(30));
        assert_eq!(
            (levels.ends_minimal(), levels.went_minimal(), levels.came_back()),
            (Some(false), Some(Lsn(20)), Some(Lsn(30)))
        );
    }
}
