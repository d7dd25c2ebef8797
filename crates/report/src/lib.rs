//! What leaves the process: shapes that the agent, the command line and whoever collects reports share. They know nothing of how they are
//! filled. Within a version members are added, and never renamed or removed.
//!
//! | file | what it holds |
//! |---|---|
//! | `snapshot` | everything that an agent knows about itself at one moment |
//! | `facts` | counters and findings of one cluster |
//! | `finding` | what a check found |
//! | `job` | what runs for longer than a request |
//! | `backup` | how far a base backup is |

mod backup;
mod facts;
mod finding;
mod job;
mod snapshot;

pub use backup::{BackupPhase, BackupProgress};
pub use facts::{ArchiveFacts, BeliefFacts, DebtFacts, FetchFacts, LastError};
pub use finding::{Finding, Findings, Level};
pub use job::{Job, JobState, Work};
pub use snapshot::{ClusterSnapshot, HangingRead, RepositorySnapshot, Snapshot};
