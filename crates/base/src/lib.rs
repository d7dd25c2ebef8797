//! Small things without a domain: error classes, sizes and durations as people write them, hexadecimal,
//! what a log line is about, answers that many want, locks.

mod error_class;
pub mod hex;
pub mod kept;
mod locked;
mod secret;
pub mod sys;
pub mod trace;
mod units;

pub use error_class::{ErrorClass, describe};
pub use locked::Locked;
pub use secret::Secret;
pub use units::{ByteSize, UnitError, format_bytes, format_duration, parse_duration};
