//! What a server says about itself, by functions that need no superuser.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::{QUERY_TIME_MAX, Session, column};
use super::error::SessionError;
use crate::{Lineage, SegmentSize, Timeline};

/// What Walward needs to know of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`: 150018.
    pub version_num: u32,
    /// `server_version`, for people: `15.18 (Debian 15.18-1)`.
    pub server_version: String,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// Where the cluster's files are.
    pub data_directory: String,
    /// Size of its WAL segments.
    pub wal_segment_bytes: SegmentSize,
    /// Bytes of a data page.
    pub block_size: u32,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// Whether it is a standby, or recovers.
    pub in_recovery: bool,
    /// The timeline that it writes, or as a standby last replayed to a restartpoint.
    pub timeline: Timeline,
    /// `wal_level`
    pub wal_level: String,
    /// `archive_mode`: `off`, `on` or `always`.
    pub archive_mode: String,
    /// `archive_command`; empty when unset, `(disabled)` when archive_mode is off.
    pub archive_command: String,
    /// `archive_library` (15 and later), else empty.
    pub archive_library: String,
    /// `archive_timeout`, seconds; 0 for never.
    pub archive_timeout: u32,
    /// `restore_command`; empty when unset.
    pub restore_command: String,
    /// `summarize_wal` (17 and later).
    pub summarize_wal: bool,
    /// `full_page_writes`
    pub full_page_writes: bool,
    /// All tablespaces but the two that lie in the data directory.
    pub tablespaces: Vec<ServerTablespace>,
    /// The server's clock at the time.
    pub now: Timestamp,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTablespace {
    /// The name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name in SQL.
    pub name: String,
    /// Where it is; relative to the data directory for one made in place (`allow_in_place_tablespaces`).
    pub location: String,
}

/// `pg_stat_archiver`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiverStats {
    /// Files archived since the statistics were reset.
    pub archived_count: u64,
    /// The last one.
    pub last_archived_wal: Option<String>,
    /// When that was.
    pub last_archived_time: Option<Timestamp>,
    /// Failed attempts since the statistics were reset. Does not count a command killed or exiting above 125.
    pub failed_count: u64,
    /// The last file that failed.
    pub last_failed_wal: Option<String>,
    /// When that was.
    pub last_failed_time: Option<Timestamp>,
}

impl ServerFacts {
    /// The major version, 13 to 18.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or(u16::MAX)
    }

    /// What the cluster's WAL and backups belong to.
    pub fn lineage(&self) -> Lineage {
        Lineage { major: self.major(), system_identifier: self.system_identifier }
    }
}

/// The server's clock, microseconds since the Unix epoch.
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

/// A standby may not ask for the current WAL position; pg_control is as near as it gets. Settings that a version does not
/// have are null.
const FACTS: &str = "SELECT \
    (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
    current_setting('server_version'), \
    (SELECT system_identifier FROM pg_control_system()), \
    current_setting('data_directory'), \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'), \
    current_setting('block_size')::int8, \
    current_setting('data_checksums') <> 'off', \
    pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() \
        THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text \
              FROM pg_control_checkpoint() c, pg_control_recovery() r) \
        ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
    current_setting('wal_level'), \
    current_setting('archive_mode'), \
    current_setting('archive_command'), \
    coalesce(current_setting('archive_library', true), ''), \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'archive_timeout'), \
    coalesce(current_setting('restore_command', true), ''), \
    coalesce(current_setting('summarize_wal', true)::bool, false), \
    current_setting('full_page_writes')::bool";

const TABLESPACES: &str = "SELECT oid, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace \
    WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";

const ARCHIVER: &str = "SELECT archived_count, last_archived_wal, \
    (extract(epoch FROM last_archived_time) * 1000000)::int8, failed_count, last_failed_wal, \
    (extract(epoch FROM last_failed_time) * 1000000)::int8 FROM pg_stat_archiver";

/// Everybody may read that column (system_views.sql; 13 to 18).
const UNFOLLOWED: &str = "SELECT count(*) FROM pg_catalog.pg_subscription WHERE subenabled \
    AND pg_catalog.current_setting('max_logical_replication_workers')::int8 = 0";

impl Session {
    /// The server's clock.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn now(&self) -> Result<Timestamp, SessionError> {
        let row = self.one("ask for the server's time", NOW, &[], QUERY_TIME_MAX).await?;
        timestamp(&row, 0)
    }

    /// Whether the server is a standby (or recovers from an archive) at this moment.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn in_recovery(&self) -> Result<bool, SessionError> {
        let what = "ask whether the server is in recovery";
        let row = self.one(what, "SELECT pg_catalog.pg_is_in_recovery()", &[], QUERY_TIME_MAX).await?;
        column(&row, 0, what)
    }

    /// What Walward needs to know of the server.
    ///
    /// # Errors
    /// When the server does not answer, or the role lacks a right.
    pub async fn facts(&self) -> Result<ServerFacts, SessionError> {
        read(self).await
    }

    /// `pg_stat_archiver`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn archiver_stats(&self) -> Result<ArchiverStats, SessionError> {
        archiver(self).await
    }

    /// How many subscriptions are enabled, of all databases, while `max_logical_replication_workers` is 0: nothing follows them, and their
    /// publishers keep the WAL.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn unfollowed_subscriptions(&self) -> Result<u64, SessionError> {
        let what = "count the subscriptions that are not followed";
        unsigned(&self.one(what, UNFOLLOWED, &[], QUERY_TIME_MAX).await?, 0, what)
    }
}

async fn read(session: &Session) -> Result<ServerFacts, SessionError> {
    let what = "read the server's settings";
    let row = session.one(what, FACTS, &[], QUERY_TIME_MAX).await?;
    let wrong = |value: String| SessionError::Answer { what, value };
    let in_recovery: bool = column(&row, 7, what)?;
    let timeline: String = column(&row, 8, what)?;
    // Hexadecimal in a file name, decimal from pg_control.
    let radix = if in_recovery { 10 } else { 16 };
    Ok(ServerFacts {
        version_num: session.version_num,
        server_version: column(&row, 1, what)?,
        system_identifier: column::<i64>(&row, 2, what)?.cast_unsigned(),
        data_directory: column(&row, 3, what)?,
        wal_segment_bytes: segment_size(&row, 4, what)?,
        block_size: small(&row, 5, what)?,
        data_checksums: column(&row, 6, what)?,
        in_recovery,
        timeline: u32::from_str_radix(&timeline, radix).map(Timeline).map_err(|_| wrong(timeline))?,
        wal_level: column(&row, 9, what)?,
        archive_mode: column(&row, 10, what)?,
        archive_command: column(&row, 11, what)?,
        archive_library: column(&row, 12, what)?,
        archive_timeout: small(&row, 13, what)?,
        restore_command: column(&row, 14, what)?,
        summarize_wal: column(&row, 15, what)?,
        full_page_writes: column(&row, 16, what)?,
        tablespaces: tablespaces(session).await?,
        now: timestamp(&row, 0)?,
    })
}

async fn tablespaces(session: &Session) -> Result<Vec<ServerTablespace>, SessionError> {
    let what = "list the tablespaces";
    let rows = session.within(what, QUERY_TIME_MAX, session.client.query(TABLESPACES, &[])).await?;
    rows.iter()
        .map(|row| {
            Ok(ServerTablespace {
                oid: column(row, 0, what)?,
                name: column(row, 1, what)?,
                location: column(row, 2, what)?,
            })
        })
        .collect()
}

async fn archiver(session: &Session) -> Result<ArchiverStats, SessionError> {
    let what = "read pg_stat_archiver";
    let row = session.one(what, ARCHIVER, &[], QUERY_TIME_MAX).await?;
    let time = |index| match column::<Option<i64>>(&row, index, what)? {
        Some(_) => timestamp(&row, index).map(Some),
        None => Ok(None),
    };
    Ok(ArchiverStats {
        archived_count: unsigned(&row, 0, what)?,
        last_archived_wal: column(&row, 1, what)?,
        last_archived_time: time(2)?,
        failed_count: unsigned(&row, 3, what)?,
        last_failed_wal: column(&row, 4, what)?,
        last_failed_time: time(5)?,
    })
}

/// A column of microseconds since the Unix epoch.
fn timestamp(row: &Row, index: usize) -> Result<Timestamp, SessionError> {
    let what = "ask for the server's time";
    let micros: i64 = column(row, index, what)?;
    Timestamp::from_microsecond(micros).map_err(|_| SessionError::Answer { what, value: micros.to_string() })
}

/// A column of bytes of a WAL segment.
pub(super) fn segment_size(row: &Row, index: usize, what: &'static str) -> Result<SegmentSize, SessionError> {
    let bytes = unsigned(row, index, what)?;
    SegmentSize::try_from(bytes).map_err(|_| SessionError::Answer { what, value: bytes.to_string() })
}

fn unsigned(row: &Row, index: usize, what: &'static str) -> Result<u64, SessionError> {
    let value: i64 = column(row, index, what)?;
    u64::try_from(value).map_err(|_| SessionError::Answer { what, value: value.to_string() })
}

fn small(row: &Row, index: usize, what: &'static str) -> Result<u32, SessionError> {
    let value: i64 = column(row, index, what)?;
    u32::try_from(value).map_err(|_| SessionError::Answer { what, value: value.to_string() })
}
