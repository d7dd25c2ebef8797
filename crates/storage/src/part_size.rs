//! How large the parts of an upload are: few enough, and of a size that stores take.

use serde::Serialize;

use super::Limits;

/// The most parts that S3 takes, and that we send.
pub(super) const PARTS_MAX: usize = 10_000;
/// The number of parts to stay below where the size is known: some S3-compatible stores take no more.
const PARTS_WANTED_MAX: u64 = 1_000;
/// S3's smallest and largest part.
const PART_BYTES_MIN: u64 = 5 << 20;
const PART_BYTES_MAX: u64 = 5 << 30;
/// S3's largest object.
const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// The size of a part for an object of about `expected` bytes, where `configured` is wanted. A guess that is short by one
/// part in 64 still makes no more than [`PARTS_WANTED_MAX`] parts: what cannot be compressed grows a little.
pub(super) fn part_bytes(configured: u64, expected: u64) -> u64 {
    let most = expected.saturating_add(expected / 64);
    let needed = most.div_ceil(PARTS_WANTED_MAX).div_ceil(1 << 20) << 20;
    configured.max(needed).clamp(PART_BYTES_MIN, PART_BYTES_MAX)
}

/// How large objects go in parts, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartLimits {
    /// The size of a part, unless an object needs larger ones.
    pub part_bytes: u64,
    /// No object has more parts than this, if its size was foreseen.
    pub parts_max: u64,
    /// The largest object that goes in parts of `part_bytes`.
    pub object_bytes_at_part_bytes: u64,
    /// The largest object of all.
    pub object_bytes_max: u64,
}

impl PartLimits {
    pub(super) fn of(limits: &Limits) -> Self {
        let part_bytes = part_bytes(limits.part_bytes, 0);
        let largest = |part: u64| part.saturating_mul(PARTS_WANTED_MAX).min(OBJECT_BYTES_MAX);
        Self {
            part_bytes,
            parts_max: PARTS_WANTED_MAX,
            object_bytes_at_part_bytes: largest(part_bytes),
            object_bytes_max: largest(PART_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_few_and_of_a_size_that_stores_take() {
        assert_eq!(part_bytes(8 << 20, 0), 8 << 20);
        assert_eq!(part_bytes(1, 1 << 30), 5 << 20);
        assert_eq!(part_bytes(8 << 20, 100 << 30), 104 << 20);
        assert_eq!(part_bytes(8 << 20, 5 << 40), 5 << 30);
    }

    #[test]
    fn the_limits_that_people_are_told_are_those_that_hold() {
        let limits = PartLimits::of(&Limits::default());
        assert_eq!(limits.part_bytes, Limits::default().part_bytes);
        for bytes in [limits.object_bytes_at_part_bytes, limits.object_bytes_max] {
            assert!(bytes.div_ceil(part_bytes(limits.part_bytes, bytes)) <= limits.parts_max, "{bytes}");
        }
    }

    /// As likely small as large: a power of two, and somewhere up to the next.
    fn sizes() -> impl Strategy<Value = u64> {
        (0u32..43, any::<u64>()).prop_map(|(power, within)| {
            let base = 1u64 << power;
            (base + within % base).min(OBJECT_BYTES_MAX)
        })
    }

    proptest! {
        #[test]
        fn no_size_from_a_byte_to_five_tebibytes_needs_more_parts_than_stores_take(
            configured in sizes(),
            expected in sizes(),
            short in 0u64..=64,
        ) {
            let part = part_bytes(configured, expected);
            prop_assert!((PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part));
            // What it turns out to be: up to a 64th more than was expected.
            let actual = (expected + expected / 64 * short / 64).min(OBJECT_BYTES_MAX);
            let parts = actual.div_ceil(part);
            prop_assert!(parts <= PARTS_MAX as u64);
            // Above, not even the largest parts would do.
            prop_assert!(parts <= PARTS_WANTED_MAX || actual > PART_BYTES_MAX * PARTS_WANTED_MAX);
        }
    }
}
