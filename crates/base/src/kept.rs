//! An answer that many may want: found out by one at a time and kept for a moment, so that a thousand scrapes ask once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::Instrument;

/// The newest answer. Clones share it.
#[derive(Debug)]
pub struct Kept<T>(Arc<Mutex<Option<(Instant, T)>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Kept<T> {
    /// The answer, at most `age_max` old; `None` when `find_out` takes longer than `patience`. It then goes on, and nobody
    /// begins it a second time before it has ended: what hangs, hangs once.
    pub async fn get(
        &self,
        age_max: Duration,
        patience: Duration,
        find_out: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.get_while(move |age, _| age < age_max, patience, find_out).await
    }

    /// As [`Kept::get`], where `is_good` says whether an answer of an age is given once more.
    pub async fn get_while(
        &self,
        is_good: impl Fn(Duration, &T) -> bool,
        patience: Duration,
        find_out: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let kept = Arc::clone(&self.0);
        let asked = async move {
            let mut kept = kept.lock_owned().await;
            if let Some((found, answer)) = &*kept
                && is_good(found.elapsed(), answer)
            {
                return Some(answer.clone());
            }
            let finding = async move {
                let answer = find_out.await;
                *kept = Some((Instant::now(), answer.clone()));
                answer
            };
            tokio::spawn(finding.in_current_span()).await.ok()
        };
        tokio::time::timeout(patience, asked).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const AGE: Duration = Duration::from_secs(3);
    const PATIENCE: Duration = Duration::from_secs(5);

    async fn ask(kept: &Kept<usize>, asked: &Arc<AtomicUsize>, takes: Duration) -> Option<usize> {
        let asked = Arc::clone(asked);
        let find_out = async move {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(takes).await;
            number
        };
        kept.get(AGE, PATIENCE, find_out).await
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_are_answered_by_one_question() {
        let (kept, asked) = (Kept::default(), Arc::new(AtomicUsize::new(0)));
        let all = futures::future::join_all((0..100).map(|_| ask(&kept, &asked, Duration::from_secs(1)))).await;
        assert!(all.iter().all(|answer| *answer == Some(1)));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::sleep(AGE).await;
        assert_eq!(ask(&kept, &asked, Duration::ZERO).await, Some(2), "an old answer is not given");
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_waited_for_within_bounds_and_begun_once() {
        let (kept, asked) = (Kept::default(), Arc::new(AtomicUsize::new(0)));
        let hour = Duration::from_hours(1);
        for _ in 0..10 {
            let begun = Instant::now();
            assert_eq!(ask(&kept, &asked, hour).await, None);
            assert!(begun.elapsed() <= PATIENCE);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::sleep(hour).await;
        assert_eq!(ask(&kept, &asked, Duration::ZERO).await, Some(2));
    }
}
