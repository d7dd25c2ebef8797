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

/// What to answer where it cannot be found out whether a file exists. `given`: what the command line says, if anything.
/// `dispensable`: PostgreSQL can do without the file ([`is_dispensable`]). Pure.
pub fn on_error(given: Option<OnError>, recovery: Recovery, dispensable: bool) -> OnError {
    match (given, recovery) {
        (Some(said @ (OnError::Abort | OnError::Retry)), _) => said,
        (_, Recovery::Standby) => OnError::Retry,
        (_, Recovery::None) if dispensable => OnError::Retry,
        (given, Recovery::OneShot | Recovery::None) => given.unwrap_or_default(),
    }
}

/// Whether a server that leaves recovery can do without the history `name`: there is none of timeline 1, and what lies in its pg_wal
/// is the same file.
pub fn is_dispensable(data_directory: &Path, name: &str) -> bool {
    let is_history = name.strip_suffix(".history").is_some_and(|number| number.len() == 8);
    is_history && (name == "00000001.history" || data_directory.join("pg_wal").join(name).metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_standby_is_told_at_once_and_a_recovery_that_may_end_never() {
        use OnError::{Abort, Retry, Target};
        for (given, recovery, dispensable, expected) in [
            (None, Recovery::Standby, false, Retry),
            (None, Recovery::OneShot, false, Abort),
            (None, Recovery::OneShot, true, Abort),
            (None, Recovery::None, false, Abort),
            (None, Recovery::None, true, Retry),
            // What `walward restore` wrote once stays in the settings, and a copy of the server may become a standby.
            (Some(Target), Recovery::Standby, false, Retry),
            (Some(Target), Recovery::OneShot, true, Target),
            (Some(Target), Recovery::None, true, Retry),
            (Some(Abort), Recovery::Standby, true, Abort),
            (Some(Retry), Recovery::OneShot, false, Retry),
        ] {
            assert_eq!(on_error(given, recovery, dispensable), expected, "{given:?} {recovery:?} {dispensable}");
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
        for name in ["00000002.history", "000000010000000000000003"] {
            assert!(!is_dispensable(folder.path(), name), "{name}");
            File::create(folder.path().join("pg_wal").join(name)).expect("made");
        }
        let dispensable = |name| is_dispensable(folder.path(), name);
        assert!(dispensable("00000002.history") && dispensable("00000001.history"));
        assert!(!dispensable("00000003.history") && !dispensable("000000010000000000000003"));
    }
}
