//! What a line of the log is about: spans that give every line within them their field, however deep it is written.
//!
//! The names of all fields stand in docs/logging.md; `tests/it/logging.rs` holds the code to them. The spans have the level of
//! errors so that no choice of a level leaves them out.

use tracing::Span;

/// What is done for the cluster `name`.
pub fn of_cluster(name: &str) -> Span {
    tracing::error_span!("cluster", cluster = name)
}

/// A base backup, whose label is not known yet: [`name_backup`].
pub fn of_backup() -> Span {
    tracing::error_span!("backup", backup = tracing::field::Empty)
}

/// Gives the backup of the current span its label.
pub fn name_backup(label: &str) {
    Span::current().record("backup", label);
}

/// `work` for a thread of its own, about the same as what hands it over.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}
