//! `wal recovered`: what PostgreSQL runs when a recovery has ended.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use crate::cli::arguments::RecoveredArguments;
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::Printer;
use crate::outcome::Exit;
use crate::restore::{Settled, settle};

pub(in crate::cli) fn run(arguments: &RecoveredArguments, printer: &Printer) -> Result<Exit, Failure> {
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => std::env::current_dir().context("cannot tell which directory this is")?,
    };
    let settled = in_directory(&directory)?;
    let names = match &settled {
        Settled::TakenBack(names) => names.as_slice(),
        Settled::Nothing | Settled::StillLent => &[],
    };
    if printer.is_json() {
        printer.json("recovered", json!({ "directory": directory, "removed": names }))?;
        return Ok(Exit::Done);
    }
    printer.note(&match settled {
        Settled::TakenBack(names) if !names.is_empty() => {
            format!("the recovery has ended; its settings are out of postgresql.auto.conf: {}", names.join(", "))
        }
        Settled::StillLent => "the recovery has not ended; its settings stay".to_owned(),
        Settled::TakenBack(_) | Settled::Nothing => "there are no settings of a recovery to take out".to_owned(),
    });
    Ok(Exit::Done)
}

/// With the owner's rights: the files are theirs.
fn in_directory(directory: &Path) -> Result<Settled, Failure> {
    let work: PathBuf = directory.to_owned();
    let settled = Owner::of(directory).act(move || settle(&work));
    let doing = || format!("cannot work in {} as its owner", directory.display());
    Ok(settled.with_context(doing)??)
}
