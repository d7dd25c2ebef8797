//! When the transactions in a stretch of the archive ended, from the summaries of its segments.
//!
//! Reading a summary is one small request to a store, so that the number of them is bounded. Commit times grow with the
//! position but for the small disorder between taking the time and writing the record; nothing here depends on more.

use std::ops::Range;

use futures::stream::{self, StreamExt, TryStreamExt};

/// The most summaries read to answer one question.
const READS_MAX: usize = 256;
/// How many are read at once.
const AT_ONCE: usize = 8;

/// The last time in a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastCommit {
    /// In this segment, at this time (microseconds since the Unix epoch).
    At(u64, i64),
    /// No transaction ended in the stretch.
    Never,
    /// None in the last segments that were looked at.
    NotFound,
}

/// Finds the last commit (or abort) in `numbers`, walking backwards. `read` answers the first and last time of a segment.
pub async fn last_commit<E, F, R>(numbers: Range<u64>, read: &F) -> Result<LastCommit, E>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
{
    let mut end = numbers.end;
    let mut reads = 0;
    while end > numbers.start && reads < READS_MAX {
        let begin = end.saturating_sub(AT_ONCE as u64).max(numbers.start);
        let times: Vec<(u64, Option<(i64, i64)>)> = batch(begin..end, read).await?;
        reads += times.len();
        if let Some((number, last)) = times.iter().rev().find_map(|(number, times)| Some((*number, (*times)?.1))) {
            return Ok(LastCommit::At(number, last));
        }
        end = begin;
    }
    Ok(if end > numbers.start { LastCommit::NotFound } else { LastCommit::Never })
}

/// When the first transaction in `numbers` ended; `None` when there is none in the first segments that are looked at.
pub async fn first_commit<E, F, R>(numbers: Range<u64>, read: &F) -> Result<Option<i64>, E>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
{
    let end = numbers.end.min(numbers.start.saturating_add(READS_MAX as u64));
    let mut begin = numbers.start;
    while begin < end {
        let to = begin.saturating_add(AT_ONCE as u64).min(end);
        let times = batch(begin..to, read).await?;
        if let Some((first, _)) = times.into_iter().find_map(|(_, times)| times) {
            return Ok(Some(first));
        }
        begin = to;
    }
    Ok(None)
}

/// Finds the first segment of `numbers` whose last time `passes`, given that it does in segment `known`. When too many
/// segments would have to be read, a later one than the first.
pub async fn first_passing<E, F, R>(
    numbers: Range<u64>,
    known: u64,
    passes: impl Fn(i64) -> bool,
    read: &F,
) -> Result<u64, E>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
{
    let (mut low, mut high, mut found) = (numbers.start, known, known);
    let mut reads = 0;
    // Invariant: the answer is `found`, or lies in low..high.
    'halve: while low < high && reads < READS_MAX {
        let middle = low + (high - low) / 2;
        let mut from = middle;
        while from < high && reads < READS_MAX {
            // One at first: most segments have a commit in them.
            let to = if from == middle { from + 1 } else { (from + AT_ONCE as u64).min(high) };
            let times = batch(from..to, read).await?;
            reads += times.len();
            if let Some((number, last)) = times.iter().find_map(|(number, times)| Some((*number, (*times)?.1))) {
                if passes(last) {
                    (found, high) = (number, middle);
                } else {
                    low = number + 1;
                }
                continue 'halve;
            }
            from = to;
        }
        if from < high {
            break;
        }
        high = middle;
    }
    Ok(found)
}

async fn batch<E, F, R>(numbers: Range<u64>, read: &F) -> Result<Vec<(u64, Option<(i64, i64)>)>, E>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<Option<(i64, i64)>, E>>,
{
    stream::iter(numbers.map(|number| {
        let times = read(number);
        async move { Ok((number, times.await?)) }
    }))
    .buffered(AT_ONCE)
    .try_collect()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn times(archive: &[Option<i64>], number: u64) -> Option<(i64, i64)> {
        let time = usize::try_from(number).ok().and_then(|index| archive.get(index).copied().flatten())?;
        Some((time, time))
    }

    proptest! {
        #[test]
        fn the_last_commit_and_the_first_segment_that_passes_are_found(
            steps in proptest::collection::vec(proptest::option::of(0i64..5), 1..60),
            target in 0i64..100,
        ) {
            let mut time = 0;
            let archive: Vec<Option<i64>> = steps.iter().map(|step| step.map(|step| { time += step; time })).collect();
            let read = |number| { let times = times(&archive, number); async move { Ok::<_, Infallible>(times) } };
            let all = 0..archive.len() as u64;
            let last = archive.iter().enumerate().rev().find_map(|(index, time)| Some((index as u64, (*time)?)));
            let Ok(first) = block_on(first_commit(all.clone(), &read));
            prop_assert_eq!(first, archive.iter().find_map(|time| *time));
            let Ok(found) = block_on(last_commit(all.clone(), &read));
            match last {
                None => prop_assert_eq!(found, LastCommit::Never),
                Some((number, time)) => {
                    prop_assert_eq!(found, LastCommit::At(number, time));
                    if time > target {
                        let Ok(first) = block_on(first_passing(all, number, |time| time > target, &read));
                        let wanted = archive.iter().position(|time| time.is_some_and(|time| time > target));
                        prop_assert_eq!(Some(first), wanted.map(|index| index as u64));
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_idle_archive_is_not_read_from_end_to_end() {
        let reads = std::cell::Cell::new(0usize);
        let read = |_| {
            reads.set(reads.get() + 1);
            async { Ok::<_, Infallible>(None) }
        };
        let Ok(found) = block_on(last_commit(0..1_000_000, &read));
        assert_eq!(found, LastCommit::NotFound);
        assert!(reads.get() <= READS_MAX);
    }
}
