//! What a server in recovery knows of timelines by itself: where it is, and the histories in its pg_wal.

use std::path::Path;

use crate::archive::accept::SMALL_FILE_BYTES_MAX;
use crate::catalogue::Histories;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;
use walward_pg::{ControlFile, Timeline, TimelineHistory, WalFileName};

/// Of one server.
#[derive(Debug)]
pub(super) struct Known {
    /// The newest timeline that it is on, or has a history of.
    pub newest: Timeline,
    /// Those of its pg_wal that can be read.
    pub histories: Histories,
}

impl Known {
    /// Where nothing is known, or no server asks.
    const NOTHING: Self = Self { newest: Timeline(0), histories: Histories::new() };

    /// What the server with this `pg_wal` knows. Where that cannot be read it knows nothing, which proves nothing either.
    pub async fn of(pg_wal: Option<&Path>) -> Self {
        let Some(folder) = pg_wal.map(Path::to_path_buf) else { return Self::NOTHING };
        let ground = Ground::of(folder.parent().unwrap_or(&folder));
        ground.look(move || Self::read(&folder)).await.unwrap_or(Self::NOTHING)
    }

    /// As [`Known::of`]. Blocking.
    fn read(pg_wal: &Path) -> Self {
        let control = pg_wal.parent().and_then(|data_directory| ControlFile::read(data_directory).ok());
        let mut newest = control.map_or(Timeline(0), |control| control.timeline.max(control.min_recovery_timeline));
        let mut histories = Histories::new();
        let Ok(folder) = Folder::enter(pg_wal) else { return Self { newest, histories } };
        for name in folder.names().unwrap_or_default() {
            let Some(WalFileName::History(timeline)) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            newest = newest.max(timeline);
            let text = folder.read(&name, SMALL_FILE_BYTES_MAX).unwrap_or_default();
            if let Ok(history) = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)) {
                histories.insert(timeline, history.parents);
            }
        }
        Self { newest, histories }
    }
}
