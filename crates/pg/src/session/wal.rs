//! Commands that write to the WAL: the end of a segment, a restore point.

use super::connection::{QUERY_TIME_MAX, Session, column, lsn};
use super::error::SessionError;
use super::facts::segment_size;
use crate::{Lsn, SegmentName, Timeline};

impl Session {
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
        let size = segment_size(&row, 2, what)?;
        // The position is one past the last record, or the start of an unused segment: what was written last is the byte
        // before. pg_walfile_name counts a boundary to the segment before it up to 16 and to the one after it from 17.
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
}
