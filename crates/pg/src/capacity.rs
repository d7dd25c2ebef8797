//! The sizes of shared memory that a server needs to replay another's WAL while it answers queries
//! (`CheckRequiredParameterValues`, src/backend/access/transam/xlogrecovery.c; xlog.c before 15).
//!
//! They stand in pg_control and, when a server was started with others, in a record of its WAL (`xl_parameter_change`,
//! src/include/catalog/pg_control.h; 13 to 18), in one order: five integers of 32 bits.

use super::bytes::u32_at;

/// How many settings there are.
const COUNT: usize = 5;
/// The values of these settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity([u32; COUNT]);

impl Capacity {
    /// The names of the settings, in the order of their fields.
    pub const NAMES: [&str; COUNT] = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ];

    /// Reads the fields from `offset` on.
    pub fn read(bytes: &[u8], offset: usize) -> Option<Self> {
        let mut values = [0; COUNT];
        for (number, value) in values.iter_mut().enumerate() {
            *value = u32_at(bytes, offset + 4 * number)?;
        }
        Some(Self(values))
    }

    /// Whether the setting `name` is one of them.
    pub fn has(name: &str) -> bool {
        Self::NAMES.contains(&name)
    }

    /// The larger value of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let mut values = self.0;
        for (value, other) in values.iter_mut().zip(other.0) {
            *value = other.max(*value);
        }
        Self(values)
    }

    /// The settings that `needed` has a larger value of: name, value here, value there.
    pub fn short_of(self, needed: Self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let values = self.0.into_iter().zip(needed.0);
        Self::NAMES
            .into_iter()
            .zip(values)
            .filter(|(_, (own, needed))| needed > own)
            .map(|(name, (own, needed))| (name, own, needed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_named() {
        let bytes: Vec<u8> = [7u32, 100, 8, 10, 0, 64].into_iter().flat_map(u32::to_le_bytes).collect();
        let own = Capacity::read(&bytes, 4).expect("five fields");
        assert_eq!(Capacity::read(&bytes, 8), None);
        let needed = Capacity([50, 8, 10, 2, 64]).max(Capacity([200, 8, 5, 0, 64]));
        let short: Vec<_> = own.short_of(needed).collect();
        assert_eq!(short, [("max_connections", 100, 200), ("max_prepared_transactions", 0, 2)]);
    }
}
