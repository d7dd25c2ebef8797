use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::Encryption;
use crate::format::{Kind, Spec};
use crate::keys::KeySource;
use walward_base::ErrorClass;
use walward_base::sys::cpu::CpuPool;
use walward_storage::fault::{Call, Fault, Faulty, Plan};
use walward_storage::{Store, StoreOptions, memory};

const FRAME: u64 = FRAME_BYTES as u64;

/// A new repository over `store`, and what keeps its key alive.
async fn repository(store: Arc<dyn Store>, encrypted: bool) -> (Repository, Option<tempfile::NamedTempFile>) {
    let file = encrypted.then(|| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(crate::keys::key_file_text().as_bytes()).expect("written");
        file
    });
    let encryption = match &file {
        Some(file) => Encryption::Key(KeySource::KeyFile(file.path().to_owned())),
        None => Encryption::None,
    };
    let pool = CpuPool::new(2).expect("threads");
    let created = Repository::create("r", store, "main", &encryption, &[], pool, Timestamp::UNIX_EPOCH).await;
    (created.expect("a repository").0, file)
}

fn key() -> ObjectKey {
    ObjectKey::new("backup/x/pack/00000").expect("a key")
}

/// Content of which no two places look alike.
fn content(length: usize) -> Bytes {
    let noise = |at: usize| u32::try_from(at).expect("small").wrapping_mul(2_654_435_761).rotate_left(7).to_be_bytes();
    (0..length).map(|at| if at % 4096 < 512 { noise(at)[1] } else { noise(at >> 10)[0] }).collect::<Vec<u8>>().into()
}

async fn put(repository: &Repository, content: &Bytes) {
    let spec = Spec { kind: Kind::Pack, level: 1, writer: "db1".to_owned() };
    let content = stream::iter([Ok(content.clone())]).boxed();
    repository.put_new(&key(), spec, content, || None).await.expect("put");
}

fn slice(content: &Bytes, offset: u64, length: u64) -> Bytes {
    let at = |at: u64| usize::try_from(at).expect("small");
    content.slice(at(offset)..at(offset + length))
}

/// What is asked of the store from now on.
fn counted(faulty: &Faulty) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    faulty.plan(Plan::By(Box::new(move |_: Call<'_>| {
        counter.fetch_add(1, Ordering::Relaxed);
        None
    })));
    count
}

#[tokio::test]
async fn an_object_is_opened_by_one_request_and_frames_that_lie_together_come_by_one() {
    for encrypted in [false, true] {
        let faulty = Faulty::new(memory(), Plan::script([]));
        let (repository, _file) = repository(Arc::clone(&faulty) as Arc<dyn Store>, encrypted).await;
        let content = content(20 << 20);
        put(&repository, &content).await;
        let count = counted(&faulty);
        let asked = || count.swap(0, Ordering::Relaxed);
        let reader = repository.frames(&key(), 8 << 20).await.expect("opened");
        assert_eq!((reader.summary().content_bytes, asked()), (20 << 20, 1));
        repository.read_summary(&key()).await.expect("a summary");
        assert_eq!(asked(), 1);
        for (offset, length, requests) in [
            (5, 10, 1),
            // It is there.
            (0, FRAME, 0),
            (FRAME - 1, 2, 1),
            // Frames 0 and 1 are there.
            (0, 5 * FRAME, 1),
            (10 * FRAME, FRAME, 1),
            // Frames 9 and 11, and 10 is there: it compresses well enough to be read again.
            (9 * FRAME, 3 * FRAME, 1),
            // More than is fetched at once.
            (0, 20 * FRAME, 3),
            // Of these the cache has the last eight.
            (12 * FRAME, 8 * FRAME, 0),
            (0, 0, 0),
        ] {
            let read = reader.read_at(offset, length).await.expect("read");
            assert!(read == slice(&content, offset, length), "{length} from {offset}");
            assert_eq!(asked(), requests, "{length} from {offset}");
        }
        for (offset, length) in [(20 * FRAME, 1), (19 * FRAME, FRAME + 1), (5, u64::MAX), (u64::MAX, 1)] {
            assert_eq!(reader.read_at(offset, length).await.expect_err("outside").class(), ErrorClass::Corrupt);
            assert_eq!(asked(), 0);
        }
    }
}

#[tokio::test]
async fn what_took_the_objects_name_is_never_mixed_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = StoreOptions::new(format!("file://{}", folder.path().display()));
    walward_storage::create_root(&options, "main").expect("a folder");
    for store in [memory(), walward_storage::open(&options, "main").expect("a store")] {
        let (repository, _) = repository(Arc::clone(&store), false).await;
        let (one, other) = (content(3 << 20), Bytes::from(vec![7; 3 << 20]));
        put(&repository, &one).await;
        let reader = repository.frames(&key(), 1 << 20).await.expect("opened");
        assert_eq!(reader.read_at(5, 10).await.expect("read"), slice(&one, 5, 10));
        // A file is told by its time, which moves in steps.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        store.delete(&key()).await.expect("deleted");
        put(&repository, &other).await;
        assert_eq!(reader.read_at(2 * FRAME, 10).await.expect_err("replaced").class(), ErrorClass::Corrupt);
        assert_eq!(reader.read_at(50, 10).await.expect("kept"), slice(&one, 50, 10));
    }
}

#[tokio::test]
async fn a_store_that_fails_or_lies_gives_an_error_and_later_the_bytes() {
    for encrypted in [false, true] {
        let faulty = Faulty::new(memory(), Plan::script([]));
        let (repository, _file) = repository(Arc::clone(&faulty) as Arc<dyn Store>, encrypted).await;
        let content = content(3 << 20);
        put(&repository, &content).await;
        faulty.plan(Plan::script([Some(Fault::Corrupt)]));
        // The first byte of the tail lies in a content frame, which is not looked at.
        let reader = repository.frames(&key(), 0).await.expect("opened");
        for (fault, class) in [
            (Fault::Before(ErrorClass::Transient), ErrorClass::Transient),
            (Fault::Short(10), ErrorClass::Transient),
            (Fault::Corrupt, ErrorClass::Corrupt),
        ] {
            faulty.plan(Plan::script([Some(fault)]));
            assert_eq!(reader.read_at(FRAME, 2 * FRAME).await.expect_err("a fault").class(), class, "{fault:?}");
            assert!(reader.read_at(FRAME, 2 * FRAME).await.expect("read") == slice(&content, FRAME, 2 * FRAME));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_range_is_the_slice_of_the_whole(
        length in prop_oneof![0usize..5000, 0usize..3_500_000],
        encrypted: bool,
        cache in prop_oneof![Just(0), Just(1usize << 20), Just(64 << 20)],
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (repository, _file) = repository(memory(), encrypted).await;
            let content = content(length);
            put(&repository, &content).await;
            let reader = repository.frames(&key(), cache).await.expect("opened");
            for (one, other) in ranges {
                let (one, other) = (one.index(length + 1), other.index(length + 1));
                let (start, end) = (one.min(other), one.max(other));
                let read = reader.read_at(start as u64, (end - start) as u64).await.expect("read");
                prop_assert!(read == content.slice(start..end), "{start} to {end}");
                let kept = reader.cache.lock().expect("whole");
                prop_assert!(kept.bytes <= cache);
                prop_assert_eq!(kept.bytes, kept.frames.iter().map(|(_, frame)| frame.len()).sum::<usize>());
            }
            Ok(())
        })?;
    }
}
