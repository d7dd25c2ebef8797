//! `backup`: asks the agent, or does it in this process where there is none.

use std::ops::ControlFlow;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::text::moment_after;
use crate::backup::{self, BackupReport, Phase, Progress, Wanted};
use crate::cli::agent::{Answer, Asked};
use crate::cli::arguments::BackupArguments;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::follow::{Signals, follow};
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::{Printer, Tone};
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_base::sys;
use walward_base::{format_bytes, format_duration};
use walward_report::Work;

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &BackupArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    // Refuses a repository that the cluster has not, before anything is begun.
    context.repositories_of(cluster)?;
    if !arguments.no_agent {
        match by_agent(context, cluster, arguments, printer).await? {
            Some(exit) => return Ok(exit),
            None if arguments.detach => {
                return Err(Failure::new(Exit::Unreachable, "no agent is running, which would go on with the backup"));
            }
            None => printer
                .note("no agent is running; backing up in this process (archive_command must work without the agent)"),
        }
    }
    Box::pin(in_process(context, cluster, arguments.kind.into(), printer)).await
}

/// `None` when there is no agent. Ctrl-C cancels the backup; it goes on when this process just vanishes.
async fn by_agent(
    context: &Context,
    cluster: &ClusterConfig,
    arguments: &BackupArguments,
    printer: &Printer,
) -> Result<Option<Exit>, Failure> {
    let (detach, wanted) = (arguments.detach, Wanted::from(arguments.kind).as_str());
    let mut request =
        json!({ "op": "backup", "cluster": cluster.name, "type": wanted, "configuration": cluster.fingerprint });
    if let (Some(name), Value::Object(members)) = (&context.global.repository, &mut request) {
        members.insert("repository".to_owned(), Value::String(name.clone()));
    }
    let mut meter = Meter::new(printer, "backup");
    let followed = follow(context, request, Signals::Cancel, |job| {
        if detach {
            return ControlFlow::Break(Answer { exit: Exit::Done, json: Value::String(job.id.clone()) });
        }
        let Work::Backup(progress) = &job.work;
        show(&mut meter, progress);
        ControlFlow::Continue(())
    });
    let followed = followed.await;
    meter.finish();
    match followed? {
        Asked::Answered(Answer { json: Value::String(job), .. }) if detach => {
            if printer.is_json() {
                printer.json_line("backup", json!({ "event": "begun", "job": job }))?;
            } else {
                printer
                    .line(&format!("{job} is running in the agent; walward jobs watch {job} shows how it goes on"))?;
            }
            Ok(Some(Exit::Done))
        }
        Asked::Answered(answer) => told(answer, printer).map(Some),
        Asked::NoAgent(_) => Ok(None),
    }
}

/// Tells what came of a backup in the agent.
pub(super) fn told(answer: Answer, printer: &Printer) -> Result<Exit, Failure> {
    let report: BackupReport = serde_json::from_value(answer.json).context("cannot read the agent's report")?;
    Ok(done(&report, answer.exit, printer))
}

async fn in_process(
    context: &Context,
    cluster: &ClusterConfig,
    wanted: Wanted,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let repositories = context.open_all(cluster).await?;
    let levels = context.repositories_of(cluster)?.iter().map(|repository| repository.backup_level).collect();
    let options = cluster.backup_options(wanted, levels, sys::host::name());
    let cancel = CancellationToken::new();
    let (progress, mut watching) = watch::channel(Progress::new(Timestamp::now()));
    let mut meter = Meter::new(printer, "backup");
    let work = cancelled_by_signals(cancel.clone(), backup::run(&repositories, options, progress, cancel));
    tokio::pin!(work);
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = watching.changed() => {
                let progress = watching.borrow_and_update().clone();
                show(&mut meter, &progress);
            }
        }
    };
    meter.finish();
    let report = ended?;
    Ok(done(&report, if report.has_warnings() { Exit::Warnings } else { Exit::Done }, printer))
}

fn done(report: &BackupReport, exit: Exit, printer: &Printer) -> Exit {
    printer.done(&format!("backup {} is taken", report.label), print(report, printer).map(|()| exit))
}

pub(super) fn show(meter: &mut Meter<'_>, progress: &Progress) {
    let message = match (progress.phase, &progress.waiting_for) {
        (Phase::Connecting, _) => "connecting".to_owned(),
        (Phase::Checkpoint, _) => "waiting for the checkpoint".to_owned(),
        (Phase::Listing, _) => "listing the files".to_owned(),
        (Phase::Comparing, _) => "finding out what changed".to_owned(),
        (Phase::Copying, _) => "copying".to_owned(),
        (Phase::Stopping, _) => "ending the backup on the server".to_owned(),
        (Phase::WaitingForWal, Some(segment)) => format!("waiting until {segment} is archived"),
        (Phase::WaitingForWal, None) => "waiting for the last WAL".to_owned(),
        (Phase::Finishing, _) => "writing the manifest".to_owned(),
    };
    meter.show(progress.content_bytes_done, progress.content_bytes_total, &message, progress);
}

fn print(report: &BackupReport, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        printer.json_line("backup", json!({ "event": "result", "backup": report }))?;
    } else {
        let took = format_duration(std::time::Duration::try_from_secs_f64(report.seconds).unwrap_or_default());
        printer.line(&format!("backup        {}", printer.tone(&report.label, Tone::Good)))?;
        let places: Vec<String> =
            report.repositories.iter().zip(&report.urls).map(|(name, url)| format!("{name} ({url})")).collect();
        if let Some(parent) = &report.parent {
            printer.line(&format!("builds on     {parent}"))?;
        }
        printer.line(&format!("repositories  {}", places.join(", ")))?;
        printer.line(&format!("took          {took}"))?;
        printer.line(&format!(
            "content       {} files, {}, of which {} were read, stored in {}",
            report.files,
            format_bytes(report.content_bytes),
            format_bytes(report.read_bytes),
            format_bytes(report.stored_bytes)
        ))?;
        printer.line(&format!(
            "WAL           {} to {} ({} segments)",
            report.first_segment, report.last_segment, report.wal_segments
        ))?;
        printer.line(&format!("recoverable   from {}", moment_after(report.stopped)))?;
    }
    for warning in &report.warnings {
        printer.warning(warning);
    }
    if report.corrupt_page_count > 0 {
        printer.warning(&format!(
            "{} page(s) have a wrong checksum; the backup holds them as they are. The cluster itself is damaged: pg_amcheck, and the system's log, say more",
            report.corrupt_page_count
        ));
        for (path, page) in report.corrupt_pages.iter().take(10) {
            printer.warning(&format!("wrong checksum: {path}, page {page}"));
        }
    }
    Ok(())
}
