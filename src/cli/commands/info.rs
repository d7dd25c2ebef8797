//! `info`: to which moments one can recover; backups; WAL.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{exact, holds_second, moment, moment_after, table};
use crate::catalogue::{Holdings, SEAMS_LOOKED_FOR, Seam, Seams, Stretch, Window, stretches};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::outcome::Exit;
use walward_base::{format_bytes, format_duration};
use walward_repo::Repository;
use walward_repo::manifest::Manifest;

pub(in crate::cli) async fn run(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let wanted: Vec<_> = match &context.global.cluster {
        Some(_) => vec![context.cluster()?],
        None => context.loaded.config.clusters.values().collect(),
    };
    if wanted.is_empty() {
        context.cluster()?;
    }
    let mut answers = Vec::new();
    for cluster in wanted {
        for configured in context.repositories_of(cluster)? {
            let repository = context.open_one_of(cluster, configured).await?;
            let holdings = Holdings::read(&repository).await?;
            let windows = match &holdings {
                Some(holdings) => holdings.windows(&repository).await?,
                None => Vec::new(),
            };
            let seams = match &holdings {
                Some(holdings) => holdings.seams(&repository, SEAMS_LOOKED_FOR).await,
                None => Seams::default(),
            };
            if let Some(warning) = seams.warning() {
                printer.warning(&warning);
            }
            let seams = seams.found;
            for warning in holdings.iter().flat_map(|holdings| holdings.warnings.iter().chain(&holdings.other_lines)) {
                printer.warning(warning);
            }
            if printer.is_json() {
                answers.push(as_json(&cluster.name, &repository, holdings.as_ref(), &windows, &seams));
            } else {
                print(&cluster.name, &repository, holdings.as_ref(), (&windows, &seams), printer)?;
            }
        }
    }
    if printer.is_json() {
        printer.json("info", json!({ "repositories": answers }))?;
    }
    Ok(Exit::Done)
}

/// The one line that people need.
fn headline(holdings: Option<&Holdings>, windows: &[Window], gaps: &[Stretch], seams: &[Seam]) -> String {
    let Some(holdings) = holdings else {
        return "nothing yet: no WAL was archived and no backup taken".to_owned();
    };
    if windows.is_empty() {
        return if holdings.backups.is_empty() {
            "not recoverable: there is no backup; take one with `walward backup`".to_owned()
        } else {
            "not recoverable: WAL that the backups need is missing".to_owned()
        };
    }
    let tail = match gaps {
        _ if !seams.is_empty() => "WAL of two lives of the cluster among it: `walward wal gaps`".to_owned(),
        [] if !holdings.without_history().is_empty() => "gaps unknown: a history is missing or damaged".to_owned(),
        [] => "no gaps".to_owned(),
        [_] => "1 gap".to_owned(),
        many => format!("{} gaps", many.len()),
    };
    format!("recoverable {}, {tail}", windows_text(windows))
}

fn windows_text(windows: &[Window]) -> String {
    // Whole seconds that lie in the window; where there are none, to the microsecond.
    let stretch = |window: &Window| match window.to {
        Some(to) if holds_second(window.from, to) => format!("from {} to {}", moment_after(window.from), moment(to)),
        Some(to) => format!("from {} to {}", exact(window.from), exact(to)),
        None => format!("to {}", moment_after(window.from)),
    };
    let stretches: Vec<String> = windows.iter().map(stretch).collect();
    stretches.join("; and ")
}

fn print(
    cluster: &str,
    repository: &Repository,
    holdings: Option<&Holdings>,
    (windows, seams): (&[Window], &[Seam]),
    printer: &Printer,
) -> Result<(), Failure> {
    let holes = holdings.map(Holdings::holes).unwrap_or_default();
    let tone = match (windows.is_empty(), holes.is_empty() && seams.is_empty()) {
        (true, _) => Tone::Bad,
        (false, false) => Tone::Warning,
        (false, true) => Tone::Good,
    };
    printer.line(&printer.tone(&headline(holdings, windows, &holes, seams), tone))?;
    let protection = if repository.identity().encrypted { "encrypted" } else { "not encrypted" };
    printer.line(&format!(
        "cluster {cluster}, repository {}: {}, {protection}",
        repository.name(),
        repository.url()
    ))?;
    let Some(holdings) = holdings else { return Ok(()) };
    if !holdings.backups.is_empty() {
        let rows = holdings.backups.iter().map(|backup| {
            vec![
                backup.label.clone(),
                backup.kind.as_str().to_owned(),
                format_bytes(backup.content_bytes),
                format_bytes(backup.stored_bytes),
                format_duration(took(backup)),
                format!("{} to {}", backup.start_lsn, backup.stop_lsn),
                remark(holdings, backup),
            ]
        });
        printer.line("")?;
        let head = ["backup", "type", "size", "stored", "took", "WAL", "recoverable from"];
        printer.raw(table(&head, rows).as_bytes())?;
    }
    if let Some(left) = holdings.left_behind() {
        printer.line("")?;
        printer.line(&printer.tone(&format!("left behind: {left}"), Tone::Warning))?;
    }
    if let Some(aside) = holdings.set_aside() {
        printer.line("")?;
        printer.line(&format!("{aside}: walward wal list-aside"))?;
    }
    let there = stretches(&holdings.inventory, holdings.segment_size);
    if !there.is_empty() {
        printer.line("")?;
        let row = |word: &str, range: &Stretch| {
            let (first, last) = (range.first.to_string(), range.last.to_string());
            vec![word.to_owned(), range.first.timeline.to_string(), first, last, range.segments.to_string()]
        };
        let missing = printer.tone("missing", Tone::Bad);
        let rows = there.iter().map(|range| row("WAL", range)).chain(holes.iter().map(|range| row(&missing, range)));
        printer.raw(table(&["", "timeline", "first", "last", "segments"], rows).as_bytes())?;
    }
    Ok(())
}

/// From when on one can recover with a backup, or why not; and whether it holds damaged pages.
fn remark(holdings: &Holdings, backup: &Manifest) -> String {
    let from = match holdings.missing_parent(backup) {
        Some(parent) => format!("not recoverable: {parent}, which it builds on, is missing"),
        None => recoverable_from(backup.stopped, holdings.carried(backup).map(|carried| carried.consistent)),
    };
    match backup.corrupt_pages.len() {
        0 => from,
        count => format!("{from}, {count} page(s) with a wrong checksum"),
    }
}

/// What stands for a backup's date; `consistent` is unknown when its WAL was not looked at.
fn recoverable_from(stopped: Timestamp, consistent: Option<bool>) -> String {
    match consistent {
        Some(true) => moment_after(stopped),
        Some(false) => "not recoverable: WAL missing".to_owned(),
        None => format!("{} (earlier lineage, WAL not looked at)", moment_after(stopped)),
    }
}

fn took(backup: &Manifest) -> Duration {
    Duration::try_from(backup.stopped.duration_since(backup.started)).unwrap_or_default()
}

fn as_json(
    cluster: &str,
    repository: &Repository,
    holdings: Option<&Holdings>,
    windows: &[Window],
    seams: &[Seam],
) -> Value {
    let holes = holdings.map(Holdings::holes).unwrap_or_default();
    let backups: Vec<Value> = holdings
        .iter()
        .flat_map(|holdings| holdings.backups.iter().map(move |backup| (backup, holdings.carried(backup))))
        .map(|(backup, carried)| {
            json!({
                "label": backup.label,
                "type": backup.kind,
                "parent": backup.depends_on.as_ref().map(|depends_on| &depends_on.label),
                "lineage": backup.lineage,
                "timeline": backup.timeline,
                "start_lsn": backup.start_lsn,
                "stop_lsn": backup.stop_lsn,
                "started": backup.started,
                "stopped": backup.stopped,
                "content_bytes": backup.content_bytes,
                "stored_bytes": backup.stored_bytes,
                "from_standby": backup.from_standby,
                "host": backup.host,
                "server_version": backup.server_version,
                "recoverable": carried.map(|carried| carried.consistent),
                "corrupt_pages": backup.corrupt_pages.len(),
            })
        })
        .collect();
    let remains: Vec<Value> = holdings
        .iter()
        .flat_map(|holdings| &holdings.remains)
        .map(|remains| {
            json!({
                "label": remains.label.as_str(),
                "packs": remains.packs.len(),
                "stored_bytes": remains.bytes(),
                "newest": remains.newest(),
            })
        })
        .collect();
    let asides: Vec<Value> = holdings
        .iter()
        .flat_map(|holdings| &holdings.asides)
        .map(|aside| {
            json!({
                "id": aside.begun.id,
                "state": aside.stage,
                "from": aside.begun.from,
                "stored_bytes": aside.begun.bytes,
            })
        })
        .collect();
    let unfinished = holdings.map(|holdings| holdings.unfinished).unwrap_or_default();
    json!({
        "cluster": cluster,
        "repository": repository.name(),
        "url": repository.url(),
        "encrypted": repository.identity().encrypted,
        "lineage": holdings.map(|holdings| holdings.lineage),
        "summary": headline(holdings, windows, &holes, seams),
        "recoverable": windows,
        "backups": backups,
        "wal": holdings.map(|c| stretches(&c.inventory, c.segment_size)).unwrap_or_default(),
        "gaps": holes,
        "seams": seams,
        "without_history": holdings.map(Holdings::without_history).unwrap_or_default(),
        "remains": remains,
        "aside": asides,
        "unfinished": { "files": unfinished.files, "bytes": unfinished.bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_never_ends_before_it_begins() {
        let shown = |from: &str, to: &str| {
            let time = |text: &str| format!("2026-11-21T11:25:{text}Z").parse().unwrap();
            let window = Window { from: time(from), to: Some(time(to)), ends_in_gap: false };
            windows_text(&[window])
        };
        assert_eq!(shown("11.2", "13.9"), "from 2026-11-21 11:25:12Z to 2026-11-21 11:25:13Z");
        assert_eq!(shown("11.2", "11.9"), "from 2026-11-21 11:25:11.200000Z to 2026-11-21 11:25:11.900000Z");
        assert_eq!(shown("11.2", "12.1"), "from 2026-11-21 11:25:12Z to 2026-11-21 11:25:12Z");
    }

    #[test]
    fn a_backup_without_its_wal_has_no_date() {
        let stopped: Timestamp = "2026-11-21T11:25:45Z".parse().unwrap();
        assert_eq!(recoverable_from(stopped, Some(true)), "2026-11-21 11:25:45Z");
        assert_eq!(recoverable_from(stopped, Some(false)), "not recoverable: WAL missing");
        assert!(recoverable_from(stopped, None).contains("earlier lineage"));
    }
}
