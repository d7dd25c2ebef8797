//! Where the agent's log goes: the journal under systemd, standard error elsewhere. docs/logging.md says which fields there are.

mod json;

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// What the names of fields begin with in the journal: `WALWARD_CLUSTER`.
const PREFIX: &str = "WALWARD";

/// Installs the log. To be called once.
pub fn install(config: LogConfig) -> anyhow::Result<()> {
    let level = LevelFilter::from_level(Level::from(config.level));
    if standard_error_is_the_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let layer = journal.with_field_prefix(Some(PREFIX.to_owned())).with_filter(level);
        return tracing_subscriber::registry().with(layer).try_init().context("install the log");
    }
    let layer = match config.format {
        LogFormat::Json => json::Lines::new(std::io::stderr).boxed(),
        LogFormat::Text => {
            let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
            plain.with_ansi(std::io::stderr().is_terminal()).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(level)).try_init().context("install the log")
}

/// systemd says in `JOURNAL_STREAM` which file the journal's stream is ("device:inode", systemd.exec(5)); a process that
/// was started elsewhere with the variable inherited is not fooled.
fn standard_error_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}
