//! Starting and ending a base backup.

use std::time::Duration;

use jiff::Timestamp;

use super::connection::{Session, column, lsn};
use super::error::SessionError;
use crate::Lsn;

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
}
