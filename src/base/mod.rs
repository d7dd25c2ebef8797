//! Small things without a domain: error classes, sizes and durations as people write them, hexadecimal.

mod error_class;
pub mod hex;
mod secret;
mod units;

pub use error_class::{ErrorClass, describe};
pub use secret::Secret;
pub use units::{ByteSize, UnitError, format_bytes, format_duration, parse_duration};
