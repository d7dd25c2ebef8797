//! Reading one section by the table of keys: every value typed, with its origin; every problem with its line.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Located, Table, Value};
use super::encryption::{parse_encryption, show_encryption};
use super::keys::{Default, Kind, Section};
use super::problem::{Problem, SourceLine};
use super::secret::{HIDDEN, world_readable};
use super::text::{absolute, quote, secret_path, suggest, texts};
use crate::archive::Acknowledge;
use walward_base::{ByteSize, format_bytes, format_duration, parse_duration};
use walward_repo::Encryption;
use walward_repo::keys::KeySource;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File(SourceLine),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => place.fmt(f),
        }
    }
}

/// One value of the configuration as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The whole key: `cluster.main.archive.workers`.
    pub key: String,
    /// The value as TOML, secrets hidden; none when it is not set and has no default.
    pub value: Option<String>,
    /// Who says so.
    pub origin: Origin,
}

/// What reading the sections gathers.
#[derive(Debug, std::default::Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) settings: Vec<Setting>,
}

/// One section's table being read.
pub(super) struct Scope<'a> {
    section: Section,
    /// `agent`, `repository.s3`, `cluster.main`
    path: String,
    table: &'a Table,
    report: &'a mut Report,
}

/// What stands in the file for a key.
enum Lookup<'a> {
    Set(&'a Located),
    NotSet,
}

impl<'a> Scope<'a> {
    /// Begins to read `table`; reports the keys that do not exist.
    pub(super) fn new(section: Section, path: String, table: &'a Table, report: &'a mut Report) -> Self {
        let mut scope = Self { section, path, table, report };
        scope.check_names(table, "");
        scope
    }

    /// Reports a problem with `name`, at its line when it is set.
    pub(super) fn problem(&mut self, name: &str, text: impl fmt::Display) {
        let place = self.place(name);
        self.report.problems.push(Problem { place, text: format!("{}.{name}: {text}", self.path) });
    }

    /// Reports something unwise about `name`.
    pub(super) fn warn(&mut self, name: &str, text: impl fmt::Display) {
        let place = self.place(name);
        self.report.warnings.push(Problem { place, text: format!("{}.{name}: {text}", self.path) });
    }

    /// Where `name` is set, if it is.
    pub(super) fn place(&self, name: &str) -> Option<SourceLine> {
        match self.find(name) {
            Lookup::Set(located) => Some(located.place.clone()),
            Lookup::NotSet => None,
        }
    }

    /// A text, or nothing when it is not set (reported if it must be).
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let hidden = self.section.key(name).is_some_and(|key| key.kind == Kind::Secret);
        let shown = move |text: &String| if hidden { HIDDEN.to_owned() } else { quote(text) };
        self.read(name, shown, |value| match value {
            Value::Text(text) if text.is_empty() => Err("is empty".to_owned()),
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("should be a text, not {}", other.kind())),
        })
    }

    /// A text that `redact` makes fit to be shown.
    pub(super) fn redacted(&mut self, name: &'static str, redact: fn(&str) -> String) -> Option<String> {
        self.read(
            name,
            |text: &String| quote(&redact(text)),
            |value| match value {
                Value::Text(text) => Ok(text.clone()),
                other => Err(format!("should be a text, not {}", other.kind())),
            },
        )
    }

    /// An absolute path.
    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let secret = self.section.key(name).is_some_and(|key| key.kind == Kind::SecretPath);
        let path = self.read(
            name,
            |path: &PathBuf| quote(&path.to_string_lossy()),
            |value| match value {
                Value::Text(text) if secret => secret_path(text),
                Value::Text(text) => absolute(text),
                other => Err(format!("should be an absolute path, not {}", other.kind())),
            },
        )?;
        if secret {
            self.check_secret_file(name, &path);
        }
        Some(path)
    }

    /// An address and port.
    pub(super) fn address(&mut self, name: &'static str) -> Option<SocketAddr> {
        self.read(
            name,
            |address: &SocketAddr| quote(&address.to_string()),
            |value| match value {
                Value::Text(text) => text
                    .parse()
                    .map_err(|_| format!("{text:?} is not an address with a port; it looks like \"127.0.0.1:9187\"")),
                other => Err(format!("should be an address with a port, not {}", other.kind())),
            },
        )
    }

    /// True or false.
    pub(super) fn boolean(&mut self, name: &'static str) -> bool {
        self.read(name, ToString::to_string, |value| match value {
            Value::Boolean(value) => Ok(*value),
            other => Err(format!("should be true or false, not {}", other.kind())),
        })
        .unwrap_or_default()
    }

    /// A whole number within the key's range.
    pub(super) fn number<N: TryFrom<i64> + std::default::Default + fmt::Display>(&mut self, name: &'static str) -> N {
        let (least, most) = match self.section.key(name).map(|key| key.kind) {
            Some(Kind::Number(least, most)) => (least, most),
            _ => (i64::MIN, i64::MAX),
        };
        self.read(name, ToString::to_string, move |value| match value {
            Value::Integer(number) if (least..=most).contains(number) => {
                N::try_from(*number).map_err(|_| format!("{number} does not fit"))
            }
            Value::Integer(number) => Err(format!("{number} is out of range; it goes from {least} to {most}")),
            other => Err(format!("should be a number from {least} to {most}, not {}", other.kind())),
        })
        .unwrap_or_default()
    }

    /// A size in bytes within the key's range.
    pub(super) fn size(&mut self, name: &'static str) -> u64 {
        self.optional_size(name).unwrap_or_default()
    }

    /// As [`Scope::size`], of a key that has no default.
    pub(super) fn optional_size(&mut self, name: &'static str) -> Option<u64> {
        let (least, most) = match self.section.key(name).map(|key| key.kind) {
            Some(Kind::Size(least, most)) => (least, most),
            _ => (0, u64::MAX),
        };
        self.read(
            name,
            |bytes: &u64| quote(&exact_size(*bytes)),
            move |value| {
                let bytes = match value {
                    Value::Integer(number) => {
                        u64::try_from(*number).map_err(|_| "a size cannot be negative".to_owned())?
                    }
                    Value::Text(text) => text.parse::<ByteSize>().map_err(|error| error.to_string())?.0,
                    other => return Err(format!("should be a size such as \"64MiB\", not {}", other.kind())),
                };
                if (least..=most).contains(&bytes) {
                    Ok(bytes)
                } else {
                    let (least, most) = (format_bytes(least), format_bytes(most));
                    Err(format!("{} is out of range; it goes from {least} to {most}", format_bytes(bytes)))
                }
            },
        )
    }

    /// A duration within the key's range.
    pub(super) fn duration(&mut self, name: &'static str) -> Duration {
        let (least, most) = match self.section.key(name).map(|key| key.kind) {
            Some(Kind::Duration(least, most)) => (Duration::from_millis(least), Duration::from_millis(most)),
            _ => (Duration::ZERO, Duration::MAX),
        };
        self.read(
            name,
            |duration: &Duration| quote(&exact_duration(*duration)),
            move |value| match value {
                Value::Text(text) => {
                    let duration = parse_duration(text).map_err(|error| error.to_string())?;
                    if (least..=most).contains(&duration) {
                        Ok(duration)
                    } else {
                        let (least, most) = (exact_duration(least), format_duration(most));
                        Err(format!("{text:?} is out of range; it goes from {least} to {most}"))
                    }
                }
                Value::Integer(number) => Err(format!("{number} has no unit; write \"{number}s\" for seconds")),
                other => Err(format!("should be a duration such as \"30s\", not {}", other.kind())),
            },
        )
        .unwrap_or_default()
    }

    /// One of the key's words, by `parse`, which knows them all.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let words = match self.section.key(name).map(|key| key.kind) {
            Some(Kind::Choice(words)) => words,
            _ => &[],
        };
        let list = || words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let word = self.read(
            name,
            |word: &String| quote(word),
            |value| match value {
                Value::Text(text) if words.contains(&text.as_str()) => Ok(text.clone()),
                Value::Text(text) => Err(format!("{text:?} is none of {}", list())),
                other => Err(format!("should be one of {}, not {}", list(), other.kind())),
            },
        )?;
        parse(&word)
    }

    /// A list of names: not empty, none twice.
    pub(super) fn names(&mut self, name: &'static str) -> Vec<String> {
        self.read(
            name,
            |names: &Vec<String>| format!("[{}]", names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")),
            |value| {
                let Value::Array(items) = value else {
                    return Err(format!("should be a list of names such as [\"s3\"], not {}", value.kind()));
                };
                let names = texts(items)?;
                if names.is_empty() {
                    return Err("is empty; name at least one".to_owned());
                }
                let mut seen = BTreeSet::new();
                match names.iter().find(|name| !seen.insert(name.as_str())) {
                    Some(twice) => Err(format!("{twice:?} stands there twice")),
                    None => Ok(names),
                }
            },
        )
        .unwrap_or_default()
    }

    /// How many repositories must acknowledge.
    pub(super) fn acknowledge(&mut self, name: &'static str) -> Acknowledge {
        let most = match self.section.key(name).map(|key| key.kind) {
            Some(Kind::AllOrNumber(_, most)) => most,
            _ => i64::MAX,
        };
        let shown = |acknowledge: &Acknowledge| match acknowledge {
            Acknowledge::All => quote("all"),
            Acknowledge::Number(number) => number.to_string(),
        };
        self.read(name, shown, |value| match value {
            Value::Text(text) if text == "all" => Ok(Acknowledge::All),
            Value::Integer(number) => usize::try_from(*number)
                .ok()
                .filter(|_| *number <= most)
                .and_then(NonZeroUsize::new)
                .map(Acknowledge::Number)
                .ok_or_else(|| format!("{number} is out of range; it goes from 1 to the number of repositories")),
            Value::Text(text) => Err(format!("{text:?} is neither \"all\" nor a number")),
            other => Err(format!("should be \"all\" or a number, not {}", other.kind())),
        })
        .unwrap_or_default()
    }

    /// How a repository is protected.
    pub(super) fn encryption(&mut self, name: &'static str) -> Option<Encryption> {
        let encryption = self.read(name, show_encryption, parse_encryption)?;
        if let Encryption::Key(KeySource::KeyFile(path) | KeySource::PassphraseFile(path)) = &encryption {
            self.check_secret_file(name, path);
        }
        Some(encryption)
    }

    fn check_secret_file(&mut self, name: &str, path: &std::path::Path) {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.warn(name, format!("{} does not exist", path.display()));
            }
            _ => {
                if let Some(mode) = world_readable(path) {
                    let path = path.display();
                    self.warn(
                        name,
                        format!("everybody on this host can read {path} (mode {mode:04o}); run: chmod o-rwx {path}"),
                    );
                }
            }
        }
    }

    /// Looks `name` up, in the file or the defaults, converts it, and notes it for `config show`.
    fn read<T>(
        &mut self,
        name: &'static str,
        show: impl Fn(&T) -> String,
        convert: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let key = self.section.key(name);
        debug_assert!(key.is_some(), "{name} is not in the table of keys");
        let key = key?;
        if let Lookup::Set(located) = self.find(name) {
            return match convert(&located.value) {
                Ok(value) => {
                    self.note(name, Some(show(&value)), Origin::File(located.place.clone()));
                    Some(value)
                }
                Err(text) => {
                    self.problem(name, text);
                    None
                }
            };
        }
        let default = match key.default {
            Default::Required(example) => {
                let text = format!("is missing; for example: {} = {example}", key.name);
                self.problem(name, text);
                return None;
            }
            Default::Absent(_) => {
                self.note(name, None, Origin::Default);
                return None;
            }
            Default::Is(text) => convert(&default_value(text)),
            Default::Cores(most) => convert(&Value::Integer(cores(most))),
        };
        match default {
            Ok(value) => {
                self.note(name, Some(show(&value)), Origin::Default);
                Some(value)
            }
            Err(text) => {
                self.problem(name, text);
                None
            }
        }
    }

    fn note(&mut self, name: &str, value: Option<String>, origin: Origin) {
        self.report.settings.push(Setting { key: format!("{}.{name}", self.path), value, origin });
    }

    fn find(&self, name: &str) -> Lookup<'a> {
        let mut table = self.table;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            match table.get(part) {
                Some(located) if parts.peek().is_none() => return Lookup::Set(located),
                Some(Located { value: Value::Table(inner), .. }) => table = inner,
                // Not there; or a value where a table of keys should be, which `check_names` reports.
                None | Some(_) => return Lookup::NotSet,
            }
        }
        Lookup::NotSet
    }

    /// Reports every key of `table` that does not exist, and every group of keys that is not a table.
    fn check_names(&mut self, table: &Table, prefix: &str) {
        for (name, located) in table {
            let full = format!("{prefix}{name}");
            if self.section.key(&full).is_some() {
                continue;
            }
            let group = format!("{full}.");
            let is_group = self.section.keys().iter().any(|key| key.name.starts_with(&group));
            let text = match (&located.value, is_group) {
                (Value::Table(inner), true) => {
                    self.check_names(inner, &group);
                    continue;
                }
                (other, true) => {
                    format!("{}.{full}: should be a table of keys, not {}", self.path, other.kind())
                }
                (_, false) => self.unknown(name, prefix),
            };
            self.report.problems.push(Problem { place: Some(located.place.clone()), text });
        }
    }

    fn unknown(&self, name: &str, prefix: &str) -> String {
        let siblings: BTreeSet<&str> =
            self.section.keys().iter().filter_map(|key| key.name.strip_prefix(prefix)?.split('.').next()).collect();
        let group = format!("{}.{prefix}", self.path);
        let group = group.trim_end_matches('.');
        let elsewhere = self.section.keys().iter().find(|key| key.name.rsplit('.').next() == Some(name));
        let advice = match (suggest(name, siblings.iter().copied()), elsewhere) {
            (Some(near), _) => format!("did you mean \"{near}\"?"),
            (None, Some(key)) => format!("did you mean \"{}\"?", key.name),
            (None, None) => format!("the keys there are: {}", siblings.into_iter().collect::<Vec<_>>().join(", ")),
        };
        format!("unknown key \"{name}\" in {group}; {advice}")
    }
}

/// A default of the table of keys; it is written by us, in the few forms that defaults have.
fn default_value(text: &str) -> Value {
    match (text, text.parse()) {
        ("true", _) => Value::Boolean(true),
        ("false", _) => Value::Boolean(false),
        (_, Ok(number)) => Value::Integer(number),
        _ => Value::Text(text.trim_matches('"').to_owned()),
    }
}

fn cores(most: usize) -> i64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    i64::try_from(cores.min(most)).unwrap_or(1)
}

/// A duration in one unit without loss, as it could stand in the file.
fn exact_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        n if n.is_multiple_of(3_600_000) => format!("{}h", n / 3_600_000),
        n if n.is_multiple_of(60_000) => format!("{}min", n / 60_000),
        n if n.is_multiple_of(1_000) => format!("{}s", n / 1_000),
        n => format!("{n}ms"),
    }
}

/// A size in one unit without loss, as it could stand in the file.
fn exact_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}
