//! `lease/<work>/<fencing>.json`: who is at work, until when. Nothing is updated in place: taking, renewing and releasing
//! each write the next number.

/// Work that only one node may do at a time on one cluster and repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Taking a base backup.
    Backup,
}

impl Work {
    /// The work's name: the lease's folder, and a word for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
        }
    }
}
