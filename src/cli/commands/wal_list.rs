//! `wal list` and `wal gaps`.

use std::collections::BTreeSet;

use serde_json::json;

use super::text::{moment, table};
use crate::catalogue::{Holdings, Seam, Seams, Stretch, TimelineWal, stretches};
use crate::cli::arguments::GapsArguments;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::outcome::Exit;
use walward_base::format_bytes;
use walward_pg::SegmentName;
use walward_repo::gap::Gap;

pub(in crate::cli) async fn list(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let mut answers = Vec::new();
    for configured in context.repositories_of(cluster)? {
        let repository = context.open_one_of(cluster, configured).await?;
        let holdings = Holdings::read(&repository).await?;
        let ranges = holdings.as_ref().map(|c| stretches(&c.inventory, c.segment_size)).unwrap_or_default();
        if printer.is_json() {
            let files = holdings.as_ref().filter(|_| context.global.verbose > 0).map(files);
            let lineage = holdings.as_ref().map(|c| c.lineage);
            answers.push(json!({
                "repository": repository.name(), "lineage": lineage, "ranges": ranges, "partial": partial(holdings.as_ref()),
                "segments": files,
            }));
            continue;
        }
        printer.line(&format!("{} {}", printer.tone(repository.name(), Tone::Strong), repository.url()))?;
        if ranges.is_empty() {
            printer.line("  no WAL")?;
            continue;
        }
        if context.global.verbose > 0 {
            for name in holdings.as_ref().map(files).unwrap_or_default() {
                printer.line(&format!("  {name}"))?;
            }
        } else {
            printer.raw(rows(&ranges).as_bytes())?;
        }
        for name in partial(holdings.as_ref()) {
            printer.line(&format!("  {name}"))?;
        }
    }
    if printer.is_json() {
        printer.json("wal-list", json!({ "cluster": cluster.name, "repositories": answers }))?;
    }
    Ok(Exit::Done)
}

/// So many of the newest segments are compared with the one before, where not all are.
const COMPARED_MAX: usize = 1024;

pub(in crate::cli) async fn list_gaps(
    context: &Context,
    arguments: &GapsArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let most = if arguments.all { usize::MAX } else { COMPARED_MAX };
    let cluster = context.cluster()?;
    let mut answers = Vec::new();
    let (mut found, mut other) = (false, false);
    for configured in context.repositories_of(cluster)? {
        let repository = context.open_one_of(cluster, configured).await?;
        let holdings = Holdings::read(&repository).await?;
        let seams = match &holdings {
            Some(holdings) => holdings.seams(&repository, most).await,
            None => Seams::default(),
        };
        let gaps = holdings.as_ref().map(Holdings::holes).unwrap_or_default();
        let unseen = holdings.as_ref().map(Holdings::without_history).unwrap_or_default();
        for warning in holdings.iter().flat_map(|holdings| &holdings.warnings).cloned().chain(seams.warning()) {
            printer.warning(&warning);
        }
        let let_go: Vec<&Gap> = holdings.iter().flat_map(|c| gaps.iter().flat_map(|gap| c.let_go_in(gap))).collect();
        found |= !gaps.is_empty();
        other |= !unseen.is_empty() || !seams.found.is_empty();
        if printer.is_json() {
            answers.push(json!({
                "repository": repository.name(), "gaps": gaps, "let_go": let_go, "without_history": unseen,
                "seams": seams.found, "compared": seams.compared,
            }));
            continue;
        }
        for Seam { segment, before } in &seams.found {
            printer.line(&format!(
                "{}: {segment} does not continue {before}: another life of the cluster wrote it",
                printer.tone(repository.name(), Tone::Bad)
            ))?;
        }
        for timeline in &unseen {
            printer.line(&format!(
                "{}: the history of timeline {timeline} is missing or damaged, so that gaps before it are not seen",
                printer.tone(repository.name(), Tone::Warning)
            ))?;
        }
        if gaps.is_empty() {
            if unseen.is_empty() {
                printer.line(&format!("{}: no gaps", repository.name()))?;
            }
        } else {
            printer.line(&format!("{}: {} gap(s)", printer.tone(repository.name(), Tone::Bad), gaps.len()))?;
            printer.raw(rows(&gaps).as_bytes())?;
            for gap in let_go {
                printer.line(&format!(
                    "  {} to {} was let go on {} (queue_limit {}) from {} to {}: {}",
                    gap.first,
                    gap.last,
                    gap.host,
                    format_bytes(gap.queue_limit),
                    moment(gap.since),
                    moment(gap.until),
                    gap.reason
                ))?;
            }
        }
    }
    if printer.is_json() {
        printer.json("wal-gaps", json!({ "cluster": cluster.name, "repositories": answers }))?;
    }
    if found {
        printer.note("what is missing may still lie in pg_wal of a server: `walward wal push` archives it by hand");
    }
    Ok(if found || other { Exit::Warnings } else { Exit::Done })
}

fn rows(ranges: &[Stretch]) -> String {
    let row = |range: &Stretch| {
        vec![
            format!("  {}", range.first.timeline),
            range.first.to_string(),
            range.last.to_string(),
            range.segments.to_string(),
        ]
    };
    table(&["  timeline", "first", "last", "segments"], ranges.iter().map(row))
}

/// Every whole segment.
fn files(holdings: &Holdings) -> Vec<String> {
    names(holdings, |wal| &wal.segments).map(|name| name.to_string()).collect()
}

fn partial(holdings: Option<&Holdings>) -> Vec<String> {
    let all = holdings.into_iter().flat_map(|holdings| names(holdings, |wal| &wal.partial));
    all.map(|name| format!("{name}.partial")).collect()
}

fn names(holdings: &Holdings, of: impl Fn(&TimelineWal) -> &BTreeSet<u64>) -> impl Iterator<Item = SegmentName> {
    let size = holdings.segment_size;
    let timelines = holdings.inventory.timelines.iter();
    let all = timelines.flat_map(move |(timeline, wal)| of(wal).iter().map(|number| (*timeline, *number)));
    all.filter_map(move |(timeline, number)| SegmentName::from_number(timeline, number, size))
}
