//! Restores a cluster: plans first, then carries the plan out.
//!
//! [`plan`] works out which backup, which WAL, where to and how much, and refuses what cannot be had, saying what could.
//! Choosing (the backup, the way through the timelines, which segments) is pure; asking the repositories and the file system is not.
//! [`run`] writes: the journal first, then the packs' files straight under their names, each checked, then the recovery
//! settings, and `global/pg_control` last. Where root restores, it makes the directories for their owner, and everything below them is done
//! with the owner's rights, in threads that have no other.
//!
//! What a crash leaves behind is a directory without pg_control, from which PostgreSQL refuses to start, with the journal
//! `walward.restore.json` in it; the same request goes on from there, and believes only what [`proof`] noted in it.

mod apart;
mod as_full;
mod blocking;
mod chain;
mod choose;
mod chosen;
mod composition;
mod configuration;
mod configured;
mod contents;
mod directory;
mod early_sync;
mod error;
mod foreign;
mod install;
mod journal;
mod leftovers;
mod loan;
mod pack_id;
mod places;
mod plan;
mod proof;
mod proving;
mod reachability;
mod readers;
mod refusal;
mod request;
mod run;
mod settings;
mod sizes;
mod space;
mod sums;
#[cfg(test)]
mod tests;
mod unpack;

pub use configuration::{Fate, Note};
pub use error::RestoreError;
pub use leftovers::leftovers;
pub use loan::{Settled, settle};
pub use places::PlacedTablespace;
pub use plan::{RestorePlan, plan};
pub use refusal::Refusal;
pub use request::{Action, Archiving, HostDirectory, RestoreRequest, TablespaceSelector, Taken, TakenBy};
pub use run::{Phase, Progress, RestoreReport, run};
pub use space::SpaceNeed;
