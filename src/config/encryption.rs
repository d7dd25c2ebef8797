//! `encryption = …`: how a repository is protected, read and shown.

use super::document::Value;
use super::text::{quote, secret_path, suggest, texts};
use walward_repo::Encryption;
use walward_repo::keys::KeySource;

pub(super) fn parse_encryption(value: &Value) -> Result<Encryption, String> {
    const FORMS: &str = "{ key_file = \"…\" }, { passphrase_file = \"…\" }, { command = [\"…\"] } or \"none\"";
    const NAMES: [&str; 3] = ["key_file", "passphrase_file", "command"];
    let table = match value {
        Value::Text(text) if text == "none" => return Ok(Encryption::None),
        Value::Text(text) => return Err(format!("{text:?} is not an encryption; write {FORMS}")),
        Value::Table(table) => table,
        other => return Err(format!("should be {FORMS}, not {}", other.kind())),
    };
    if let Some(name) = table.keys().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(match suggest(name, NAMES.into_iter()) {
            Some(near) => format!("unknown key \"{name}\"; did you mean \"{near}\"?"),
            None => format!("unknown key \"{name}\"; write {FORMS}"),
        });
    }
    let mut entries = table.iter();
    let (Some((name, located)), None) = (entries.next(), entries.next()) else {
        return Err(format!("should have exactly one key: {FORMS}"));
    };
    let source = match (name.as_str(), &located.value) {
        ("command", Value::Array(items)) => {
            let command = texts(items).map_err(|error| format!("command {error}"))?;
            if command.first().is_none_or(String::is_empty) {
                return Err("command is empty; name a program".to_owned());
            }
            KeySource::Command(command)
        }
        ("command", other) => return Err(format!("command should be a list of texts, not {}", other.kind())),
        ("key_file", Value::Text(text)) => KeySource::KeyFile(secret_path(text)?),
        ("passphrase_file", Value::Text(text)) => KeySource::PassphraseFile(secret_path(text)?),
        (_, other) => return Err(format!("{name} should be an absolute path, not {}", other.kind())),
    };
    Ok(Encryption::Key(source))
}

pub(super) fn show_encryption(encryption: &Encryption) -> String {
    match encryption {
        Encryption::None => quote("none"),
        Encryption::Key(KeySource::KeyFile(path)) => format!("{{ key_file = {} }}", quote(&path.to_string_lossy())),
        Encryption::Key(KeySource::PassphraseFile(path)) => {
            format!("{{ passphrase_file = {} }}", quote(&path.to_string_lossy()))
        }
        Encryption::Key(KeySource::Command(command)) => {
            let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
            format!("{{ command = [{}] }}", words.join(", "))
        }
    }
}
