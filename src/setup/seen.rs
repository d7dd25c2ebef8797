//! What setup has found out about a server: what its plan is decided on.

use std::collections::BTreeMap;

use walward_pg::session::{Rights, Setting};

/// A server, as far as it matters to what is changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) major: u16,
    pub(crate) in_recovery: bool,
    pub(crate) settings: BTreeMap<String, Setting>,
    /// What ALTER SYSTEM has set of them, when that may be known.
    pub(crate) altered: Option<BTreeMap<String, String>>,
    pub(crate) rights: Rights,
    /// Statements that Walward's role still needs.
    pub(crate) missing_grants: Vec<String>,
    /// Whether Walward's role may do everything as it is.
    pub(crate) role_is_superuser: bool,
    /// Why Walward's role cannot log in, if it cannot.
    pub(crate) login: Option<Refusal>,
    /// Physical replication slots.
    pub(crate) slots: Vec<String>,
}

/// A role that cannot log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) because: String,
    /// The rules of pg_hba.conf and pg_ident.conf, to which a line can be added.
    pub(crate) by_rules: bool,
}

impl Seen {
    /// A setting's value as configured; empty when the version does not have it.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", |setting| setting.value.as_str())
    }

    /// Whether a restart is needed for what the files say already.
    pub(crate) fn is_pending(&self, name: &str) -> bool {
        self.settings.get(name).is_some_and(|setting| setting.pending_restart)
    }
}
