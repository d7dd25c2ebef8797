//! Which backup a restore starts from. Pure: facts and a request in, a choice with its reason or a refusal out.
//!
//! The newest backup that the target can be reached from: it lies on the way to the target timeline, and it stopped
//! before the target. Where a request leaves the timeline open, [`crate::catalogue::decide`] says which way that is. Backups of a lineage that
//! a major upgrade ended are taken only when they are asked for.

use jiff::Timestamp;

use super::refusal::Refusal;
use super::request::RestoreRequest;
use crate::catalogue::{
    BackupFacts, Histories, Sought, Target, TargetTimeline, Way, along, format_time, known, way_to,
};
use walward_pg::{Lineage, Lsn, Timeline};
use walward_repo::manifest::BackupLabel;

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The backup.
    pub backup: BackupFacts,
    /// The way to the timeline that recovery ends on.
    pub way: Way,
    /// Where the target is, when that was found out.
    pub position: Option<Lsn>,
    /// Why this one.
    pub reason: String,
}

/// What was found out before the choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settled<'a> {
    /// The way to take, where the request leaves the timeline open.
    pub line: Option<&'a Way>,
    /// Where the transaction or the restore point is.
    pub sought: Option<&'a Sought>,
    /// The backup that the target directory already holds a part of.
    pub unfinished: Option<&'a BackupLabel>,
}

/// The lineage that the request is about: that of the backup it names, else `current`.
pub fn lineage(backups: &[BackupFacts], current: Lineage, request: &RestoreRequest) -> Result<Lineage, Refusal> {
    match &request.backup {
        None => Ok(current),
        Some(label) => {
            let known = backups.iter().find(|backup| backup.label == *label);
            known.map(|backup| backup.lineage).ok_or_else(|| no_such_backup(label, backups))
        }
    }
}

/// The backups that `request` may start from, the oldest first.
pub fn eligible<'a>(
    backups: &'a [BackupFacts],
    lineage: Lineage,
    request: &RestoreRequest,
) -> Result<Vec<&'a BackupFacts>, Refusal> {
    let mut own: Vec<&BackupFacts> = backups.iter().filter(|backup| backup.lineage == lineage).collect();
    own.sort_by(|a, b| (a.stop_lsn, &a.label).cmp(&(b.stop_lsn, &b.label)));
    if own.is_empty() {
        return Err(Refusal::NoBackups { lineage, others: backups.iter().map(|b| b.label.to_string()).collect() });
    }
    if let Some(label) = &request.backup {
        own.retain(|backup| backup.label == *label);
        if own.is_empty() {
            return Err(no_such_backup(label, backups));
        }
    }
    Ok(own)
}

/// Chooses among `backups`; those of another lineage than `lineage` are left out. `histories` are those of `lineage`.
pub fn choose(
    backups: &[BackupFacts],
    lineage: Lineage,
    histories: &Histories,
    request: &RestoreRequest,
    settled: &Settled<'_>,
) -> Result<Choice, Refusal> {
    let own = eligible(backups, lineage, request)?;
    let on_the_way = on_the_way(&own, histories, request, settled.line)?;
    let positions = |way: &Way| -> Vec<Lsn> {
        let records = settled.sought.iter().flat_map(|sought| &sought.records);
        records.filter(|(timeline, at)| way.holds(*timeline, *at)).map(|(_, at)| *at).collect()
    };
    let reaching: Vec<&(&BackupFacts, Way)> =
        on_the_way.iter().filter(|(backup, way)| stops_before(backup, &request.target, &positions(way))).collect();
    let chosen = match settled.unfinished {
        Some(label) => reaching
            .iter()
            .find(|(backup, _)| backup.label == *label)
            .copied()
            .ok_or_else(|| Refusal::OtherUnfinished { label: label.to_string() })?,
        // On one way positions grow with time; on several only the time is common to all.
        None if settled.line.is_none() && matches!(request.timeline, TargetTimeline::Current) => {
            { reaching.iter().max_by_key(|(backup, _)| (backup.stopped, backup.stop_lsn)).copied() }
                .ok_or_else(|| too_early(&on_the_way, backups, lineage, request))?
        }
        None => reaching.last().copied().ok_or_else(|| too_early(&on_the_way, backups, lineage, request))?,
    };
    let (backup, way) = chosen;
    let position = first_after(backup, &positions(way));
    let reason = if settled.unfinished.is_some() {
        "the directory holds an unfinished restore of it".to_owned()
    } else if request.backup.is_some() {
        "it was asked for".to_owned()
    } else {
        match &request.target {
            Target::Latest | Target::Immediate => format!("the newest backup that leads to timeline {}", way.target()),
            Target::Xid(_) | Target::Name(_) if position.is_none() => format!(
                "the newest backup that leads to timeline {}; whether the target comes after it cannot be known ahead",
                way.target()
            ),
            Target::Time(_) | Target::Lsn(_) | Target::Xid(_) | Target::Name(_) => {
                format!("the newest backup that ended before the target and leads to timeline {}", way.target())
            }
        }
    };
    Ok(Choice { backup: (*backup).clone(), way: way.clone(), position, reason })
}

/// The backups (of `own`, oldest first) that lie on the way to the target timeline, with that way. Never empty.
fn on_the_way<'a>(
    own: &[&'a BackupFacts],
    histories: &Histories,
    request: &RestoreRequest,
    line: Option<&Way>,
) -> Result<Vec<(&'a BackupFacts, Way)>, Refusal> {
    let to = |timeline| way_to(timeline, own, histories);
    let newest = own.last().map_or(Timeline(1), |backup| backup.timeline);
    match request.timeline {
        TargetTimeline::Latest => {
            let way = line.ok_or(Refusal::NoHistory { timeline: newest })?;
            let found = along(own, way);
            let (timeline, fork) = (way.target(), way.target_begin());
            if found.is_empty() { Err(Refusal::NotOnTheWay { timeline, fork }) } else { Ok(found) }
        }
        TargetTimeline::Number(timeline) => {
            let unknown = || Refusal::UnknownTimeline { timeline, known: known(own, histories) };
            let way = to(timeline).ok_or_else(unknown)?;
            let found = along(own, &way);
            if found.is_empty() { Err(Refusal::NotOnTheWay { timeline, fork: way.target_begin() }) } else { Ok(found) }
        }
        TargetTimeline::Current => {
            let found: Vec<_> = own
                .iter()
                .filter_map(|backup| Some((*backup, to(backup.timeline)?)))
                .filter(|(backup, way)| way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn))
                .collect();
            if found.is_empty() { Err(Refusal::NoHistory { timeline: newest }) } else { Ok(found) }
        }
    }
}

/// Whether recovery from `backup` can stop at `target`, as far as that can be known. `positions` are those on the backup's way at
/// which a transaction or restore point was found. The server stops at the first that it meets, and fails when that comes
/// before the backup is consistent (`recoveryStopsAfter`, xlogrecovery.c).
fn stops_before(backup: &BackupFacts, target: &Target, positions: &[Lsn]) -> bool {
    match target {
        Target::Time(time) => backup.stopped <= *time,
        Target::Lsn(lsn) => backup.stop_lsn <= *lsn,
        Target::Xid(_) | Target::Name(_) => positions.is_empty() || first_after(backup, positions).is_some(),
        Target::Latest | Target::Immediate => true,
    }
}

/// The first of `positions` that recovery from `backup` meets, unless that comes before the backup is consistent.
fn first_after(backup: &BackupFacts, positions: &[Lsn]) -> Option<Lsn> {
    let first = positions.iter().filter(|at| **at >= backup.start_lsn).min();
    first.copied().filter(|at| *at >= backup.stop_lsn)
}

fn too_early(
    on_the_way: &[(&BackupFacts, Way)],
    backups: &[BackupFacts],
    lineage: Lineage,
    request: &RestoreRequest,
) -> Refusal {
    let earliest = match &request.target {
        Target::Lsn(_) => on_the_way.iter().min_by_key(|(backup, _)| backup.stop_lsn),
        _ => on_the_way.iter().min_by_key(|(backup, _)| backup.stopped),
    };
    let (label, earliest) = earliest.map_or_else(Default::default, |(backup, _)| {
        let moment = if matches!(request.target, Target::Lsn(_)) {
            backup.stop_lsn.to_string()
        } else {
            format_time(whole_second(backup.stopped))
        };
        (backup.label.to_string(), moment)
    });
    // Before a major upgrade the cluster was another lineage, whose time it was.
    let older = match &request.target {
        Target::Time(_) if request.backup.is_none() => {
            let reaching = backups.iter().filter(|backup| backup.lineage != lineage);
            let reaching = reaching.filter(|backup| stops_before(backup, &request.target, &[]));
            reaching
                .max_by_key(|backup| backup.stopped)
                .map(|backup| Box::new((backup.label.to_string(), backup.lineage)))
        }
        _ => None,
    };
    Refusal::TooEarly {
        target: request.target.to_string(),
        earliest,
        label,
        only_this: request.backup.is_some(),
        older,
    }
}

/// `time`, or the next whole second: what is printed is what one can then ask for.
fn whole_second(time: Timestamp) -> Timestamp {
    if time.subsec_nanosecond() == 0 {
        return time;
    }
    Timestamp::from_second(time.as_second().saturating_add(1)).unwrap_or(time)
}

fn no_such_backup(label: &BackupLabel, backups: &[BackupFacts]) -> Refusal {
    Refusal::NoSuchBackup { label: label.to_string(), known: backups.iter().map(|b| b.label.to_string()).collect() }
}

#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod worlds;
