//! The SQL session with a server: facts about it, starting and ending a base backup, and small commands.
//!
//! It needs no superuser: [`grants::grant_statements`] says what a role needs. The connection is a Unix socket or TCP
//! without TLS (`sslmode` `disable` or `prefer`; anything stricter is refused rather than ignored): an agent runs on the
//! host of its server.
//!
//! A backup lives as long as its session: when the session is dropped or breaks, the server ends the backup by itself, and
//! nothing is left behind on it.

mod admin;
mod connect;
mod error;
mod facts;
pub mod grants;

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

pub use admin::{Rights, Setting, alter_system_statement};
pub use connect::quote_conninfo;
pub use error::SessionError;
pub use facts::{ArchiverStats, ServerFacts, ServerTablespace};

use super::{Lsn, SegmentName, Timeline};

/// How long a statement that only looks something up may take.
const QUERY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long asking the server to cancel a statement may take.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection to one server. Dropping it closes the connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: Driver,
    version_num: u32,
}

/// The task that moves the connection's bytes; ends with the session.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the server says at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// Recovery must reach this position before the backup is consistent.
    pub stop_lsn: Lsn,
    /// When the server answered, by its own clock.
    pub time: Timestamp,
    /// The content of `backup_label`; to be stored byte by byte as it is.
    pub label_file: String,
    /// The content of `tablespace_map`; empty when there are no tablespaces, and then no such file belongs in the backup.
    pub map_file: String,
}

impl Session {
    /// Connects within `deadline`. `conninfo` is a libpq connection string or URI; without a host it means the socket in
    /// `/var/run/postgresql`, without a database `postgres`. Password files and services are not read.
    ///
    /// # Errors
    /// When the string is wrong or asks for TLS, the server cannot be reached or refuses, or is not of version 13 to 18.
    pub async fn connect(conninfo: &str, deadline: Duration) -> Result<Self, SessionError> {
        let config = connect::config(conninfo, deadline)?;
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await.map_err(SessionError::connect)?;
            Self::begin(client, connection).await
        };
        tokio::time::timeout(deadline, connecting).await.map_err(|_| SessionError::ConnectTimeout(deadline))?
    }

    /// Takes a connection that stands, and sets it up.
    async fn begin(
        client: Client,
        connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    ) -> Result<Self, SessionError> {
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "the connection to PostgreSQL ended");
            }
        }));
        let row = client
            .query_one("SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4", &[])
            .await
            .map_err(SessionError::connect)?;
        let number: i32 = row.try_get(0).map_err(SessionError::connect)?;
        let version_num = u32::try_from(number).unwrap_or(0);
        if !(130_000..190_000).contains(&version_num) {
            return Err(SessionError::Unsupported(version_num));
        }
        let session = Self { client, driver, version_num };
        session.client.batch_execute(&connect::settings(session.major())).await.map_err(SessionError::connect)?;
        Ok(session)
    }

    /// The server's major version, 13 to 18.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or(u16::MAX)
    }

    /// Whether the connection is gone; a backup that was going on with it is too.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.0.is_finished()
    }

    /// The server's clock.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn now(&self) -> Result<Timestamp, SessionError> {
        let row = self.one("ask for the server's time", facts::NOW, &[], QUERY_TIME_MAX).await?;
        facts::timestamp(&row, 0)
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
        facts::read(self).await
    }

    /// `pg_stat_archiver`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn archiver_stats(&self) -> Result<ArchiverStats, SessionError> {
        facts::archiver(self).await
    }

    /// Begins a backup (non-exclusive); gives the position that WAL is needed from. With `fast` the server's checkpoint is
    /// made at once, else it is spread over up to `checkpoint_timeout`; `deadline` must leave time for that.
    ///
    /// # Errors
    /// When the server refuses, or has not answered within `deadline`; the statement is then cancelled.
    pub async fn backup_start(&self, label: &str, fast: bool, deadline: Duration) -> Result<Lsn, SessionError> {
        let what = "start a backup";
        let statement = if self.major() >= 15 {
            "SELECT pg_catalog.pg_backup_start($1, $2)::pg_catalog.text"
        } else {
            "SELECT pg_catalog.pg_start_backup($1, $2, false)::pg_catalog.text"
        };
        let row = self.one(what, statement, &[&label, &fast], deadline).await?;
        lsn(&row, 0, what)
    }

    /// Ends the backup of this session, without waiting for its WAL to be archived: the caller knows better when that is.
    ///
    /// # Errors
    /// When no backup is going on, the standby was promoted meanwhile, or the server has not answered within `deadline`.
    pub async fn backup_stop(&self, deadline: Duration) -> Result<BackupStop, SessionError> {
        let what = "end the backup";
        let statement = if self.major() >= 15 {
            "SELECT lsn::pg_catalog.text, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)"
        } else {
            "SELECT lsn::pg_catalog.text, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)"
        };
        let row = self.one(what, statement, &[], deadline).await?;
        Ok(BackupStop {
            stop_lsn: lsn(&row, 0, what)?,
            label_file: column(&row, 1, what)?,
            map_file: column::<Option<String>>(&row, 2, what)?.unwrap_or_default(),
            time: self.now().await?,
        })
    }

    /// Ends the current WAL segment, so that it is archived; gives the segment that holds the last WAL written. Nothing
    /// happens when the segment is unused. Not on a standby.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn switch_wal(&self) -> Result<SegmentName, SessionError> {
        let what = "switch to a new WAL segment";
        let statement = "SELECT pg_catalog.pg_switch_wal()::pg_catalog.text, \
            left(pg_walfile_name(pg_current_wal_lsn()), 8), \
            (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size')";
        let row = self.one(what, statement, &[], QUERY_TIME_MAX).await?;
        let wrong = |value: String| SessionError::Answer { what, value };
        let end = lsn(&row, 0, what)?;
        let timeline: String = column(&row, 1, what)?;
        let timeline = u32::from_str_radix(&timeline, 16).map(Timeline).map_err(|_| wrong(timeline))?;
        let size = facts::segment_size(&row, 2, what)?;
        // The position is one past the last record, or the start of an unused segment: what was written last is the byte
        // before. pg_walfile_name counts a boundary to the segment before it up to 16 and to the one behind it from 17.
        let number = Lsn(end.0.saturating_sub(1)).segment_number(size);
        SegmentName::from_number(timeline, number, size).ok_or_else(|| wrong(end.to_string()))
    }

    /// Writes a named restore point into the WAL; gives its position. Not on a standby.
    ///
    /// # Errors
    /// When the server refuses (the name has more than 63 bytes, say) or does not answer.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn, SessionError> {
        let what = "create a restore point";
        let statement = "SELECT pg_catalog.pg_create_restore_point($1)::pg_catalog.text";
        let row = self.one(what, statement, &[&name], QUERY_TIME_MAX).await?;
        lsn(&row, 0, what)
    }

    /// Runs a statement that gives one row.
    async fn one(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Row, SessionError> {
        self.within(what, deadline, self.client.query_one(statement, parameters)).await
    }

    /// Waits for an answer; cancels the statement on the server when it is late.
    async fn within<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SessionError> {
        if let Ok(answer) = tokio::time::timeout(deadline, answer).await {
            return answer.map_err(|error| SessionError::statement(what, error));
        }
        // The answer to a cancellation is the statement's failure, which nobody waits for any more.
        let cancelling = self.client.cancel_token();
        let _ = tokio::time::timeout(CANCEL_TIME_MAX, cancelling.cancel_query(NoTls)).await;
        Err(SessionError::Timeout { what, after: deadline })
    }
}

/// One column of a row.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
    what: &'static str,
) -> Result<T, SessionError> {
    row.try_get(index).map_err(|error| SessionError::statement(what, error))
}

fn lsn(row: &Row, index: usize, what: &'static str) -> Result<Lsn, SessionError> {
    let text: String = column(row, index, what)?;
    text.parse().map_err(|_| SessionError::Answer { what, value: text })
}
