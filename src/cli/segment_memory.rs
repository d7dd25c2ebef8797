//! Segments that are larger than the memory for WAL. Pure.

use walward_base::format_bytes;
use walward_pg::SegmentSize;

/// What is to be said where segments of `segment` go to `repositories` repositories through an agent with so much memory for WAL.
///
/// A segment is held compressed, once for each repository, until it is written. It counts as its full size, and a larger one than all of the
/// memory is let in alone: then the bound is exceeded by as much as the segment does not compress.
pub(in crate::cli) fn remark(segment: SegmentSize, repositories: usize, memory_bytes_max: u64) -> Option<String> {
    let needed = segment.bytes().saturating_mul(repositories.max(1) as u64);
    (needed > memory_bytes_max).then(|| {
        let copies = if repositories > 1 { format!(", for {repositories} repositories") } else { String::new() };
        format!(
            "the server's segments are of {}: while one is on its way{copies} the agent may need up to {} beyond what else it needs, and \
             agent.memory_bytes_max is {}; it then takes one at a time, and more than that. Set it to {} or more",
            format_bytes(segment.bytes()),
            format_bytes(needed),
            format_bytes(memory_bytes_max),
            format_bytes(needed)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_all_the_memory_cannot_hold_is_told_with_the_number_that_is_needed() {
        let size = |mib: u64| SegmentSize::try_from(mib << 20).expect("a size");
        assert_eq!(remark(size(16), 2, 64 << 20), None);
        assert_eq!(remark(size(64), 1, 64 << 20), None);
        let said = remark(size(1024), 1, 64 << 20).expect("said");
        assert!(said.contains("1 GiB") && said.contains("64 MiB"), "{said}");
        assert!(remark(size(64), 2, 64 << 20).expect("said").contains("128 MiB"));
    }
}
