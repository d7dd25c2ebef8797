//! Syncs that prove packs to be on the disk, while others are fetched.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::blocking::act_as;
use super::directory::Owner;
use super::error::RestoreError;
use super::pack_id::PackId;
use super::proof::Proof;
use walward_base::Locked;

/// Packs that are written, and the sync that proves those that were before it began: one at a time.
#[derive(Default)]
pub struct Proving {
    /// Written, and not proven yet.
    pub finished: BTreeSet<PackId>,
    running: Option<JoinHandle<Result<(), RestoreError>>>,
}

impl Proving {
    /// Begins to prove what is finished, unless a sync is under way.
    pub fn start(&mut self, proof: &Arc<Mutex<Proof>>, owner: Option<Owner>) {
        if self.running.is_none() && !self.finished.is_empty() {
            let (proof, packs) = (Arc::clone(proof), std::mem::take(&mut self.finished));
            let prove = move || proof.locked().packs(&packs);
            self.running = Some(tokio::task::spawn_blocking(move || act_as(owner, prove)));
        }
    }

    /// Waits for the sync that is under way; for ever when there is none.
    pub async fn running(&mut self) -> Result<(), RestoreError> {
        match &mut self.running {
            Some(running) => {
                let proven = running.await.map_err(|_| RestoreError::Died);
                self.running = None;
                proven?
            }
            None => std::future::pending().await,
        }
    }

    /// Proves the rest.
    pub async fn finish(mut self, proof: &Arc<Mutex<Proof>>, owner: Option<Owner>) -> Result<(), RestoreError> {
        while self.running.is_some() || !self.finished.is_empty() {
            self.start(proof, owner);
            self.running().await?;
        }
        Ok(())
    }
}
