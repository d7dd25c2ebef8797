//! What became of a plan, and of what had to be taken back.

use serde::Serialize;

use super::plan::Step;

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) done: Vec<Step>,
    /// With the reason why not.
    pub(crate) left: Vec<(Step, String)>,
    /// That archiving was changed, and is again as it was.
    pub(crate) undone: Option<Undone>,
}

/// A change of who archives that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Undone {
    /// Why.
    pub(crate) because: String,
    /// What gives back what was there.
    pub(crate) statements: Vec<String>,
    /// Why they are still to be run by a person, when they are.
    pub(crate) failed: Option<String>,
}

/// Whether a step belongs to the change of who archives: all of them hold, or none.
pub(crate) fn is_archiving(step: &Step) -> bool {
    matches!(step, Step::Set { name, .. } if name.starts_with("archive_"))
}
