//! Tests that need no PostgreSQL: the shape of the source tree, the client at the hands of broken agents, the agent at the hands
//! of broken clients, what the documents say, and, when `scripts/object-stores.sh` runs them, the programs against object stores.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unnecessary_debug_formatting,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod answers;
mod client;
#[path = "../shared/client.rs"]
mod client_program;
mod docs;
mod doors;
mod house;
mod keys;
mod logging;
mod manual;
mod parsers;
mod promises;
mod setup;
mod stores;
mod units;
