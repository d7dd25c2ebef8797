//! The format as a whole: what was sealed is opened, and nothing else is.

use std::io::Write;
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use proptest::prelude::*;

use super::*;
use crate::error::RepoError;
use crate::facts::Facts;
use crate::keys::{Keyring, MasterKey};
use walward_base::sys::cpu::CpuPool;
use walward_storage::StoreError;

const PATH: &str = "wal/15-7/00000001/00000000/000000010000000000000001";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn pool() -> CpuPool {
    CpuPool::new(2).expect("threads")
}

fn keyring(id: u8) -> Keyring {
    Keyring::for_tests([id; 16], [id ^ 0x55; 32])
}

fn pieces<E: Send + 'static>(bytes: &Bytes, piece: usize) -> BoxStream<'static, Result<Bytes, E>> {
    let pieces: Vec<_> =
        (0..bytes.len()).step_by(piece).map(|at| Ok(bytes.slice(at..(at + piece).min(bytes.len())))).collect();
    stream::iter(pieces).boxed()
}

async fn seal(content: &Bytes, piece: usize, master: Option<&MasterKey>, pool: &CpuPool) -> (Bytes, Summary) {
    seal_all(content, piece, &[(master, 1)], pool).await.remove(0)
}

/// Seals `content` for several objects, each with a key or none and a level.
async fn seal_all(
    content: &Bytes,
    piece: usize,
    objects: &[(Option<&MasterKey>, i32)],
    pool: &CpuPool,
) -> Vec<(Bytes, Summary)> {
    let objects = objects.iter().map(|(master, level)| {
        let spec = Spec { kind: Kind::Segment, level: *level, writer: "db1".to_owned() };
        Object { path: PATH, spec, protection: master.map(|master| (master, [9; 32])) }
    });
    let content = pieces(content, piece);
    let mut sealer =
        Sealer::new(PATH.to_owned(), objects.collect(), pool.clone(), content, || Some(Facts::of_times(1, 2)));
    let mut stored = Vec::new();
    while let Some(pieces) = sealer.next().await.expect("sealed") {
        stored.resize(pieces.len(), Vec::new());
        for (stored, piece) in stored.iter_mut().zip(pieces) {
            stored.extend_from_slice(&piece);
        }
    }
    let summaries = sealer.summaries().expect("whole");
    let made = stored.into_iter().map(Bytes::from).zip(summaries);
    made.inspect(|(stored, summary)| assert_eq!(summary.stored_bytes, stored.len() as u64)).collect()
}

async fn open(stored: &Bytes, piece: usize, ring: Option<&Keyring>, pool: &CpuPool) -> Result<Bytes, RepoError> {
    let body = pieces::<StoreError>(stored, piece);
    let mut opener = Opener::new(PATH.to_owned(), PATH, ring, pool.clone(), body).await?;
    let mut content = Vec::new();
    while let Some(chunk) = opener.next().await? {
        assert!(!chunk.is_empty() && chunk.len() <= FRAME_BYTES);
        content.extend_from_slice(&chunk);
    }
    Ok(content.into())
}

fn tail(stored: &Bytes, ring: Option<&Keyring>) -> Result<Summary, RepoError> {
    let damaged = |error| RepoError::damaged(PATH, error);
    let length = usize::try_from(Tail::length(stored).map_err(damaged)?).expect("short");
    let start = stored.len().checked_sub(length).ok_or_else(|| damaged(FormatError::CutShort("trailer")))?;
    Ok(Tail::parse(&stored.slice(start..), stored.len() as u64, ring, PATH, PATH)?.summary)
}

/// The content of each frame, opened alone as the object's end says.
fn alone(stored: &Bytes, ring: Option<&Keyring>) -> Result<Vec<Result<Bytes, FormatError>>, RepoError> {
    let damaged = |error| RepoError::damaged(PATH, error);
    let length = usize::try_from(Tail::length(stored).map_err(damaged)?).expect("short");
    let start = stored.len().checked_sub(length).ok_or_else(|| damaged(FormatError::CutShort("trailer")))?;
    let ends = Tail::parse(&stored.slice(start..), stored.len() as u64, ring, PATH, PATH)?;
    let frames = ends.frames_of(&(0..ends.summary.content_bytes)).map_err(damaged)?;
    frames
        .map(|number| {
            let run = ends.runs([number]).map_err(damaged)?.remove(0);
            let at = |at: u64| usize::try_from(at).expect("small");
            Ok(ends.open(number, &stored.slice(at(run.stored.start)..at(run.stored.end))))
        })
        .collect()
}

/// Three frames of which each is as long as the others, sealed or not.
fn three_frames() -> Bytes {
    (0..3 * FRAME_BYTES).map(|at| u8::try_from(at >> 20).expect("small")).collect::<Vec<_>>().into()
}

/// The object of `frames`, with a trailer and a seek table that someone made who can: of a sealed one only its writer.
fn sealed_again(frames: &[&Bytes], content_bytes: u64, ring: Option<&Keyring>) -> Bytes {
    let [header_frame, others @ ..] = frames else { panic!("no header") };
    let (header, payload, _) = header::Header::parse_frame(header_frame).expect("a header");
    let context = context::FrameContext::of(&header, payload, ring, PATH, PATH).expect("a context");
    let mut table = seek_table::SeekTable::new(ring.is_none());
    table.push(header_frame.len());
    for frame in others {
        table.push_content(frame);
    }
    table.push(trailer::Trailer::frame_bytes(&context));
    let table = table.frame(content_bytes).expect("as many frames");
    let trailer = trailer::Trailer { content_bytes, content_digest: [0; 32], stored_digest: [0; 32] };
    let trailer = trailer.frame(&context, &table);
    join(&[frames, &[&trailer, &table]].concat())
}

#[test]
fn a_frame_that_lies_in_anothers_place_is_never_read_by_range() {
    let (pool, ring) = (pool(), keyring(1));
    let content = three_frames();
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&content, FRAME_BYTES, ring.map(Keyring::active), &pool).await;
            let all = frames(&stored, ring.is_some());
            let [header, one, two, three, facts, trailer, table] = all.as_slice() else { panic!("seven frames") };
            let whole: Vec<_> = (0..3).map(|at| Ok(content.slice(at * FRAME_BYTES..(at + 1) * FRAME_BYTES))).collect();
            assert_eq!(alone(&stored, ring).expect("whole"), whole);
            assert!(one.len() == two.len() && two.len() == three.len());
            for (forged, good) in [
                (join(&[header, two, one, three, facts, trailer, table]), [false, false, true]),
                (join(&[header, one, one, three, facts, trailer, table]), [true, false, true]),
                (join(&[header, three, two, three, facts, trailer, table]), [false, true, true]),
            ] {
                let read = alone(&forged, ring).expect("the end is whole");
                for ((read, whole), good) in read.into_iter().zip(&whole).zip(good) {
                    assert_eq!(read.is_ok(), good);
                    assert!(!good || read == *whole);
                }
            }
            // Whoever can write a trailer can write content; what it cannot is contradict the frames.
            let frame = FRAME_BYTES as u64;
            for (forged, content_bytes) in [
                // Cut, and said to be whole: of a sealed object the last frame is the last.
                (vec![header, one, two], 2 * frame),
                // The last frame is said to be shorter than it is.
                (vec![header, one, two, three], 3 * frame - 1),
            ] {
                let read = alone(&sealed_again(&forged, content_bytes, ring), ring).expect("the end is whole");
                assert_eq!(read.last().expect("a frame").is_ok(), ring.is_none() && content_bytes == 2 * frame);
            }
        }
    });
}

#[test]
fn facts_open_in_their_own_object_only_and_no_flipped_byte_of_them_goes_unseen() {
    let (pool, ring) = (pool(), keyring(1));
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&Bytes::from_static(b"WAL"), 100, ring.map(Keyring::active), &pool).await;
            let start = stored.len() - usize::try_from(Tail::length(&stored).expect("a length")).expect("short");
            let ends = |path| Tail::parse(&stored.slice(start..), stored.len() as u64, ring, path, PATH);
            let ends = ends(PATH).expect("whole");
            let place = ends.facts().expect("there are facts");
            let at = |at: u64| usize::try_from(at).expect("small");
            let facts = stored.slice(at(place.start)..at(place.end));
            assert_eq!(ends.open_facts(&facts), Ok(Some(Facts::of_times(1, 2))));
            for byte in 0..facts.len() {
                let mut flipped = facts.to_vec();
                flipped[byte] ^= 0x20;
                assert!(ends.open_facts(&flipped).is_err(), "byte {byte} of {}", facts.len());
                assert!(ends.open_facts(&facts[..byte]).is_err());
                // All of the object is read.
                let mut whole = stored.to_vec();
                whole[at(place.start) + byte] ^= 0x20;
                assert!(open(&whole.into(), 4096, ring, &pool).await.is_err(), "byte {byte} of {}", facts.len());
            }
            // A content frame is no facts frame, and the other way round.
            let content = frames(&stored, ring.is_some())[1].clone();
            assert!(ends.open_facts(&content).is_err());
            let longer = join(&[&facts, &facts]);
            assert!(ends.open_facts(&longer).is_err());
        }
    });
}

#[test]
fn facts_that_claim_more_than_1_mib_are_refused_before_they_are_read() {
    let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
    compressor.include_checksum(true).expect("a parameter");
    let bomb = compressor.compress(&vec![0; FRAME_BYTES + 1]).expect("a frame");
    let context = context::FrameContext { header_payload: Bytes::new(), keys: None };
    let frame = skippable::skippable(frame::FACTS_MAGIC, &bomb);
    assert_eq!(frame::decode_facts(&context, &frame), Err(FormatError::Facts("they are too long")));
}

#[test]
fn a_seek_table_that_lies_gives_no_bytes() {
    let (pool, ring) = (pool(), keyring(1));
    let content = three_frames();
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&content, FRAME_BYTES, ring.map(Keyring::active), &pool).await;
            let all = frames(&stored, ring.is_some());
            let [header, one, two, three, ..] = all.as_slice() else { panic!("seven frames") };
            // A boundary is moved: the first frame is longer, the second shorter, by a byte or by all but a few.
            for moved in [1, two.len() - 8] {
                let (long, short) = (join(&[one, &two.slice(..moved)]), two.slice(moved..));
                let read = alone(&sealed_again(&[header, &long, &short, three], 3 << 20, ring), ring);
                let read = read.expect("the end is whole");
                assert!(read[0].is_err() && read[1].is_err() && read[2].is_ok(), "moved by {moved}");
            }
            // Two frames are said to be one.
            let both = join(&[one, two]);
            let read = alone(&sealed_again(&[header, &both, three], 2 << 20, ring), ring).expect("the end is whole");
            assert!(read[0].is_err(), "two frames as one");
            // The table alone is another: the trailer vouches for it.
            let end = stored.len() - 9;
            let mut lying = stored.to_vec();
            let entries = end - if ring.is_none() { 6 * 12 } else { 6 * 8 };
            for at in entries..end {
                lying[at] ^= 1;
                assert!(alone(&lying.clone().into(), ring).is_err(), "byte {at} of {}", stored.len());
                lying[at] ^= 1;
            }
        }
    });
}

#[test]
fn any_flipped_byte_gives_an_error_or_the_right_bytes_by_range() {
    let (pool, ring) = (pool(), keyring(1));
    let content = Bytes::from(b"some WAL, some WAL, some more WAL".repeat(FRAME_BYTES / 32));
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&content, FRAME_BYTES, ring.map(Keyring::active), &pool).await;
            let mut noticed = 0;
            let places: Vec<usize> = (0..stored.len()).step_by(1 + stored.len() / 400).collect();
            for at in &places {
                let mut flipped = stored.to_vec();
                flipped[*at] ^= 0x20;
                let Ok(read) = alone(&flipped.into(), ring) else {
                    noticed += 1;
                    continue;
                };
                for (number, read) in read.into_iter().enumerate() {
                    let whole = content.slice(number * FRAME_BYTES..content.len().min((number + 1) * FRAME_BYTES));
                    noticed += usize::from(read.is_err());
                    assert!(read.is_err() || read == Ok(whole), "byte {at} of {} flipped", stored.len());
                }
            }
            // The header is repeated at the end, where it is read; the facts are not asked for.
            assert!(noticed * 2 > places.len(), "{noticed} of {}", places.len());
        }
    });
}

/// Frames of the object: header, content, trailer, seek table.
fn frames(stored: &Bytes, sealed: bool) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < stored.len() {
        let magic = u32::from_le_bytes(stored[at..at + 4].try_into().expect("four bytes"));
        let length = if magic == frame::ZSTD_MAGIC {
            assert!(!sealed);
            let walked = frame::FrameWalk::default().advance(&|offset| frame::peek(&stored[at..], offset));
            let Ok(frame::Walked::Whole(length)) = walked else { panic!("a whole frame") };
            length
        } else {
            8 + usize::try_from(u32::from_le_bytes(stored[at + 4..at + 8].try_into().expect("four bytes")))
                .expect("short")
        };
        frames.push(stored.slice(at..at + length));
        at += length;
    }
    frames
}

fn join(frames: &[&Bytes]) -> Bytes {
    frames.iter().flat_map(|frame| frame.iter().copied()).collect::<Vec<u8>>().into()
}

#[test]
fn any_flipped_byte_is_detected() {
    let (pool, ring) = (pool(), keyring(1));
    let content = Bytes::from(b"some WAL, some WAL, some more WAL".repeat(10));
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&content, 100, ring.map(Keyring::active), &pool).await;
            for at in 0..stored.len() {
                for mask in [1, 0x20, 0x80, 0xFF] {
                    let mut flipped = stored.to_vec();
                    flipped[at] ^= mask;
                    let read = open(&flipped.into(), 4096, ring, &pool).await;
                    assert!(read.is_err(), "byte {at} of {} flipped by {mask:#x} was not noticed", stored.len());
                }
            }
        }
    });
}

#[test]
fn an_object_cut_anywhere_or_with_more_after_is_refused() {
    let (pool, ring) = (pool(), keyring(1));
    let content = Bytes::from(b"some WAL, some WAL, some more WAL".repeat(10));
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, summary) = seal(&content, 100, ring.map(Keyring::active), &pool).await;
            assert_eq!(tail(&stored, ring).expect("whole"), summary);
            for end in 0..stored.len() {
                let error = open(&stored.slice(..end), 64, ring, &pool).await.expect_err("cut");
                assert_eq!(error.class(), walward_base::ErrorClass::Corrupt);
                assert!(tail(&stored.slice(..end), ring).is_err());
            }
            let mut longer = stored.to_vec();
            longer.push(0);
            assert!(open(&longer.clone().into(), 64, ring, &pool).await.is_err());
            assert!(tail(&longer.into(), ring).is_err());
            let twice = join(&[&stored, &stored]);
            assert!(open(&twice, 4096, ring, &pool).await.is_err());
        }
    });
}

#[test]
fn frames_are_not_swapped_dropped_repeated_or_cut_off() {
    let (pool, ring) = (pool(), keyring(1));
    let content =
        Bytes::from((0..3 * FRAME_BYTES).map(|at| u8::try_from(at >> 20).expect("small")).collect::<Vec<_>>());
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&content, FRAME_BYTES, ring.map(Keyring::active), &pool).await;
            let all = frames(&stored, ring.is_some());
            let [header, one, two, three, facts, trailer, table] = all.as_slice() else { panic!("seven frames") };
            assert_eq!(
                open(&join(&[header, one, two, three, facts, trailer, table]), 5000, ring, &pool).await.expect("whole"),
                content
            );
            for forged in [
                join(&[header, two, one, three, facts, trailer, table]),
                join(&[header, one, three, facts, trailer, table]),
                join(&[header, one, two, facts, trailer, table]),
                join(&[header, one, one, two, three, facts, trailer, table]),
                join(&[header, facts, trailer, table]),
                join(&[header, one, two, three, facts, table]),
                join(&[header, one, two, three, facts, trailer]),
                join(&[header, one, two, facts, trailer, three, table]),
                join(&[header, one, two, three, trailer, table]),
                join(&[header, one, two, facts, three, trailer, table]),
                join(&[header, one, two, three, facts, facts, trailer, table]),
                join(&[one, two, three, facts, trailer, table]),
            ] {
                assert!(open(&forged, 5000, ring, &pool).await.is_err());
            }
        }
    });
}

#[test]
fn a_trailer_that_tells_another_length_is_refused_although_it_is_sealed() {
    let (pool, ring) = (pool(), keyring(1));
    let bytes = Bytes::from(vec![7; FRAME_BYTES + 100]);
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (stored, _) = seal(&bytes, FRAME_BYTES, ring.map(Keyring::active), &pool).await;
            let all = frames(&stored, ring.is_some());
            let [header_frame, one, two, facts, trailer_frame, _] = all.as_slice() else { panic!("six frames") };
            let (header, payload, _) = header::Header::parse_frame(header_frame).expect("a header");
            let context = context::FrameContext::of(&header, payload, ring, PATH, PATH).expect("a context");
            let table = |content_bytes| {
                let mut table = seek_table::SeekTable::new(ring.is_none());
                table.push(header_frame.len());
                table.push_content(one);
                table.push_content(two);
                table.push_facts(facts);
                table.push(trailer_frame.len());
                table.frame(content_bytes)
            };
            let told = trailer::Trailer::parse(trailer_frame, &context, table).expect("a trailer");
            for (content_bytes, holds) in [(0, true), (1, false), (-1, false)] {
                let content_bytes = told.content_bytes.checked_add_signed(content_bytes).expect("a length");
                let table = table(content_bytes).expect("as many frames");
                let trailer = trailer::Trailer { content_bytes, ..told.clone() }.frame(&context, &table);
                let opened = open(&join(&[header_frame, one, two, facts, &trailer, &table]), 5000, ring, &pool).await;
                assert_eq!(opened.is_ok(), holds);
                let error = opened.err().map(|error| walward_base::describe(&error)).unwrap_or_default();
                assert!(holds || error.contains("the content has another length"), "{error}");
            }
        }
    });
}

#[test]
fn a_sealed_object_opens_at_its_own_path_under_its_own_key_only() {
    let (pool, ring) = (pool(), keyring(1));
    runtime().block_on(async {
        let (stored, _) = seal(&Bytes::from_static(b"WAL"), 100, Some(ring.active()), &pool).await;
        let body = pieces::<StoreError>(&stored, 4096);
        let mut moved =
            Opener::new(String::new(), "wal/elsewhere", Some(&ring), pool.clone(), body).await.expect("a header");
        assert!(moved.next().await.is_err());
        let other = Keyring::for_tests([1; 16], [3; 32]);
        assert!(open(&stored, 4096, Some(&other), &pool).await.is_err());
        let unknown = open(&stored, 4096, Some(&keyring(2)), &pool).await.expect_err("an unknown key");
        assert!(matches!(unknown, RepoError::UnknownMasterKey { .. }));
        let plain = open(&stored, 4096, None, &pool).await.expect_err("no key");
        assert!(matches!(plain, RepoError::ForeignProtection { encrypted: true, .. }));
    });
}

#[test]
fn the_content_digest_is_blake3_and_shows_to_who_has_the_key_alone() {
    let (pool, one, other) = (pool(), keyring(1), keyring(2));
    // The first of the official test vectors (BLAKE3-team/BLAKE3, test_vectors.json): no bytes, and one zero byte.
    for (content, digest) in [
        (&b""[..], "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (b"\0", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
    ] {
        runtime().block_on(async {
            for ring in [None, Some(&one), Some(&other)] {
                let (stored, summary) = seal(&content.to_vec().into(), 100, ring.map(Keyring::active), &pool).await;
                assert_eq!(walward_base::hex::encode(&summary.content_digest), digest);
                assert_eq!(tail(&stored, ring).expect("whole"), summary);
                let shows = stored.windows(32).any(|window| window == summary.content_digest);
                assert_eq!(shows, ring.is_none());
            }
        });
    }
}

#[test]
fn the_zstd_program_gives_the_content_of_a_plain_object() {
    let pool = pool();
    for length in [0, 1, FRAME_BYTES, 2 * FRAME_BYTES + 77] {
        let content: Bytes = (0..length).map(|at| b"WAL of a cluster"[at * at % 16]).collect::<Vec<u8>>().into();
        let (stored, _) = runtime().block_on(seal(&content, 300_000, None, &pool));
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&stored).expect("written");
        let output = Command::new("zstd")
            .args(["-d", "-q", "-c"])
            .arg(file.path())
            .stdin(Stdio::null())
            .output()
            .expect("the zstd program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "other content of {length} bytes");
    }
}

#[test]
fn a_panic_or_a_lost_stream_ends_in_an_error() {
    let pool = pool();
    runtime().block_on(async {
        let (stored, _) = seal(&Bytes::from(vec![7; 100_000]), 4096, None, &pool).await;
        let lost = StoreError {
            class: walward_base::ErrorClass::Transient,
            verb: "read",
            key: PATH.to_owned(),
            source: "connection reset".into(),
        };
        let body = stream::iter([Ok(stored.slice(..stored.len() - 40)), Err(lost)]).boxed();
        let mut opener = Opener::new(PATH.to_owned(), PATH, None, pool.clone(), body).await.expect("a header");
        let error = loop {
            match opener.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended early"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.class(), walward_base::ErrorClass::Transient);
    });
}

#[test]
fn each_of_several_objects_is_what_it_would_be_alone() {
    let (pool, one, other) = (pool(), keyring(1), keyring(2));
    let content: Bytes =
        (0..2 * FRAME_BYTES + 77).map(|at| b"WAL of a cluster"[at * at % 16]).collect::<Vec<u8>>().into();
    let objects =
        [(None, 1), (Some(one.active()), 1), (None, 7), (Some(other.active()), 7), (Some(one.active()), 1), (None, 1)];
    runtime().block_on(async {
        let together = seal_all(&content, 300_000, &objects, &pool).await;
        assert_eq!(together.len(), objects.len());
        for (object, together) in objects.iter().zip(&together) {
            assert!(seal_all(&content, 300_000, &[*object], &pool).await[0] == *together);
        }
        assert_ne!(together[0].0, together[2].0, "levels differ");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_was_sealed_is_opened_whatever_the_pieces(
        length in prop_oneof![0usize..5000, 0usize..3_500_000],
        noise: bool,
        sealed: bool,
        piece in 1usize..2_000_000,
        stored_piece in 1000usize..2_000_000,
    ) {
        let (pool, ring) = (pool(), keyring(1));
        let mut state = 1u32;
        let content: Bytes = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if noise { state.to_be_bytes()[0] } else { state.to_be_bytes()[0] & 3 }
            })
            .collect::<Vec<u8>>()
            .into();
        let ring = sealed.then_some(&ring);
        let piece = piece.max(length / 1000);
        runtime().block_on(async {
            let (stored, summary) = seal(&content, piece, ring.map(Keyring::active), &pool).await;
            prop_assert_eq!(summary.content_bytes, length as u64);
            prop_assert_eq!(tail(&stored, ring).expect("whole"), summary);
            prop_assert!(open(&stored, stored_piece, ring, &pool).await.expect("opened") == content);
            Ok(())
        })?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, after_header: bool, sealed: bool) {
        let (pool, ring) = (pool(), keyring(1));
        let ring = sealed.then_some(&ring);
        runtime().block_on(async {
            let mut stored = Vec::new();
            if after_header {
                let (object, _) = seal(&Bytes::new(), 1, ring.map(Keyring::active), &pool).await;
                stored.extend_from_slice(&frames(&object, sealed)[0]);
            }
            stored.extend_from_slice(&bytes);
            let stored = Bytes::from(stored);
            assert!(open(&stored, 100, ring, &pool).await.is_err());
            assert!(tail(&stored, ring).is_err());
        });
    }
}

#[test]
#[ignore = "a measurement, not a check: run by hand, on a machine that does nothing else"]
fn the_time_that_a_segment_of_16_mib_takes() {
    // One thread computes, so that what took so long on the clock took it of the processor.
    let (pool, ring) = (CpuPool::new(1).expect("a thread"), keyring(1));
    let mut state = 1u32;
    let content: Bytes = (0..16 << 20)
        .map(|at: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at & 0x1FFF < 0x800 { state.to_be_bytes()[0] } else { u8::try_from(at >> 5 & 0xFF).unwrap_or(0) }
        })
        .collect::<Vec<u8>>()
        .into();
    runtime().block_on(async {
        for ring in [None, Some(&ring)] {
            let (mut sealed, mut opened) = (Vec::new(), Vec::new());
            for _ in 0..30 {
                let begun = std::time::Instant::now();
                let (stored, _) = seal(&content, 1 << 20, ring.map(Keyring::active), &pool).await;
                sealed.push(begun.elapsed());
                let begun = std::time::Instant::now();
                assert!(open(&stored, 1 << 20, ring, &pool).await.expect("opened").len() == content.len());
                opened.push(begun.elapsed());
            }
            let (sealed, opened) = (sealed.iter().min(), opened.iter().min());
            println!("encrypted: {}; the fastest of 30: seal {sealed:?}, open {opened:?}", ring.is_some());
        }
    });
}
