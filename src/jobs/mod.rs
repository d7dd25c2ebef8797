//! What runs for longer than a request. A job is begun by whoever asks, and goes on when that one has gone: it ends by itself, or when somebody
//! cancels it, or with the agent. Who comes back can watch it further. Jobs outlive a configuration that is read anew.
//!
//! | file | what it does |
//! |---|---|
//! | `job` | one of them: how far it is, how it ended, and how to end it |
//! | `registry` | all of an agent: one of a kind for each cluster at a time, and the ended ones for a while |
//! | `supervise` | the tasks of a cluster that never end by themselves |

mod job;
mod registry;
mod supervise;

pub use job::{Ended, Job};
pub use registry::{NotBegun, Registry};
pub use supervise::{Task, supervise};
