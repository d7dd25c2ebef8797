//! What each fuzz target does with its bytes. A target fails when this panics.

use walward::pg::{
    CommitTimes, ControlFile, Lineage, Lsn, PageHeader, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName,
    read_long_header,
};
use walward::wire::{FrameHeader, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request};

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
    decode(frame[3], &frame[walward::wire::HEADER_BYTES..])
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

/// A segment that streams past the reader of commit times, in chunks cut where the bytes say.
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
