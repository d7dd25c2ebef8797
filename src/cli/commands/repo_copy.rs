//! `repo copy FROM TO`: brings a new or lagging repository up to date.
//!
//! What was finished first is in: the backups are listed before the WAL is copied, so that every backup that is copied has its
//! WAL, and a manifest is written after its packs.

use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::archive::{CopiedWal, copy_gaps, copy_wal, missing_wal};
use crate::backup::{BackupError, CopiedBackup, copy_backup, copyable, with_lease};
use crate::cli::arguments::CopyOnly;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::{Printer, Tone};
use crate::config::{ClusterConfig, RepositoryConfig};
use crate::outcome::Exit;
use walward_base::format_bytes;
use walward_base::sys;
use walward_repo::lease::Work;
use walward_repo::manifest::BackupLabel;
use walward_repo::{Repository, place};

/// What was done, for programs.
#[derive(Debug, Default, Serialize)]
struct Report {
    from: String,
    to: String,
    wal: CopiedWal,
    backups: Vec<BackupReport>,
}

#[derive(Debug, Serialize)]
struct BackupReport {
    label: String,
    #[serde(flatten)]
    outcome: CopiedBackup,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Progress {
    /// Bytes as stored in the first repository.
    bytes_total: u64,
    bytes_done: u64,
    wal_files_total: usize,
    wal_files_done: usize,
    backups_total: usize,
    backups_done: usize,
}

pub(super) async fn run(
    context: &Context,
    cluster: &ClusterConfig,
    (from, to): (&str, &str),
    only: Option<CopyOnly>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let from_config = configured(context, from)?;
    let to_config = configured(context, to)?;
    if from == to
        || from_config.store.url == to_config.store.url && from_config.store.endpoint == to_config.store.endpoint
    {
        return Err(Failure::new(Exit::Usage, format!("\"{from}\" and \"{to}\" are the same repository")));
    }
    let from = context.open(cluster, from_config).await?;
    let mut to = match context.open(cluster, to_config).await {
        Err(failure) if failure.exit == Exit::NoRepository => {
            let advice =
                "name it in `repositories` of the cluster and run `walward setup`, which makes it; then copy again";
            return Err(failure.hint(advice));
        }
        other => other?,
    };
    place::all_apart(&[from.clone(), to.clone()]).await?;
    to.join_lineages(&from).await?;
    let cancel = CancellationToken::new();
    let report =
        cancelled_by_signals(cancel.clone(), Box::pin(copy(&from, &to, to_config, only, printer, &cancel))).await?;
    Ok(printer.done(&format!("the copy from {} to {} has ended", report.from, report.to), print(&report, printer)))
}

fn configured<'c>(context: &'c Context, name: &str) -> Result<&'c RepositoryConfig, Failure> {
    let all = &context.loaded.config.repositories;
    all.get(name).ok_or_else(|| {
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        let text = format!("there is no repository \"{name}\" in the configuration");
        Failure::new(Exit::NotFound, text).hint(format!("there are: {}", names.join(", ")))
    })
}

async fn copy(
    from: &Repository,
    to: &Repository,
    config: &RepositoryConfig,
    only: Option<CopyOnly>,
    printer: &Printer,
    cancel: &CancellationToken,
) -> Result<Report, Failure> {
    let mut report = Report { from: from.name().to_owned(), to: to.name().to_owned(), ..Report::default() };
    let mut meter = Meter::new(printer, "repo-copy");
    let backups = if only == Some(CopyOnly::Wal) { Vec::new() } else { copyable(from).await? };
    let found = missing_wal(from, to).await?;
    let wal = if only == Some(CopyOnly::Backups) { Vec::new() } else { found.files };
    // A backup needs the WAL of its own server.
    let backups = if found.contradictions.is_empty() { backups } else { Vec::new() };
    let mut progress = Progress {
        bytes_total: wal.iter().map(|file| file.stored_bytes).sum::<u64>()
            + backups.iter().map(|(_, bytes)| *bytes).sum::<u64>(),
        wal_files_total: wal.len(),
        backups_total: backups.len(),
        ..Progress::default()
    };
    let copied = copy_wal(from, to, config.wal_level, &wal, |file| {
        progress.bytes_done += file.stored_bytes;
        progress.wal_files_done += 1;
        meter.show(progress.bytes_done, progress.bytes_total, "copying WAL", progress);
    });
    report.wal = cancel.run_until_cancelled(copied).await.ok_or(BackupError::Cancelled)??;
    report.wal.contradictions.extend(found.contradictions);
    report.wal.withheld = found.withheld;
    if only != Some(CopyOnly::Backups) {
        let (_, damaged) = cancel.run_until_cancelled(copy_gaps(from, to)).await.ok_or(BackupError::Cancelled)??;
        report.wal.damaged.extend(damaged);
    }
    if !backups.is_empty() {
        let host = sys::host::name();
        let made = &mut report.backups;
        Box::pin(with_lease(std::slice::from_ref(to), (Work::Copy, &host), cancel, async || {
            for (label, bytes) in &backups {
                let done = progress.bytes_done;
                let message = format!("copying backup {label}");
                let target = (config.backup_level, host.as_str());
                let outcome = copy_backup(from, to, label, target, |pack_bytes| {
                    progress.bytes_done += pack_bytes;
                    meter.show(progress.bytes_done, progress.bytes_total, &message, progress);
                });
                made.push(named(label, outcome.await?));
                progress.bytes_done = done + bytes;
                progress.backups_done += 1;
            }
            Ok::<_, BackupError>(())
        }))
        .await?;
    }
    meter.finish();
    Ok(report)
}

fn named(label: &BackupLabel, outcome: CopiedBackup) -> BackupReport {
    BackupReport { label: label.to_string(), outcome }
}

fn print(report: &Report, printer: &Printer) -> Result<Exit, Failure> {
    let contradicts = |backup: &BackupReport| backup.outcome == CopiedBackup::Contradiction;
    let is_damaged = |backup: &BackupReport| {
        matches!(backup.outcome, CopiedBackup::Damaged { .. } | CopiedBackup::WithoutParent { .. })
    };
    let exit = if !report.wal.contradictions.is_empty() || report.backups.iter().any(contradicts) {
        Exit::Refused
    } else if !report.wal.damaged.is_empty() || report.backups.iter().any(is_damaged) {
        Exit::Integrity
    } else {
        Exit::Done
    };
    if printer.is_json() {
        printer.json_line("repo-copy", json!({ "event": "result", "copy": report }))?;
        return Ok(exit);
    }
    printer.line(&format!("copied   {} WAL file(s) from {} to {}", report.wal.copied, report.from, report.to))?;
    for BackupReport { label, outcome } in &report.backups {
        let text = match outcome {
            CopiedBackup::Copied { packs_reused: 0, stored_bytes } => {
                format!("copied, {} there", format_bytes(*stored_bytes))
            }
            CopiedBackup::Copied { packs_reused, stored_bytes } => {
                format!("copied, {} there; {packs_reused} pack(s) had come before", format_bytes(*stored_bytes))
            }
            CopiedBackup::There => "was there".to_owned(),
            CopiedBackup::Contradiction => printer.tone("another backup has this label there", Tone::Bad),
            CopiedBackup::WithoutParent { parent } => {
                printer.tone(&format!("not copied: backup {parent}, which it builds on, is not there"), Tone::Bad)
            }
            CopiedBackup::Damaged { why } => printer.tone(&format!("not copied: {why}"), Tone::Bad),
        };
        printer.line(&format!("backup   {label}: {text}"))?;
    }
    for damaged in &report.wal.damaged {
        printer.warning(&format!("not copied: {damaged}"));
    }
    for contradiction in &report.wal.contradictions {
        printer.warning(&format!("{contradiction}; nothing was overwritten"));
    }
    if !report.wal.contradictions.is_empty() {
        printer.warning(&format!(
            "{} WAL file(s) that come after these, and all backups, were not copied: what two servers wrote must not become one archive",
            report.wal.withheld
        ));
    }
    Ok(exit)
}
