//! How things end: the exit codes, and what any error of the rooms below means for them. One table for the command line and
//! for the agent, so that a command ends alike whether or not an agent did the work.

mod exit;
mod judge;

pub use exit::Exit;
pub use judge::{exit_of, judge};
