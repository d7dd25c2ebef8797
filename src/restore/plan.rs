//! What a restore will do, worked out before anything is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::apart;
use super::blocking::blocking;
use super::chain::{self, Source};
use super::choose::Choice;
use super::chosen::Chosen;
use super::configuration::{Configuration, Note};
use super::configured;
use super::contents::Contents;
use super::directory::{self, TargetState};
use super::error::RestoreError;
use super::foreign;
use super::journal::Journal;
use super::pack_id::PackId;
use super::places::{PlacedTablespace, Places};
use super::reachability::Route;
use super::refusal::Refusal;
use super::request::{Archiving, RestoreRequest};
use super::settings::{self, Lending, Setting};
use super::sizes;
use super::space::{SpaceNeed, check_space, check_tablespaces, needs};
use crate::catalogue::{Archive, BackupContents, Target, TargetTimeline, WalNeed, format_microseconds};
use walward_pg::{Lineage, Timeline, WalRange};
use walward_repo::Repository;
use walward_repo::manifest::Manifest;

/// A restore that can be run.
#[derive(Debug, Serialize)]
pub struct RestorePlan {
    /// The backup's label.
    pub backup: String,
    /// The backups that it builds on and that are restored with it, the newest first.
    pub builds_on: Vec<String>,
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

/// What the execution needs besides.
#[derive(Debug)]
pub(super) struct Work {
    pub lineage: Lineage,
    pub places: Places,
    pub contents: Contents,
    /// The backup, and those that it builds on: where their packs are.
    pub sources: Vec<Source>,
    /// Whether the backup builds on another one.
    pub is_part: bool,
    /// What PostgreSQL's own list of the files says of the WAL.
    pub wal_range: WalRange,
    /// Set when the settings are for this recovery alone.
    pub lending: Option<Lending>,
    /// What is changed in files of the configuration.
    pub changes: BTreeMap<String, (Vec<&'static str>, String)>,
}

impl Work {
    /// Every repository that a pack may be fetched from, each once.
    pub fn repositories(&self) -> Vec<&Repository> {
        let mut repositories: Vec<&Repository> = Vec::new();
        for copy in self.sources.iter().flat_map(|source| &source.copies) {
            if !repositories.iter().any(|known| known.name() == copy.repository.name()) {
                repositories.push(&copy.repository);
            }
        }
        repositories
    }
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
    let resumed = unfinished.as_ref().map(|journal| (journal, root.as_path()));
    let chosen = Chosen::of(&archive, request, resumed, &mut warnings).await?;
    let route = chosen.route(request, &mut warnings).await?;
    let Layout { manifest, places, contents, sources, space } =
        lay_out(&chosen, request, &root, unfinished.as_ref(), &mut warnings).await?;
    let copies = sources.first().map(|source| source.copies.clone()).unwrap_or_default();
    let raised = sizes::raised(&archive, &chosen.choice, route.wal.as_ref(), &contents, &copies).await?;
    warnings.extend(raised.warning);
    let written = as_written(&chosen, &route, request, &mut warnings);
    let configuration = configured::read(&contents, &copies, &chosen.choice.backup.label, &mut warnings).await?;
    let mut wanted = settings::wanted(&written, &chosen.choice.way);
    wanted.extend(raised.settings);
    let arranged = arrange(&configuration, wanted, &written, &manifest, &root, &mut warnings).await?;
    let is_done = |pack: &PackId| unfinished.as_ref().is_some_and(|journal| journal.packs_done.contains(pack));
    let left = contents.packs().filter(|pack| !is_done(pack));
    let download_bytes = left.filter_map(|pack| chain::listed(&sources, pack)).map(|pack| pack.stored_bytes).sum();
    let (timelines, lineage) = (chosen.crossed(&route), chosen.lineage);
    Ok(RestorePlan {
        backup: manifest.label.clone(),
        reason: chosen.choice.reason,
        quiet_until: route.stop.map(|mark| format_microseconds(mark.time)),
        lineage,
        target: request.target.clone(),
        timelines,
        wal: route.wal,
        directory: root,
        tablespaces: places.tablespaces().to_vec(),
        builds_on: sources.iter().skip(1).map(|source| source.label.to_string()).collect(),
        download_bytes,
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
        work: Work {
            lineage,
            places,
            contents,
            sources,
            is_part: manifest.depends_on.is_some(),
            wal_range: WalRange { timeline: manifest.timeline, start: manifest.start_lsn, end: manifest.stop_lsn },
            lending: arranged.lending,
            changes: arranged.changes,
        },
    })
}

/// What the backup holds, and where it goes.
struct Layout {
    manifest: Manifest,
    places: Places,
    contents: Contents,
    sources: Vec<Source>,
    space: Vec<SpaceNeed>,
}

/// Gives every file its place, and looks at the places: they lie apart from all that is in use, are empty or hold what the `unfinished`
/// restore left there, and have room.
async fn lay_out(
    chosen: &Chosen<'_>,
    request: &RestoreRequest,
    root: &Path,
    unfinished: Option<&Journal>,
    warnings: &mut Vec<String>,
) -> Result<Layout, RestoreError> {
    let BackupContents { manifest, entries, blocks, copies } = chosen.contents(warnings).await?;
    let places = Places::new(
        root,
        &manifest.label,
        &manifest.tablespaces,
        &request.tablespace_map,
        request.wal_directory.as_deref(),
    )?;
    if let Some(journal) = unfinished {
        check_unfinished(journal, &places)?;
    }
    blocking({
        let (places, request) = (places.clone(), request.clone());
        move || Ok(apart::check(&places, &request)?)
    })
    .await?;
    let (manifest, places, contents) = blocking(move || {
        let contents = Contents::new(&manifest, entries, blocks, &places)?;
        Ok((manifest, places, contents))
    })
    .await?;
    let itself = Source { label: chosen.choice.backup.label.clone(), copies };
    let (contents, sources) = chain::follow(chosen, &manifest, contents, itself, warnings).await?;
    warnings.extend(remarks(&manifest, &contents, &chosen.choice, chosen.current));
    if let (Some(was), None) = (&manifest.wal_directory, &request.wal_directory) {
        warnings.push(format!(
            "pg_wal was a link to {was}: it is restored as a folder of the data directory; --waldir DIRECTORY puts it elsewhere"
        ));
    }
    let needs = needs(&contents, &places, unfinished);
    let is_fresh = unfinished.is_none();
    let (places, contents, space, remark) = blocking(move || {
        if is_fresh {
            check_tablespaces(&places)?;
        }
        let space = check_space(&needs)?;
        let remark = if is_fresh { None } else { foreign::remark(&places, &contents)? };
        Ok((places, contents, space, remark))
    })
    .await?;
    warnings.extend(remark);
    Ok(Layout { manifest, places, contents, sources, space })
}

/// The request as the server is told it.
fn as_written(
    chosen: &Chosen<'_>,
    route: &Route,
    request: &RestoreRequest,
    warnings: &mut Vec<String>,
) -> RestoreRequest {
    // No transaction ended after the target: to the server it is the position of a record that is later.
    let written = match route.stop {
        Some(mark) => RestoreRequest { target: Target::Lsn(mark.lsn), exclusive: false, ..request.clone() },
        None => request.clone(),
    };
    let target = chosen.choice.way.target();
    match chosen.histories.keys().next_back().filter(|newest| **newest > target) {
        // The server's own `latest` is the highest number, whose ever it is.
        Some(newest) if written.standby && written.timeline == TargetTimeline::Latest => {
            warnings.push(format!(
                "the standby stays on timeline {target}, because the archive has a timeline {newest} that is not the cluster's: it follows no \
                 promotion until that is set aside and recovery_target_timeline is `latest`"
            ));
            RestoreRequest { timeline: TargetTimeline::Number(target), ..written }
        }
        _ => written,
    }
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

fn check_unfinished(journal: &Journal, places: &Places) -> Result<(), Refusal> {
    let Some(how) = journal.differs(places) else { return Ok(()) };
    let what = format!("backup {} {how}", journal.backup);
    Err(Refusal::OtherRequest { directory: places.root().to_owned(), what })
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
