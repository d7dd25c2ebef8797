//! Crashes and faults by seed: the real archiver, fetcher, repository and file store, above a disk whose power can be cut and
//! stores that fail, below a model of PostgreSQL's archiver and of its recovery.
//!
//! What must hold, whatever happens:
//!
//! - what was acknowledged can be read, byte for byte, after losing everything that was not durable;
//! - the same bytes again are a success, other bytes under a name that was acknowledged never;
//! - a fetch that could not find out says so (255); "absent" is never said of a file that was acknowledged;
//! - nothing is archived that no server asked for in the life that it is in; nothing is written after a file that is known to
//!   have other content than the writer's own;
//! - what is brought from one repository to another, as a debt or as a copy, continues there what the same server wrote;
//! - a restore that leaves the timeline open goes where the primary is, or asks;
//! - memory and spool stay within their bounds, and every answer comes within its deadline;
//! - after any crash the next start needs no manual step.
//!
//! A seed decides everything but how threads interleave, of which there are few: one runtime thread under a clock that
//! stands still, computation on it, and threads for files. A failing seed is printed with its steps.
//! `WALWARD_SIM_SEED=7` runs that seed alone and prints its steps; `WALWARD_SIM_SEEDS=1000` runs so many instead of
//! the usual number, or the one seed so often; `WALWARD_TEST_THOROUGH=1` runs many more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod aside;
mod backup;
mod copies;
mod debts;
mod disk;
mod faults;
mod fleet;
mod healed;
mod ledger;
mod lines;
mod lives;
mod machine;
mod mutants;
mod noted;
mod postgres;
mod restore;
mod seeds;
mod shape;
mod truth;
mod wal;
mod world;
