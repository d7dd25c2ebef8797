//! The folders that the agent needs before it starts: that of the spool, and that of its socket. The packages and their units make them;
//! without those nobody has.

use std::path::Path;

use super::server;
use crate::cli::context::Context;
use crate::cli::owner::Owner;
use crate::config::{Config, DEFAULT_PATH};
use crate::setup::Unmade;
use walward_base::sys::durable;

/// Makes the agent's folders for its user as far as that goes, and answers those that are missing still. With `dry_run` none is made.
pub(super) fn make(context: &Context, owner: Owner, dry_run: bool) -> Vec<Unmade> {
    let config = &context.loaded.config;
    if context.global.config == Path::new(DEFAULT_PATH) || is_for_several(config) {
        return Vec::new();
    }
    // WAL waits in the one; the other holds the socket, which has a mode of its own.
    let folders = [(Some(config.agent.spool_directory.as_path()), 0o700), (config.agent.socket.parent(), 0o755)];
    let missing =
        folders.into_iter().filter_map(|(folder, mode)| Some((folder.filter(|folder| !folder.is_dir())?, mode)));
    let is_made = |folder: &Path, mode| !dry_run && durable::create_dir_all_for(folder, mode, owner.ids()).is_ok();
    missing.filter(|(folder, mode)| !is_made(folder, *mode)).map(|(folder, mode)| (folder.to_owned(), mode)).collect()
}

/// An agent for several owners runs as root, who makes what is missing.
fn is_for_several(config: &Config) -> bool {
    let mut owners: Vec<_> = config.clusters.values().map(|cluster| server::owner(cluster).0).collect();
    owners.dedup();
    owners.len() > 1
}
