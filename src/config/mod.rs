//! Configuration: TOML files to checked, resolved values.
//!
//! `walward.toml` is read first, then `conf.d/*.toml` beside it in the order of their names. A later file adds; it never
//! changes what an earlier one set. Every key stands in one table ([`keys`]), from which come the checks, the suggestions,
//! the defaults, `config show` and the reference in docs/configuration.md. All problems of all files are reported at once,
//! each with its file and line. Secrets are never shown.

mod apart;
mod credential;
mod document;
mod encryption;
pub mod keys;
mod loaded;
mod options;
mod problem;
mod resolve;
mod scope;
mod secret;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::path::Path;

pub use apart::Looks;
pub use loaded::Loaded;
pub use problem::{ConfigError, Problem, SourceLine};
pub use resolve::name_is_good;
pub use scope::{Origin, Setting};
pub use secret::redact_connection;
pub use values::{
    AgentConfig, ArchiveConfig, BackupConfig, ClusterConfig, Config, DEFAULT_SOCKET, FetchConfig, LogConfig, LogFormat,
    LogLevel, RepositoryConfig, RestoreConfig,
};

/// Where the configuration lies unless `--config` or `WALWARD_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/walward/walward.toml";

/// Reads and checks `path` and the `conf.d/*.toml` beside it. Blocking.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load_for(path, Looks::All)
}

/// As [`load`], for who works with some clusters only: what `looks` leaves out is checked as it is written, and its file systems, which may hang, are
/// not touched.
pub fn load_for(path: &Path, looks: Looks) -> Result<Loaded, ConfigError> {
    resolve::resolve(document::read(path)?, looks)
}

/// Reads and checks `text` as if it were what `path` holds, together with the `conf.d/*.toml` beside it. Blocking.
pub fn load_text(path: &Path, text: &str) -> Result<Loaded, ConfigError> {
    resolve::resolve(document::read_with(path, Some(text))?, Looks::All)
}
