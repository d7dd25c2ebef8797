//! One file a command.

pub(super) mod aside;
pub(super) mod backup;
pub(super) mod check;
pub(super) mod config;
pub(super) mod info;
pub(super) mod jobs;
pub(super) mod keys;
pub(super) mod recovered;
pub(super) mod repo;
mod repo_copy;
pub(super) mod restore;
pub(super) mod setup;
pub(super) mod status;
mod text;
pub(super) mod wal;
pub(super) mod wal_list;
pub(super) mod work_leases;
