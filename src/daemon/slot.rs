//! The place of the one backup that runs for a cluster in this agent.

use std::sync::Mutex;

use tokio::sync::watch;

use crate::backup::Progress;
use walward_base::Locked;

/// The progress of the backup that is running, if any.
#[derive(Default)]
pub struct Slot(Mutex<Option<watch::Receiver<Progress>>>);

impl Slot {
    /// How far the running backup is.
    pub fn progress(&self) -> Option<Progress> {
        self.0.locked().as_ref().map(|progress| progress.borrow().clone())
    }

    /// Takes the slot; `None` when a backup is running.
    pub fn take(&self, progress: watch::Receiver<Progress>) -> Option<Taken<'_>> {
        let mut slot = self.0.locked();
        if slot.is_some() {
            return None;
        }
        *slot = Some(progress);
        Some(Taken(self))
    }
}

/// The backup runs until this is dropped.
pub struct Taken<'a>(&'a Slot);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.0.locked() = None;
    }
}
