//! Adds tables to walward.toml. What is there is kept, byte by byte.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::failure::Failure;
use crate::config::redact_connection;
use walward_base::sys::durable::{self, NewFile};

/// Readable by the agent's group, because it may name accounts; secrets lie in files of their own.
const MODE: u32 = 0o640;

/// What is added.
#[derive(Debug, Default)]
pub(super) struct NewTables {
    /// `agent.socket`, when it is not the default.
    pub(super) socket: Option<PathBuf>,
    pub(super) repository: Option<NewRepository>,
    pub(super) clusters: Vec<NewCluster>,
}

#[derive(Debug)]
pub(super) struct NewRepository {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) allow_http: bool,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key_file: Option<PathBuf>,
    pub(super) encryption: NewEncryption,
}

#[derive(Debug)]
pub(super) enum NewEncryption {
    None,
    KeyFile(PathBuf),
    PassphraseFile(PathBuf),
}

#[derive(Debug)]
pub(super) struct NewCluster {
    pub(super) name: String,
    pub(super) data_directory: PathBuf,
    pub(super) connection: String,
    pub(super) repository: String,
}

impl NewTables {
    pub(super) fn is_empty(&self) -> bool {
        self.socket.is_none() && self.repository.is_none() && self.clusters.is_empty()
    }
}

/// What the file would hold with the tables added.
pub(super) fn text_with(path: &Path, new: &NewTables) -> Result<String, Failure> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(anyhow::Error::new(error).context(format!("cannot read {}", path.display())).into());
        }
    };
    Ok(match &old {
        Some(old) => format!("{}\n\n{}", old.trim_end(), text(new)),
        None => format!(
            "# Walward. `walward config show` prints what is in force; docs/configuration.md describes every key.\n\n{}",
            text(new)
        ),
    })
}

/// Writes the file, whole or not at all. `text` was found to be a good configuration.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    durable::create_dir_all_as_said(folder, 0o755).with_context(|| format!("cannot make {}", folder.display()))?;
    let written =
        if path.exists() { replace(path, text.as_bytes()) } else { durable::create(path, text.as_bytes(), MODE) };
    Ok(written.with_context(|| format!("cannot write {}", path.display()))?)
}

/// A file that is replaced keeps whom it belonged to: the agent may read it by its group.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let before = std::fs::metadata(path)?;
    let mut file = NewFile::begin(path, MODE)?;
    if rustix::process::geteuid().is_root() {
        file.give(Some(before.uid()), Some(before.gid()))?;
    }
    file.write_all(content)?;
    file.replace()
}

/// The tables as text.
pub(super) fn text(new: &NewTables) -> String {
    let mut text = String::new();
    if let Some(socket) = &new.socket {
        let _ = writeln!(text, "[agent]\nsocket = {}\n", path(socket));
    }
    if let Some(repository) = &new.repository {
        text.push_str(&repository_text(repository));
    }
    for cluster in &new.clusters {
        let _ = writeln!(
            text,
            "[cluster.{}]\ndata_directory = {}\nconnection = {}\nrepositories = [{}]\n",
            cluster.name,
            path(&cluster.data_directory),
            quote(&cluster.connection),
            quote(&cluster.repository)
        );
    }
    format!("{}\n", text.trim_end())
}

/// As [`text`], for people: without passwords.
pub(super) fn shown(new: &NewTables) -> String {
    new.clusters.iter().fold(text(new), |text, cluster| {
        text.replace(&quote(&cluster.connection), &quote(&redact_connection(&cluster.connection)))
    })
}

fn repository_text(new: &NewRepository) -> String {
    let mut text = format!("[repository.{}]\nurl = {}\n", new.name, quote(&new.url));
    let optional = [("endpoint", &new.endpoint), ("region", &new.region), ("access_key_id", &new.access_key_id)];
    for (key, value) in optional {
        if let Some(value) = value {
            let _ = writeln!(text, "{key} = {}", quote(value));
        }
    }
    if new.allow_http {
        text.push_str("allow_http = true\n");
    }
    if let Some(file) = &new.secret_access_key_file {
        let _ = writeln!(text, "secret_access_key_file = {}", path(file));
    }
    let encryption = match &new.encryption {
        NewEncryption::None => quote("none"),
        NewEncryption::KeyFile(file) => format!("{{ key_file = {} }}", path(file)),
        NewEncryption::PassphraseFile(file) => format!("{{ passphrase_file = {} }}", path(file)),
    };
    let _ = writeln!(text, "encryption = {encryption}\n");
    text
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> NewTables {
        NewTables {
            socket: None,
            repository: Some(NewRepository {
                name: "disk".into(),
                url: "file:///var/lib/walward".into(),
                endpoint: None,
                region: None,
                allow_http: false,
                access_key_id: None,
                secret_access_key_file: None,
                encryption: NewEncryption::KeyFile("/etc/walward/a \"b\".key".into()),
            }),
            clusters: vec![NewCluster {
                name: "main".into(),
                data_directory: "/var/lib/postgresql/15/main".into(),
                connection: "host=/x user=walward".into(),
                repository: "disk".into(),
            }],
        }
    }

    fn add(path: &Path, new: &NewTables) -> Result<(), Failure> {
        let text = text_with(path, new)?;
        crate::config::load_text(path, &text)?;
        write(path, &text)
    }

    #[test]
    fn what_is_written_is_a_good_configuration_and_adding_keeps_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/walward.toml");
        add(&file, &tables()).unwrap();
        let loaded = crate::config::load(&file).unwrap();
        assert_eq!(loaded.config.clusters["main"].repositories, ["disk"]);
        let before = std::fs::read_to_string(&file).unwrap();

        let second = NewCluster {
            name: "second".into(),
            data_directory: "/second".into(),
            connection: "host=/y".into(),
            repository: "disk".into(),
        };
        add(&file, &NewTables { clusters: vec![second], ..NewTables::default() }).unwrap();
        let after = std::fs::read_to_string(&file).unwrap();
        assert!(after.starts_with(before.trim_end()));
        assert_eq!(crate::config::load(&file).unwrap().config.clusters.len(), 2);
    }

    #[test]
    fn a_password_is_written_and_not_shown() {
        let mut new = tables();
        new.clusters[0].connection = "host=/x user=walward password='very \"secret'".into();
        assert!(text(&new).contains("very") && !shown(&new).contains("very"), "{}", shown(&new));
        assert!(shown(&new).contains("host=/x user=walward"), "{}", shown(&new));
    }

    #[test]
    fn a_table_that_is_there_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("walward.toml");
        add(&file, &tables()).unwrap();
        let before = std::fs::read_to_string(&file).unwrap();
        assert!(add(&file, &tables()).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
}
