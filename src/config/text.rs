//! Texts of the files: paths, lists, near misses, and how a text is shown.

use std::path::PathBuf;

use super::credential;
use super::document::{Located, Value};

/// The candidate that `name` was probably meant to be.
pub(super) fn suggest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let name = name.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| {
            let abbreviated = name.len() >= 4 && candidate.starts_with(name.as_str());
            let likeness = strsim::normalized_damerau_levenshtein(&name, candidate);
            (if abbreviated { likeness.max(0.8) } else { likeness }, candidate)
        })
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A path to a secret, or the name of a credential.
pub(super) fn secret_path(text: &str) -> Result<PathBuf, String> {
    if credential::is_credential(text) { credential::path(text) } else { absolute(text) }
}

/// A path that does not depend on where the process runs.
pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not an absolute path")) }
}

/// The items of a list of texts.
pub(super) fn texts(items: &[Located]) -> Result<Vec<String>, String> {
    items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("should be a list of texts; {} is in it", other.kind())),
        })
        .collect()
}

/// `text` as TOML spells it.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}
