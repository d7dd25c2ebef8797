//! What one `initdb` (or `pg_upgrade`) began: WAL and backups belong to exactly one lineage.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A system identifier and the major version that writes under it. Printed `15-7437223446531284312`.
///
/// A major upgrade begins a new lineage (`pg_upgrade` makes a new system identifier); a promotion does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage {
    /// PostgreSQL's major version, 13 to 18.
    pub major: u16,
    /// `pg_control_system().system_identifier`.
    pub system_identifier: u64,
}

/// A text that should have been a lineage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lineage; it looks like 15-7437223446531284312")]
pub struct LineageError(String);

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.system_identifier)
    }
}

impl FromStr for Lineage {
    type Err = LineageError;

    fn from_str(text: &str) -> Result<Self, LineageError> {
        let error = || LineageError(text.to_owned());
        let (major, identifier) = text.split_once('-').ok_or_else(error)?;
        let lineage = Self {
            major: major.parse().map_err(|_| error())?,
            system_identifier: identifier.parse().map_err(|_| error())?,
        };
        // One spelling only: "+15-7" and "015-7" name nothing.
        if lineage.to_string() == text { Ok(lineage) } else { Err(error()) }
    }
}

impl Serialize for Lineage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lineage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
