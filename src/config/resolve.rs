//! The tree of all files to resolved values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::apart::{Apart, Looks};
use super::document::{Document, Located, Table, Value, identity};
use super::keys::Section;
use super::loaded::Loaded;
use super::problem::{ConfigError, Problem};
use super::scope::{Origin, Report, Scope, Setting};
use super::secret::{HIDDEN, has_password, redact_connection, world_readable};
use super::text::suggest;
use super::values::{
    AgentConfig, ArchiveConfig, BackupConfig, ClusterConfig, Config, DEFAULT_SOCKET, FetchConfig, LogConfig, LogFormat,
    LogLevel, RepositoryConfig, RestoreConfig,
};
use crate::archive::Acknowledge;
use walward_base::{Secret, hex};
use walward_storage::{Credentials, KeyFiles, KeySource, Limits, StoreOptions};
use walward_wire::trust;

/// Checks everything and answers the values, or all problems.
pub(super) fn resolve(document: Document, looks: Looks) -> Result<Loaded, ConfigError> {
    let mut report = Report { problems: document.problems, ..Report::default() };
    let empty = Table::new();
    check_sections(&document.root, &mut report);

    let agent_table = match document.root.get("agent").map(|located| &located.value) {
        Some(Value::Table(table)) => table,
        _ => &empty,
    };
    let agent = agent(Scope::new(Section::Agent, "agent".to_owned(), agent_table, &mut report));
    let mut repositories = BTreeMap::new();
    for (name, table) in named(&document.root, Section::Repository, &mut report) {
        let scope = Scope::new(Section::Repository, format!("repository.{name}"), table, &mut report);
        if let Some(repository) = repository(&name, scope) {
            repositories.insert(name, repository);
        }
    }
    let mut clusters = BTreeMap::new();
    let tables = named(&document.root, Section::Cluster, &mut report);
    let mut apart = Apart::new(looks, tables.len());
    for (name, table) in tables {
        let known = document.root.get("repository").map(|located| &located.value);
        let known = if let Some(Value::Table(table)) = known { table } else { &empty };
        let mut scope = Scope::new(Section::Cluster, format!("cluster.{name}"), table, &mut report);
        if let Some(cluster) = cluster(&name, known, &repositories, &mut apart, &mut scope) {
            let own: Vec<_> = cluster.repositories.iter().filter_map(|name| repositories.get(name)).collect();
            apart.check(&name, &cluster.data_directory, &own, &agent.spool_directory, &mut scope);
            clusters.insert(name, cluster);
        }
    }
    for cluster in clusters.values_mut() {
        cluster.fingerprint = fingerprint(cluster, &repositories, &report.settings, &document.identities);
    }
    warn_of_readable_files(&document.files, &clusters, &document.root, &mut report);
    if !document.root.contains_key("cluster") {
        let text = "no cluster is configured; run: walward setup".to_owned();
        report.warnings.push(Problem { place: None, text });
    }
    if report.problems.is_empty() {
        Ok(Loaded {
            config: Config { agent, repositories, clusters },
            settings: report.settings,
            warnings: report.warnings,
            files: document.files,
        })
    } else {
        Err(ConfigError::Invalid(report.problems))
    }
}

/// Of the values of a cluster and its repositories, whoever set them. Whoever may ask the agent is told it, so nothing of a secret is in it:
/// where a value is hidden, and where a file is read once and no more, the file's identity stands for what is in it.
fn fingerprint(
    cluster: &ClusterConfig,
    repositories: &BTreeMap<String, RepositoryConfig>,
    settings: &[Setting],
    identities: &BTreeMap<PathBuf, String>,
) -> String {
    let own = format!("cluster.{}.", cluster.name);
    let prefixes: Vec<String> = cluster.repositories.iter().map(|name| format!("repository.{name}.")).collect();
    let mut hash = Sha256::new();
    for Setting { key, value, origin } in settings {
        if key.starts_with(&own) || prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            let value = value.as_deref().unwrap_or_default();
            hash.update(format!("{key}={value}\n"));
            if let (true, Origin::File(place)) = (value.contains(HIDDEN), origin) {
                hash.update(format!("{}\n", identities.get(place.file.as_ref()).map_or("", String::as_str)));
            }
        }
    }
    for repository in cluster.repositories.iter().filter_map(|name| repositories.get(name)) {
        let account = match &repository.store.credentials {
            Credentials::ServiceAccountFile(file) => Some(file),
            _ => None,
        };
        for file in [repository.store.ca_file.as_ref(), account].into_iter().flatten() {
            hash.update(format!("{}={}\n", file.display(), identity(file)));
        }
    }
    hex::encode(&hash.finalize())
}

fn check_sections(root: &Table, report: &mut Report) {
    const NAMES: [&str; 3] = ["agent", "repository", "cluster"];
    for (name, located) in root {
        let text = match (NAMES.contains(&name.as_str()), &located.value) {
            (true, Value::Table(_)) => continue,
            (true, other) => format!("{name} should be a table, not {}", other.kind()),
            (false, _) => {
                let advice = match suggest(name, NAMES.into_iter()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "the tables are [agent], [repository.NAME] and [cluster.NAME]".to_owned(),
                };
                format!("unknown key \"{name}\"; {advice}")
            }
        };
        report.problems.push(Problem { place: Some(located.place.clone()), text });
    }
}

/// The tables `[section.NAME]` whose names are good.
fn named<'d>(root: &'d Table, section: Section, report: &mut Report) -> Vec<(String, &'d Table)> {
    let section = section.name();
    let Some(Located { value: Value::Table(tables), .. }) = root.get(section) else { return Vec::new() };
    let mut good = Vec::new();
    for (name, located) in tables {
        let problem = match (&located.value, name_is_good(name)) {
            (Value::Table(table), true) => {
                good.push((name.clone(), table));
                continue;
            }
            (Value::Table(_), false) => format!(
                "{name:?} cannot name a {section}: 1 to 63 lower-case letters, digits, _ and -, the first one a letter or digit"
            ),
            (other, _) => format!("{section}.{name} should be a table, not {}; write [{section}.NAME]", other.kind()),
        };
        report.problems.push(Problem { place: Some(located.place.clone()), text: problem });
    }
    good
}

/// Whether `name` can name a cluster or a repository. Names stand in object names, socket requests and file names.
pub fn name_is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(good)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Who may put files into the socket's folder may answer in the agent's place.
fn check_socket_folder(socket: &Path, scope: &mut Scope<'_>) {
    let Some(folder) = socket.parent() else { return };
    // Where there is none yet, the agent makes one that is closed.
    let Ok(metadata) = std::fs::metadata(folder) else { return };
    let (folder, owned) = (folder.display(), trust::Owned::from(&metadata));
    if owned.all_may_write() {
        scope.problem("socket", format!("every user may write to {folder}, and so answer in the agent's place: choose a folder that only the agent's user can write to, or take that right away (chmod o-w)"));
    } else if trust::others_may_write(owned, None) {
        scope.warn("socket", format!("the group of {folder} may write to it, and so answer in the agent's place"));
    }
}

fn agent(mut scope: Scope<'_>) -> AgentConfig {
    let socket = scope.path("socket").unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
    check_socket_folder(&socket, &mut scope);
    AgentConfig {
        socket,
        spool_directory: scope.path("spool_directory").unwrap_or_default(),
        cpu_threads: scope.number("cpu_threads"),
        memory_bytes_max: scope.size("memory_bytes_max"),
        metrics_listen: scope.address("metrics_listen"),
        log: LogConfig {
            format: scope
                .choice("log.format", |word| match word {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                })
                .unwrap_or(LogFormat::Text),
            level: scope
                .choice("log.level", |word| match word {
                    "error" => Some(LogLevel::Error),
                    "warn" => Some(LogLevel::Warn),
                    "info" => Some(LogLevel::Info),
                    "debug" => Some(LogLevel::Debug),
                    "trace" => Some(LogLevel::Trace),
                    _ => None,
                })
                .unwrap_or(LogLevel::Info),
        },
    }
}

fn repository(name: &str, mut scope: Scope<'_>) -> Option<RepositoryConfig> {
    let url = scope.text("url");
    if let Some(url) = &url {
        check_url(url, &mut scope);
    }
    let encryption = scope.encryption("encryption");
    let wal_level = scope.number("compression.wal");
    let backup_level = scope.number("compression.backup");
    let endpoint = scope.redacted("endpoint", redact_connection);
    let region = scope.text("region");
    let virtual_hosted_style = scope.boolean("virtual_hosted_style");
    let allow_http = scope.boolean("allow_http");
    if let Some(endpoint) = &endpoint {
        match url::Url::parse(endpoint) {
            Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
                scope.problem("endpoint", "holds credentials, which have keys of their own");
            }
            Ok(parsed) if parsed.scheme() == "https" => {}
            Ok(parsed) if parsed.scheme() == "http" && allow_http => {}
            Ok(parsed) if parsed.scheme() == "http" => {
                scope.problem("endpoint", format!("{endpoint} has no TLS; set allow_http = true if that is meant"));
            }
            Ok(_) | Err(_) => {
                scope.problem("endpoint", format!("{endpoint:?} is not a URL such as https://s3.example.org"));
            }
        }
    }
    let ca_file = scope.path("ca_file");
    // Its URL may hold a password.
    let proxy = scope.redacted("proxy", redact_connection).map(Secret::new);
    let credentials = credentials(url.as_deref().unwrap_or(""), &mut scope);
    let server_side_encryption = server_side_encryption(&mut scope);
    let storage_class = scope.text("storage_class");
    let limits = Limits {
        connect_timeout: scope.duration("limits.connect_timeout"),
        request_timeout: scope.duration("limits.request_timeout"),
        retry_deadline: scope.duration("limits.retry_deadline"),
        retry_first_backoff: scope.duration("limits.retry_first_backoff"),
        retry_max_backoff: scope.duration("limits.retry_max_backoff"),
        concurrency: scope.number("limits.concurrency"),
        part_bytes: scope.size("limits.part_bytes"),
    };
    if limits.retry_first_backoff > limits.retry_max_backoff {
        scope.problem("limits.retry_first_backoff", "is longer than limits.retry_max_backoff");
    }
    let store = StoreOptions {
        url: url?,
        endpoint,
        region,
        virtual_hosted_style,
        allow_http,
        ca_file,
        proxy,
        credentials: credentials?,
        server_side_encryption,
        storage_class,
        limits,
    };
    if let Some((key, text)) = store.problem() {
        scope.problem(key, text);
    }
    Some(RepositoryConfig { name: name.to_owned(), store, encryption: encryption?, wal_level, backup_level })
}

/// What an S3 store is told about how it encrypts.
fn server_side_encryption(scope: &mut Scope<'_>) -> Option<walward_storage::ServerSideEncryption> {
    let keys = scope.choice("server_side_encryption", walward_storage::StoreKeys::parse);
    let kms_key_id = scope.text("kms_key_id");
    if scope.place("server_side_encryption").is_none() && kms_key_id.is_some() {
        scope.problem("kms_key_id", "needs server_side_encryption = \"aws:kms\" (or \"aws:kms:dsse\")");
    }
    Some(walward_storage::ServerSideEncryption { keys: keys?, kms_key_id })
}

fn check_url(text: &str, scope: &mut Scope<'_>) {
    const FORMS: &str = "file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";
    let problem = match url::Url::parse(text) {
        Err(_) if text.starts_with('/') => format!("{text:?} is not a URL; write \"file://{text}\""),
        Err(error) => format!("{text:?} is not a URL ({error}); write {FORMS}"),
        Ok(url) => match url.scheme() {
            "file" if url.host_str().is_some_and(|host| !host.is_empty()) => {
                let path = text.trim_start_matches("file:").trim_start_matches('/');
                format!("{text:?} names a host; a path has three slashes: \"file:///{path}\"")
            }
            "file" if url.path().len() < 2 => "names no folder".to_owned(),
            "s3" | "gs" | "az" if url.host_str().is_none_or(str::is_empty) => format!("names no bucket; write {FORMS}"),
            "s3" | "gs" | "az" if !url.username().is_empty() || url.password().is_some() || url.query().is_some() => {
                "holds more than a bucket and a prefix; credentials have keys of their own".to_owned()
            }
            "file" | "s3" | "gs" | "az" => return,
            other => format!("{other}:// is not supported; write {FORMS}"),
        },
    };
    scope.problem("url", problem);
}

/// The credentials that are set; `None` when they do not hold together (which was reported).
fn credentials(url: &str, scope: &mut Scope<'_>) -> Option<Credentials> {
    let access_key_id = scope.text("access_key_id");
    let id_file = scope.path("access_key_id_file");
    let secret = scope.text("secret_access_key");
    let secret_file = scope.path("secret_access_key_file");
    let token_file = scope.path("session_token_file");
    let service_account_file = scope.path("service_account_file");
    let account = scope.text("account");
    let account_key_file = scope.path("account_key_file");
    let scheme = url.split("://").next().unwrap_or("");
    let s3 =
        ["access_key_id", "access_key_id_file", "secret_access_key", "secret_access_key_file", "session_token_file"];
    let said = ["server_side_encryption", "kms_key_id", "storage_class"];
    let others = [("gs", "service_account_file"), ("az", "account"), ("az", "account_key_file")];
    for (of, name) in s3.into_iter().chain(said).map(|name| ("s3", name)).chain(others) {
        if scope.place(name).is_some() && scheme != of {
            scope.problem(name, format!("belongs to {of}://, and the url is {scheme}://"));
        }
    }
    match scheme {
        "s3" => {
            let id = key_source(("access_key_id", access_key_id), ("access_key_id_file", id_file), scope)?;
            let secret = key_source(("secret_access_key", secret), ("secret_access_key_file", secret_file), scope)?;
            let token = key_source(("", None), ("session_token_file", token_file), scope)?;
            match (id, secret, token) {
                (None, None, None) => Some(Credentials::Chain),
                (Some(KeySource::Given(id)), Some(KeySource::Given(secret_access_key)), None) => {
                    let access_key_id = id.expose().to_owned();
                    Some(Credentials::Keys { access_key_id, secret_access_key, session_token: None })
                }
                (Some(access_key_id), Some(secret_access_key), session_token) => {
                    Some(Credentials::KeyFiles(KeyFiles { access_key_id, secret_access_key, session_token }))
                }
                (Some(_), None, _) => {
                    scope.problem("access_key_id", "needs secret_access_key_file (or secret_access_key)");
                    None
                }
                (None, _, _) => {
                    scope.problem("access_key_id", "is missing, and a secret or token is set");
                    None
                }
            }
        }
        "gs" => Some(service_account_file.map_or(Credentials::Chain, Credentials::ServiceAccountFile)),
        "az" => match (account, account_key_file) {
            (None, None) => Some(Credentials::Chain),
            (Some(account), Some(file)) => {
                first_line("account_key_file", &file, scope)?;
                Some(Credentials::AccountKey { account, key: KeySource::File(file) })
            }
            (Some(_), None) => {
                scope.problem("account", "needs account_key_file; without both the environment's credentials are used");
                None
            }
            (None, Some(_)) => {
                scope.problem("account", "is missing; account_key_file needs it");
                None
            }
        },
        _ => Some(Credentials::Chain),
    }
}

/// A key that stands in the configuration, or in a file that can be read now; `None` when they do not hold together
/// (which was reported).
#[allow(clippy::option_option, reason = "not set, and set wrongly")]
fn key_source(
    (name, given): (&str, Option<String>),
    (file_name, file): (&str, Option<PathBuf>),
    scope: &mut Scope<'_>,
) -> Option<Option<KeySource>> {
    match (given, file) {
        (Some(_), Some(_)) => {
            scope.problem(name, format!("is set as well as {file_name}; keep one of them"));
            None
        }
        (Some(given), None) => Some(Some(KeySource::Given(Secret::new(given)))),
        (None, Some(file)) => {
            first_line(file_name, &file, scope)?;
            Some(Some(KeySource::File(file)))
        }
        (None, None) => Some(None),
    }
}

/// The first line of a secret's file, without the blanks around it.
fn first_line(name: &str, file: &Path, scope: &mut Scope<'_>) -> Option<Secret> {
    let problem = match std::fs::read_to_string(file) {
        Ok(text) => match text.lines().next().map(str::trim) {
            Some(line) if !line.is_empty() => return Some(Secret::new(line)),
            _ => format!("{} is empty", file.display()),
        },
        Err(error) => format!("cannot read {}: {error}", file.display()),
    };
    scope.problem(name, problem);
    None
}

fn cluster(
    name: &str,
    known: &Table,
    checked: &BTreeMap<String, RepositoryConfig>,
    apart: &mut Apart,
    scope: &mut Scope<'_>,
) -> Option<ClusterConfig> {
    let data_directory = scope.path("data_directory");
    if let Some(directory) = &data_directory
        && let Some(other) = apart.taken(name, directory)
    {
        scope.problem("data_directory", format!("{} is cluster.{other}'s already", directory.display()));
    }
    let connection = scope.redacted("connection", redact_connection);
    if let Some(connection) = &connection
        && let Err(error) = connection.parse::<tokio_postgres::Config>()
    {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        scope.problem("connection", format!("cannot be understood ({error}{cause})"));
    }
    let repositories = scope.names("repositories");
    for wanted in &repositories {
        if !known.contains_key(wanted) {
            let advice = match suggest(wanted, known.keys().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write a table [repository.{wanted}]"),
            };
            scope.problem("repositories", format!("there is no repository \"{wanted}\"; {advice}"));
        }
    }
    for (at, first) in repositories.iter().enumerate() {
        for second in repositories.iter().skip(at + 1) {
            if let (Some(a), Some(b)) = (checked.get(first), checked.get(second))
                && apart.is_one_place(name, &a.store, &b.store)
            {
                let text =
                    format!("\"{first}\" and \"{second}\" lead to the same place, so they are one copy, not two");
                scope.problem("repositories", text);
            }
        }
    }
    let acknowledge = scope.acknowledge("acknowledge");
    if let Acknowledge::Number(number) = acknowledge
        && number.get() > repositories.len()
    {
        let text = format!("is {number}, and the cluster has {} repositories", repositories.len());
        scope.problem("acknowledge", text);
    }
    let config = ClusterConfig {
        acknowledge,
        name: name.to_owned(),
        data_directory: data_directory.unwrap_or_default(),
        connection: connection.unwrap_or_default(),
        repositories,
        archive: ArchiveConfig {
            workers: scope.number("archive.workers"),
            look_ahead: scope.number("archive.look_ahead"),
            deadline: scope.duration("archive.deadline"),
            rescan_interval: scope.duration("archive.rescan_interval"),
            queue_limit: scope.optional_size("archive.queue_limit"),
        },
        fetch: FetchConfig {
            deadline: scope.duration("fetch.deadline"),
            prefetch_bytes_max: scope.size("fetch.prefetch_bytes_max"),
            workers: scope.number("fetch.workers"),
            refuse_seams: scope.boolean("fetch.refuse_seams"),
        },
        backup: BackupConfig {
            workers: scope.number("backup.workers"),
            fast_checkpoint: scope.boolean("backup.fast_checkpoint"),
            archive_deadline: scope.duration("backup.archive_deadline"),
            read_deadline: scope.duration("backup.read_deadline"),
            read_limit: scope.optional_size("backup.read_limit"),
            pack_bytes: scope.size("backup.pack_bytes"),
        },
        restore: RestoreConfig { workers: scope.number("restore.workers") },
        // When all is read.
        fingerprint: String::new(),
    };
    (!config.data_directory.as_os_str().is_empty()).then_some(config)
}

/// A file that holds a secret itself and that everybody may read.
fn warn_of_readable_files(
    files: &[PathBuf],
    clusters: &BTreeMap<String, ClusterConfig>,
    root: &Table,
    report: &mut Report,
) {
    let mut secrets = Vec::new();
    if let Some(Located { value: Value::Table(tables), .. }) = root.get("repository") {
        for (name, located) in tables {
            if let Value::Table(table) = &located.value
                && let Some(secret) = table.get("secret_access_key")
            {
                secrets.push((secret.place.clone(), format!("repository.{name}.secret_access_key")));
            }
        }
    }
    if let Some(Located { value: Value::Table(tables), .. }) = root.get("cluster") {
        for (name, located) in tables {
            if let (Value::Table(table), Some(cluster)) = (&located.value, clusters.get(name))
                && has_password(&cluster.connection)
                && let Some(connection) = table.get("connection")
            {
                secrets.push((connection.place.clone(), format!("the password in cluster.{name}.connection")));
            }
        }
    }
    for (place, what) in secrets {
        let readable = files.iter().find(|file| **file == *place.file).and_then(|file| world_readable(file));
        if let Some(mode) = readable {
            let text = format!(
                "everybody on this host can read {what} (mode {mode:04o}); run: chmod o-rwx {}",
                place.file.display()
            );
            report.warnings.push(Problem { place: Some(place), text });
        }
    }
}
