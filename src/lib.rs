//! Walward keeps a PostgreSQL cluster recoverable: it archives WAL, takes base backups and restores them.
//!
//! The rooms, from the ground up; an arrow (`use crate::…`) points down only, and `tests/it/house.rs` keeps it so:
//!
//! - [`base`] and [`wire`]: no domain. `wire` is std only, because `walward-wal` is built from it alone.
//! - [`sys`], [`storage`], [`pg`], [`health`]: the operating system, object stores, PostgreSQL's files, facts for monitors.
//! - [`repo`]: what a repository is. The only place that names an object or defines a stored shape.
//! - [`archive`], [`backup`], [`restore`]: what Walward does, one room a verb.
//! - [`config`]: TOML to checked, resolved values.
//! - [`outcome`]: exit codes, and what an error means for them.
//! - [`daemon`], [`cli`]: wiring only.

pub mod archive;
pub mod backup;
pub mod base;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod health;
pub mod outcome;
pub mod pg;
pub mod repo;
pub mod restore;
pub mod storage;
pub mod sys;
pub mod wire;
