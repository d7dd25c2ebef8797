use std::io::Write;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;

use super::*;
use crate::keys::KeySource;
use crate::{Encryption, PutNew};
use walward_base::ErrorClass;
use walward_base::sys::cpu::CpuPool;
use walward_storage::fault::{Fault, Faulty, Plan};
use walward_storage::{Store, memory};

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
    let (pool, now) = (CpuPool::new(2).expect("threads"), Timestamp::UNIX_EPOCH);
    let created = Repository::create("r", store, "main", &encryption, &[], pool, now).await;
    (created.expect("a repository").0, file)
}

fn key() -> ObjectKey {
    ObjectKey::new("wal/x").expect("a key")
}

fn pieces(content: &Bytes) -> BoxStream<'static, std::io::Result<Bytes>> {
    let pieces: Vec<_> = (0..content.len())
        .step_by(700_000)
        .map(|at| Ok(content.slice(at..(at + 700_000).min(content.len()))))
        .collect();
    stream::iter(pieces).boxed()
}

fn content() -> Bytes {
    (0..3_300_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0] & 7).collect::<Vec<u8>>().into()
}

async fn read(repository: &Repository) -> Result<Bytes, RepoError> {
    repository.read(&key()).await?.into_bytes(&key(), usize::MAX).await
}

#[tokio::test]
async fn one_reading_of_the_content_makes_an_object_for_each_repository() {
    let (plain, _) = repository(memory(), false).await;
    let (other, _) = repository(memory(), false).await;
    let (sealed, _file) = repository(memory(), true).await;
    let (again, _file2) = repository(memory(), true).await;
    let repositories = [&plain, &other, &sealed, &again];
    let targets = repositories.map(|repository| SealTarget { repository, level: 1 });
    let content = content();
    let all = seal(&targets, &key(), Kind::Segment, "db1", pieces(&content), || Some(Facts::of_times(3, 4)))
        .await
        .expect("sealed");
    // Plain frames are the same memory.
    let shared = all[0].payload.0.iter().zip(&all[1].payload.0).filter(|(one, two)| one.as_ptr() == two.as_ptr());
    assert_eq!(shared.count(), 4, "the content has four frames");
    assert_eq!(all[0].summary.content_digest, all[3].summary.content_digest, "one content, whatever the key");
    for (repository, sealed) in repositories.iter().zip(all) {
        assert!(matches!(repository.put_sealed(sealed).await, Ok(PutNew::Created(_))));
        assert!(read(repository).await.expect("read") == content);
        let found = repository.read_summary(&key()).await.expect("a summary");
        assert_eq!(found.facts, Some(Facts::of_times(3, 4)));
    }
    // The same content again, by itself.
    let spec = Spec { kind: Kind::Segment, level: 3, writer: "db2".to_owned() };
    for repository in repositories {
        let put = repository.put_new(&key(), spec.clone(), pieces(&content), || None).await;
        assert_eq!(put.expect("put"), PutNew::Same);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_written_nowhere() {
    let (plain, _) = repository(memory(), false).await;
    let broken = stream::iter([Ok(content()), Err(std::io::Error::other("gone"))]).boxed();
    let target = SealTarget { repository: &plain, level: 1 };
    let error = seal(&[target], &key(), Kind::Segment, "db1", broken, || None).await.expect_err("broken");
    assert!(matches!(error, RepoError::Content { .. }));
    let broken = stream::iter([Ok(content()), Err(std::io::Error::other("gone"))]).boxed();
    let error = upload(&[target, target], &key(), Kind::Pack, "db1", broken, 1).await.expect_err("broken");
    assert!(matches!(error, (_, RepoError::Content { .. })));
    assert!(!plain.exists(&key()).await.expect("asked"));
}

#[tokio::test]
async fn an_upload_goes_to_all_and_names_the_one_that_failed() {
    let content = content();
    let (one, _) = repository(memory(), false).await;
    let (two, _file) = repository(memory(), true).await;
    let targets = [SealTarget { repository: &one, level: 1 }, SealTarget { repository: &two, level: 5 }];
    let summaries = upload(&targets, &key(), Kind::Pack, "db1", pieces(&content), 1 << 20).await.expect("uploaded");
    for (target, summary) in targets.iter().zip(summaries) {
        assert!(read(target.repository).await.expect("read") == content);
        assert_eq!(target.repository.read_summary(&key()).await.expect("a summary").summary, summary);
    }

    let inner = memory();
    repository(Arc::clone(&inner), false).await;
    let plan = Plan::script([None, None, Some(Fault::Before(ErrorClass::Denied))]);
    let faulty = Faulty::new(inner, plan);
    let open = Repository::open("r", faulty as Arc<dyn Store>, &Encryption::None, CpuPool::new(1).expect("a thread"));
    let broken = open.await.expect("opened");
    let (whole, _) = repository(memory(), false).await;
    let targets = [SealTarget { repository: &whole, level: 1 }, SealTarget { repository: &broken, level: 1 }];
    let failed = upload(&targets, &key(), Kind::Pack, "db1", pieces(&content), 1 << 20).await.expect_err("broken");
    assert_eq!((failed.0, failed.1.class()), (1, ErrorClass::Denied));
    assert!(!whole.exists(&key()).await.expect("asked"), "half an object is none");
}
