//! What a cluster's sections mean for the verbs.

use super::values::ClusterConfig;
use crate::archive::{ArchiveOptions, FetchOptions};
use crate::backup::{BackupOptions, Wanted};

impl ClusterConfig {
    /// How WAL is archived, by an agent on `host`.
    pub fn archive_options(&self, host: String) -> ArchiveOptions {
        ArchiveOptions {
            acknowledge: self.acknowledge,
            workers: self.archive.workers,
            look_ahead: self.archive.look_ahead,
            deadline: self.archive.deadline,
            rescan_interval: self.archive.rescan_interval,
            writer: host,
        }
    }

    /// How WAL is fetched.
    pub fn fetch_options(&self) -> FetchOptions {
        FetchOptions {
            deadline: self.fetch.deadline,
            refuse_seams: self.fetch.refuse_seams,
            workers: self.fetch.workers,
        }
    }

    /// How a base backup of what is `wanted` is taken on `host`, with zstd's `levels` for the repositories that it goes to.
    pub fn backup_options(&self, wanted: Wanted, levels: Vec<i32>, host: String) -> BackupOptions {
        BackupOptions {
            wanted,
            connection: self.connection.clone(),
            data_directory: self.data_directory.clone(),
            workers: self.backup.workers,
            fast_checkpoint: self.backup.fast_checkpoint,
            archive_deadline: self.backup.archive_deadline,
            read_deadline: self.backup.read_deadline,
            read_limit: self.backup.read_limit,
            pack_bytes: self.backup.pack_bytes,
            levels,
            host,
        }
    }
}
