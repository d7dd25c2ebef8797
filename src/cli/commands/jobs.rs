//! `jobs`: what runs in the agent for longer than a request.

use std::ops::ControlFlow;

use anyhow::Context as _;
use serde_json::json;

use super::backup;
use super::text::{moment, table};
use crate::cli::agent::Asked;
use crate::cli::arguments::JobsCommand;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::follow::{Signals, ask_once, follow};
use crate::cli::meter::Meter;
use crate::cli::printer::Printer;
use crate::outcome::Exit;
use walward_base::format_bytes;
use walward_report::{Job, Work};

pub(in crate::cli) async fn run(context: &Context, command: &JobsCommand, printer: &Printer) -> Result<Exit, Failure> {
    match command {
        JobsCommand::List => list(context, printer).await,
        JobsCommand::Watch { job } => watch(context, job, printer).await,
        JobsCommand::Cancel { job } => cancel(context, job, printer).await,
    }
}

async fn list(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let answer = ask_once(context, json!({ "op": "jobs" })).await?;
    let mut jobs: Vec<Job> = serde_json::from_value(answer.json).context("cannot read the agent's list of jobs")?;
    if let Some(name) = &context.global.cluster {
        jobs.retain(|job| job.cluster == *name);
    }
    if printer.is_json() {
        printer.json("jobs-list", json!({ "jobs": jobs }))?;
        return Ok(Exit::Done);
    }
    if jobs.is_empty() {
        printer.line("no job was begun since the agent started")?;
        return Ok(Exit::Done);
    }
    let rows = jobs.iter().map(|job| {
        let (kind, state) = (job.work.kind().to_owned(), job.state.as_str().to_owned());
        vec![job.id.clone(), job.cluster.clone(), kind, state, moment(job.started), how_far(job)]
    });
    printer.raw(table(&["job", "cluster", "kind", "state", "begun", "how far"], rows).as_bytes())?;
    Ok(Exit::Done)
}

/// What is done of it, or why it failed.
pub(super) fn how_far(job: &Job) -> String {
    if let Some(error) = &job.error {
        return error.clone();
    }
    match &job.work {
        Work::Backup(progress) => format!(
            "{}{} of {}",
            progress.label.as_ref().map(|label| format!("{label}, ")).unwrap_or_default(),
            format_bytes(progress.content_bytes_done),
            format_bytes(progress.content_bytes_total)
        ),
    }
}

async fn watch(context: &Context, job: &str, printer: &Printer) -> Result<Exit, Failure> {
    let mut meter = Meter::new(printer, "backup");
    let request = json!({ "op": "watch_job", "id": job });
    let followed = follow(context, request, Signals::Leave, |job| {
        match &job.work {
            Work::Backup(progress) => backup::show(&mut meter, progress),
        }
        ControlFlow::Continue(())
    });
    let followed = followed.await;
    meter.finish();
    match followed? {
        Asked::Answered(answer) => backup::told(answer, printer),
        Asked::NoAgent(error) => Err(error.into()),
    }
}

async fn cancel(context: &Context, job: &str, printer: &Printer) -> Result<Exit, Failure> {
    ask_once(context, json!({ "op": "cancel_job", "id": job })).await?;
    if printer.is_json() {
        printer.json("jobs-cancel", json!({ "job": job }))?;
    } else {
        printer.line(&format!("{job} was told to end; walward jobs watch {job} shows how it does"))?;
    }
    Ok(Exit::Done)
}
