//! `backup_label`, which tells a restored cluster where to begin, and the backup history file
//! (`000000010000000000000002.00000028.backup`), which says the same and where the backup ended (`build_backup_content`,
//! src/backend/access/transam/xlogbackup.c; before 15 in xlog.c).

use super::lsn::{Lsn, Timeline};
use super::wal_name::SegmentName;

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabelFile {
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// The segment that holds it.
    pub start_segment: SegmentName,
    /// Where the record of the backup's checkpoint is.
    pub checkpoint: Lsn,
    /// `streamed`, or `pg_start_backup` of the exclusive mode before 15.
    pub method: String,
    /// Whether it was taken on a standby.
    pub from_standby: bool,
    /// In the server's `log_timezone`, as written: `2026-11-21 10:11:26 UTC`. For people; the zone's name may be ambiguous.
    pub start_time: String,
    /// What the backup was called.
    pub label: String,
    /// The timeline of the start.
    pub timeline: Timeline,
    /// For an incremental backup (17 and later): the start of the one before and its timeline. Such a directory cannot be
    /// started before pg_combinebackup has made it whole.
    pub incremental_from: Option<(Lsn, Timeline)>,
}

/// What a backup history file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHistoryFile {
    /// What the label said.
    pub start: BackupLabelFile,
    /// Where the backup ended: recovery must reach it.
    pub stop_lsn: Lsn,
    /// The segment that holds it.
    pub stop_segment: SegmentName,
    /// As `start_time`.
    pub stop_time: String,
    /// The timeline of the end.
    pub stop_timeline: Timeline,
}

/// Why a text is not a backup label or a backup history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line that must be there is not.
    #[error("the backup label has no line {0:?}")]
    Missing(&'static str),
    /// A line says something that cannot be.
    #[error("the backup label says {field:?} is {value:?}")]
    Value {
        /// Which line.
        field: &'static str,
        /// What it says.
        value: String,
    },
}

impl BackupLabelFile {
    /// Reads the content of a `backup_label`.
    ///
    /// # Errors
    /// When a line that the server needs is missing or cannot be read.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let (start_lsn, start_segment) = location(text, "START WAL LOCATION")?;
        let timeline = match line(text, "START TIMELINE") {
            Some(_) => parsed(text, "START TIMELINE").map(Timeline)?,
            None => start_segment.timeline,
        };
        let incremental_from = match line(text, "INCREMENTAL FROM LSN") {
            Some(_) => Some((parsed(text, "INCREMENTAL FROM LSN")?, Timeline(parsed(text, "INCREMENTAL FROM TLI")?))),
            None => None,
        };
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint: parsed(text, "CHECKPOINT LOCATION")?,
            method: required(text, "BACKUP METHOD")?.to_owned(),
            from_standby: line(text, "BACKUP FROM") == Some("standby"),
            start_time: required(text, "START TIME")?.to_owned(),
            label: required(text, "LABEL")?.to_owned(),
            timeline,
            incremental_from,
        })
    }
}

impl BackupHistoryFile {
    /// Reads the content of a backup history file.
    ///
    /// # Errors
    /// When a line is missing or cannot be read.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let (stop_lsn, stop_segment) = location(text, "STOP WAL LOCATION")?;
        Ok(Self {
            start: BackupLabelFile::parse(text)?,
            stop_lsn,
            stop_segment,
            stop_time: required(text, "STOP TIME")?.to_owned(),
            stop_timeline: Timeline(parsed(text, "STOP TIMELINE")?),
        })
    }
}

/// What follows `field` and `": "` in its first line.
fn line<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
}

fn required<'a>(text: &'a str, field: &'static str) -> Result<&'a str, BackupLabelError> {
    line(text, field).ok_or(BackupLabelError::Missing(field))
}

fn parsed<T: std::str::FromStr>(text: &str, field: &'static str) -> Result<T, BackupLabelError> {
    let value = required(text, field)?;
    value.trim().parse().map_err(|_| BackupLabelError::Value { field, value: value.to_owned() })
}

/// `0/2000028 (file 000000010000000000000002)`
fn location(text: &str, field: &'static str) -> Result<(Lsn, SegmentName), BackupLabelError> {
    let value = required(text, field)?;
    let read = || {
        let (lsn, file) = value.split_once(" (file ")?;
        Some((lsn.parse().ok()?, file.trim_end().strip_suffix(')')?.parse().ok()?))
    };
    read().ok_or_else(|| BackupLabelError::Value { field, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HISTORY: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: standby\n\
        START TIME: 2026-11-21 10:11:26 UTC\n\
        LABEL: a label: with START TIME: in it\n\
        START TIMELINE: 1\n\
        STOP TIME: 2026-11-21 10:12:01 UTC\n\
        STOP TIMELINE: 1\n";

    #[test]
    fn a_label_and_a_history_are_read() {
        let history = BackupHistoryFile::parse(HISTORY).expect("a history");
        assert_eq!((history.start.start_lsn, history.stop_lsn), (Lsn(0x200_0028), Lsn(0x200_0138)));
        assert_eq!(history.start.checkpoint, Lsn(0x200_0060));
        assert_eq!(history.start.start_segment.to_string(), "000000010000000000000002");
        assert_eq!(history.start.start_time, "2026-11-21 10:11:26 UTC");
        assert_eq!(history.start.label, "a label: with START TIME: in it");
        assert_eq!(history.start.timeline, Timeline(1));
        assert_eq!(history.stop_timeline, Timeline(1));
        assert!(history.start.from_standby);
        assert_eq!(history.start.incremental_from, None);
        let increment = format!("{HISTORY}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        let label = BackupLabelFile::parse(&increment).expect("a label");
        assert_eq!(label.incremental_from, Some((Lsn(0x100_0028), Timeline(1))));
    }

    #[test]
    fn missing_and_wrong_lines_are_named() {
        let without = HISTORY.replace("CHECKPOINT LOCATION: 0/2000060\n", "");
        assert_eq!(BackupLabelFile::parse(&without), Err(BackupLabelError::Missing("CHECKPOINT LOCATION")));
        let wrong = HISTORY.replace("0/2000028 (file", "0/2000028 [file");
        assert!(matches!(
            BackupLabelFile::parse(&wrong),
            Err(BackupLabelError::Value { field: "START WAL LOCATION", .. })
        ));
        assert!(BackupLabelFile::parse("").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String, cut in 0usize..400) {
            let _ = BackupHistoryFile::parse(&text);
            let _ = BackupHistoryFile::parse(&HISTORY[..cut.min(HISTORY.len())]);
        }
    }
}
