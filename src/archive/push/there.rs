//! Which names the archive has already: one listing of a log's folder, believed for a minute. A name that is there may have been
//! written by another server, or by this one in an earlier life.

use std::collections::HashMap;
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

/// Which repositories have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// None that answered.
    Nowhere,
    /// Some; the others lack it, or were not asked.
    Somewhere,
    /// All.
    Everywhere,
}

/// The names that any repository has, and whether all have it.
pub type Names = HashMap<WalFileName, bool>;

/// What was listed within the last minute: a few folders.
#[derive(Debug, Default)]
pub struct There(HashMap<Log, (Instant, Names)>);

impl There {
    /// Which repositories have the name; `None` when nobody looked lately.
    pub fn has(&self, name: WalFileName, now: Instant) -> Option<Presence> {
        let (listed, names) = self.0.get(&log_of(name)?)?;
        (now < *listed + BELIEVED).then(|| match names.get(&name) {
            None => Presence::Nowhere,
            Some(false) => Presence::Somewhere,
            Some(true) => Presence::Everywhere,
        })
    }

    /// Takes the listing of a folder, which was asked for at `asked`.
    pub fn listed(&mut self, log: Log, names: Names, asked: Instant) {
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
) -> Result<Names, (String, RepoError)> {
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
    let (mut holders, mut answered, mut failure) = (HashMap::<WalFileName, usize>::new(), 0, None);
    for answer in answers {
        match answer {
            Ok(listing) => {
                answered += 1;
                for object in &listing.objects {
                    if let Ok(name) = object.key.file_name().parse() {
                        *holders.entry(name).or_default() += 1;
                    }
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if answered < needed => Err(error),
        _ => Ok(holders.into_iter().map(|(name, count)| (name, count == repositories.len())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listing_is_believed_for_a_minute_and_says_nothing_of_other_folders() {
        let name = |text: &str| text.parse::<WalFileName>().expect("a name");
        let [third, fourth, fifth] = [3, 4, 5].map(|number| name(&format!("00000001000000000000000{number}")));
        let mut there = There::default();
        let begun = Instant::now();
        assert_eq!(there.has(third, begun), None);
        there.listed((Timeline(1), 0), Names::from([(third, true), (fifth, false)]), begun);
        assert_eq!(there.has(third, begun), Some(Presence::Everywhere));
        assert_eq!(there.has(fourth, begun), Some(Presence::Nowhere));
        assert_eq!(there.has(fifth, begun), Some(Presence::Somewhere));
        for elsewhere in ["000000010000000100000003", "000000020000000000000003", "00000002.history"] {
            assert_eq!(there.has(name(elsewhere), begun), None);
        }
        let late = begun + BELIEVED;
        assert_eq!(there.has(third, late), None);
        there.listed((Timeline(1), 1), Names::new(), late);
        assert_eq!(there.0.len(), 1, "what is not believed any more is forgotten");
    }
}
