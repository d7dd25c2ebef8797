//! Every piece of configuration in a document is one that the parser takes.

use std::fs;
use std::path::Path;

use toml::{Table, Value};
use walward::config::keys::Section;

use super::markdown::documents;

/// Required keys that a piece leaves out, as a file of its own: a piece shows what it is about.
fn rest_of(piece: &Table) -> Table {
    let mut rest = Table::new();
    let mut repositories = Vec::new();
    let clusters = tables(piece, "cluster");
    for (name, cluster) in &clusters {
        let own = section(&mut rest, "cluster", name);
        for (key, value) in [
            ("data_directory", Value::from(format!("/var/lib/postgresql/15/{name}"))),
            ("connection", Value::from("host=/var/run/postgresql user=walward dbname=postgres")),
            ("repositories", Value::from(vec!["elsewhere"])),
        ] {
            if !cluster.contains_key(key) {
                own.insert(key.to_owned(), value);
            }
        }
        let named = cluster.get("repositories").or_else(|| own.get("repositories")).and_then(Value::as_array);
        repositories.extend(named.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    }
    for (name, repository) in tables(piece, "repository") {
        let own = section(&mut rest, "repository", &name);
        for (key, value) in [("url", format!("s3://bucket/{name}")), ("encryption", "none".to_owned())] {
            if !repository.contains_key(key) {
                own.insert(key.to_owned(), Value::from(value));
            }
        }
        repositories.retain(|other| *other != name);
    }
    for name in repositories {
        let own = section(&mut rest, "repository", &name);
        own.insert("url".to_owned(), Value::from(format!("file:///srv/{name}")));
        own.insert("encryption".to_owned(), Value::from("none"));
    }
    rest
}

fn tables(piece: &Table, kind: &str) -> Vec<(String, Table)> {
    let tables = piece.get(kind).and_then(Value::as_table).into_iter().flatten();
    tables.filter_map(|(name, table)| Some((name.clone(), table.as_table()?.clone()))).collect()
}

fn section<'a>(rest: &'a mut Table, kind: &str, name: &str) -> &'a mut Table {
    let mut place = rest;
    for part in [kind, name] {
        place = place.entry(part).or_insert_with(|| Table::new().into()).as_table_mut().expect("a table was put there");
    }
    place
}

/// Files with credentials are read with the configuration: they are put where the piece names them, in `folder`.
fn with_files(piece: &mut Table, folder: &Path) {
    for (key, value) in piece.iter_mut() {
        match value {
            Value::Table(inner) => with_files(inner, folder),
            Value::String(path) if key.ends_with("_file") && path.starts_with('/') => {
                let file = folder.join(path.trim_start_matches('/'));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "secret\n").unwrap();
                file.to_str().unwrap().clone_into(path);
            }
            _ => {}
        }
    }
}

/// What is wrong with a piece of configuration.
pub(super) fn judge(text: &str) -> Result<(), String> {
    let mut piece: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let folder = tempfile::tempdir().unwrap();
    with_files(&mut piece, folder.path());
    let main = folder.path().join("walward.toml");
    fs::write(&main, piece.to_string()).unwrap();
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    fs::write(folder.path().join("conf.d/rest.toml"), rest_of(&piece).to_string()).unwrap();
    walward::config::load(&main).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn every_piece_of_configuration_in_a_document_is_accepted() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for document in documents() {
        for block in document.blocks.iter().filter(|block| block.language == "toml") {
            checked += 1;
            if let Err(error) = judge(&block.text) {
                wrong.push(format!("{}:{}: {error}", document.path.display(), block.line));
            }
        }
    }
    assert!(checked > 0, "no piece of configuration was found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Settings of PostgreSQL that documents name with a value.
const POSTGRESQL: [&str; 16] = [
    "archive_command",
    "archive_mode",
    "archive_timeout",
    "hot_standby",
    "max_logical_replication_workers",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_time",
    "recovery_target_timeline",
    "restore_command",
    "summarize_wal",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
];

/// Whether a key of ours ends with `name` (`workers`, `archive.workers`, and `archive` itself).
fn known(name: &str) -> bool {
    let all = [Section::Agent, Section::Repository, Section::Cluster].into_iter().flat_map(Section::keys);
    all.map(|key| key.name).any(|key| {
        key == name
            || key.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
            || key.strip_prefix(name).is_some_and(|after| after.starts_with('.'))
    })
}

#[test]
fn every_key_that_is_named_exists() {
    let prefixes = ["agent", "archive", "fetch", "backup", "restore", "limits", "compression", "log"];
    let mut wrong = Vec::new();
    let mut checked = 0;
    for document in documents() {
        // Keys of the design that are not there, named as such.
        if document.path.starts_with("docs/decisions") {
            continue;
        }
        for (line, span) in &document.spans {
            let word =
                |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
            let key = match span.split_once(" = ") {
                Some((key, value)) if word(key) && !POSTGRESQL.contains(&key) && !value.is_empty() => key,
                None if word(span) && prefixes.iter().any(|prefix| span.starts_with(&format!("{prefix}."))) => span,
                _ => continue,
            };
            checked += 1;
            if !known(key.strip_prefix("agent.").unwrap_or(key)) {
                wrong.push(format!("{}:{line}: {span}", document.path.display()));
            }
        }
    }
    assert!(checked > 20, "only {checked} keys were found");
    assert!(wrong.is_empty(), "keys that do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn what_the_parser_refuses_is_noticed() {
    assert!(judge("[cluster.main]\narchive = { workers = 4 }\n").is_ok());
    assert!(judge("[repository.s3]\nregion = \"eu-central-1\"\n").is_ok());
    assert!(judge("[cluster.main]\nretention = { full = 4 }\n").unwrap_err().contains("retention"));
    assert!(judge("[agent]\nsocket = \"x\"\n").is_err());
    assert!(known("queue_limit") && known("archive.queue_limit") && known("limits") && !known("queue"));
}
