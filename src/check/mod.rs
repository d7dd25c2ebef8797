//! Judgements of how a cluster stands: what is found, how bad that is, and what to do. What is judged was read by others, or is read here
//! without a change.

mod answered;
mod backups;
mod leftovers;

pub(crate) use answered::{FILE_SYSTEM_DEADLINE, answered};
pub(crate) use backups::{check as check_backups, check_uploads};
pub(crate) use leftovers::check as check_leftovers;
