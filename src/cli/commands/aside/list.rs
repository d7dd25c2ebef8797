//! `wal list-aside`.

use serde_json::json;

use super::{as_json, known, sentence, words};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::outcome::Exit;

pub(in crate::cli) async fn run(context: &Context, printer: &Printer) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let repositories = context.open_all(cluster).await?;
    let known = known(&repositories, printer).await?;
    if printer.is_json() {
        let each = known
            .iter()
            .flat_map(|(repository, asides)| asides.iter().map(|aside| as_json(repository, &aside.begun, aside.stage)));
        let asides: Vec<_> = each.collect();
        printer.json("wal-list-aside", json!({ "cluster": cluster.name, "aside": asides }))?;
        return Ok(Exit::Done);
    }
    for (repository, asides) in &known {
        printer.line(&format!("{} {}", printer.tone(repository.name(), Tone::Strong), repository.url()))?;
        if asides.is_empty() {
            printer.line("  nothing was set aside")?;
        }
        for aside in asides {
            printer.line(&format!("  {} ({})", sentence(&aside.begun), words(aside.stage)))?;
            if !aside.begun.reason.is_empty() {
                printer.line(&format!("    {}", aside.begun.reason))?;
            }
        }
    }
    Ok(Exit::Done)
}
