//! The name of what was set aside.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use walward_base::hex;

/// The name of what was set aside: when, in UTC, and eight random digits. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AsideId(String);

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names nothing that was set aside; such a name looks like 20261130T064158Z-1a2b3c4d")]
pub struct AsideIdError(String);

impl AsideId {
    const TIME: &str = "%Y%m%dT%H%M%SZ";

    /// A new one.
    pub fn new(now: Timestamp) -> Self {
        Self(format!("{}-{}", now.strftime(Self::TIME), hex::encode(&rand::random::<[u8; 4]>())))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AsideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AsideId {
    type Err = AsideIdError;

    fn from_str(text: &str) -> Result<Self, AsideIdError> {
        let error = || AsideIdError(text.to_owned());
        let (time, digits) = text.split_once('-').ok_or_else(error)?;
        let time = jiff::civil::DateTime::strptime(Self::TIME, time)
            .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| error())?;
        let digits = hex::decode_array::<4>(digits).ok_or_else(error)?;
        // One spelling only.
        let spelt = format!("{}-{}", time.timestamp().strftime(Self::TIME), hex::encode(&digits));
        if spelt == text { Ok(Self(spelt)) } else { Err(error()) }
    }
}

impl TryFrom<String> for AsideId {
    type Error = AsideIdError;

    fn try_from(text: String) -> Result<Self, AsideIdError> {
        text.parse()
    }
}

impl From<AsideId> for String {
    fn from(id: AsideId) -> Self {
        id.0
    }
}
