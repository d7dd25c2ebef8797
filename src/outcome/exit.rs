//! The exit codes; docs/exit-codes.md is tested against this table.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed, for a reason without a code of its own.
    Failed,
    /// `wal fetch`: every repository said that it has no such file. Same code as [`Exit::Failed`], because PostgreSQL reads it.
    Absent,
    /// The command line or the configuration is wrong.
    Usage,
    /// Done, and somebody should look at something.
    Warnings,
    /// There is no repository.
    NoRepository,
    /// Somebody else is at work.
    Locked,
    /// Key or credentials missing, wrong, or not allowed to.
    Key,
    /// The storage (or the agent, or PostgreSQL) cannot be reached, or a file system hangs.
    Unreachable,
    /// No such cluster, backup, key slot or object.
    NotFound,
    /// Bytes are not what was written.
    Integrity,
    /// Refused, because something does not hold that must.
    Refused,
    /// No space left.
    NoSpace,
    /// Interrupted.
    Interrupted,
    /// `wal fetch`: it could not be found out whether the file exists.
    FetchFailed,
}

impl Exit {
    /// Every way to end.
    pub const ALL: [Self; 15] = [
        Self::Done,
        Self::Failed,
        Self::Absent,
        Self::Usage,
        Self::Warnings,
        Self::NoRepository,
        Self::Locked,
        Self::Key,
        Self::Unreachable,
        Self::NotFound,
        Self::Integrity,
        Self::Refused,
        Self::NoSpace,
        Self::Interrupted,
        Self::FetchFailed,
    ];

    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::Absent => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::Key => 12,
            Self::Unreachable => 13,
            Self::NotFound => 14,
            Self::Integrity => 15,
            Self::Refused => 16,
            Self::NoSpace => 17,
            Self::Interrupted => 130,
            Self::FetchFailed => 255,
        }
    }

    /// The way to end that an agent's answer names.
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }

    /// What it means, for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed, for a reason without a code of its own",
            Self::Absent => "`wal fetch` only: every repository said that it has no such file",
            Self::Usage => "the command line or the configuration is wrong",
            Self::Warnings => "done, and somebody should look at something",
            Self::NoRepository => "there is no repository at the URL",
            Self::Locked => "somebody else is at work",
            Self::Key => "key or credentials are missing, wrong, or not allowed to do this",
            Self::Unreachable => "the storage, the agent or PostgreSQL cannot be reached, or a file system hangs",
            Self::NotFound => "no such cluster, backup, key slot or object",
            Self::Integrity => "bytes are not what was written",
            Self::Refused => "refused, because something does not hold that must",
            Self::NoSpace => "no space left",
            Self::Interrupted => "interrupted",
            Self::FetchFailed => "`wal fetch` only: anything but \"placed\" and \"absent\"; PostgreSQL stops",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md")).unwrap();
        let rows: String = Exit::ALL.map(|exit| format!("| {} | {} |\n", exit.code(), exit.meaning())).concat();
        assert!(text.contains(&rows), "docs/exit-codes.md should contain:\n{rows}");
    }
}
