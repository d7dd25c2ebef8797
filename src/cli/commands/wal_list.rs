//! `wal list` and `wal gaps`.

use serde_json::json;

use super::text::{moment, table};
use crate::cli::catalogue::{self, Catalogue};
use crate::cli::context::Context;
use crate::cli::coverage::{Range, ranges};
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
        let catalogue = catalogue::read(&repository).await?;
        let ranges = catalogue.as_ref().map(|c| ranges(&c.wal, c.segment_size)).unwrap_or_default();
        if printer.is_json() {
            let files = catalogue.as_ref().filter(|_| context.global.verbose > 0).map(files);
            let lineage = catalogue.as_ref().map(|c| c.lineage);
            answers.push(json!({
                "repository": repository.name(), "lineage": lineage, "ranges": ranges, "partial": partial(catalogue.as_ref()),
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
            for name in catalogue.as_ref().map(files).unwrap_or_default() {
                printer.line(&format!("  {name}"))?;
            }
        } else {
            printer.raw(rows(&ranges).as_bytes())?;
        }
        for name in partial(catalogue.as_ref()) {
            printer.line(&format!("  {name}"))?;
        }
    }
    if printer.is_json() {
        printer.json("wal-list", json!({ "cluster": cluster.name, "repositories": answers }))?;
    }
    Ok(Exit::Done)
}

pub(in crate::cli) async fn list_gaps(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let mut answers = Vec::new();
    let mut found = false;
    for configured in context.repositories_of(cluster)? {
        let repository = context.open_one_of(cluster, configured).await?;
        let catalogue = catalogue::read(&repository).await?;
        let gaps = catalogue.as_ref().map(Catalogue::gaps).unwrap_or_default();
        let let_go: Vec<&Gap> = catalogue.iter().flat_map(|c| gaps.iter().flat_map(|gap| c.let_go_in(gap))).collect();
        found |= !gaps.is_empty();
        if printer.is_json() {
            answers.push(json!({ "repository": repository.name(), "gaps": gaps, "let_go": let_go }));
        } else if gaps.is_empty() {
            printer.line(&format!("{}: no gaps", repository.name()))?;
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
    Ok(if found { Exit::Warnings } else { Exit::Done })
}

fn rows(ranges: &[Range]) -> String {
    let row = |range: &Range| {
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
fn files(catalogue: &Catalogue) -> Vec<String> {
    let all = catalogue.wal.iter().flat_map(|(timeline, wal)| wal.segments.iter().map(|number| (*timeline, *number)));
    all.filter_map(|(timeline, number)| SegmentName::from_number(timeline, number, catalogue.segment_size))
        .map(|name| name.to_string())
        .collect()
}

fn partial(catalogue: Option<&Catalogue>) -> Vec<String> {
    let Some(catalogue) = catalogue else { return Vec::new() };
    let all = catalogue.wal.iter().flat_map(|(timeline, wal)| wal.partial.iter().map(|number| (*timeline, *number)));
    all.filter_map(|(timeline, number)| SegmentName::from_number(timeline, number, catalogue.segment_size))
        .map(|name| format!("{name}.partial"))
        .collect()
}
