//! Whether the agent's spool can take what a recovery asks for, and its memory a segment.

use std::io;
use std::path::Path;

use rustix::fs::Access;

use crate::check::{FILE_SYSTEM_DEADLINE, answered};
use crate::cli::context::Context;
use crate::cli::segment_memory;
use crate::config::ClusterConfig;
use walward_base::format_bytes;
use walward_base::sys::disk::{self, Space};
use walward_pg::{ControlFile, SegmentSize};
use walward_report::Findings;

/// As many segments as the spool should have room for: the one that is asked for, and the next.
const SEGMENTS: u64 = 2;

/// What is known of the spool.
#[derive(Debug)]
struct Facts {
    space: io::Result<Space>,
    /// Why this user cannot write there.
    closed: Option<io::Error>,
    segment: SegmentSize,
}

pub(super) async fn check(context: &Context, cluster: &ClusterConfig, findings: &mut Findings) {
    let (folder, data) = (context.loaded.config.agent.spool_directory.clone(), cluster.data_directory.clone());
    let shown = folder.display().to_string();
    let Some(facts) = answered(FILE_SYSTEM_DEADLINE, move || look(&folder, &data)).await else {
        let text = format!("the file system of {shown} did not answer in {} s", FILE_SYSTEM_DEADLINE.as_secs());
        findings.failed("spool", Some(&cluster.name), text, Some("is a mount away?"));
        return;
    };
    judge(&facts, &shown, &cluster.name, findings);
    let memory = context.loaded.config.agent.memory_bytes_max;
    if let Some(text) = segment_memory::remark(facts.segment, cluster.repositories.len(), memory) {
        findings.warning("memory", Some(&cluster.name), text, None);
    }
}

/// Blocking.
fn look(folder: &Path, data: &Path) -> Facts {
    Facts {
        space: disk::space(folder),
        closed: rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).err().map(io::Error::from),
        segment: ControlFile::read(data).map_or(SegmentSize::DEFAULT, |control| control.segment_size),
    }
}

fn judge(facts: &Facts, folder: &str, cluster: &str, findings: &mut Findings) {
    let about = Some(cluster);
    let needed = facts.segment.bytes().saturating_mul(SEGMENTS);
    let wants = format!("a recovery wants {} there (two segments)", format_bytes(needed));
    let advice = Some("make room, or put the spool elsewhere: agent.spool_directory");
    match (&facts.space, &facts.closed) {
        (Err(error), _) => {
            let text = format!("{folder} cannot be looked at: {error}");
            findings.failed("spool", about, text, Some("make the folder, owned by the agent's user"));
        }
        (Ok(_), Some(error)) => {
            let text = format!("{folder} cannot be written to by this user: {error}");
            findings.failed("spool", about, text, Some("it belongs to the agent's user; run this as that user"));
        }
        (Ok(space), None) if space.total < needed => {
            let text = format!("the file system of {folder} has {} in all, and {wants}", format_bytes(space.total));
            findings.failed("spool", about, text, advice);
        }
        (Ok(space), None) if space.free < needed => {
            let text = format!("only {} is free on the file system of {folder}, and {wants}", format_bytes(space.free));
            findings.failed("spool", about, text, advice);
        }
        (Ok(space), None) => {
            findings.ok("spool", about, format!("{} is free in {folder}", format_bytes(space.free)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_report::Level;

    #[test]
    fn a_spool_without_room_for_two_segments_is_told_before_a_recovery_meets_it() {
        const MIB: u64 = 1 << 20;
        let level = |space: io::Result<(u64, u64)>, closed: bool| {
            let space = space.map(|(free, total)| Space { free: free * MIB, total: total * MIB });
            let closed = closed.then(|| io::ErrorKind::PermissionDenied.into());
            let mut findings = Findings::default();
            judge(&Facts { space, closed, segment: SegmentSize::DEFAULT }, "/spool", "main", &mut findings);
            findings.checks.into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(level(Ok((32, 40)), false), [Level::Ok]);
        for (space, closed) in [
            (Ok((31, 40)), false),
            (Ok((31, 31)), false),
            (Ok((40, 40)), true),
            (Err(io::ErrorKind::NotFound.into()), false),
        ] {
            assert_eq!(level(space, closed), [Level::Failed]);
        }
    }
}
