//! Walward keeps a PostgreSQL cluster recoverable: it archives WAL, takes base backups and restores them.
//!
//! The ground lies in crates of its own, and Cargo keeps the arrows between them: `walward-wire` (the socket protocol and the client of
//! it; std only), `walward-report` (shapes that leave the process) and `walward-base` (errors, units, durable files, processes) know nobody; `walward-storage` (object stores) and `walward-pg`
//! (PostgreSQL's files and sessions) know base; `walward-repo` knows what a repository is, and is the only place that names an object or
//! defines a stored shape.
//!
//! The rooms of this crate, from the ground up; an arrow (`use crate::…`) points down only, and `tests/it/house/` keeps it so:
//!
//! - [`health`]: facts for monitors.
//! - [`catalogue`]: what a set of repositories holds, and how far that carries.
//! - [`archive`], [`backup`], [`restore`]: what Walward does, one room a verb.
//! - [`config`]: TOML to checked, resolved values.
//! - [`setup`]: what a host and its servers need before Walward works: looked at and decided.
//! - [`outcome`]: exit codes, and what an error means for them.
//! - [`check`]: judgements of how a cluster stands, each with what to do.
//! - [`jobs`]: what runs for longer than a request.
//! - [`daemon`], [`cli`]: wiring only.

pub mod archive;
pub mod backup;
pub mod catalogue;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod health;
pub mod jobs;
pub mod outcome;
pub mod restore;
pub mod setup;
