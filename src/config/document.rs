//! The files as one tree, each value with the line that it came from.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, Problem, SourceLine};

/// A TOML value as far as the configuration needs it.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Located>),
    Table(Table),
    /// A float, a date, or an integer that no key can hold; with its name for messages.
    Other(&'static str),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// A value and the line of its key.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) value: Value,
    pub(super) place: SourceLine,
}

/// Keys in the order of their names.
pub(super) type Table = BTreeMap<String, Located>;

/// All files together.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Table,
    pub(super) files: Vec<PathBuf>,
    /// Which file each was, looked at before it was read: one that is replaced meanwhile counts as another.
    pub(super) identities: BTreeMap<PathBuf, String>,
    /// Syntax errors and keys that two files set.
    pub(super) problems: Vec<Problem>,
}

/// Reads `path`, then the `*.toml` of `conf.d` beside it in the order of their names.
pub(super) fn read(path: &Path) -> Result<Document, ConfigError> {
    read_with(path, None)
}

/// As [`read`]; `text`, when given, stands for what `path` holds.
pub(super) fn read_with(path: &Path, text: Option<&str>) -> Result<Document, ConfigError> {
    let unreadable = |path: &Path, source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut files = vec![path.to_owned()];
    files.extend(additions(path)?);
    let mut document =
        Document { root: Table::new(), files: Vec::new(), identities: BTreeMap::new(), problems: Vec::new() };
    for file in files {
        document.identities.insert(file.clone(), identity(&file));
        let text =
            match text.filter(|_| file == path).map_or_else(|| std::fs::read_to_string(&file), |t| Ok(t.to_owned())) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && file == path => {
                    return Err(ConfigError::Missing(file));
                }
                Err(error) => return Err(unreadable(&file, error)),
            };
        let (table, problems) = parse(&text, &file);
        document.problems.extend(problems);
        merge(&mut document.root, table, "", &mut document.problems);
        document.files.push(file);
    }
    Ok(document)
}

/// Which file lies at `path`, and when it was written: another one after every change, and nothing of what is in it. Empty when that cannot
/// be told.
pub(super) fn identity(path: &Path) -> String {
    std::fs::metadata(path).map_or_else(
        |_| String::new(),
        |found| format!("{}:{}:{}.{}", found.ino(), found.size(), found.mtime(), found.mtime_nsec()),
    )
}

fn additions(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.with_file_name("conf.d");
    let unreadable = |source| ConfigError::Unreadable { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// One file's table, and what is wrong with its syntax.
pub(super) fn parse(text: &str, file: &Path) -> (Table, Vec<Problem>) {
    let lines = Lines::new(text, file.into());
    let (table, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| Problem {
            place: Some(lines.place(error.span().map_or(0, |span| span.start))),
            text: error.message().trim().replace('\n', ", "),
        })
        .collect();
    (lines.table(table.get_ref()), problems)
}

/// Where each line of a file begins.
struct Lines {
    file: Arc<Path>,
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str, file: Arc<Path>) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file, starts: std::iter::once(0).chain(ends).collect() }
    }

    fn place(&self, offset: usize) -> SourceLine {
        let line = self.starts.partition_point(|start| *start <= offset);
        SourceLine { file: Arc::clone(&self.file), line }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            let place = self.place(key.span().start);
            (key.get_ref().to_string(), Located { value: self.value(value), place })
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, value: &toml::Spanned<DeValue<'_>>) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number that is too large"),
            },
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| Located { value: self.value(item), place: self.place(item.span().start) })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}

/// Adds `new` to `into`. A key that both have must be a table in both.
fn merge(into: &mut Table, new: Table, path: &str, problems: &mut Vec<Problem>) {
    for (key, located) in new {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match into.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(located);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let first = entry.get_mut();
                match (&mut first.value, located.value) {
                    (Value::Table(old), Value::Table(new)) => merge(old, new, &path, problems),
                    _ => problems.push(Problem {
                        text: format!("{path} was already set in {}; keep one of them", first.place),
                        place: Some(located.place),
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_syntax_error_has_its_line() {
        let (_, problems) =
            parse("[agent]\nsocket = \n\n[cluster.main]\nconnection = \"unclosed\n", Path::new("x.toml"));
        let lines: Vec<usize> = problems.iter().filter_map(|p| Some(p.place.as_ref()?.line)).collect();
        assert!(lines.contains(&2) && lines.contains(&5), "{problems:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            parse(&text, Path::new("x.toml"));
        }

        #[test]
        fn almost_toml_never_panics(text in "[a-z\\[\\]={}\",.#\n 0-9'-]{0,80}") {
            parse(&text, Path::new("x.toml"));
        }
    }
}
