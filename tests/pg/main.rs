//! Tests against real PostgreSQL, through the real binaries. `scripts/test.sh` installs what they need.
//!
//! `WALWARD_TEST_PG`: folders of PostgreSQL programs joined by `:`, the main one first (default: the newest of the
//! distribution). Tests for other versions are ignored unless asked for, and fail when theirs is not in the list.
//! `WALWARD_TEST_MOTO`: the S3 server (default: `moto_server` on the path).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::unused_self,
    clippy::unnecessary_debug_formatting,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod after_recovery;
mod agent;
mod archiving;
mod bad_input;
mod changed_blocks;
#[path = "../shared/client.rs"]
mod client_program;
mod closed_doors;
mod copies;
mod emptied_bucket;
mod failover;
mod faults;
mod flipped_bytes;
mod hanging_files;
mod harness;
mod incremental;
mod incremental_lives;
mod incremental_rounds;
mod jobs;
mod json_answers;
mod least_privilege;
mod lives;
mod logging;
mod lying_store;
mod main_job;
mod million;
mod pace;
mod queue_limit;
mod recovery_end;
mod root_at_work;
mod setup;
mod setup_apply;
mod setup_safety;
mod support;
mod taken_spool;
mod targets;
mod two_repositories;
mod without_walward;
