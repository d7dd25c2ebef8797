//! `backup`: asks the agent, or does it in this process where there is none.

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::text::moment_after;
use crate::backup::{self, BackupOptions, BackupReport, Phase, Progress};
use crate::cli::agent::{self, Asked};
use crate::cli::arguments::BackupArguments;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::{Printer, Tone};
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_base::sys;
use walward_base::{format_bytes, format_duration};

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &BackupArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    // Refuses a repository that the cluster has not, before anything is begun.
    context.repositories_of(cluster)?;
    if !arguments.no_agent {
        match tokio::task::block_in_place(|| by_agent(context, cluster, printer))? {
            Some(exit) => return Ok(exit),
            None => printer
                .note("no agent is running; backing up in this process (archive_command must work without the agent)"),
        }
    }
    Box::pin(in_process(context, cluster, printer)).await
}

/// `None` when there is no agent. Ctrl-C ends this process; the agent notices and cancels the backup.
fn by_agent(context: &Context, cluster: &ClusterConfig, printer: &Printer) -> Result<Option<Exit>, Failure> {
    let mut request =
        json!({ "op": "backup", "cluster": cluster.name, "type": "full", "configuration": cluster.fingerprint });
    if let (Some(name), Value::Object(members)) = (&context.global.repository, &mut request) {
        members.insert("repository".to_owned(), Value::String(name.clone()));
    }
    let mut meter = Meter::new(printer, "backup");
    let asked = agent::ask(&context.socket(), &request, |event| {
        let progress: Progress = serde_json::from_value(event).context("cannot read the agent's progress")?;
        show(&mut meter, &progress);
        Ok(())
    });
    meter.finish();
    match asked? {
        Asked::Answered(answer) => {
            let report: BackupReport = serde_json::from_value(answer.json).context("cannot read the agent's report")?;
            Ok(Some(done(&report, answer.exit, printer)))
        }
        Asked::NoAgent(_) => Ok(None),
    }
}

async fn in_process(context: &Context, cluster: &ClusterConfig, printer: &Printer) -> Result<Exit, Failure> {
    let repositories = context.open_all(cluster).await?;
    let levels = context.repositories_of(cluster)?.iter().map(|repository| repository.backup_level).collect();
    let options = BackupOptions {
        connection: cluster.connection.clone(),
        data_directory: cluster.data_directory.clone(),
        workers: cluster.backup.workers,
        fast_checkpoint: cluster.backup.fast_checkpoint,
        archive_deadline: cluster.backup.archive_deadline,
        read_deadline: cluster.backup.read_deadline,
        pack_bytes: cluster.backup.pack_bytes,
        levels,
        host: sys::host::name(),
    };
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

fn show(meter: &mut Meter<'_>, progress: &Progress) {
    let message = match (progress.phase, progress.waiting_for) {
        (Phase::Connecting, _) => "connecting".to_owned(),
        (Phase::Checkpoint, _) => "waiting for the checkpoint".to_owned(),
        (Phase::Listing, _) => "listing the files".to_owned(),
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
        printer.line(&format!("repositories  {}", places.join(", ")))?;
        printer.line(&format!("took          {took}"))?;
        printer.line(&format!(
            "content       {} files, {}, stored in {}",
            report.files,
            format_bytes(report.content_bytes),
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
