//! Which line of a cluster a restore is about, when several can be meant. Pure.
//!
//! A promotion makes a timeline, and so do a restore and a test of one. Each way through the timelines is a *line*, if a backup leads
//! to it or there is WAL on it: the cluster may have gone where no backup leads yet. Where two lines part, each has a life of its own after that: transactions, backups, files. What is not told by the
//! numbers of the timelines is told by these lives:
//!
//! - A line with nothing of its own is a part of the other, which goes on.
//! - When the life of one ended before that of the other began, the cluster went from the first to the second. The newest backup has to
//!   be there, too, for the end of the WAL to be meant on it.
//! - A cluster goes to a higher timeline only. A later life on the timeline that the other line left is that of a cluster with a
//!   copy, or that of an old primary which was started again after a fail-over. Only a backup tells: one that was made there after
//!   the other line began, and is the newest. Without it, a person decides.
//! - When both lived at the same time, one of them is a copy that archives into the same repository. The cluster is where the
//!   newest backup and the last transaction are, if that is one line; if it is not, a person decides.
//!
//! A target says more: a line is meant, too, when it has transactions of its own before the target and goes on to it. Then
//! nothing is restored until a person has said which.

use super::lives::{Life, LineSeen, Lives, SeveralLines};
use crate::catalogue::target::Target;
use crate::catalogue::way::Way;
use walward_pg::{Lsn, Timeline};

/// Where a transaction or a restore point was found: on this timeline, at this position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// Every record that was found. A record before a fork belongs to the timeline that was left there.
    pub records: Vec<(Timeline, Lsn)>,
    /// Whether all of the WAL was looked through.
    pub whole: bool,
}

/// The line of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The way.
    pub way: Way,
    /// What is worth knowing of the others.
    pub remarks: Vec<String>,
}

/// The lines without those that another one goes on from: whose last timeline was left with nothing of its own after the fork.
/// `has_more` answers whether a timeline has a segment or a backup after a position.
pub fn that_differ(ways: Vec<Way>, has_more: impl Fn(Timeline, Lsn) -> bool) -> Vec<Way> {
    let goes_on = |way: &Way, other: &Way| {
        let left = other.spans().iter().find(|span| span.timeline == way.target()).and_then(|span| span.end);
        left.is_some_and(|at| way.parts_from(other) == Some(at) && !has_more(way.target(), at))
    };
    let kept: Vec<bool> = ways.iter().map(|way| !ways.iter().any(|other| goes_on(way, other))).collect();
    ways.into_iter().zip(kept).filter_map(|(way, kept)| kept.then_some(way)).collect()
}

/// The lives that [`decide`] compares: of each line, after each position where it parts from another.
pub fn to_compare(lines: &[Way]) -> Vec<(&Way, Lsn)> {
    let mut wanted: Vec<(&Way, Lsn)> = Vec::new();
    for way in lines {
        for at in lines.iter().filter_map(|other| way.parts_from(other)) {
            if !wanted.contains(&(way, at)) {
                wanted.push((way, at));
            }
        }
    }
    wanted
}

/// The line that `target` is on; none when there is no line.
///
/// # Errors
/// The lines that can be meant, when there are several.
pub fn decide(
    lines: &[Way],
    compared: &Lives,
    target: &Target,
    sought: Option<&Sought>,
) -> Result<Option<Decision>, Box<SeveralLines>> {
    let survey = Survey { lines, compared, target, sought };
    match lines {
        [] => Ok(None),
        [only] => Ok(Some(Decision { way: only.clone(), remarks: survey.remarks(only) })),
        _ => survey.decide().map(Some),
    }
}

/// How one line stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineRelation {
    /// The cluster is on it, and went there from the other, or the other has nothing of its own.
    After,
    /// As [`LineRelation::After`], the other way round.
    Before,
    /// Both lived at the same time, or the later life is where the other left; the cluster is on this one by all that is known.
    Beside,
    /// As [`LineRelation::Beside`], the other way round.
    Strayed,
    /// It cannot be told.
    Unknown,
}

/// Whether `way` stays where they part, on a timeline that `other` left: no cluster goes from `other` to it.
fn stays(way: &Way, other: &Way) -> bool {
    way.parts_from(other).is_some_and(|at| way.timeline_at(at) < other.timeline_at(at))
}

/// Whether the backups say that the cluster is on the line of `own`: it has the newest. On a timeline that the other line left, a
/// backup from before the other line began says nothing.
fn is_proven(own: &Life, theirs: &Life, stays: bool) -> bool {
    let newest = |life: &Life| life.backups.as_ref().map(|(_, newest)| newest.stopped.as_microsecond());
    let began = || [theirs.born.map(jiff::Timestamp::as_microsecond), theirs.moments().map(|(first, _)| first)];
    newest(own) > newest(theirs) && (!stays || newest(own) > began().into_iter().flatten().min())
}

struct Survey<'a> {
    lines: &'a [Way],
    compared: &'a Lives,
    target: &'a Target,
    sought: Option<&'a Sought>,
}

impl<'a> Survey<'a> {
    fn life(&self, way: &Way, other: &Way) -> Life {
        let at = way.parts_from(other);
        at.and_then(|at| self.compared.get(&(way.target(), at))).cloned().unwrap_or_default()
    }

    fn standing(&self, way: &Way, other: &Way) -> LineRelation {
        let (own, theirs) = (self.life(way, other), self.life(other, way));
        let proven = is_proven(&own, &theirs, stays(way, other));
        let other_proven = is_proven(&theirs, &own, stays(other, way));
        // One that came into being when all of the other had arrived may be where the cluster went, or a copy. Stores tell times
        // to the second, or to the millisecond: the same time may be later.
        let began_later =
            |one: &Life, other: &Life| one.born.zip(other.arrived).is_some_and(|(born, arrived)| born >= arrived);
        match (own.moments(), theirs.moments()) {
            // History says that the cluster went there.
            (None, None) if way.target() > other.target() => LineRelation::After,
            (Some(_), None) if began_later(&theirs, &own) || stays(way, other) && !proven => LineRelation::Unknown,
            (None, Some(_)) if began_later(&own, &theirs) || stays(other, way) && !other_proven => {
                LineRelation::Unknown
            }
            (Some(_), None) => LineRelation::After,
            (None, _) => LineRelation::Before,
            (Some((_, last)), Some((first, _))) if last < first && !stays(other, way) => LineRelation::Before,
            (Some((first, _)), Some((_, last))) if last < first && !stays(way, other) => LineRelation::After,
            (Some((_, own_last)), Some((_, their_last))) if proven && own_last > their_last => LineRelation::Beside,
            (Some((_, own_last)), Some((_, their_last))) if other_proven && own_last < their_last => {
                LineRelation::Strayed
            }
            (Some(_), Some(_)) => LineRelation::Unknown,
        }
    }

    fn others<'b>(&'b self, way: &'b Way) -> impl Iterator<Item = &'a Way> + 'b {
        self.lines.iter().filter(move |other| *other != way)
    }

    /// The line that the cluster is on now.
    fn current(&self) -> Option<&'a Way> {
        let leads =
            |way: &Way, other: &Way| matches!(self.standing(way, other), LineRelation::After | LineRelation::Beside);
        self.lines.iter().find(|way| self.others(way).all(|other| leads(way, other)))
    }

    /// The lines that no other one took the place of.
    fn candidates(&self) -> Vec<&'a Way> {
        let lost =
            |way: &Way, other: &Way| matches!(self.standing(way, other), LineRelation::Before | LineRelation::Strayed);
        let left: Vec<&Way> = self.lines.iter().filter(|way| !self.others(way).any(|other| lost(way, other))).collect();
        if left.is_empty() { self.lines.iter().collect() } else { left }
    }

    fn decide(&self) -> Result<Decision, Box<SeveralLines>> {
        if let Some(current) = self.current() {
            let mut rivals: Vec<&Way> =
                self.others(current).filter(|other| self.rivals(current, other, false)).collect();
            if rivals.is_empty() {
                return Ok(Decision { way: current.clone(), remarks: self.remarks(current) });
            }
            rivals.insert(0, current);
            return Err(Box::new(self.several(&rivals)));
        }
        // It cannot be told where the cluster is now, but a target before the fork is the same on each of them.
        let candidates = self.candidates();
        let alone = |way: &&&Way| !self.others(way).any(|other| self.rivals(way, other, true));
        match candidates.iter().rev().find(alone) {
            Some(way) => Ok(Decision { way: (*way).clone(), remarks: self.remarks(way) }),
            None => Err(Box::new(self.several(&candidates))),
        }
    }

    /// Whether the target can be meant on `other` although the cluster is on `way`, or, when that is `unsettled`, may be on it.
    fn rivals(&self, way: &Way, other: &Way, unsettled: bool) -> bool {
        let (own, theirs) = (self.life(way, other), self.life(other, way));
        let newest = |life: &Life| life.backups.as_ref().map(|(_, newest)| newest.stopped);
        match self.target {
            Target::Latest => newest(&theirs) > newest(&own) || unsettled,
            Target::Immediate => newest(&theirs) > newest(&own) || unsettled && theirs.moments().is_some(),
            Target::Time(time) => {
                let target = time.as_microsecond();
                let began = |life: &Life| life.moments().is_some_and(|(first, _)| first <= target);
                let goes_on = theirs.moments().is_some_and(|(_, last)| last > target);
                // The cluster may have gone there, or have stayed there, although nothing was done there yet.
                let may_be_there =
                    unsettled && (theirs.born.is_none_or(|born| born <= *time) || stays(other, way) && began(&own));
                began(&theirs) && (goes_on || !began(&own) || unsettled) || may_be_there
            }
            Target::Lsn(lsn) => {
                let is_after = way.parts_from(other).is_some_and(|at| *lsn > at);
                is_after && theirs.moments().is_some() && theirs.end > *lsn
            }
            Target::Xid(_) | Target::Name(_) => {
                let found = self.sought.is_some_and(|sought| {
                    sought
                        .records
                        .iter()
                        .any(|(timeline, at)| other.holds(*timeline, *at) && !way.holds(*timeline, *at))
                });
                let whole = self.sought.is_some_and(|sought| sought.whole);
                found || !whole && theirs.moments().is_some()
            }
        }
    }

    fn several(&self, ways: &[&Way]) -> SeveralLines {
        let lines = ways.iter().map(|way| self.seen(way, ways)).collect();
        SeveralLines { target: self.target.to_string(), lines }
    }

    /// What is shown of `way` beside `ways`: its life since the first of them parted from it.
    fn seen(&self, way: &Way, ways: &[&Way]) -> LineSeen {
        let at = ways.iter().filter_map(|other| way.parts_from(other)).min();
        let life = at.and_then(|at| self.compared.get(&(way.target(), at))).cloned().unwrap_or_default();
        LineSeen::new(way.target(), way.left_parent(), life)
    }

    /// What should be known of the lines beside `way`.
    fn remarks(&self, way: &Way) -> Vec<String> {
        let beside = self.others(way).filter(|other| {
            !matches!(self.standing(way, other), LineRelation::After | LineRelation::Before)
                && self.life(other, way).moments().is_some()
        });
        beside
            .map(|other| {
                format!(
                    "the archive holds another line, which is not restored although the cluster cannot have gone on from it: {}; a \
                     copy of the cluster, or an old primary that was started again, archives, or did, into its repository",
                    self.seen(other, &[way])
                )
            })
            .collect()
    }
}

/// The line that the end of the WAL is meant on, and what is worth a warning; none when that cannot be told.
pub fn current(lines: &[Way], compared: &Lives) -> (Option<Way>, Vec<String>) {
    match decide(lines, compared, &Target::Latest, None) {
        Ok(Some(decision)) => (Some(decision.way), decision.remarks),
        Ok(None) => (None, Vec::new()),
        Err(several) => (None, vec![several.to_string()]),
    }
}
