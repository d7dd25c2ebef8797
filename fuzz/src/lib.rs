//! What each fuzz target does with its bytes. A target fails when this panics.

mod stored;

pub use stored::{manifest, object, repository_files, segment_facts};

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use walward_pg::changes::ChangesObserver;
use walward_pg::{
    BackupHistoryFile, BackupLabelFile, CommitIndex, CommitTimes, ControlFile, Lineage, Lsn, PageHeader, SegmentName,
    SegmentSize, Timeline, TimelineHistory, WalFileName, Walk, read_long_header,
};
use walward_wire::{FrameHeader, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request};

/// Frames of the agent's socket, in both directions.
pub fn wire_message(data: &[u8]) {
    let Some((header, payload)) = data.split_first_chunk() else { return };
    for length_max in [REQUEST_BYTES_MAX, REPLY_BYTES_MAX] {
        if let Ok(header) = FrameHeader::parse(*header, length_max) {
            if let Ok(request) = Request::decode(header.kind, payload) {
                assert_eq!(round_trip(&request.encode(), Request::decode), Ok(request));
            }
            if let Ok(reply) = Reply::decode(header.kind, payload) {
                assert_eq!(round_trip(&reply.encode(), Reply::decode), Ok(reply));
            }
        }
    }
}

fn round_trip<T, E>(frame: &[u8], decode: impl Fn(u8, &[u8]) -> Result<T, E>) -> Result<T, E> {
    decode(frame[3], &frame[walward_wire::HEADER_BYTES..])
}

/// The head of a WAL segment.
pub fn wal_page(data: &[u8]) {
    let _ = PageHeader::read(data);
    if let Ok(header) = read_long_header(data) {
        let name = SegmentName::from_number(Timeline(1), u64::from(data[0]), header.segment_size);
        if let Some(name) = name {
            let _ = header.check_name(name);
        }
    }
}

/// A segment that streams past what reads commit times and what looks on while it is archived, in chunks cut where the bytes say.
pub fn wal_record(data: &[u8]) {
    let Some((&[step, number], stream)) = data.split_first_chunk() else { return };
    let Ok(size) = SegmentSize::try_from(1 << 20) else { return };
    let Some(name) = SegmentName::from_number(Timeline(1), u64::from(number), size) else { return };
    let mut in_pieces = CommitTimes::new(name, size);
    for chunk in stream.chunks(usize::from(step) + 1) {
        in_pieces.feed(chunk);
    }
    let mut at_once = CommitTimes::new(name, size);
    at_once.feed(stream);
    assert_eq!(in_pieces.restore_points(), at_once.restore_points());
    assert_eq!(in_pieces.finish(), at_once.finish());
    let observed = |chunk: usize| {
        let mut walk = Walk::new(name, size, (CommitIndex::default(), ChangesObserver::default()));
        stream.chunks(chunk).for_each(|chunk| walk.feed(chunk));
        let (walked, (commits, changes)) = walk.finish();
        (walked, commits, changes.finish(&walked))
    };
    assert_eq!(observed(usize::from(step) + 1), observed(usize::MAX));
}

/// A timeline history file.
pub fn timeline_history(data: &[u8]) {
    let Some((&timeline, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(history) = TimelineHistory::parse(Timeline(u32::from(timeline)), text) {
        for lsn in [0, 1, u64::MAX] {
            let _ = history.timeline_at(Lsn(lsn));
        }
    }
}

/// `pg_control` of any supported version.
pub fn pg_control(data: &[u8]) {
    for major in 12..=19 {
        let _ = ControlFile::parse(major, data);
    }
}

/// Names and numbers as text.
pub fn wal_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<WalFileName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(lineage) = text.parse::<Lineage>() {
        assert_eq!(lineage.to_string(), text);
    }
    let _ = text.parse::<Lsn>();
}

/// `backup_label`, and the backup history file of the archive.
pub fn backup_label(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = BackupLabelFile::parse(text);
    let _ = BackupHistoryFile::parse(text);
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let memory = rustix::fs::memfd_create("walward.toml", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(memory);
    file.write_all(data).expect("a write to memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if let Err(error) = walward::config::load(&path) {
        assert!(!error.to_string().is_empty());
    }
}

/// What people and stores call things: times, sizes, labels, object names, recovery keys.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(label) = text.parse::<walward_repo::manifest::BackupLabel>() {
        assert_eq!(label.as_str(), text);
    }
    if let Ok(key) = walward_storage::ObjectKey::new(text) {
        assert_eq!(key.as_str(), text);
    }
    let _ = text.parse::<walward_repo::keys::RecoveryKey>();
    let _ = text.parse::<walward_base::ByteSize>();
    let _ = walward_base::parse_duration(text);
    let _ = walward::catalogue::parse_time(text);
    let _ = walward_repo::layout::parse_generation(text);
    let _ = walward_repo::layout::parse_fencing(text);
    let _ = walward_repo::layout::parse_gap(text);
    let _ = walward_pg::RelationFile::parse(text);
}

/// postgresql.conf and its like, read and rewritten.
pub fn settings(data: &[u8]) {
    use walward_pg::settings::{setting, with_settings, without_settings};
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value = "walward-wal fetch %f '%p' \\ # no comment";
    let written = with_settings(text, &[("restore_command", value)]);
    assert_eq!(setting(&written, "RESTORE_COMMAND").as_deref(), Some(value));
    assert_eq!(setting(&without_settings(&written, &["restore_command"]), "restore_command"), None);
    let _ = setting(text, "archive_command");
}

/// The record of WAL that was let go, as it lies in a repository and in the spool folder.
pub fn gap_record(data: &[u8]) {
    use walward_repo::gap::Gap;
    if let Ok(gap) = Gap::decode(data) {
        assert!(gap.covers(gap.first) && gap.covers(gap.last));
        assert_eq!(gap.encode().ok().and_then(|bytes| Gap::decode(&bytes).ok()), Some(gap));
    }
}
