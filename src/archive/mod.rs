//! WAL in and WAL out.
