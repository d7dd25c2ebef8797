//! `config check` and `config show`.

use serde_json::json;

use crate::cli::arguments::{ConfigCommand, Global};
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::config::{self, Loaded, Origin};
use crate::outcome::Exit;

pub(in crate::cli) fn run(global: &Global, command: &ConfigCommand, printer: &Printer) -> Result<Exit, Failure> {
    let loaded = config::load(&global.config)?;
    match command {
        ConfigCommand::Check => check(&loaded, printer),
        ConfigCommand::Show => show(&loaded, printer),
    }
}

/// Warnings do not fail it: systemd runs it before the agent starts.
fn check(loaded: &Loaded, printer: &Printer) -> Result<Exit, Failure> {
    for warning in &loaded.warnings {
        printer.warning(&warning.to_string());
    }
    if printer.is_json() {
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
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
