//! `credential:NAME` in place of a secret's path: a file that systemd hands to the agent (`LoadCredential=`), so that its
//! source may be readable for root alone, or encrypted on the disk.
//!
//! A person's `walward` reads the same configuration outside the unit: it finds what the running agent was given, and, when
//! there is none and root asks, the file that systemd would take it from.

use std::path::PathBuf;

const PREFIX: &str = "credential:";

/// What the unit of the agent was given, while it runs (systemd.exec(5), "CREDENTIALS").
const OF_THE_AGENT: &str = "/run/credentials/walward.service";

/// Where systemd itself looks for a credential that has no path.
const STORES: [&str; 2] = ["/run/credstore", "/etc/credstore"];

/// Whether `text` names a credential and no path.
pub(super) fn is_credential(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The file that `text`, `credential:NAME`, stands for.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    let own = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let places = [OF_THE_AGENT].into_iter().chain(STORES).map(PathBuf::from);
    find(text.strip_prefix(PREFIX).unwrap_or(text), own.into_iter().chain(places))
}

/// `name` in the first of `places` that has it; in the last one, so that a message can name it, where none has.
fn find(name: &str, places: impl Iterator<Item = PathBuf>) -> Result<PathBuf, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(good) {
        return Err(format!("{name:?} cannot name a credential; it looks like \"{PREFIX}walward.key\""));
    }
    let files: Vec<PathBuf> = places.filter(|place| place.is_absolute()).map(|place| place.join(name)).collect();
    let found = files.iter().find(|file| file.exists()).or(files.last());
    found.cloned().ok_or_else(|| format!("there is no place for credentials, where \"{name}\" could be"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_first_place_that_has_it_wins_and_the_last_is_named_when_none_has() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = || [first.path(), second.path()].map(Path::to_owned).into_iter();
        assert_eq!(find("a.key", places()), Ok(second.path().join("a.key")));
        for folder in [&second, &first] {
            std::fs::File::create(folder.path().join("a.key")).unwrap();
            assert_eq!(find("a.key", places()), Ok(folder.path().join("a.key")));
        }
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a b", "ä"] {
            assert!(find(name, [PathBuf::from("/x")].into_iter()).unwrap_err().contains("cannot name"), "{name}");
        }
    }
}
