//! Tests that need no server: the shape of the source tree, the client at the hands of broken agents, and the agent at the hands
//! of broken clients.
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

mod client;
mod doors;
mod house;
mod parsers;
mod promises;
mod units;
