//! What somebody asks a restore for.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::catalogue::{Target, TargetTimeline};
use walward_repo::manifest::BackupLabel;

/// What the server does once the target is reached (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Stay read-only, so that one can look and decide.
    Pause,
    /// Become a primary on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl Action {
    /// As PostgreSQL spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Which tablespace a mapping is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablespaceSelector {
    /// By the name of its link in pg_tblspc.
    Oid(u32),
    /// By its name in SQL.
    Name(String),
    /// By the place that it had in the original cluster.
    Location(PathBuf),
}

impl fmt::Display for TablespaceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oid(oid) => oid.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Location(location) => location.display().fmt(f),
        }
    }
}

/// Everything a restore can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// How far recovery replays.
    pub target: Target,
    /// Stop just before the target instead of just after it (time, LSN and xid).
    pub exclusive: bool,
    /// Which timeline recovery ends on.
    pub timeline: TargetTimeline,
    /// What happens at the target.
    pub action: Action,
    /// Make a standby (`standby.signal`) instead of a server that ends recovery.
    pub standby: bool,
    /// Whether WAL of two lives in the way is a reason not to begin; else only a warning.
    pub refuse_seams: bool,
    /// This backup and no other.
    pub backup: Option<BackupLabel>,
    /// New places for tablespaces; the others go where they were.
    pub tablespace_map: Vec<(TablespaceSelector, PathBuf)>,
    /// A place for pg_wal outside of the data directory.
    pub wal_directory: Option<PathBuf>,
    /// Whether the restored server archives.
    pub archive: Archiving,
    /// Count the partial segment that ends the target timeline as WAL, as `restore_command` must.
    pub use_partial: bool,
    /// `restore_command`, whole.
    pub restore_command: String,
    /// `recovery_end_command`, whole: what takes the settings of this recovery out again. It must not exit above 125.
    pub end_command: String,
    /// Where the cluster lies, and the host: a restore to there is one in place, and not a copy.
    pub original: HostDirectory,
    /// What the configuration gives to others, or to the cluster itself: a restore lies apart from it.
    pub taken: Vec<Taken>,
    /// `primary_conninfo` of a standby.
    pub primary_conninfo: Option<String>,
}

/// A folder that the configuration gives to something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its absolute path.
    pub path: PathBuf,
    /// What it is for.
    pub by: TakenBy,
    /// Whether links on the way are followed.
    pub may_look: bool,
}

/// What a folder of the configuration is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenBy {
    /// The cluster that is restored.
    Own,
    /// Another cluster's data.
    Cluster(String),
    /// A repository.
    Repository(String),
    /// The agent's spool.
    Spool,
}

impl fmt::Display for TakenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the data directory of the cluster itself"),
            Self::Cluster(name) => write!(f, "the data directory of cluster \"{name}\""),
            Self::Repository(name) => write!(f, "repository \"{name}\""),
            Self::Spool => f.write_str("agent.spool_directory"),
        }
    }
}

/// Whether a restored server archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archiving {
    /// As the cluster does, in its own place and as a standby that follows; not at all as a copy: its WAL would go into the archive of the
    /// original.
    ByPlace,
    /// As the cluster does.
    Preserve,
    /// Not at all.
    Off,
}

/// A data directory on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDirectory {
    /// Its absolute path.
    pub directory: PathBuf,
    /// This host's name.
    pub host: String,
    /// What tells it from another of the same name; none where it has no identity.
    pub machine: Option<String>,
}

impl HostDirectory {
    /// Whether this is shown to be the host `name` with the identity `machine`. A name alone shows nothing: pods of one name run in
    /// several namespaces, and a host is made anew while the old one still runs.
    pub fn is_host(&self, name: &str, machine: Option<&str>) -> bool {
        self.host == name && machine.is_some() && self.machine.as_deref() == machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_one_of_the_backup_only_where_name_and_machine_say_so() {
        let place = |host: &str, machine: Option<&str>| HostDirectory {
            directory: "/data".into(),
            host: host.to_owned(),
            machine: machine.map(str::to_owned),
        };
        assert!(place("pg-0", Some("a")).is_host("pg-0", Some("a")));
        for (host, machine, other) in [
            ("pg-1", Some("a"), Some("a")),
            ("pg-0", Some("b"), Some("a")),
            ("pg-0", None, Some("a")),
            ("pg-0", Some("a"), None),
            ("pg-0", None, None),
        ] {
            assert!(!place(host, machine).is_host("pg-0", other), "{host} {machine:?} {other:?}");
        }
    }
}
