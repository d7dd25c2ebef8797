//! What a restore will do, worked out before anything is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::apart;
use super::choose::{self, Choice, Settled};
use super::configuration::{Configuration, Note};
use super::configured;
use super::contents::Contents;
use super::directory::{self, TargetState};
use super::error::RestoreError;
use super::foreign;
use super::journal::Journal;
use super::places::{PlacedTablespace, Places};
use super::reachability::route;
use super::refusal::Refusal;
use super::request::{Archiving, RestoreRequest};
use super::settings::{self, Lending, Setting};
use super::sizes;
use crate::catalogue::{
    Archive, BackupFacts, CatalogueError, Copy, Evidence, Histories, Lives, Seam, Sought, Target, TargetTimeline,
    WalNeed, Way, count_partial, decide, format_microseconds, seams, ways, ways_without_backup,
};
use walward_base::sys::disk;
use walward_pg::{CommitTimes, Lineage, SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::Repository;
use walward_repo::manifest::{BackupLabel, Manifest};

/// A restore that can be run.
#[derive(Debug, Serialize)]
pub struct RestorePlan {
    /// The backup's label.
    pub backup: String,
    /// Why this one.
    pub reason: String,
    /// No transaction ended between the target and this moment, so that the state at both is the same; the server is told to stop at a
    /// record of this moment, because it cannot stop at a time that no later transaction confirms.
    pub quiet_until: Option<String>,
    /// What it was taken from.
    pub lineage: Lineage,
    /// The target.
    pub target: Target,
    /// The timelines that recovery crosses, in order; it ends on the last.
    pub timelines: Vec<Timeline>,
    /// The WAL that recovery reads; none when a standby gets it elsewhere.
    pub wal: Option<WalNeed>,
    /// The data directory that is made.
    pub directory: PathBuf,
    /// Where the tablespaces go.
    pub tablespaces: Vec<PlacedTablespace>,
    /// Bytes to fetch from the repositories, without WAL.
    pub download_bytes: u64,
    /// Bytes to write, without WAL.
    pub write_bytes: u64,
    /// Files to write.
    pub files: u64,
    /// What each file system has to take and has.
    pub space: Vec<SpaceNeed>,
    /// What is written to postgresql.auto.conf. `primary_conninfo` may hold a password and is not shown.
    #[serde(serialize_with = "without_secrets")]
    pub settings: Vec<Setting>,
    /// `recovery.signal` or `standby.signal`.
    pub signal_file: &'static str,
    /// Where pg_wal goes, when not into the data directory.
    pub wal_directory: Option<PathBuf>,
    /// Whether the restored server archives as the cluster did.
    pub archives: bool,
    /// The settings that keep a copy apart from its original: they stay until a person resets them.
    pub until_reset: Vec<&'static str>,
    /// What the configuration in the backup says that holds for the cluster that was backed up, and what becomes of it.
    pub configuration: Vec<Note>,
    /// What was not looked for, because it would take too long.
    pub unexamined: Vec<String>,
    /// The repositories that the backup is fetched from, the first preferred.
    pub repositories: Vec<String>,
    /// Where they are, in the same order, without secrets.
    pub urls: Vec<String>,
    /// Whether the directory holds a part of this restore, which is kept.
    pub resumes: bool,
    /// What is worth knowing before it is run.
    pub warnings: Vec<String>,
    #[serde(skip)]
    pub(super) work: Work,
}

/// What a file system has to take and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpaceNeed {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes to write.
    pub needed_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// What the execution needs besides.
#[derive(Debug)]
pub(super) struct Work {
    pub lineage: Lineage,
    pub places: Places,
    pub contents: Contents,
    /// The repositories that have the backup, by their place in the list, with their own manifests.
    pub copies: Vec<Copy>,
    /// Set when the settings are for this recovery alone.
    pub lending: Option<Lending>,
    /// What is changed in files of the configuration.
    pub changes: BTreeMap<String, (Vec<&'static str>, String)>,
}

fn without_secrets<S: serde::Serializer>(settings: &[Setting], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(settings.iter().map(|(name, value)| {
        let value = if *name == "primary_conninfo" { "…" } else { value.as_str() };
        (*name, value)
    }))
}

/// Works out the restore of a cluster into `target_directory`. Nothing is written.
///
/// # Errors
/// [`RestoreError::Refused`] says why the request cannot be met and what could be asked for instead.
pub async fn plan(
    repositories: &[Repository],
    target_directory: &Path,
    request: &RestoreRequest,
) -> Result<RestorePlan, RestoreError> {
    check_request(request)?;
    let root = std::path::absolute(target_directory).map_err(RestoreError::io("look at", target_directory))?;
    let found = blocking({
        let root = root.clone();
        move || directory::inspect_as_owner(&root)
    })
    .await?;
    let unfinished = match found {
        TargetState::Unfinished(journal) => Some(journal),
        TargetState::Absent | TargetState::Empty => None,
    };

    let archive = Archive::open(repositories).await?;
    let mut warnings = archive.warnings.clone();
    let backups = archive.facts();
    let label = unfinished.as_ref().map(|journal| own_label(journal, &backups, &root)).transpose()?;
    let current = archive.lineage().ok_or(Refusal::NothingThere)?;
    let lineage = choose::lineage(&backups, current, request)?;
    let histories = archive.histories(lineage, request.timeline, &mut warnings).await?;
    let choice = {
        let own = choose::eligible(&backups, lineage, request)?;
        let (line, sought) = settle(&archive, lineage, &own, &histories, request, &mut warnings).await?;
        let settled = Settled { line: line.as_ref(), sought: sought.as_ref(), unfinished: label.as_ref() };
        choose::choose(&backups, lineage, &histories, request, &settled)?
    };
    if request.timeline == TargetTimeline::Latest {
        match archive.check_newest(&choice.backup, &choice.way, &histories, &mut warnings).await {
            // A primary sends a standby the history, too.
            Err(CatalogueError::Timelines { why, .. }) if request.standby => warnings.push(why),
            other => other?,
        }
    }
    let (archive_ref, size) = (&archive, choice.backup.segment_bytes);
    let mut inventory = archive.inventory(&choice.backup, &choice.way, &mut warnings).await?;
    if request.use_partial {
        warnings.push(match count_partial(&mut inventory, &choice.way, choice.backup.start_lsn, size) {
            Some(segment) => format!(
                "recovery reads {segment}.partial, which its server left unfinished: what that server wrote later is not in it"
            ),
            None => "there is no partial segment at the end of the archive on this timeline; none is used".to_owned(),
        });
    }
    let marks = |segment| async move {
        let walk = || CommitTimes::new(segment, size);
        Ok(archive_ref.walk(lineage, segment, walk).await?.and_then(|walk| walk.mark()))
    };
    let commits = |segment| async move { Ok(archive_ref.commit_times(lineage, segment).await?) };
    let route = route(&choice, request, &inventory, commits, marks).await;
    let route = route.map_err(|error| with_later_backups(error, &backups, lineage))?;
    warnings.extend(route.warnings);
    let wal = route.wal.as_ref().and_then(|wal| Some(wal.first.number(size)?..=wal.last.number(size)?));
    let segments = wal.into_iter().flatten().filter_map(|number| choice.way.segment(number, size));
    let seams = seams(repositories, lineage, segments).await;
    warnings.extend(seams.warning());
    if let Some(Seam { segment, before }) = seams.found.first().copied() {
        let refusal = Refusal::Seam { segment, before };
        if request.refuse_seams {
            return Err(refusal.into());
        }
        warnings.push(refusal.to_string());
    }

    let (manifest, entries, copies) = archive.contents(&choice.backup.label, &mut warnings).await?;
    let places = Places::new(
        &root,
        &manifest.label,
        &manifest.tablespaces,
        &request.tablespace_map,
        request.wal_directory.as_deref(),
    )?;
    if let Some(journal) = &unfinished {
        check_unfinished(journal, &places)?;
    }
    blocking({
        let (places, request) = (places.clone(), request.clone());
        move || Ok(apart::check(&places, &request)?)
    })
    .await?;
    let (manifest, places, contents) = blocking(move || {
        let contents = Contents::new(&manifest, entries, &places)?;
        Ok((manifest, places, contents))
    })
    .await?;
    warnings.extend(remarks(&manifest, &contents, &choice, current));
    if let (Some(was), None) = (&manifest.wal_directory, &request.wal_directory) {
        warnings.push(format!(
            "pg_wal was a link to {was}: it is restored as a folder of the data directory; --waldir DIRECTORY puts it elsewhere"
        ));
    }
    let raised = sizes::raised(&archive, &choice, route.wal.as_ref(), &contents, &copies).await?;
    warnings.extend(raised.warning);
    let space = blocking({
        let needs = needs(&manifest, &contents, &places, unfinished.as_ref());
        let places = places.clone();
        let fresh = unfinished.is_none();
        move || {
            if fresh {
                check_tablespaces(&places)?;
            }
            check_space(&needs)
        }
    })
    .await?;
    let (contents, remark) = blocking({
        let (places, resumes) = (places.clone(), unfinished.is_some());
        move || {
            let remark = if resumes { foreign::remark(&places, &contents)? } else { None };
            Ok((contents, remark))
        }
    })
    .await?;
    warnings.extend(remark);

    let timelines = match &route.wal {
        None => vec![choice.way.target()],
        Some(wal) => {
            choice.way.crossed(wal.first.number(size).unwrap_or(0), wal.last.number(size).unwrap_or(u64::MAX), size)
        }
    };
    // No transaction ended after the target: to the server it is the position of a record that is later.
    let written = match route.stop {
        Some(mark) => RestoreRequest { target: Target::Lsn(mark.lsn), exclusive: false, ..request.clone() },
        None => request.clone(),
    };
    let written = match histories.keys().next_back().filter(|newest| **newest > choice.way.target()) {
        // The server's own `latest` is the highest number, whose ever it is.
        Some(newest) if written.standby && written.timeline == TargetTimeline::Latest => {
            warnings.push(format!(
                "the standby stays on timeline {}, because the archive has a timeline {newest} that is not the cluster's: it follows no \
                 promotion until that is set aside and recovery_target_timeline is `latest`",
                choice.way.target()
            ));
            RestoreRequest { timeline: TargetTimeline::Number(choice.way.target()), ..written }
        }
        _ => written,
    };
    let configuration = configured::read(&contents, &copies, &choice.backup.label, &mut warnings).await?;
    let mut wanted = settings::wanted(&written, &choice.way);
    wanted.extend(raised.settings);
    let arranged = arrange(&configuration, wanted, &written, &manifest, &root, &mut warnings).await?;
    let done = |pack: u32| unfinished.as_ref().is_some_and(|journal| journal.packs_done.contains(&pack));
    let left = |number: &u32| !done(*number);
    Ok(RestorePlan {
        backup: manifest.label.clone(),
        reason: choice.reason,
        quiet_until: route.stop.map(|mark| format_microseconds(mark.time)),
        lineage,
        target: request.target.clone(),
        timelines,
        wal: route.wal,
        directory: root,
        tablespaces: places.tablespaces().to_vec(),
        download_bytes: manifest.packs.iter().filter(|pack| left(&pack.number)).map(|pack| pack.stored_bytes).sum(),
        write_bytes: contents.bytes(),
        files: contents.files(),
        space,
        until_reset: settings::until_reset(&arranged.settings),
        settings: arranged.settings,
        wal_directory: request.wal_directory.clone(),
        archives: arranged.archives,
        configuration: arranged.notes,
        unexamined: raised.unread.into_iter().collect(),
        signal_file: settings::signal_file(&written),
        repositories: copies.iter().map(|copy| copy.repository.name().to_owned()).collect(),
        urls: copies.iter().map(|copy| copy.repository.url().to_owned()).collect(),
        resumes: unfinished.is_some(),
        warnings,
        work: Work { lineage, places, contents, copies, lending: arranged.lending, changes: arranged.changes },
    })
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

/// What is written about the configuration, by where the cluster was and where it goes.
struct Arranged {
    settings: Vec<Setting>,
    archives: bool,
    notes: Vec<Note>,
    lending: Option<Lending>,
    changes: BTreeMap<String, (Vec<&'static str>, String)>,
}

async fn arrange(
    configuration: &Configuration<'_>,
    mut wanted: Vec<Setting>,
    request: &RestoreRequest,
    manifest: &Manifest,
    root: &Path,
    warnings: &mut Vec<String>,
) -> Result<Arranged, RestoreError> {
    let original = manifest.data_directory.as_ref().map_or(request.original.directory.clone(), PathBuf::from);
    let has_its_place = blocking({
        let (root, original) = (root.to_owned(), original.clone());
        move || Ok(directory::is_same(&root, &original))
    })
    .await?;
    let in_place = has_its_place && request.original.is_host(&manifest.host, manifest.machine.as_deref());
    let verdict = configuration.judge(request, root, &original, in_place);
    if settings::is_copy(request, in_place) {
        wanted.extend(settings::OF_A_COPY.map(|(name, value)| (name, value.to_owned())));
    }
    let mut settings = verdict.applied_to(wanted);
    let archives = match request.archive {
        Archiving::Preserve => true,
        Archiving::Off => false,
        Archiving::ByPlace => in_place || !settings::is_lent(request),
    };
    if !archives {
        settings.push(("archive_mode", "off".to_owned()));
    }
    if !archives && has_its_place && request.archive == Archiving::ByPlace {
        warnings.push(format!(
            "this host is {} and the backup is of {}{}: the restored server archives nothing (archive_mode = off), so that two servers do \
             not write one archive; when it takes the place of the original, as on a host that was made anew, say --archive-mode preserve",
            request.original.host,
            manifest.host,
            if request.original.host == manifest.host { ", and that they are one machine cannot be shown (/etc/machine-id)" } else { "" }
        ));
    }
    let lending = settings::is_lent(request).then(|| Lending {
        in_place,
        stays: if in_place { Vec::new() } else { verdict.overrides.iter().map(|(name, _)| *name).collect() },
    });
    let changes = verdict.changes();
    Ok(Arranged { settings, archives, notes: verdict.notes, lending, changes })
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

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RestoreError::Died)?
}

fn check_request(request: &RestoreRequest) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::Contradiction(why));
    if request.exclusive && !matches!(request.target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
        return refuse("only a time, an LSN or a transaction can be an exclusive target");
    }
    if request.primary_conninfo.is_some() && !request.standby {
        return refuse("primary_conninfo is for a standby; ask for one, or leave it out");
    }
    // MAXFNAMELEN, src/include/access/xlog_internal.h.
    if matches!(&request.target, Target::Name(name) if name.is_empty() || name.len() > 63) {
        return refuse("the name of a restore point has 1 to 63 bytes");
    }
    let texts = [Some(&request.restore_command), request.primary_conninfo.as_ref()];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return refuse("a setting cannot hold a zero byte");
    }
    if request.restore_command.trim().is_empty() {
        return refuse("recovery needs a restore_command");
    }
    Ok(())
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

fn check_unfinished(journal: &Journal, places: &Places) -> Result<(), Refusal> {
    let Some(how) = journal.differs(places) else { return Ok(()) };
    let what = format!("backup {} {how}", journal.backup);
    Err(Refusal::OtherRequest { directory: places.root().to_owned(), what })
}

/// Refuses tablespaces' places with something in them. Blocking.
pub(super) fn check_tablespaces(places: &Places) -> Result<(), RestoreError> {
    let holds = |directory: &Path| match directory::enter(directory)? {
        Some(folder) => directory::first_entry(&folder),
        None => Ok(None),
    };
    for tablespace in places.tablespaces() {
        let directory = &tablespace.to;
        if let Some(holds) = holds(directory)? {
            let (directory, name) = (directory.clone(), tablespace.name.clone());
            return Err(Refusal::TablespaceTaken { directory, holds, name }.into());
        }
    }
    if let Some(directory) = places.wal()
        && let Some(holds) = holds(directory)?
    {
        return Err(Refusal::NotEmpty { directory: directory.to_owned(), holds }.into());
    }
    Ok(())
}

/// Bytes to be written under each place. What an unfinished restore wrote is there already.
fn needs(
    manifest: &Manifest,
    contents: &Contents,
    places: &Places,
    unfinished: Option<&Journal>,
) -> Vec<(PathBuf, u64)> {
    let mut needs = BTreeMap::new();
    for pack in &manifest.packs {
        if unfinished.is_some_and(|journal| journal.packs_done.contains(&pack.number)) {
            continue;
        }
        for file in contents.files_of(pack.number) {
            let place = places.tablespace_of(&file.path).map_or(places.root(), |(tablespace, _)| &tablespace.to);
            let bytes: &mut u64 = needs.entry(place).or_default();
            *bytes = bytes.saturating_add(file.size);
        }
    }
    // The data directory first: a file system is named by the first place on it.
    let root = (places.root().to_owned(), needs.remove(places.root()).unwrap_or(0));
    std::iter::once(root).chain(needs.into_iter().map(|(path, bytes)| (path.to_owned(), bytes))).collect()
}

/// Compares what is to be written with what is free, by file system. Blocking.
fn check_space(needs: &[(PathBuf, u64)]) -> Result<Vec<SpaceNeed>, RestoreError> {
    let mut space: Vec<(u64, SpaceNeed)> = Vec::new();
    for (path, needed_bytes) in needs {
        let there = directory::nearest(path).map_err(RestoreError::io("look at", path))?;
        let device = there.facts().map_err(RestoreError::io("look at", there.path()))?.id.0;
        if let Some((_, known)) = space.iter_mut().find(|(known, _)| *known == device) {
            known.needed_bytes = known.needed_bytes.saturating_add(*needed_bytes);
            continue;
        }
        let free_bytes =
            disk::space_of(&there).map_err(RestoreError::io("ask how much is free at", there.path()))?.free;
        space.push((device, SpaceNeed { path: path.clone(), needed_bytes: *needed_bytes, free_bytes }));
    }
    let space: Vec<SpaceNeed> = space.into_iter().map(|(_, need)| need).collect();
    match space.iter().find(|need| need.needed_bytes > need.free_bytes) {
        Some(SpaceNeed { path, needed_bytes, free_bytes }) => {
            Err(RestoreError::NoSpace { path: path.clone(), needed_bytes: *needed_bytes, free_bytes: *free_bytes })
        }
        None => Ok(space),
    }
}

/// What somebody should know about this backup.
fn remarks(manifest: &Manifest, contents: &Contents, choice: &Choice, current: Lineage) -> Vec<String> {
    let mut remarks = Vec::new();
    if choice.backup.lineage != current {
        remarks.push(format!(
            "the backup is of an older lineage ({}); the cluster is {current} now. It needs PostgreSQL {}",
            choice.backup.lineage, choice.backup.lineage.major
        ));
    }
    if choice.way.lacks_history() {
        remarks.push(format!(
            "the archive has no history of timeline {}, which the backup ran on: recovery stays on that timeline and cannot \
             follow a later one",
            choice.way.target()
        ));
    }
    if contents.find("postgresql.conf").is_none() {
        remarks.push(
            "the backup holds no postgresql.conf: the configuration lay outside of the data directory (as on Debian and Ubuntu) \
             and has to be there before the server starts"
                .to_owned(),
        );
    }
    if !manifest.corrupt_pages.is_empty() {
        remarks.push(format!(
            "{} pages had wrong checksums when the backup was taken, the first of them block {} of {}",
            manifest.corrupt_pages.len(),
            manifest.corrupt_pages.first().map_or(0, |(_, block)| *block),
            manifest.corrupt_pages.first().map_or("", |(path, _)| path.as_str())
        ));
    }
    remarks
}
