//! `status`: what the agent is doing.

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::json;

use super::jobs::how_far;
use super::text::moment;
use crate::cli::agent::{self, Asked};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::health::{ClusterSnapshot, DebtFacts, Snapshot};
use crate::outcome::Exit;
use walward_base::{format_bytes, format_duration};
use walward_report::JobState;

/// Blocking.
pub(in crate::cli) fn run(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let socket = context.socket();
    let answer = match agent::ask(&socket, &json!({ "op": "status" }), |_| Ok(()))? {
        Asked::Answered(answer) => answer,
        Asked::NoAgent(error) => return Err(error.into()),
    };
    let mut snapshot: Snapshot = serde_json::from_value(answer.json).context("the agent's snapshot cannot be read")?;
    if let Some(name) = &context.global.cluster {
        context.cluster()?;
        snapshot.clusters.retain(|cluster| cluster.name == *name);
    }
    if printer.is_json() {
        printer.json("status", &snapshot)?;
        return Ok(Exit::Done);
    }
    let up = Timestamp::now().duration_since(snapshot.started);
    printer.line(&format!(
        "agent {} on {}, process {}, up {}, {} resident",
        snapshot.version,
        snapshot.host,
        snapshot.pid,
        format_duration(up.try_into().unwrap_or_default()),
        format_bytes(snapshot.resident_bytes)
    ))?;
    for cluster in &snapshot.clusters {
        printer.line("")?;
        print(cluster, printer)?;
    }
    Ok(Exit::Done)
}

/// Since when nobody has held a repository's files against those of the others, where that is not so now.
fn print_comparison(debt: &DebtFacts, printer: &Printer) -> Result<(), Failure> {
    let text = match debt.compared {
        None => "was not compared with all others since the agent started".to_owned(),
        Some(at) if debt.files > 0 => format!("was compared with all others last {}", moment(at)),
        Some(_) => return Ok(()),
    };
    printer.line(&printer.tone(&format!("              {text}"), Tone::Warning))?;
    Ok(())
}

/// What a repository lacks beside the others, and what contradicts it. Nothing where nothing is known to be wrong.
fn print_debt(debt: &DebtFacts, printer: &Printer) -> Result<(), Failure> {
    if debt.files > 0 {
        let oldest = match (&debt.oldest_file, debt.oldest_since) {
            (Some(file), Some(since)) => format!(", the oldest {file}, archived {}", moment(since)),
            _ => String::new(),
        };
        let least = if debt.compared.is_some() { "" } else { "at least " };
        let text = format!("              is owed {least}{} file(s){oldest}", debt.files);
        printer.line(&printer.tone(&text, Tone::Warning))?;
        if let Some(why) = &debt.waits {
            let text = format!("              {why}: see walward check");
            printer.line(&printer.tone(&text, Tone::Warning))?;
        }
        if let Some(error) = &debt.last_error {
            printer.line(&format!("              failed last: {} ({})", error.text, moment(error.at)))?;
        }
    }
    if let Some(first) = &debt.differs {
        let text = format!("              differs from another repository from {first} on: see walward check");
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if let Some(last) = &debt.last_contradiction {
        let text = format!("              contradicts: {} ({})", last.text, moment(last.at));
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    Ok(())
}

fn print(cluster: &ClusterSnapshot, printer: &Printer) -> Result<(), Failure> {
    let name = printer.tone(&cluster.name, Tone::Strong);
    printer.line(&format!("cluster {name} in {}", cluster.data_directory.display()))?;
    print_archive(cluster, printer)?;
    print_hanging(cluster, printer)?;
    print_fetch(cluster, printer)?;
    for repository in &cluster.repositories {
        let state = match &repository.error {
            None if repository.reachable => printer.tone("reachable", Tone::Good),
            None => printer.tone("not reachable", Tone::Bad),
            Some(error) => printer.tone(error, Tone::Bad),
        };
        printer.line(&format!("  repository  {} ({}): {state}", repository.name, repository.url))?;
        if let Some(warning) = &repository.warning {
            printer.line(&format!("              {}", printer.tone(warning, Tone::Warning)))?;
        }
        if cluster.repositories.len() > 1 {
            print_comparison(&repository.debt, printer)?;
        }
        print_debt(&repository.debt, printer)?;
    }
    for job in &cluster.jobs {
        let kind = job.work.kind();
        let text = match (&job.error, job.ended) {
            (None, None) => format!("is {}: {} (walward jobs watch {})", job.state.as_str(), how_far(job), job.id),
            (Some(error), _) => {
                format!("{} {}: {error}", job.state.as_str(), job.ended.map(moment).unwrap_or_default())
            }
            // What was done is shown by info.
            (None, Some(_)) => continue,
        };
        let tone = if job.state == JobState::Failed { Tone::Warning } else { Tone::Good };
        printer.line(&printer.tone(&format!("  {kind:<11} {text}"), tone))?;
    }
    Ok(())
}

fn print_archive(cluster: &ClusterSnapshot, printer: &Printer) -> Result<(), Failure> {
    let archive = &cluster.archive;
    let waiting = match (cluster.ready_files, cluster.oldest_ready_seconds) {
        (Some(0), _) => "nothing waits".to_owned(),
        (Some(files), Some(seconds)) => {
            let age = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
            format!("{files} file(s) wait, the oldest for {}", format_duration(age))
        }
        _ => "archive_status cannot be read".to_owned(),
    };
    printer.line(&format!(
        "  archive     {waiting}; {} archived ({} ahead), {} on their way, {} uploaded ahead",
        archive.acknowledged_total, archive.acknowledged_ahead_total, cluster.uploads_in_flight, cluster.uploaded_ahead
    ))?;
    if let (Some(file), Some(at)) = (&archive.last_file, archive.last_acknowledged) {
        printer.line(&format!("  last in     {file} at {}", moment(at)))?;
    }
    print_lost(cluster, printer)?;
    // A failure that was followed by a success is history.
    if let Some(error) =
        archive.last_error.as_ref().filter(|error| archive.last_acknowledged.is_none_or(|at| error.at > at))
    {
        printer.line(&printer.tone(&format!("  failing     {} ({})", error.text, moment(error.at)), Tone::Bad))?;
    }
    Ok(())
}

/// WAL that the archive lacks, or has otherwise than the server.
fn print_lost(cluster: &ClusterSnapshot, printer: &Printer) -> Result<(), Failure> {
    let archive = &cluster.archive;
    if let Some(last) = &archive.last_let_go {
        let text = format!(
            "  LET GO      {} file(s), the last {} at {}: the archive lacks them, take a backup",
            archive.let_go_total,
            last.text,
            moment(last.at)
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if cluster.belief.lost_files > 0 {
        let text = format!(
            "  LOST        {} segment(s) that the server believes archived are in too few repositories, the oldest {}: take a backup, and see \
             what `walward check` says of archive_command",
            cluster.belief.lost_files,
            cluster.belief.oldest_lost.as_deref().unwrap_or("?")
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if cluster.belief.different_files > 0 {
        let text = format!(
            "  DIFFERENT   {} segment(s) are something else in a repository than the server has, the oldest {}: see what `walward check` says",
            cluster.belief.different_files,
            cluster.belief.oldest_different.as_deref().unwrap_or("?")
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if cluster.unrecorded_gaps > 0 {
        let text = format!("  LET GO      {} gap(s) that a repository was not told of yet", cluster.unrecorded_gaps);
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if cluster.unreadable_gaps > 0 {
        let text = format!(
            "  LET GO      {} note(s) of gaps cannot be read; the agent's log names them",
            cluster.unreadable_gaps
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    Ok(())
}

fn print_hanging(cluster: &ClusterSnapshot, printer: &Printer) -> Result<(), Failure> {
    for read in &cluster.hanging_reads {
        let age = format_duration(std::time::Duration::from_secs(read.seconds));
        let text = format!(
            "  HANGS       a read of {} has not been answered for {age}: no backup can be taken until its file system answers",
            read.path.display()
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    if let Some(seconds) = cluster.spool_hangs_seconds {
        let age = format_duration(std::time::Duration::from_secs(seconds));
        let text = format!(
            "  HANGS       the file system of the spool has not answered for {age}: nothing is fetched ahead, and what a recovery asks for goes beside its destination"
        );
        printer.line(&printer.tone(&text, Tone::Bad))?;
    }
    Ok(())
}

fn print_fetch(cluster: &ClusterSnapshot, printer: &Printer) -> Result<(), Failure> {
    let fetch = &cluster.fetch;
    if fetch.served_total > 0 || fetch.absent_total > 0 || fetch.last_error.is_some() {
        printer.line(&format!(
            "  fetch       {} served ({} prefetched), {} absent; {} of {} of the spool in use",
            fetch.served_total,
            fetch.served_prefetched_total,
            fetch.absent_total,
            format_bytes(cluster.spool_bytes),
            format_bytes(cluster.spool_bytes_max)
        ))?;
        if let Some(last) = &fetch.last_fallback {
            let text = format!(
                "  fallback    {} file(s) came from another repository ({} damaged in the first); last: {} ({})",
                fetch.fallback_total,
                fetch.fallback_damaged_total,
                last.text,
                moment(last.at)
            );
            printer.line(&printer.tone(&text, Tone::Warning))?;
        }
        if let Some(error) = fetch.last_error.as_ref().filter(|error| fetch.last_served.is_none_or(|at| error.at > at))
        {
            printer.line(&printer.tone(&format!("  failing     {} ({})", error.text, moment(error.at)), Tone::Bad))?;
        }
    }
    Ok(())
}
