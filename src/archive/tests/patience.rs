//! How long a push waits, under a clock that stands still while somebody works.

use tokio::time::Instant;

use super::*;
use walward_storage::fault::Call;
use walward_storage::{Limits, memory};

/// A repository over a store with all its layers, whose calls end as `plan` says; open.
pub(super) async fn layered(room: &Room, plan: Plan) -> (Arc<LazyRepository>, Arc<Faulty>) {
    let (inner, pool, now) = (memory(), CpuPool::on_the_caller(), Timestamp::now());
    let made = Repository::create("far", Arc::clone(&inner), "main", &Encryption::None, &[], pool.clone(), now).await;
    let size = SegmentSize::try_from(SEGMENT_BYTES).expect("a size");
    made.expect("a repository").0.add_lineage(room.lineage, size, now).await.expect("a lineage");
    let faulty = Faulty::new(inner, Plan::script([]));
    let store = walward_storage::with_layers(Arc::clone(&faulty) as Arc<dyn walward_storage::Store>, Limits::default());
    let lazy = LazyRepository::at("far", store, Encryption::None, 1, pool);
    lazy.get().await.expect("opened");
    faulty.plan(plan);
    (lazy, faulty)
}

/// As [`layered`], over a store of which nothing is known yet.
pub(super) fn layered_from_the_start(plan: Plan) -> Arc<LazyRepository> {
    let store = walward_storage::with_layers(Faulty::new(memory(), plan), Limits::default());
    LazyRepository::at("unknown", store, Encryption::None, 1, CpuPool::on_the_caller())
}

fn archiver_of(room: &Room, lazy: &Arc<LazyRepository>) -> Archiver {
    archiver_within(room, vec![Arc::clone(lazy)], Acknowledge::All, Duration::from_mins(1))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_the_first_push_for_seconds_and_the_next_ones_hardly() {
    let room = Room::new();
    let (lazy, faulty) = layered(&room, Plan::chance(1, 1, &[Fault::Hang])).await;
    let archiver = archiver_of(&room, &lazy);
    let file = waiting(&room, 1)[0];
    let push = async || {
        let begun = Instant::now();
        let error = archiver.push(file, archiver.find(file)).await.expect_err("nobody answers");
        assert!(matches!(*error, PushError::Unanswered { .. }), "{error:?}");
        assert!(error.to_string().contains("\"far\"") && error.to_string().contains("no answer within"), "{error}");
        begun.elapsed()
    };
    assert!(push().await < Duration::from_secs(10));
    // A server that stops tries the next file three times.
    for _ in 0..3 {
        assert!(push().await < Duration::from_secs(2));
    }
    faulty.plan(Plan::script([]));
    // What hung is given up by the store's own limits, and nothing else is needed.
    tokio::time::sleep(Duration::from_mins(3)).await;
    archiver.push(file, archiver.find(file)).await.expect("the store is back");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_and_alive_is_waited_for() {
    let room = Room::new();
    let slow = |call: Call<'_>| (call.verb == "put").then_some(Fault::Delay(Duration::from_secs(29)));
    let (lazy, _faulty) = layered(&room, Plan::By(Box::new(slow))).await;
    let archiver = archiver_of(&room, &lazy);
    let file = waiting(&room, 1)[0];
    let begun = Instant::now();
    assert!(matches!(archiver.push(file, archiver.find(file)).await, Ok(Pushed::Now)));
    assert!(begun.elapsed() > Duration::from_secs(28));
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_a_store_that_hangs_holds_a_push_for_seconds() {
    let room = Room::new();
    let (lazy, _faulty) = layered(&room, Plan::chance(1, 1, &[Fault::Hang])).await;
    let file = waiting(&room, 1)[0];
    let begun = Instant::now();
    let deadline = Duration::from_mins(1);
    let error = archive_now(&[lazy], Acknowledge::All, &room.pg_wal(), file, "host", deadline).await.map(drop);
    assert!(matches!(error, Err(PushError::Unanswered { .. })), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}
