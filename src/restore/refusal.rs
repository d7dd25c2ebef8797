//! Why a restore is not begun, and what to do instead.

use std::fmt;
use std::path::PathBuf;

use crate::catalogue::SeveralLines;
use walward_pg::{Lineage, Lsn, SegmentName, Timeline};
use walward_repo::gap::Gap;

/// A restore that cannot do what was asked. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing to restore.
    #[error("there is no backup of {lineage}{}; take one with `walward backup`", older(.others))]
    NoBackups {
        /// The newest lineage.
        lineage: Lineage,
        /// Backups of older lineages.
        others: Vec<String>,
    },
    /// A backup that another one builds on is gone.
    #[error(
        "backup {backup} cannot be restored: backup {parent}, which it builds on, is in no repository; choose another backup with \
         --backup (`walward info` lists them)"
    )]
    WithoutParent {
        /// The backup.
        backup: String,
        /// What is missing.
        parent: String,
    },
    /// Neither backups nor WAL.
    #[error("the repositories hold nothing of this cluster yet; take a backup with `walward backup`")]
    NothingThere,
    /// A label that names nothing.
    #[error("there is no backup {label}; there {}", listed(.known))]
    NoSuchBackup {
        /// What was asked for.
        label: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No backup ended before the target.
    #[error(
        "the target {target} lies before the end of {} ({label}); the earliest that can be restored is {earliest}{}",
        if *.only_this { "the backup asked for" } else { "the first backup on its timeline" },
        of_older_lineage(.older.as_deref())
    )]
    TooEarly {
        /// The target.
        target: String,
        /// The first moment (or position) that can be reached.
        earliest: String,
        /// From which backup.
        label: String,
        /// Whether a backup was asked for by its label.
        only_this: bool,
        /// The backup of an earlier lineage from which the target can be reached.
        older: Option<Box<(String, Lineage)>>,
    },
    /// More than one line of the cluster can be meant.
    #[error("{0}")]
    SeveralLines(Box<SeveralLines>),
    /// No history file of that timeline.
    #[error("timeline {timeline} is not in the archive (no {:08X}.history); known are {}", .timeline.0, numbers(.known))]
    UnknownTimeline {
        /// What was asked for.
        timeline: Timeline,
        /// What there is.
        known: Vec<Timeline>,
    },
    /// A backup's own timeline has no history file.
    #[error(
        "the archive lacks {:08X}.history, without which timeline {timeline} cannot be recovered; archive it again from pg_wal of \
         a server that is on this timeline",
        .timeline.0
    )]
    NoHistory {
        /// The timeline.
        timeline: Timeline,
    },
    /// Every backup lies after a fork.
    #[error(
        "no backup leads to timeline {timeline}, which begins at {fork}: a backup must have ended on one of its ancestors \
         before they were left; choose another timeline, or `current` for the backup's own"
    )]
    NotOnTheWay {
        /// The target timeline.
        timeline: Timeline,
        /// Where it begins.
        fork: Lsn,
    },
    /// The directory holds a part of a backup that this request would not choose.
    #[error(
        "the directory holds an unfinished restore of backup {label}, from which this target cannot be reached; \
         empty the directory, or go on with the request that began it"
    )]
    OtherUnfinished {
        /// What the directory holds a part of.
        label: String,
    },
    /// A server runs on the target directory.
    #[error("a server (process {pid}) is running in {}; stop it, or restore into another directory", .directory.display())]
    Running {
        /// The target directory.
        directory: PathBuf,
        /// The postmaster.
        pid: i32,
    },
    /// The target directory, or a tablespace's, is in use.
    #[error("{} is not empty (it holds {holds}); restore into an empty directory, or empty this one yourself", .directory.display())]
    NotEmpty {
        /// Which directory.
        directory: PathBuf,
        /// One of the names in it.
        holds: String,
    },
    /// A tablespace's place is taken: likely by the cluster that was backed up.
    #[error(
        "{} is not empty (it holds {holds}), and tablespace {name} is to be restored there; \
         send it elsewhere with --tablespace-map '{name}=/NEW/PLACE'",
        .directory.display()
    )]
    TablespaceTaken {
        /// Which directory.
        directory: PathBuf,
        /// One of the names in it.
        holds: String,
        /// The tablespace.
        name: String,
    },
    /// The restore had come to its end and only its journal was left.
    #[error(
        "{} holds a finished restore of backup {label}: only the file {journal} was left behind;          remove that file, or restore into another directory",
        .directory.display()
    )]
    Finished {
        /// The target directory.
        directory: PathBuf,
        /// What was restored.
        label: String,
        /// The journal's name.
        journal: &'static str,
    },
    /// A journal that says nothing, or that a newer version wrote.
    #[error("{} cannot be read as the journal of an unfinished restore: {why}; empty the directory to begin anew", .journal.display())]
    Journal {
        /// The file.
        journal: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The unfinished restore put its tablespaces elsewhere, or is of another cluster.
    #[error("{} holds an unfinished restore of {what}; go on with the same request, or empty the directory", .directory.display())]
    OtherRequest {
        /// The target directory.
        directory: PathBuf,
        /// How it differs.
        what: String,
    },
    /// Something else put a pg_control there while the restore ran.
    #[error(
        "{} appeared while this restore ran, and is not its own; it was left as it is. Find out what else writes to that directory, \
         empty it, and restore again",
        .0.display()
    )]
    Overtaken(PathBuf),
    /// Two restores at once.
    #[error("another restore into {} is running", .0.display())]
    Busy(PathBuf),
    /// A target that is no directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A mapping for a tablespace that the backup does not have.
    #[error("backup {label} has no tablespace {selector} to map; it has {known}")]
    NoSuchTablespace {
        /// The backup.
        label: String,
        /// What was given.
        selector: String,
        /// What there is.
        known: String,
    },
    /// Two mappings for one tablespace.
    #[error("tablespace {name} is mapped twice, to {} and to {}; say where it is to go once", .first.display(), .second.display())]
    MappedTwice {
        /// The tablespace.
        name: String,
        /// The first place.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// A tablespace cannot lie there.
    #[error(
        "tablespace {name} cannot be restored to {}: {why}; send it elsewhere with --tablespace-map '{name}=/NEW/PLACE'",
        .to.display()
    )]
    TablespacePlace {
        /// The tablespace.
        name: String,
        /// The place.
        to: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// WAL cannot lie there.
    #[error("pg_wal cannot be restored to {}: {why}; name another place with --waldir", .to.display())]
    WalPlace {
        /// The place.
        to: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A place that is not apart from what it must not be mixed with.
    #[error("{} {how} {other}: their files would be mixed; choose another place ({option})", .place.display())]
    NotApart {
        /// Where a part was to go.
        place: PathBuf,
        /// How it lies.
        how: &'static str,
        /// To what.
        other: String,
        /// What gives the part another place.
        option: String,
    },
    /// The target is the place of another cluster.
    #[error(
        "{} is {other}: say --archive-mode preserve when the copy is to take that cluster's place, --archive-mode off when it \
         only comes to lie there, or choose another place (--target-directory)",
        .place.display()
    )]
    OtherCluster {
        /// The target directory.
        place: PathBuf,
        /// Whose it is.
        other: String,
    },
    /// root restores, and nobody is there to own the files.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` to give the files to; make {} beforehand,          owned by the user that will run the server",
        .0.display()
    )]
    NoOwner(PathBuf),
    /// A request that contradicts itself.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The WAL that the backup itself needs is not whole.
    #[error(
        "segment {missing} is missing in the archive, and backup {label} is not consistent without it; \
         choose an older backup, or archive the segment again if a server still has it"
    )]
    BackupWithoutWal {
        /// The backup.
        label: String,
        /// The first segment that is not there.
        missing: SegmentName,
    },
    /// A segment before the target is missing.
    #[error(
        "segment {missing} is missing in the archive (WAL goes on with {next}), and the target lies after it; \
         recoverable until {until}"
    )]
    Hole {
        /// The first segment that is not there.
        missing: SegmentName,
        /// The first one after the hole: one that is there, or where a later timeline began.
        next: SegmentName,
        /// How far recovery can go, for people.
        until: String,
    },
    /// Two lives of the cluster lie in the way.
    #[error(
        "segment {segment} does not continue {before}, which lies before it in the archive: another life of the cluster wrote it, and replaying both \
         would make a state that never was; restore to a target before {segment}, or choose which life to keep (`walward wal set-aside`); \
         fetch.refuse_seams = false replays it all the same"
    )]
    Seam {
        /// The segment of the other life.
        segment: SegmentName,
        /// What lies before it.
        before: SegmentName,
    },
    /// The target timeline has no WAL yet.
    #[error(
        "timeline {timeline} begins at {begin}, but its first segment {missing} is not in the archive; wait until it is archived, \
         or restore timeline {parent}, recoverable until {until}"
    )]
    TimelineWithoutWal {
        /// The target timeline.
        timeline: Timeline,
        /// Where it begins.
        begin: Lsn,
        /// Its first segment.
        missing: SegmentName,
        /// The one before.
        parent: Timeline,
        /// How far recovery can go on that one.
        until: String,
    },
    /// A segment on the way was let go before it was archived.
    #[error("{0}")]
    LetGo(Box<LetGo>),
    /// The target lies after everything that was archived.
    #[error(
        "the target {target} lies after the end of the archive: {end}; wait until more is archived \
         (`walward check --switch-wal` on the primary archives what there is, with its time), or choose an earlier target"
    )]
    TooLate {
        /// The target.
        target: String,
        /// The last thing there is.
        end: String,
    },
}

/// Why WAL is missing: the agent let it go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetGo {
    /// The record.
    pub gap: Gap,
    /// Backups that began after it, the oldest first.
    pub later: Vec<String>,
    /// What holds without the reason.
    pub refusal: Refusal,
}

impl fmt::Display for LetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { first, last, host, since, until, .. } = &self.gap;
        write!(
            f,
            "{first} to {last} was let go on host {host} between {since} and {until}, because more WAL waited than \
             archive.queue_limit allows: it is lost, and no recovery leads across it; "
        )?;
        match self.later.first() {
            None => f.write_str("no backup began after it: take one now with `walward backup`")?,
            Some(label) => write!(f, "restore a backup that began after it, the first of them {label} (--backup)")?,
        }
        write!(f, ", or choose a target before it ({})", self.refusal)
    }
}

impl Refusal {
    /// Whether what was asked for does not exist, rather than not being possible.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NothingThere | Self::NoBackups { .. } | Self::NoSuchBackup { .. })
    }
}

fn of_older_lineage(older: Option<&(String, Lineage)>) -> String {
    older.map_or_else(String::new, |(label, lineage)| {
        format!(
            "; the cluster was {lineage} then: `--backup {label}` with this target restores it, for PostgreSQL {}",
            lineage.major
        )
    })
}

fn listed(labels: &[String]) -> String {
    match labels {
        [] => "are none at all".to_owned(),
        [one] => format!("is only {one}"),
        [.., last] if labels.len() > 8 => format!("are {}, the newest of them {last}", labels.len()),
        _ => format!("are {}", labels.join(", ")),
    }
}

fn older(labels: &[String]) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!(" (older lineages are restored by label only; there {})", listed(labels))
    }
}

fn numbers(timelines: &[Timeline]) -> String {
    timelines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
