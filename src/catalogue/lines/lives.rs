//! What lines of a cluster have of their own, and how that is shown to people. Which of them is meant is decided in [`super::decide`].

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::catalogue::time::format_microseconds;
use walward_pg::{Lsn, Timeline};

/// A backup, as far as lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupMoment {
    /// When it ended.
    pub stopped: Timestamp,
    /// Its name.
    pub label: String,
}

/// What a line has of its own after it parted from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// When its first and its last transaction ended, microseconds since the Unix epoch.
    pub commits: Option<(i64, i64)>,
    /// Its oldest and its newest backup.
    pub backups: Option<(BackupMoment, BackupMoment)>,
    /// When the first of its files arrived in the store, by the store's clock.
    pub born: Option<Timestamp>,
    /// When the last of its segments did.
    pub arrived: Option<Timestamp>,
    /// The position after its last segment.
    pub end: Lsn,
    /// The host that archived the first of its files.
    pub writer: Option<String>,
    /// No backup that the restore may start from leads to the line.
    pub lacks_backup: bool,
}

impl Life {
    /// Its first and last moment; none when nothing was done on it.
    pub fn moments(&self) -> Option<(i64, i64)> {
        let backups = self.backups.as_ref();
        let backups = backups.map(|(first, last)| (first.stopped.as_microsecond(), last.stopped.as_microsecond()));
        match (self.commits, backups) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        }
    }
}

/// The lives of lines, by the timeline that a line ends on and the position at which it parted from another.
pub type Lives = BTreeMap<(Timeline, Lsn), Life>;

/// A line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineSeen {
    timeline: Timeline,
    /// The timeline that it left, and where.
    left: Option<(Timeline, Lsn)>,
    life: Life,
}

impl LineSeen {
    /// The line that ends on `timeline`, which left another one as `left` says.
    pub fn new(timeline: Timeline, left: Option<(Timeline, Lsn)>, life: Life) -> Self {
        Self { timeline, left, life }
    }
}

impl fmt::Display for LineSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}", self.timeline)?;
        let mut facts = Vec::new();
        if let Some((parent, at)) = self.left {
            facts.push(format!("left timeline {parent} at {at}"));
        }
        if let Some(writer) = &self.life.writer {
            facts.push(format!("archived by {writer}"));
        }
        facts.push(match self.life.commits {
            Some((first, last)) => {
                format!(
                    "its own transactions ended from {} to {}",
                    format_microseconds(first),
                    format_microseconds(last)
                )
            }
            None => "no transaction of its own".to_owned(),
        });
        if let Some((_, newest)) = &self.life.backups {
            facts.push(format!("its newest backup is {}", newest.label));
        }
        if self.life.lacks_backup {
            facts.push("no backup to start from leads to it".to_owned());
        }
        write!(f, " ({})", facts.join(", "))
    }
}

/// Two lines that can both be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeveralLines {
    /// What was asked for.
    pub target: String,
    /// Each with what it has of its own.
    pub lines: Vec<LineSeen>,
}

impl std::error::Error for SeveralLines {}

impl fmt::Display for SeveralLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines.iter().map(ToString::to_string).collect();
        let (without, with): (Vec<_>, Vec<_>) = self.lines.iter().partition(|line| line.life.lacks_backup);
        let options: Vec<String> = with.iter().map(|line| format!("--timeline {}", line.timeline)).collect();
        write!(
            f,
            "the cluster has several lines of WAL, and the target {} can be meant on more than one: {}; say which with {}",
            self.target,
            lines.join("; "),
            options.join(" or ")
        )?;
        for line in without {
            write!(
                f,
                "; if the cluster is on timeline {}, take a backup there at once: it cannot be restored before",
                line.timeline
            )?;
        }
        Ok(())
    }
}
