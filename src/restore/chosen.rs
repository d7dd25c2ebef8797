//! Which backup a restore takes, and the way that recovery goes from there: what the archive has, asked once for the whole plan.

use std::path::Path;

use super::choose::{self, Choice, Settled};
use super::error::RestoreError;
use super::journal::Journal;
use super::reachability::{Route, route};
use super::refusal::Refusal;
use super::request::RestoreRequest;
use crate::catalogue::{
    Archive, BackupContents, BackupFacts, CatalogueError, Evidence, Histories, Lives, Seam, Sought, Target,
    TargetTimeline, Way, count_partial, decide, seams_of_line, ways, ways_without_backup,
};
use walward_pg::{CommitTimes, Lineage, SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::manifest::{BackupLabel, DependsOn, Manifest};

/// The backup, and the way from it.
pub struct Chosen<'a> {
    archive: &'a Archive<'a>,
    backups: Vec<BackupFacts>,
    /// The lineage that the cluster is of today.
    pub current: Lineage,
    /// That of the backup.
    pub lineage: Lineage,
    /// The histories of its timelines.
    pub histories: Histories,
    /// The backup and the way.
    pub choice: Choice,
}

impl<'a> Chosen<'a> {
    /// Chooses for `request`. What an `unfinished` restore in its directory is of is gone on with.
    ///
    /// # Errors
    /// [`Refusal`]: no backup, no line or more than one, or another one than the unfinished restore's.
    pub async fn of(
        archive: &'a Archive<'a>,
        request: &RestoreRequest,
        unfinished: Option<(&Journal, &Path)>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RestoreError> {
        let mut backups = archive.facts();
        if request.backup.is_none() && unfinished.is_none() {
            let broken = archive.broken();
            let is_whole = |backup: &BackupFacts| !broken.contains_key(backup.label.as_str());
            // Where all are broken, the refusal says what is missing.
            if backups.iter().any(is_whole) {
                backups.retain(is_whole);
                warnings.extend(broken.iter().map(|(label, parent)| {
                    format!("backup {label} is left out: {parent}, which it builds on, is in no repository")
                }));
            }
        }
        let label = unfinished.map(|(journal, root)| own_label(journal, &backups, root)).transpose()?;
        let current = archive.lineage().ok_or(Refusal::NothingThere)?;
        let lineage = choose::lineage(&backups, current, request)?;
        let histories = archive.histories(lineage, request.timeline, warnings).await?;
        let choice = {
            let own = choose::eligible(&backups, lineage, request)?;
            let (line, sought) = settle(archive, lineage, &own, &histories, request, warnings).await?;
            let settled = Settled { line: line.as_ref(), sought: sought.as_ref(), unfinished: label.as_ref() };
            choose::choose(&backups, lineage, &histories, request, &settled)?
        };
        if request.timeline == TargetTimeline::Latest {
            match archive.check_newest(&choice.backup, &choice.way, &histories, warnings).await {
                // A primary sends a standby the history, too.
                Err(CatalogueError::Timelines { why, .. }) if request.standby => warnings.push(why),
                other => other?,
            }
        }
        Ok(Self { archive, backups, current, lineage, histories, choice })
    }

    /// The size of the WAL segments.
    pub fn size(&self) -> SegmentSize {
        self.choice.backup.segment_bytes
    }

    /// The WAL from the backup to the target.
    ///
    /// # Errors
    /// [`Refusal`]: some of it is missing, or of another life of the cluster.
    pub async fn route(&self, request: &RestoreRequest, warnings: &mut Vec<String>) -> Result<Route, RestoreError> {
        let (archive, choice, lineage, size) = (self.archive, &self.choice, self.lineage, self.size());
        let mut inventory = archive.inventory(&choice.backup, &choice.way, warnings).await?;
        if request.use_partial {
            warnings.push(match count_partial(&mut inventory, &choice.way, choice.backup.start_lsn, size) {
                Some(segment) => format!(
                    "recovery reads {segment}.partial, which its server left unfinished: what that server wrote later is not in it"
                ),
                None => {
                    "there is no partial segment at the end of the archive on this timeline; none is used".to_owned()
                }
            });
        }
        let marks = |segment| async move {
            let walk = || CommitTimes::new(segment, size);
            Ok(archive.walk(lineage, segment, walk).await?.and_then(|walk| walk.mark()))
        };
        let commits = |segment| async move { Ok(archive.commit_times(lineage, segment).await?) };
        let route = route(choice, request, &inventory, commits, marks).await;
        let mut route = route.map_err(|error| with_later_backups(error, &self.backups, lineage))?;
        warnings.append(&mut route.warnings);
        let wal = route.wal.as_ref().and_then(|wal| Some(wal.first.number(size)?..=wal.last.number(size)?));
        let line: Vec<_> = wal.into_iter().flatten().filter_map(|number| choice.way.segment(number, size)).collect();
        let seams = seams_of_line(archive.repositories(), lineage, &line).await;
        warnings.extend(seams.warning());
        if let Some(Seam { segment, before }) = seams.found.first().copied() {
            let refusal = Refusal::Seam { segment, before };
            if request.refuse_seams {
                return Err(refusal.into());
            }
            warnings.push(refusal.to_string());
        }
        Ok(route)
    }

    /// What the backup holds, and the repositories that have it.
    pub async fn contents(&self, warnings: &mut Vec<String>) -> Result<BackupContents, RestoreError> {
        let chosen = &self.choice.backup;
        let is_it = |manifest: &Manifest| manifest.start_lsn == chosen.start_lsn && manifest.stopped == chosen.stopped;
        Ok(self.archive.contents(&chosen.label, is_it, warnings).await?)
    }

    /// The same of the backup that another one builds on.
    ///
    /// # Errors
    /// [`Refusal::WithoutParent`]: no repository has it. It is another one than was built on.
    pub async fn parent_of(
        &self,
        child: &Manifest,
        depends_on: &DependsOn,
        warnings: &mut Vec<String>,
    ) -> Result<BackupContents, RestoreError> {
        let refused = |why: String| RestoreError::Manifest { label: child.label.clone(), why };
        let label: BackupLabel = depends_on
            .label
            .parse()
            .map_err(|_| refused(format!("it builds on {:?}, which is no backup", depends_on.label)))?;
        let found = match self.archive.contents(&label, |backup| depends_on.is(backup), warnings).await {
            Err(CatalogueError::NoRepository) => {
                let (backup, parent) = (self.choice.backup.label.to_string(), depends_on.label.clone());
                return Err(Refusal::WithoutParent { backup, parent }.into());
            }
            found => found?,
        };
        let parent = &found.manifest;
        // The parent ends before its child begins: no chain leads in a circle.
        let is_it = parent.lineage == child.lineage
            && parent.stop_lsn <= child.start_lsn
            && parent.start_lsn < child.start_lsn
            && parent.depends_on.as_ref().is_none_or(|of| of.block_bytes == depends_on.block_bytes);
        if is_it { Ok(found) } else { Err(refused(format!("backup {label} is not what it builds on"))) }
    }

    /// The timelines that recovery crosses on `route`, in order.
    pub fn crossed(&self, route: &Route) -> Vec<Timeline> {
        let (way, size) = (&self.choice.way, self.size());
        match &route.wal {
            None => vec![way.target()],
            Some(wal) => {
                way.crossed(wal.first.number(size).unwrap_or(0), wal.last.number(size).unwrap_or(u64::MAX), size)
            }
        }
    }
}

/// Which line of the cluster the request is about, where it leaves that open; and where its transaction or restore point is.
async fn settle(
    archive: &Archive<'_>,
    lineage: Lineage,
    own: &[&BackupFacts],
    histories: &Histories,
    request: &RestoreRequest,
    warnings: &mut Vec<String>,
) -> Result<(Option<Way>, Option<Sought>), RestoreError> {
    let size = own.last().map_or(SegmentSize::DEFAULT, |backup| backup.segment_bytes);
    let evidence = Evidence { archive, lineage, size, backups: own };
    let to_lines = match request.timeline {
        TargetTimeline::Latest | TargetTimeline::Current => ways(own, histories),
        TargetTimeline::Number(number) => {
            ways(own, histories).into_iter().filter(|way| way.target() == number).collect()
        }
    };
    let (lines, compared) = match request.timeline {
        TargetTimeline::Latest => {
            let without_backup = match request.target {
                // The first consistent moment is a backup's.
                Target::Immediate => Vec::new(),
                _ => ways_without_backup(own, histories),
            };
            evidence.lines(to_lines, without_backup, warnings).await?
        }
        TargetTimeline::Current | TargetTimeline::Number(_) => (to_lines, Lives::new()),
    };
    let sought = match request.target {
        Target::Xid(_) | Target::Name(_) => Some(evidence.search(&lines, &request.target, warnings).await?),
        Target::Latest | Target::Time(_) | Target::Lsn(_) | Target::Immediate => None,
    };
    if request.timeline != TargetTimeline::Latest {
        return Ok((None, sought));
    }
    let decision = decide(&lines, &compared, &request.target, sought.as_ref()).map_err(Refusal::SeveralLines)?;
    let Some(decision) = decision else { return Ok((None, sought)) };
    warnings.extend(decision.remarks);
    Ok((Some(decision.way), sought))
}

/// Names the backups that began after WAL that was let go, the oldest first.
fn with_later_backups(error: RestoreError, backups: &[BackupFacts], lineage: Lineage) -> RestoreError {
    match error {
        RestoreError::Refused(Refusal::LetGo(mut let_go)) => {
            let last = let_go.gap.last;
            let began_after = |backup: &&BackupFacts| {
                let number = backup.start_lsn.segment_number(backup.segment_bytes);
                let name = SegmentName::from_number(last.timeline(), number, backup.segment_bytes);
                backup.lineage == lineage && name.is_some_and(|name| WalFileName::Segment(name) > last)
            };
            let mut after: Vec<&BackupFacts> = backups.iter().filter(began_after).collect();
            after.sort_by_key(|backup| backup.stopped);
            let_go.later = after.into_iter().map(|backup| backup.label.to_string()).collect();
            Refusal::LetGo(let_go).into()
        }
        other => other,
    }
}

/// The backup that an unfinished restore is of.
fn own_label(journal: &Journal, backups: &[BackupFacts], root: &Path) -> Result<BackupLabel, Refusal> {
    let known =
        backups.iter().find(|backup| backup.label.as_str() == journal.backup && backup.lineage == journal.lineage);
    known.map(|backup| backup.label.clone()).ok_or_else(|| Refusal::OtherRequest {
        directory: root.to_owned(),
        what: format!("backup {} of {}, which these repositories do not have", journal.backup, journal.lineage),
    })
}
