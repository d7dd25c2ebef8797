//! What the arguments say before they are parsed, or when they cannot be.

use std::ffi::OsString;

use crate::outcome::Exit;
use walward_wire::EXIT_FETCH_FAILED;

/// Whose exit codes PostgreSQL reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum WalVerb {
    /// `archive_command`: above 125 would restart the archiver silently.
    Push,
    /// `restore_command`: 1 to 125 mean "no such file", which ends a recovery.
    Fetch,
    /// A person's command.
    None,
}

impl WalVerb {
    /// The code to exit with. [`Exit::Absent`] is the only way for a fetch to say that there is no such file.
    pub(in crate::cli) fn code(self, exit: Exit) -> u8 {
        match (self, exit) {
            (Self::Fetch, Exit::Done | Exit::Absent) => exit.code(),
            (Self::Fetch, _) => EXIT_FETCH_FAILED,
            (Self::Push, exit) if exit.code() > 125 => Exit::Failed.code(),
            (_, exit) => exit.code(),
        }
    }
}

/// Finds out whether this is a push or a fetch before the arguments are parsed (they may be wrong, which must not look like
/// "no such file"). The first words that are neither options nor their values say it.
pub(in crate::cli) fn wal_verb(arguments: &[OsString]) -> WalVerb {
    let mut words = Vec::new();
    let mut rest = arguments.iter().skip(1).map(|argument| argument.to_str().unwrap_or_default());
    while let Some(argument) = rest.next() {
        match argument {
            "-c" | "--config" | "--cluster" | "--repository" => drop(rest.next()),
            "--" => {}
            option if option.starts_with('-') => {}
            word => words.push(word),
        }
    }
    match (words.first().copied(), words.get(1).copied()) {
        (Some("archive-push" | "wal-push"), _) | (Some("wal"), Some("push")) => WalVerb::Push,
        (Some("archive-get" | "wal-fetch"), _) | (Some("wal"), Some("fetch")) => WalVerb::Fetch,
        // An unknown option may have taken the verb for its value.
        _ if words.contains(&"wal") && words.contains(&"fetch") => WalVerb::Fetch,
        _ => WalVerb::None,
    }
}

/// The code of a command line that cannot be used. One in which a fetch may be meant must not look like "no such file" to PostgreSQL,
/// however it was mistyped; any other is a person's, who is told 2.
pub(in crate::cli) fn usage_code(arguments: &[OsString]) -> u8 {
    let means_fetch = arguments.iter().skip(1).any(|argument| walward_wire::client::may_mean_fetch(argument));
    if means_fetch { EXIT_FETCH_FAILED } else { wal_verb(arguments).code(Exit::Usage) }
}

/// Whether JSON is asked for by arguments that could not be understood.
pub(in crate::cli) fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(line: &str) -> WalVerb {
        wal_verb(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_fetch_is_known_before_its_arguments_are_understood() {
        assert_eq!(verb("walward wal fetch"), WalVerb::Fetch);
        assert_eq!(verb("walward -c /x --cluster main wal --frobnicate fetch x"), WalVerb::Fetch);
        assert_eq!(verb("walward --frobnicate y wal fetch x"), WalVerb::Fetch);
        assert_eq!(verb("walward archive-get a b"), WalVerb::Fetch);
        assert_eq!(verb("walward wal-fetch a b"), WalVerb::Fetch);
        assert_eq!(verb("walward --json wal push x"), WalVerb::Push);
        assert_eq!(verb("walward --cluster wal backup"), WalVerb::None);
        assert_eq!(verb("walward"), WalVerb::None);
    }

    #[test]
    fn a_command_line_that_cannot_be_used_is_never_absent_where_a_fetch_may_be_meant() {
        let code = |line: &str| usage_code(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for line in [
            "walward wal fetchh 00000002.history pg_wal/RECOVERYHISTORY",
            "walward --config wal fetch a b",
            "walward --cluster wal fetch a b",
            "walward wall fetch a b",
            "walward archive-gett a b",
            "walward wal-fetchh a b",
            "walward --frobnicate wal-fetch",
            "walward wal fetch",
        ] {
            assert_eq!(code(line), EXIT_FETCH_FAILED, "{line}");
        }
        for line in ["walward", "walward frobnicate", "walward wal push", "walward --cluster wal backup"] {
            assert_eq!(code(line), Exit::Usage.code(), "{line}");
        }
    }

    #[test]
    fn a_fetch_says_absent_in_one_way_only_and_a_push_restarts_no_archiver() {
        for exit in Exit::ALL {
            let fetch = WalVerb::Fetch.code(exit);
            assert!(matches!((exit, fetch), (Exit::Done, 0) | (Exit::Absent, 1) | (_, 255)), "{exit:?}");
            assert_eq!(fetch == 1, exit == Exit::Absent);
            assert!(WalVerb::Push.code(exit) <= 125);
        }
    }
}
