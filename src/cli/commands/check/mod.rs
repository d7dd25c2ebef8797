//! `check`: named checks of everything that archiving, backup and restore depend on, each with what to do.

mod agent;
mod postgres;
mod repository;
mod spool;

use std::time::Duration;

use serde_json::json;

use crate::check;
use crate::cli::arguments::CheckArguments;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_report::{Finding, Findings, Level};

/// How old things may be.
#[derive(Debug, Clone, Copy)]
struct Ages {
    backup: Duration,
    ready: Duration,
}

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &CheckArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let clusters: Vec<&ClusterConfig> = match &context.global.cluster {
        Some(_) => vec![context.cluster()?],
        None => context.loaded.config.clusters.values().collect(),
    };
    let ages = Ages { backup: arguments.backup_age, ready: arguments.archive_age };
    let mut findings = Findings::default();
    configuration(context, clusters.is_empty(), &mut findings);
    let has_agent = agent::check(context, &mut findings);
    for cluster in clusters {
        // Without an agent nothing is spooled.
        if has_agent {
            spool::check(context, cluster, &mut findings).await;
        }
        check_cluster(context, cluster, arguments.switch_wal, ages, &mut findings).await?;
    }
    let worst = findings.worst();
    if arguments.nagios {
        return nagios(&findings.checks, worst, printer);
    }
    if printer.is_json() {
        printer.json("check", json!(findings))?;
    } else {
        for finding in &findings.checks {
            let tone = match finding.level {
                Level::Ok => Tone::Good,
                Level::Warning => Tone::Warning,
                Level::Failed => Tone::Bad,
            };
            let word = printer.tone(&format!("{:<8}", finding.level.word()), tone);
            printer.line(&format!("{word} {}: {}", finding.name(), finding.text))?;
            if let Some(advice) = &finding.advice {
                printer.line(&format!("         -> {advice}"))?;
            }
        }
    }
    Ok(match worst {
        Level::Ok => Exit::Done,
        Level::Warning => Exit::Warnings,
        Level::Failed => Exit::Failed,
    })
}

fn configuration(context: &Context, no_cluster: bool, findings: &mut Findings) {
    let files: Vec<String> = context.loaded.files.iter().map(|file| file.display().to_string()).collect();
    if no_cluster {
        findings.failed("configuration", None, "no cluster is configured", Some("run `walward setup`"));
    } else {
        findings.ok("configuration", None, files.join(", "));
    }
    for warning in &context.loaded.warnings {
        findings.warning("configuration", None, warning.to_string(), None);
    }
}

async fn check_cluster(
    context: &Context,
    cluster: &ClusterConfig,
    switch_wal: bool,
    ages: Ages,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let server = postgres::check(cluster, findings).await;
    if let Some(server) = &server {
        check::check_leftovers(cluster, server.facts.in_recovery, findings).await;
    }
    postgres::check_waiting(cluster, ages.ready, findings).await;
    let mut all = Vec::new();
    for configured in context.repositories_of(cluster)? {
        let lineage = server.as_ref().map(|server| server.facts.lineage());
        let repository = repository::check(context, cluster, configured, lineage, findings).await;
        if let Some(repository) = &repository {
            let primary =
                server.as_ref().filter(|server| !server.facts.in_recovery).map(|server| server.facts.timeline);
            check::check_backups(cluster, repository, ages.backup, primary, findings).await;
            check::check_uploads(cluster, configured, findings).await;
        }
        all.push(repository);
    }
    // One alone says nothing of how many hold a file.
    if let (Some(server), None) = (&server, &context.global.repository) {
        postgres::check_belief(cluster, server, &all, findings).await;
    }
    let opened: Vec<_> = all.into_iter().flatten().collect();
    if opened.len() > 1 {
        repository::check_apart(cluster, &opened, findings).await;
    }
    if let (true, Some(server)) = (switch_wal, server) {
        postgres::check_arrival(cluster, &server, &opened, findings).await;
    }
    Ok(())
}

/// One line, and the codes of a monitoring plugin.
fn nagios(findings: &[Finding], worst: Level, printer: &Printer) -> Result<Exit, Failure> {
    let (word, exit) = match worst {
        Level::Ok => ("OK", Exit::Done),
        Level::Warning => ("WARNING", Exit::Failed),
        Level::Failed => ("CRITICAL", Exit::Usage),
    };
    let bad: Vec<String> = findings
        .iter()
        .filter(|finding| finding.level == worst && worst != Level::Ok)
        .map(|finding| format!("{}: {}", finding.name(), finding.text))
        .collect();
    let text = if bad.is_empty() { format!("{} checks", findings.len()) } else { bad.join("; ") };
    // A bar would begin the performance data.
    printer.line(&format!("WALWARD {word} - {}", text.replace('|', "/").replace('\n', " ")))?;
    Ok(exit)
}
