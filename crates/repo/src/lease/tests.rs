//! Leases on stores in memory and on disk, and the table of works.

use proptest::prelude::*;

use super::*;
use crate::Encryption;
use walward_base::sys::cpu::CpuPool;
use walward_storage::fault::{Fault, Faulty, Plan};
use walward_storage::memory;

const MINUTE: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(400);

async fn repository() -> Repository {
    let pool = CpuPool::new(1).expect("a thread");
    let made = Repository::create("r", memory(), "main", &Encryption::None, &[], pool, Timestamp::now()).await;
    made.expect("a repository").0
}

fn named(name: &str) -> Holder {
    Holder { name: name.to_owned(), process: None }
}

/// A moment that only a wrong clock has.
fn wrong(hours: i64) -> Timestamp {
    Timestamp::now().saturating_add(SignedDuration::from_hours(hours)).expect("in range")
}

async fn take(repository: &Repository, holder: &str, length: Duration) -> Result<Lease, LeaseError> {
    Lease::take(repository, Work::Backup, &named(holder), length, Timestamp::now()).await
}

async fn seen(repository: &Repository, work: Work) -> Seen {
    look(repository, work).await.expect("read").pop().expect("a lease")
}

async fn do_work(repository: &Repository, work: Work, holder: &str, length: Duration) -> Result<Lease, LeaseError> {
    Lease::take(repository, work, &named(holder), length, Timestamp::now()).await
}

#[tokio::test]
async fn of_all_pairs_of_works_those_that_exclude_each_other_are_not_held_together() {
    for first in Work::ALL {
        for second in Work::ALL {
            let repository = repository().await;
            let held = do_work(&repository, first, "a", MINUTE).await.expect("taken");
            let other = do_work(&repository, second, "b", MINUTE).await;
            assert_eq!(other.is_err(), first.excludes(second), "{first:?}, then {second:?}");
            match other {
                Ok(other) => other.release(Timestamp::now()).await.expect("released"),
                Err(LeaseError::Held { work, holder, .. }) => assert_eq!((work, holder.as_str()), (first, "a")),
                Err(other) => panic!("{other}"),
            }
            held.release(Timestamp::now()).await.expect("released");
            do_work(&repository, second, "b", MINUTE).await.expect("free");
        }
    }
}

#[tokio::test]
async fn of_works_that_exclude_each_other_and_begin_at_once_no_two_are_held() {
    let mut held = 0;
    let works = [Work::Backup, Work::Expire, Work::SetAside, Work::Restore];
    for (seed, first) in (0..60u64).zip(works.into_iter().cycle()) {
        let inner = memory();
        let pool = CpuPool::new(1).expect("a thread");
        let none = Encryption::None;
        let made = Repository::create("r", Arc::clone(&inner), "main", &none, &[], pool.clone(), Timestamp::now());
        made.await.expect("a repository");
        let open = async |number: u64| {
            let mut calls = number + 2 * seed;
            // Each call takes another while, so that the two meet at every step.
            let plan = Plan::By(Box::new(move |_| {
                calls = calls.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                Some(Fault::Delay(Duration::from_millis(calls >> 61)))
            }));
            let store = Faulty::new(Arc::clone(&inner), Plan::script([]));
            let repository = Repository::open("r", Arc::clone(&store) as _, &none, pool.clone()).await.expect("opens");
            store.plan(plan);
            repository
        };
        let (one, two) = (open(0).await, open(1).await);
        let second = Work::Repair;
        let both = tokio::join!(do_work(&one, first, "a", MINUTE), do_work(&two, second, "b", MINUTE));
        assert!(both.0.is_err() || both.1.is_err(), "{seed}: {first:?}, {second:?}");
        held += u64::from(both.0.is_ok() || both.1.is_ok());
    }
    assert!(held > 0);
}

#[tokio::test]
async fn readers_hold_together_are_told_apart_and_leave_nothing() {
    let repository = repository().await;
    let one = do_work(&repository, Work::Restore, "a", MINUTE).await.expect("taken");
    let mut two = do_work(&repository, Work::Restore, "b", MINUTE).await.expect("taken");
    two.renew(Timestamp::now()).await.expect("renewed");
    let mut readers = look(&repository, Work::Restore).await.expect("read");
    readers.sort_by(|one, other| one.holder.cmp(&other.holder));
    assert_eq!(readers.iter().map(|seen| seen.holder.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(break_it(&repository, &readers[1], &named("a person"), Timestamp::now()).await.expect("broken"));
    assert!(matches!(two.renew(Timestamp::now()).await, Err(LeaseError::Lost { .. })));
    assert!(do_work(&repository, Work::SetAside, "c", MINUTE).await.is_err(), "the first still reads");
    one.release(Timestamp::now()).await.expect("released");
    assert_eq!(look(&repository, Work::Restore).await.expect("read"), []);
    do_work(&repository, Work::SetAside, "c", MINUTE).await.expect("nobody reads any more");
}

#[tokio::test]
async fn work_whose_lease_ran_out_cannot_renew_it_once_other_work_has_begun() {
    for first in [Work::Backup, Work::Restore] {
        let repository = repository().await;
        let mut old = do_work(&repository, first, "a", SHORT).await.expect("taken");
        assert!(do_work(&repository, Work::SetAside, "b", MINUTE).await.is_err());
        tokio::time::sleep(SHORT * 2).await;
        do_work(&repository, Work::SetAside, "b", MINUTE).await.expect("it ran out");
        let lost = old.renew(Timestamp::now()).await;
        assert!(matches!(&lost, Err(LeaseError::Lost { holder, .. }) if holder == "b"), "{first:?}: {lost:?}");
    }
}

#[tokio::test]
async fn one_at_a_time_and_the_next_after_release() {
    let repository = repository().await;
    let lease = take(&repository, "a", MINUTE).await.expect("taken");
    let error = take(&repository, "b", MINUTE).await.expect_err("held");
    assert!(matches!(&error, LeaseError::Held { holder, .. } if holder == "a"), "{error}");
    lease.release(Timestamp::now()).await.expect("released");
    let lease = take(&repository, "b", MINUTE).await.expect("taken");
    assert_eq!(lease.fencing(), 3);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_over_and_its_holder_learns_it() {
    let repository = repository().await;
    let mut old = take(&repository, "a", SHORT).await.expect("taken");
    assert!(take(&repository, "b", MINUTE).await.is_err() && !old.has_run_out());
    tokio::time::sleep(SHORT * 2).await;
    assert!(old.has_run_out());
    let new = take(&repository, "b", MINUTE).await.expect("ran out");
    assert!(new.fencing() > old.fencing());
    assert!(matches!(old.renew(Timestamp::now()).await, Err(LeaseError::Lost { holder, .. }) if holder == "b"));
    assert!(matches!(old.release(Timestamp::now()).await, Err(LeaseError::Lost { .. })));
}

#[tokio::test]
async fn no_hosts_clock_holds_a_lease_for_longer_or_takes_one_that_is_held() {
    for hours in [-24 * 365, -1, 1, 24 * 365] {
        // The holder's clock is wrong.
        let ours = repository().await;
        Lease::take(&ours, Work::Backup, &named("a"), SHORT, wrong(hours)).await.expect("taken");
        assert!(matches!(take(&ours, "b", MINUTE).await, Err(LeaseError::Held { .. })), "{hours}");
        tokio::time::sleep(SHORT * 2).await;
        take(&ours, "b", MINUTE).await.expect("ran out");
        // The clock of who wants it is.
        let error = Lease::take(&ours, Work::Backup, &named("c"), MINUTE, wrong(hours)).await.expect_err("held");
        assert!(matches!(&error, LeaseError::Held { holder, .. } if holder == "b"), "{hours}: {error}");
    }
}

#[tokio::test]
async fn a_holder_of_this_host_that_has_ended_holds_nothing() {
    let repository = repository().await;
    let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
    let holder = Holder { name: "a".to_owned(), process: Process::of(child.id()) };
    assert!(holder.process.is_some());
    Lease::take(&repository, Work::Backup, &holder, MINUTE, Timestamp::now()).await.expect("taken");
    assert!(take(&repository, "b", MINUTE).await.is_err());
    child.kill().and_then(|()| child.wait()).expect("ended");
    let seen = seen(&repository, Work::Backup).await;
    assert_eq!((seen.holder.as_str(), seen.standing), ("a", LeaseState::HolderGone));
    take(&repository, "b", MINUTE).await.expect("free");
}

#[tokio::test]
async fn a_broken_lease_is_free_and_its_holder_learns_it() {
    let repository = repository().await;
    let by = named("a person");
    assert_eq!(look(&repository, Work::Backup).await.expect("read"), []);
    let mut lease = take(&repository, "a", MINUTE).await.expect("taken");
    let seen = seen(&repository, Work::Backup).await;
    assert!(matches!(seen.standing, LeaseState::Held(left) if left <= MINUTE), "{seen:?}");
    assert!(break_it(&repository, &seen, &by, Timestamp::now()).await.expect("broken"));
    assert!(!break_it(&repository, &seen, &by, Timestamp::now()).await.expect("nothing to break"));
    let lost = lease.renew(Timestamp::now()).await;
    assert!(matches!(&lost, Err(LeaseError::Lost { holder, .. }) if holder == "a person"), "{lost:?}");
    take(&repository, "b", MINUTE).await.expect("free");
}

#[tokio::test]
async fn a_renewed_lease_stays_and_leaves_one_object() {
    let repository = repository().await;
    let mut lease = take(&repository, "a", SHORT).await.expect("taken");
    for _ in 1..5 {
        tokio::time::sleep(SHORT / 2).await;
        lease.renew(Timestamp::now()).await.expect("renewed");
    }
    assert!(take(&repository, "b", MINUTE).await.is_err());
    assert_eq!(lease.fencing(), 5);
    let (states, clocks) = objects(&**repository.store(), &layout::leases(Work::Backup)).await.expect("listed");
    assert_eq!((states.len(), clocks.len()), (1, 0));
}

#[tokio::test]
async fn a_number_that_was_used_and_removed_is_not_given_out_again() {
    let repository = repository().await;
    let mut lease = take(&repository, "a", MINUTE).await.expect("taken");
    let slow = State { token: "x".to_owned(), holder: "slow".to_owned(), ..lease.state.clone() };
    lease.renew(Timestamp::now()).await.expect("renewed");
    // "slow" saw no lease before "a" took the first number, and writes only now.
    assert!(!write(&**repository.store(), &lease.folder, &slow).await.expect("written"));
    lease.renew(Timestamp::now()).await.expect("renewed");
}

#[test]
fn only_the_stores_clock_counts_and_a_second_more_where_it_keeps_no_fractions() {
    let at = |second| Timestamp::from_second(second).expect("a time");
    let age = SignedDuration::from_secs;
    let state = State::new(1, Work::Backup, &named("a"), at(1_000_000_000), MINUTE);
    let held = |seconds| LeaseState::Held(Duration::from_secs(seconds));
    assert_eq!(judge(&state, age(0), false, false), held(60));
    assert_eq!(judge(&state, age(59), false, false), held(1));
    assert_eq!(judge(&state, age(60), false, false), LeaseState::RanOut);
    assert_eq!(judge(&state, age(60), true, false), held(1));
    assert_eq!(judge(&state, age(61), true, false), LeaseState::RanOut);
    // A store whose machines do not agree.
    assert_eq!(judge(&state, age(-100), false, false), held(60));
    assert_eq!(judge(&state, age(0), false, true), LeaseState::HolderGone);
    let forged = State::new(1, Work::Backup, &named("a"), at(1_000_000_000), MINUTE * 60 * 24 * 365);
    assert_eq!(judge(&forged, age(0), false, false), held(3_600));
    assert_eq!(judge(&State { released: true, ..state }, age(0), false, false), LeaseState::Released);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = checked_json::decode::<State>(&bytes, FORMAT);
    }
}
