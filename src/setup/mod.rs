//! What a host, and a server on it, need before Walward works: which clusters there are, what is changed, and what is left for a person. It
//! looks and decides; who does it and says so is the command line.

mod applied;
mod discover;
mod left;
mod places;
mod plan;
mod seen;

pub(crate) use applied::{Applied, Undone, is_archiving};
pub(crate) use discover::{DirectoryError, HostCluster, Machine, at};
pub(crate) use left::{Agent, Left, SetupState, Unmade, left};
pub(crate) use places::same_folder;
pub(crate) use plan::{Plan, Step, Takeover, Wish, plan};
pub(crate) use seen::{Refusal, Seen};
