//! Which line of a cluster is meant, when the archive holds several.
//!
//! | file | what it holds |
//! |---|---|
//! | `lives` | what a line has of its own, and how that is shown to people |
//! | `decide` | which line a target is on; pure |
//! | `evidence` | reads what the decision needs from the repositories |
//! | `overview` | the line that the cluster is on, for those who look without restoring |

mod decide;
mod evidence;
mod lives;
mod overview;

pub use decide::{Decision, Sought, current, decide, that_differ, to_compare};
pub use evidence::Evidence;
pub use lives::{BackupMoment, Life, LineSeen, Lives, SeveralLines};
pub use overview::{Overview, overview};
