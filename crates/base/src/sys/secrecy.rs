//! A process that holds keys keeps its memory to itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file, and no other process of the same user reads this one's memory or its /proc entries (prctl(2),
/// PR_SET_DUMPABLE); root still can. Programs that are started from here are not touched, but make no core either.
///
/// A system that refuses leaves things as they were: keys are not worse off than in any other program.
pub fn keep_memory_private() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
