//! What a test stands on: a temporary room, PostgreSQL clusters, the agent, an S3 server, the command line.
//!
//! Everything is made for one test and ends with it, by process id; nothing is shared, so that tests run side by side.
//! As root, PostgreSQL and everything of Walward run as the user `postgres`.

mod agent;
mod cluster;
mod fault_proxy;
mod hung;
mod mount;
mod room;
mod s3;
mod site;
mod versions;
mod walward;

pub use agent::Agent;
pub use cluster::{Cluster, ClusterOptions, Ended, Stop};
pub use fault_proxy::Mode;
pub use hung::{Answers, Hung};
pub use mount::Disk;
pub use room::{Daemon, Room, eventually};
pub use s3::{S3, free_port};
pub use site::{Site, SiteOptions, StoreKind};
pub use versions::Version;
pub(crate) use versions::on_every_version;
pub use walward::Outcome;
