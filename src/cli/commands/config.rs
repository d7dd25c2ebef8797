//! `config check` and `config show`.

use std::time::Duration;

use serde_json::json;

use crate::cli::arguments::{ConfigCommand, Global};
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::cli::segment_memory;
use crate::config::{self, Loaded, Origin};
use crate::outcome::Exit;
use walward_base::sys::ground::Ground;
use walward_pg::ControlFile;

/// How long the data directory of one cluster may take to say how large its segments are.
const FILE_SYSTEM_DEADLINE: Duration = Duration::from_secs(5);

pub(in crate::cli) fn run(global: &Global, command: &ConfigCommand, printer: &Printer) -> Result<Exit, Failure> {
    let loaded = config::load(&global.config)?;
    match command {
        ConfigCommand::Check => check(&loaded, printer),
        ConfigCommand::Show => show(&loaded, printer),
    }
}

/// Warnings do not fail it: systemd runs it before the agent starts.
fn check(loaded: &Loaded, printer: &Printer) -> Result<Exit, Failure> {
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(large_segments(loaded));
    for warning in &warnings {
        printer.warning(warning);
    }
    if printer.is_json() {
        printer.json("config-check", json!({ "ok": true, "files": loaded.files, "warnings": warnings }))?;
        return Ok(Exit::Done);
    }
    let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let names = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    printer.line(&format!("{} {}", printer.tone("OK", Tone::Good), files.join(", ")))?;
    printer.line(&format!("clusters: {}", names(loaded.config.clusters.keys().collect())))?;
    printer.line(&format!("repositories: {}", names(loaded.config.repositories.keys().collect())))?;
    Ok(Exit::Done)
}

/// What is to be said of the segments of the servers whose data directories can be looked at.
fn large_segments(loaded: &Loaded) -> Vec<String> {
    let memory = loaded.config.agent.memory_bytes_max;
    let mut said = Vec::new();
    for cluster in loaded.config.clusters.values() {
        let directory = &cluster.data_directory;
        // A file system that hangs keeps a thread, and not the start of the agent.
        let looked = Ground::of(directory).ask(directory, FILE_SYSTEM_DEADLINE, ControlFile::read);
        let size = looked.and_then(Result::ok).map(|control| control.segment_size);
        let remark = size.and_then(|size| segment_memory::remark(size, cluster.repositories.len(), memory));
        said.extend(remark.map(|text| format!("cluster.{}: {text}", cluster.name)));
    }
    said
}

fn show(loaded: &Loaded, printer: &Printer) -> Result<Exit, Failure> {
    if printer.is_json() {
        let settings: Vec<_> = loaded
            .settings
            .iter()
            .map(|setting| {
                let (file, line) = match &setting.origin {
                    Origin::Default => (None, None),
                    Origin::File(place) => (Some(place.file.display().to_string()), Some(place.line)),
                };
                json!({ "key": setting.key, "value": setting.value, "file": file, "line": line })
            })
            .collect();
        printer.json("config-show", json!({ "settings": settings }))?;
        return Ok(Exit::Done);
    }
    let set: Vec<_> =
        loaded.settings.iter().filter_map(|s| Some((s, format!("{} = {}", s.key, s.value.as_ref()?)))).collect();
    // Very long values stand out instead of moving every comment.
    let width = set.iter().map(|(_, text)| text.chars().count()).filter(|width| *width <= 80).max().unwrap_or(0);
    for (setting, text) in set {
        let origin = printer.tone(&format!("# {}", setting.origin), Tone::Faint);
        printer.line(&format!("{text:width$}  {origin}"))?;
    }
    Ok(Exit::Done)
}
