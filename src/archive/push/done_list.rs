//! The segments that archive_status says are archived, listed by one at a time for all files that wait for it.
//!
//! An archive_status with millions of marks, or on a slow disk, takes long. A file that waited too long for the list is refused, and the
//! list goes on: it is there when PostgreSQL asks again, a minute later. One that was there at once is made anew for each file, because new marks come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use walward_base::kept::Kept;
use walward_pg::SegmentName;

/// What is listed is good for so many times as long as that took, in whole seconds.
const LIST_AGE_FACTOR: u32 = 12;

/// The newest list.
#[derive(Debug, Default)]
pub(super) struct DoneList(Kept<Listed>);

/// What was listed, none where that cannot be done; and how long it took.
type Listed = (Option<Arc<BTreeSet<SegmentName>>>, Duration);

impl DoneList {
    /// What `list` says, or said a while ago; `None` where it takes longer than `patience`: it goes on, and is there for who asks next.
    /// `Some(None)`: it cannot be listed.
    pub(super) async fn get(
        &self,
        patience: Duration,
        list: impl Future<Output = Option<BTreeSet<SegmentName>>> + Send + 'static,
    ) -> Option<Option<Arc<BTreeSet<SegmentName>>>> {
        let listing = async move {
            let begun = Instant::now();
            (list.await.map(Arc::new), begun.elapsed())
        };
        let is_good =
            |age, (_, took): &Listed| age < Duration::from_secs(took.as_secs()).saturating_mul(LIST_AGE_FACTOR);
        self.0.get_while(is_good, patience, listing).await.map(|(listed, _)| listed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_takes_long_is_there_for_the_next_file_and_one_that_is_quick_is_made_anew() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let (done, listed) = (DoneList::default(), Arc::new(AtomicU64::new(0)));
        let get = async |takes: u64| {
            let listed = Arc::clone(&listed);
            let list = async move {
                tokio::time::sleep(Duration::from_secs(takes)).await;
                listed.fetch_add(1, Ordering::Relaxed);
                Some(BTreeSet::new())
            };
            done.get(PATIENCE, list).await.is_some()
        };
        let count = || listed.load(Ordering::Relaxed);
        assert!(get(0).await && get(0).await);
        assert_eq!(count(), 2, "quick lists are new");
        let begun = Instant::now();
        assert_eq!(tokio::join!(get(14), get(14)), (false, false));
        assert_eq!(begun.elapsed(), PATIENCE);
        // PostgreSQL's archiver asks again after a second, and after three times only a minute later.
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(get(14).await);
        assert_eq!(count(), 3, "listed once for both");
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert!(get(1).await);
        assert_eq!(count(), 4, "an old list is made anew");
    }
}
