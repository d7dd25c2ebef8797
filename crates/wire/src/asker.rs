//! What kind of server asks for a file, told from its data directory at every call: what an answer of 1 means depends on it.
//!
//! A server with `standby.signal` asks again, and one with `recovery.signal` takes 1 for the end of the archive and promotes. Where both
//! files are there, it is a standby (`readRecoverySignalFile`, xlog.c 13 and 14, xlogrecovery.c 15 to 18).
//!
//! PostgreSQL removes the signal file a moment before it asks for the last time, for the history of the timeline that it leaves, in order
//! to copy it into that of the new one (`StartupXLOG` and `writeTimeLineHistory`, 13 to 18). Where it cannot have that, it takes the one in
//! pg_wal; timeline 1 has none at all. So 1 does no harm then, and 255 would end the server in the middle of its promotion.

use std::path::Path;

use super::message::OnError;

/// What the signal files say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// A standby.
    Standby,
    /// A recovery that ends by itself.
    OneShot,
    /// No recovery, or one that has just ended.
    None,
}

impl Recovery {
    /// Of the server in `data_directory`. A file that cannot be looked at counts as none: that is the safe side.
    pub fn of(data_directory: &Path) -> Self {
        let there = |name| data_directory.join(name).metadata().is_ok();
        if there("standby.signal") {
            Self::Standby
        } else if there("recovery.signal") {
            Self::OneShot
        } else {
            Self::None
        }
    }
}

/// What a file is to the server that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A timeline's history. By one that is absent PostgreSQL chooses which timeline it follows, and which number it takes next.
    History,
    /// A history that a server which leaves recovery can do without: there is none of timeline 1, and what lies in its pg_wal is the
    /// same file.
    HistoryAtHand,
    /// A segment, or anything else.
    Other,
}

impl Wanted {
    /// The file `name` to the server in `data_directory`.
    pub fn of(data_directory: &Path, name: &str) -> Self {
        if name.strip_suffix(".history").is_none_or(|number| number.len() != 8) {
            Self::Other
        } else if name == "00000001.history" || data_directory.join("pg_wal").join(name).metadata().is_ok() {
            Self::HistoryAtHand
        } else {
            Self::History
        }
    }
}

/// What to answer where it cannot be found out whether a file exists. `given`: what the command line says, if anything. No recovery
/// that ends by itself is told that a history is absent unless that is proven: it would end on the wrong timeline, and not know. Pure.
pub fn on_error(given: Option<OnError>, recovery: Recovery, wanted: Wanted) -> OnError {
    match (given, recovery, wanted) {
        (Some(OnError::Abort), _, _) => OnError::Abort,
        (_, Recovery::Standby, _) | (_, Recovery::None, Wanted::HistoryAtHand) => OnError::Retry,
        (_, _, Wanted::History | Wanted::HistoryAtHand) => OnError::Abort,
        (given, _, Wanted::Other) => given.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_standby_is_told_at_once_and_a_recovery_that_may_end_never() {
        use OnError::{Abort, Retry, Target};
        use Wanted::{History, HistoryAtHand, Other};
        for (given, recovery, wanted, expected) in [
            (None, Recovery::Standby, Other, Retry),
            (None, Recovery::Standby, History, Retry),
            (None, Recovery::OneShot, Other, Abort),
            (None, Recovery::OneShot, HistoryAtHand, Abort),
            (None, Recovery::None, Other, Abort),
            (None, Recovery::None, HistoryAtHand, Retry),
            // What `walward restore` wrote once stays in the settings, and a copy of the server may become a standby.
            (Some(Target), Recovery::Standby, Other, Retry),
            (Some(Target), Recovery::OneShot, Other, Target),
            (Some(Target), Recovery::None, HistoryAtHand, Retry),
            (Some(Abort), Recovery::Standby, HistoryAtHand, Abort),
            (Some(Retry), Recovery::OneShot, Other, Retry),
        ] {
            assert_eq!(on_error(given, recovery, wanted), expected, "{given:?} {recovery:?} {wanted:?}");
        }
    }

    #[test]
    fn no_recovery_that_ends_by_itself_takes_a_history_for_absent_without_proof() {
        for given in [None, Some(OnError::Abort), Some(OnError::Retry), Some(OnError::Target)] {
            for (recovery, wanted) in [
                (Recovery::OneShot, Wanted::History),
                (Recovery::OneShot, Wanted::HistoryAtHand),
                (Recovery::None, Wanted::History),
            ] {
                assert_eq!(on_error(given, recovery, wanted), OnError::Abort, "{given:?} {recovery:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn where_both_signal_files_are_it_is_a_standby() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Recovery::of(folder.path()), Recovery::None);
        File::create(folder.path().join("recovery.signal")).expect("made");
        assert_eq!(Recovery::of(folder.path()), Recovery::OneShot);
        File::create(folder.path().join("standby.signal")).expect("made");
        assert_eq!(Recovery::of(folder.path()), Recovery::Standby);
    }

    #[test]
    fn only_a_history_that_is_there_or_never_was_can_be_done_without() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("pg_wal")).expect("made");
        let wanted = |name| Wanted::of(folder.path(), name);
        for (name, before) in [("00000002.history", Wanted::History), ("000000010000000000000003", Wanted::Other)] {
            assert_eq!(wanted(name), before, "{name}");
            File::create(folder.path().join("pg_wal").join(name)).expect("made");
        }
        assert_eq!([wanted("00000002.history"), wanted("00000001.history")], [Wanted::HistoryAtHand; 2]);
        assert_eq!((wanted("00000003.history"), wanted("000000010000000000000003")), (Wanted::History, Wanted::Other));
    }
}
