//! Which names the archive has already: one listing of a log's folder, believed for a minute. A name that is there may have been
//! written by another server, or by this one in an earlier life.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::policy::Acknowledge;
use walward_base::ErrorClass;
use walward_pg::{Lineage, Timeline, WalFileName};
use walward_repo::{LazyRepository, RepoError, layout};
use walward_storage::StoreError;

/// How long a listing is believed.
const BELIEVED: Duration = Duration::from_mins(1);
/// How long one repository may take to list a folder.
const LIST_TIME_MAX: Duration = Duration::from_secs(20);

/// A log of a timeline.
pub type Log = (Timeline, u32);

/// The log that a file lies in; none for a history.
pub fn log_of(name: WalFileName) -> Option<Log> {
    match name {
        WalFileName::History(_) => None,
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            Some((segment.timeline, segment.log))
        }
    }
}

/// What was listed within the last minute: a few folders.
#[derive(Debug, Default)]
pub struct There(HashMap<Log, (Instant, HashSet<WalFileName>)>);

impl There {
    /// Whether a repository has the name; `None` when nobody looked lately.
    pub fn has(&self, name: WalFileName, now: Instant) -> Option<bool> {
        let (listed, names) = self.0.get(&log_of(name)?)?;
        (now < *listed + BELIEVED).then(|| names.contains(&name))
    }

    /// Takes the listing of a folder, which was asked for at `asked`.
    pub fn listed(&mut self, log: Log, names: HashSet<WalFileName>, asked: Instant) {
        self.0.retain(|_, (listed, _)| asked < *listed + BELIEVED);
        self.0.insert(log, (asked, names));
    }
}

/// The names of `log` in any of `repositories`. Those that fail or rest are left out where as many answer as must `acknowledge`.
///
/// # Errors
/// Too few answer: the name of one that does not, and why.
pub async fn names(
    repositories: &[Arc<LazyRepository>],
    acknowledge: Acknowledge,
    lineage: Lineage,
    (timeline, log): Log,
) -> Result<HashSet<WalFileName>, (String, RepoError)> {
    let folder = layout::wal_log(lineage, timeline, log);
    let needed = acknowledge.needed(repositories.len());
    let now = Instant::now();
    let awake = repositories.iter().filter(|lazy| !lazy.standing().is_resting(now)).count();
    let asked = repositories.iter().filter(|lazy| awake < needed || !lazy.standing().is_resting(now));
    let answers = join_all(asked.map(async |lazy| {
        let listed = async { Ok::<_, RepoError>(lazy.with_lineage(lineage).await?.store().list(Some(&folder)).await?) };
        let answer = tokio::time::timeout(LIST_TIME_MAX, listed).await.unwrap_or_else(|_| {
            let source = format!("no answer within {} s", LIST_TIME_MAX.as_secs()).into();
            let key = format!("{}/{folder}", lazy.url());
            Err(StoreError { class: ErrorClass::Transient, verb: "list", key, source }.into())
        });
        answer.map_err(|error| (lazy.name().to_owned(), error))
    }))
    .await;
    let (mut found, mut answered, mut failure) = (HashSet::new(), 0, None);
    for answer in answers {
        match answer {
            Ok(listing) => {
                answered += 1;
                found.extend(
                    listing.objects.iter().filter_map(|object| object.key.file_name().parse::<WalFileName>().ok()),
                );
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if answered < needed => Err(error),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listing_is_believed_for_a_minute_and_says_nothing_of_other_folders() {
        let name = |text: &str| text.parse::<WalFileName>().expect("a name");
        let (third, fourth) = (name("000000010000000000000003"), name("000000010000000000000004"));
        let mut there = There::default();
        let begun = Instant::now();
        assert_eq!(there.has(third, begun), None);
        there.listed((Timeline(1), 0), HashSet::from([third]), begun);
        assert_eq!((there.has(third, begun), there.has(fourth, begun)), (Some(true), Some(false)));
        for elsewhere in ["000000010000000100000003", "000000020000000000000003", "00000002.history"] {
            assert_eq!(there.has(name(elsewhere), begun), None);
        }
        let late = begun + BELIEVED;
        assert_eq!(there.has(third, late), None);
        there.listed((Timeline(1), 1), HashSet::new(), late);
        assert_eq!(there.0.len(), 1, "what is not believed any more is forgotten");
    }
}
