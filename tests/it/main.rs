//! Tests that need no server: the shape of the source tree, and the client at the hands of broken agents.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod client;
mod house;
mod units;
