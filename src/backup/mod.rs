//! Base backups.
