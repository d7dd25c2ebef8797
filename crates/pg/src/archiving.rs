//! Who archives a server's WAL: read from `archive_command` and `archive_library`.
//!
//! `archive_command` is one string for the shell, and PostgreSQL hands a segment to one archiver only. Two tools can have every
//! segment if one command runs both; [`beside`] makes it.

use serde::Serialize;

use super::archive_command::{Pushing, pushing};

/// A tool other than Walward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `pgbackrest archive-push`
    PgBackRest,
    /// `wal-g wal-push`, and its predecessor `wal-e`
    WalG,
    /// `barman-wal-archive`, `barman-cloud-wal-archive`, or rsync and scp to a host of Barman's
    Barman,
    /// Anything else, a script for example.
    Unknown,
}

impl Tool {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::PgBackRest => "pgBackRest",
            Self::WalG => "WAL-G",
            Self::Barman => "Barman",
            Self::Unknown => "something else",
        }
    }
}

/// Who gets finished segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archives {
    /// Nobody: nothing is set, or a command that throws WAL away.
    Nobody,
    /// Walward alone.
    Walward,
    /// Walward, by a command that may say "archived" when it was not.
    Lossy,
    /// Walward and another tool, by one command.
    Both(Tool),
    /// Another tool.
    Other(Tool),
    /// A library (15 and later), which stands before every command.
    Library,
}

/// What the two settings mean. They are as they are configured: not "(disabled)".
pub fn archives(command: &str, library: &str) -> Archives {
    if !library.trim().is_empty() {
        return Archives::Library;
    }
    let command = command.trim();
    // As people switch archiving off without the restart that archive_mode needs.
    if ["", "true", "/bin/true", "/usr/bin/true", ":", "exit 0", "cd ."].contains(&command) {
        return Archives::Nobody;
    }
    match (pushing(command), tool(command)) {
        (Pushing::Surely(_) | Pushing::Unclear(_), None) => Archives::Walward,
        (Pushing::Surely(_) | Pushing::Unclear(_), Some(tool)) => Archives::Both(tool),
        (Pushing::Loses(_) | Pushing::No(Some(_)), None) => Archives::Lossy,
        (Pushing::Loses(_) | Pushing::No(_), tool) => Archives::Other(tool.unwrap_or(Tool::Unknown)),
    }
}

/// The programs that a command line names, without their folders.
fn programs(command: &str) -> impl Iterator<Item = &str> {
    let words = command.split(|c: char| c.is_whitespace() || "'\"`;&|(){}$=".contains(c));
    words.filter(|word| !word.is_empty()).map(|word| word.rsplit('/').next().unwrap_or(word))
}

fn is_ours(command: &str) -> bool {
    programs(command).any(|program| program == "walward-wal" || program == "walward")
}

/// The other tool that a command runs. Behind Walward's own command, whatever it is.
fn tool(command: &str) -> Option<Tool> {
    let known = programs(command).find_map(|program| match program {
        "pgbackrest" => Some(Tool::PgBackRest),
        "wal-g" | "wal-g-pg" | "wal-e" => Some(Tool::WalG),
        "barman-wal-archive" | "barman-cloud-wal-archive" => Some(Tool::Barman),
        _ => None,
    });
    let copies = programs(command).any(|program| program == "rsync" || program == "scp");
    let to_barman = copies && command.to_lowercase().contains("barman");
    let beside = is_ours(command) && command.contains(" && {");
    known.or(to_barman.then_some(Tool::Barman)).or(beside.then_some(Tool::Unknown))
}

/// One command that gives every file to Walward and then to whoever `other` is; `None` where that cannot be written safely.
///
/// Walward comes first, because it takes the same file again and again: PostgreSQL repeats the whole command after a failure, and
/// commands like `test ! -f … && cp …` refuse a file that they have. So `other` runs as often as it would alone, and never after
/// it succeeded. The exit code is the first that is not 0.
pub fn beside(walward: &str, other: &str) -> Option<String> {
    let other = without_end(other.trim()).trim_end();
    // A comment would swallow the bracket; ALTER SYSTEM takes no line break; a command in the background has no exit code. What is
    // escaped (`find … -exec … \\;`) is a word, and needs an end of its own.
    let unsafe_end = other.ends_with(['&', '|']) || is_escaping(other) || without_end(other) != other;
    if other.is_empty() || other.contains(['#', '\n', '\r']) || unsafe_end {
        return None;
    }
    Some(format!("{walward} && {{ {other}; }}"))
}

/// A command line without the `;` that ends it, if one does.
fn without_end(command: &str) -> &str {
    command.strip_suffix(';').filter(|before| !is_escaping(before)).unwrap_or(command)
}

/// Whether the last backslash stands for what follows.
fn is_escaping(text: &str) -> bool {
    let backslashes = text.len() - text.trim_end_matches('\\').len();
    backslashes % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tools_are_known_by_their_programs() {
        for (command, tool) in [
            ("pgbackrest --stanza=main archive-push %p", Tool::PgBackRest),
            ("/usr/bin/pgbackrest --config=/etc/x --stanza=main archive-push \"%p\"", Tool::PgBackRest),
            ("wal-g wal-push %p", Tool::WalG),
            ("envdir /etc/wal-g.d/env /usr/local/bin/wal-g wal-push \"%p\"", Tool::WalG),
            (". /etc/wal-g.env; wal-g wal-push %p", Tool::WalG),
            ("WALG_COMPRESSION_METHOD=brotli wal-g wal-push %p", Tool::WalG),
            ("envdir /etc/wal-e.d/env wal-e wal-push %p", Tool::WalG),
            ("barman-wal-archive backup main %p", Tool::Barman),
            ("barman-wal-archive --test backup main DUMMY", Tool::Barman),
            ("barman-cloud-wal-archive --gzip s3://bucket main %p", Tool::Barman),
            ("rsync -a %p barman@backup:/var/lib/barman/main/incoming/%f", Tool::Barman),
            ("scp %p barman@pg:INCOMING_WAL_DIRECTORY/%f", Tool::Barman),
            ("rsync -a %p backup@elsewhere:/wal/%f", Tool::Unknown),
            ("test ! -f /mnt/wal/%f && cp %p /mnt/wal/%f", Tool::Unknown),
            ("/opt/scripts/archive.sh %p", Tool::Unknown),
            // A folder that is only called so.
            ("cp %p /backup/pgbackrest/wal/%f.walward", Tool::Unknown),
        ] {
            assert_eq!(archives(command, ""), Archives::Other(tool), "{command}");
            let both = beside("/usr/bin/walward-wal push %p", command).unwrap();
            assert_eq!(archives(&both, ""), Archives::Both(tool), "{both}");
        }
        assert_eq!(archives("walward-wal push %p", "basic_archive"), Archives::Library);
    }

    #[test]
    fn nobody_and_walward_are_no_other_tool() {
        for command in ["", "  ", "/bin/true", ":", "exit 0"] {
            assert_eq!(archives(command, ""), Archives::Nobody, "{command}");
        }
        for command in [
            "walward-wal push %p",
            "'/opt/wal ward/walward-wal' --socket /run/x push %p",
            "walward --cluster main wal push %p",
            "/usr/bin/walward archive-push %p",
        ] {
            assert_eq!(archives(command, ""), Archives::Walward, "{command}");
        }
    }

    #[test]
    fn a_command_that_only_looks_like_walwards_is_not_taken_for_it() {
        for command in ["walward-wal push %p || true", "walward-wal push %f", "echo walward-wal push %p"] {
            assert_eq!(archives(command, ""), Archives::Lossy, "{command}");
        }
        let other = "walward-wal push %p; pgbackrest --stanza=main archive-push %p";
        assert_eq!(archives(other, ""), Archives::Other(Tool::PgBackRest));
    }

    /// Runs `command` as PostgreSQL does (`system`), and says what the two archivers saw.
    fn run(walward: &str, other: &str) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().unwrap();
        let command = beside(walward, other).unwrap();
        let status =
            std::process::Command::new("/bin/sh").args(["-c", &command]).current_dir(&folder).status().unwrap();
        (status.code(), std::fs::read_to_string(folder.path().join("seen")).unwrap_or_default())
    }

    #[test]
    fn the_other_archiver_runs_only_when_walward_has_the_file_and_its_exit_code_counts() {
        assert_eq!(run("echo w >>seen", "echo o >>seen"), (Some(0), "w\no\n".into()));
        assert_eq!(run("echo w >>seen; false", "echo o >>seen"), (Some(1), "w\n".into()));
        assert_eq!(run("echo w >>seen", "echo o >>seen; exit 7"), (Some(7), "w\no\n".into()));
        // What stands in it stays together.
        assert_eq!(run("false", "false || echo o >>seen"), (Some(1), String::new()));
        assert_eq!(run("true", "exec sh -c 'exit 3';"), (Some(3), String::new()));
        // An escaped semicolon is a word of the command, and no end of it.
        for end in ["\\;", "\\; ;", "\\;;", "';'", "';' ;"] {
            let command = format!("find . -maxdepth 0 -exec sh -c 'echo o >>seen; exit 5' {end}");
            assert_eq!(run("true", &command), (Some(0), "o\n".into()), "{command}");
        }
        assert_eq!(run("true", "echo 'o\\\\' >>seen; exit 4;"), (Some(4), "o\\\n".into()));
    }

    #[test]
    fn what_cannot_be_joined_safely_is_not() {
        for command in [
            "",
            "  ",
            ";",
            "cp %p /x/%f # a copy",
            "cp %p /x/%f &",
            "cp %p /x/%f &;",
            "cp %p /x/%f | ;",
            "cp %p /x/%f ;;",
            "cp %p /x/%f ; ;",
            "a\nb",
            "cp %p \\",
            "cp %p \\ ;",
            "cp %p \\\\\\",
        ] {
            assert_eq!(beside("walward-wal push %p", command), None, "{command:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_settings_never_panic(command: String, library: String) {
            archives(&command, &library);
            beside("walward-wal push %p", &command);
        }
    }
}
