//! The table of every key: its type, its default, its meaning. The one place where a key is declared.

use std::fmt::Write;

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `[agent]`
    Agent,
    /// `[repository.NAME]`
    Repository,
    /// `[cluster.NAME]`
    Cluster,
}

impl Section {
    /// The name that the section's tables begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Repository => "repository",
            Self::Cluster => "cluster",
        }
    }

    /// The section's keys, in the order of the reference.
    pub fn keys(self) -> &'static [Key] {
        match self {
            Self::Agent => AGENT,
            Self::Repository => REPOSITORY,
            Self::Cluster => CLUSTER,
        }
    }

    /// The section's key named `name`.
    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().iter().find(|key| key.name == name)
    }
}

/// What may stand after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that is not shown.
    Secret,
    /// An absolute path.
    Path,
    /// An absolute path to a file with a secret, or `credential:NAME`.
    SecretPath,
    /// An address and port.
    Address,
    /// True or false.
    Boolean,
    /// A whole number of this range.
    Number(i64, i64),
    /// A size of at least, at most this many bytes.
    Size(u64, u64),
    /// A duration of at least, at most this many milliseconds.
    Duration(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The word `"all"`, or a whole number of this range.
    AllOrNumber(i64, i64),
    /// Names of repositories.
    Names,
    /// `"none"` or a table with one key.
    Encryption,
}

/// What holds when the key is not there.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// Nothing: the key must be there. With an example.
    Required(&'static str),
    /// No value, which means this.
    Absent(&'static str),
    /// This value, as TOML.
    Is(&'static str),
    /// The number of cores, at most this many.
    Cores(usize),
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The name within its section, with dots: `archive.workers`.
    pub name: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// What it is for.
    pub meaning: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

const FORMATS: &[&str] = &["text", "json"];
const STORE_KEYS: &[&str] = walward_storage::StoreKeys::WORDS;
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// The keys of `[agent]`.
const AGENT: &[Key] = &[
    key(
        "socket",
        Kind::Path,
        Default::Is("\"/run/walward/walward.sock\""),
        "The Unix socket that the agent serves. Nobody but the agent's user may write to its folder: who can, could answer in its place.",
    ),
    key(
        "spool_directory",
        Kind::Path,
        Default::Is("\"/var/spool/walward\""),
        "Where verified WAL waits for a recovery. Best on the file system of `pg_wal`: a file is then handed over by renaming it. It should have room for two segments; what it cannot take is written beside its destination. For an agent that runs as root only root may change the way to it.",
    ),
    key("cpu_threads", Kind::Number(1, 256), Default::Cores(4), "Threads that compress, encrypt and check."),
    key(
        "memory_bytes_max",
        Kind::Size(8 * MIB, TIB),
        Default::Is("\"64MiB\""),
        "How many bytes of WAL may be in memory at once, over all clusters.",
    ),
    key(
        "metrics_listen",
        Kind::Address,
        Default::Absent("no metrics over HTTP"),
        "Address and port for `/metrics` (Prometheus). Keep it on loopback: there is no authentication.",
    ),
    key(
        "log.format",
        Kind::Choice(FORMATS),
        Default::Is("\"text\""),
        "How log lines look on standard error. Under systemd they go to the journal with their fields.",
    ),
    key("log.level", Kind::Choice(LEVELS), Default::Is("\"info\""), "The least important lines that are logged."),
];

/// The keys of `[repository.NAME]`.
const REPOSITORY: &[Key] = &[
    key(
        "url",
        Kind::Text,
        Default::Required("\"s3://bucket/prefix\""),
        "Where the repository lies: `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`. Each cluster has a folder of its name within.",
    ),
    key(
        "encryption",
        Kind::Encryption,
        Default::Required("{ key_file = \"/etc/walward/NAME.key\" }"),
        "`{ key_file = \"…\" }`, `{ passphrase_file = \"…\" }`, `{ command = [\"program\", \"argument\"] }` (prints the secret) or `\"none\"`. A file may be `\"credential:NAME\"`; a key file may hold the recovery key instead. There is no default, so that nobody stores a readable copy of a database without having said so.",
    ),
    key(
        "compression.wal",
        Kind::Number(1, 19),
        Default::Is("1"),
        "zstd level for WAL. It runs on the database's own cores.",
    ),
    key("compression.backup", Kind::Number(1, 19), Default::Is("3"), "zstd level for base backups."),
    key(
        "endpoint",
        Kind::Text,
        Default::Absent("the cloud's own"),
        "URL of an S3-compatible server, or of an emulator: `https://s3.example.org`.",
    ),
    key(
        "region",
        Kind::Text,
        Default::Absent("`AWS_REGION`, else `us-east-1`"),
        "S3 region. For AWS the bucket's own region.",
    ),
    key(
        "virtual_hosted_style",
        Kind::Boolean,
        Default::Is("false"),
        "Whether the bucket is a part of the host name instead of the path.",
    ),
    key("allow_http", Kind::Boolean, Default::Is("false"), "Whether an endpoint without TLS is accepted."),
    key(
        "ca_file",
        Kind::Path,
        Default::Absent("the system's certificates"),
        "PEM file with the certificates of a private authority, trusted besides the system's.",
    ),
    key(
        "proxy",
        Kind::Text,
        Default::Absent("`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the environment"),
        "URL of an HTTP proxy, through which every request goes; `NO_PROXY` does not count then. Credentials may stand in it: `http://user:password@proxy:3128`.",
    ),
    key(
        "access_key_id",
        Kind::Text,
        Default::Absent("the cloud's own chain of credentials"),
        "S3 access key. Needs `secret_access_key` or `secret_access_key_file`.",
    ),
    key(
        "access_key_id_file",
        Kind::Path,
        Default::Absent("none"),
        "File whose first line is the S3 access key, for keys that are renewed. This file, `secret_access_key_file` and `session_token_file` are read again whenever they change; no restart is needed.",
    ),
    key(
        "secret_access_key",
        Kind::Secret,
        Default::Absent("none"),
        "S3 secret key. `secret_access_key_file` keeps it out of this file.",
    ),
    key(
        "secret_access_key_file",
        Kind::SecretPath,
        Default::Absent("none"),
        "File whose first line is the S3 secret key.",
    ),
    key(
        "session_token_file",
        Kind::SecretPath,
        Default::Absent("none"),
        "File whose first line is an S3 session token.",
    ),
    key(
        "server_side_encryption",
        Kind::Choice(STORE_KEYS),
        Default::Absent("the bucket's own rule"),
        "What an S3 store is told with each write about how it encrypts what it keeps, for buckets whose policy demands it. It does not replace `encryption`: the store has these keys.",
    ),
    key(
        "kms_key_id",
        Kind::Text,
        Default::Absent("the account's own key"),
        "Id or ARN of the key for `server_side_encryption = \"aws:kms\"` or `\"aws:kms:dsse\"`.",
    ),
    key(
        "storage_class",
        Kind::Text,
        Default::Absent("the bucket's own"),
        "S3 storage class of each object, such as `STANDARD_IA`. Classes that cannot be read at once (`GLACIER`, `DEEP_ARCHIVE`) are refused.",
    ),
    key(
        "service_account_file",
        Kind::SecretPath,
        Default::Absent("the cloud's own chain of credentials"),
        "Google service account, JSON. It is read when the agent starts or is reloaded.",
    ),
    key(
        "account",
        Kind::Text,
        Default::Absent("the cloud's own chain of credentials"),
        "Azure storage account. Needs `account_key_file`.",
    ),
    key(
        "account_key_file",
        Kind::SecretPath,
        Default::Absent("none"),
        "File whose first line is the Azure account key. It is read again whenever it changes; no restart is needed.",
    ),
    key(
        "limits.connect_timeout",
        Kind::Duration(100, HOUR),
        Default::Is("\"5s\""),
        "How long one connection may take to open.",
    ),
    key(
        "limits.request_timeout",
        Kind::Duration(SECOND, HOUR),
        Default::Is("\"30s\""),
        "How long one request may take, from its first byte to the last of the answer.",
    ),
    key(
        "limits.retry_deadline",
        Kind::Duration(0, HOUR),
        Default::Is("\"60s\""),
        "How long one call is retried in all.",
    ),
    key(
        "limits.retry_first_backoff",
        Kind::Duration(1, MINUTE),
        Default::Is("\"100ms\""),
        "Pause before the first retry. Each one after is about twice as long.",
    ),
    key(
        "limits.retry_max_backoff",
        Kind::Duration(1, HOUR),
        Default::Is("\"5s\""),
        "The longest pause between two tries.",
    ),
    key("limits.concurrency", Kind::Number(1, 1024), Default::Is("16"), "How many requests may be under way at once."),
    key(
        "limits.part_bytes",
        Kind::Size(5 * MIB, 1024 * MIB),
        Default::Is("\"8MiB\""),
        "The smallest part of a multipart upload. Parts grow with the object, so that a large one has fewer than 10,000.",
    ),
];

/// The keys of `[cluster.NAME]`.
const CLUSTER: &[Key] = &[
    key(
        "data_directory",
        Kind::Path,
        Default::Required("\"/var/lib/postgresql/15/main\""),
        "PostgreSQL's data directory on this host.",
    ),
    key(
        "connection",
        Kind::Text,
        Default::Required("\"host=/var/run/postgresql user=walward dbname=postgres\""),
        "How to reach it, as for libpq: `host=/var/run/postgresql user=walward dbname=postgres`.",
    ),
    key(
        "repositories",
        Kind::Names,
        Default::Required("[\"NAME\"]"),
        "Where its WAL and its backups go, the preferred one first.",
    ),
    key(
        "acknowledge",
        Kind::AllOrNumber(1, 64),
        Default::Is("\"all\""),
        "In how many of the repositories a segment must be before PostgreSQL is told that it is archived, and may remove it. With a number, the agent brings it to the others by itself.",
    ),
    key(
        "archive.workers",
        Kind::Number(1, 64),
        Default::Cores(4),
        "How many segments are read and compressed at once. Up to eight more are on their way to the stores besides, while they are small and nothing fails.",
    ),
    key(
        "archive.look_ahead",
        Kind::Number(0, 10_000),
        Default::Is("64"),
        "How many ready segments are taken ahead of the one that PostgreSQL asks for.",
    ),
    key(
        "archive.deadline",
        Kind::Duration(SECOND, HOUR),
        Default::Is("\"60s\""),
        "How long one push may take before PostgreSQL gets an error (and tries again), while the stores are slow and answer. One that does not answer is waited for some 8 seconds, and then 1 second each time, until it takes a file again: PostgreSQL does not stop while it waits for a push. The upload goes on meanwhile, and the next push finds what it brought.",
    ),
    key(
        "archive.rescan_interval",
        Kind::Duration(SECOND, HOUR),
        Default::Is("\"10s\""),
        "How often `archive_status` is read anew, in case an event was lost.",
    ),
    key(
        "archive.queue_limit",
        Kind::Size(MIB, 1024 * TIB),
        Default::Absent("no limit: WAL waits until it is archived"),
        "How much WAL may wait in `pg_wal` while stores fail or cannot be reached (a wrong key or a damaged repository does not count), before the oldest is let go to keep the disk from filling. WAL that is let go is lost: the gap is recorded, and a restore across it is refused until there is a new backup.",
    ),
    key(
        "fetch.deadline",
        Kind::Duration(SECOND, HOUR),
        Default::Is("\"60s\""),
        "How long a fetch may take in all, while nothing of the file comes, before it answers 255, which stops the recovery. A standby is answered within two seconds.",
    ),
    key(
        "fetch.prefetch_bytes_max",
        Kind::Size(0, TIB),
        Default::Is("\"1GiB\""),
        "How much of the spool this cluster's recovery may fill ahead.",
    ),
    key(
        "fetch.refuse_seams",
        Kind::Boolean,
        Default::Is("true"),
        "Whether a segment that does not continue the one before it, because another life of the cluster wrote it, stops a recovery, and `restore` before it begins. `false` only warns: for the day when a person knows better.",
    ),
    key("fetch.workers", Kind::Number(1, 64), Default::Is("4"), "How many segments are downloaded at once."),
    key("backup.workers", Kind::Number(1, 64), Default::Cores(4), "How many files are read at once."),
    key(
        "backup.fast_checkpoint",
        Kind::Boolean,
        Default::Is("true"),
        "Whether the backup's checkpoint is done at once, instead of spread over `checkpoint_completion_target`.",
    ),
    key(
        "backup.archive_deadline",
        Kind::Duration(SECOND, 24 * HOUR),
        Default::Is("\"10 min\""),
        "How long a backup waits at its end for its last WAL to be archived.",
    ),
    key(
        "backup.read_deadline",
        Kind::Duration(SECOND, 30 * MINUTE),
        Default::Is("\"3 min\""),
        "How long one read of the data directory may go unanswered. Then its file system hangs, and the backup, or `wal set-aside`, is given up.",
    ),
    key(
        "backup.read_limit",
        Kind::Size(MIB, TIB),
        Default::Absent("no limit"),
        "How many bytes of the data directory a backup reads per second, at most, all its workers together.",
    ),
    key(
        "backup.pack_bytes",
        Kind::Size(MIB, TIB),
        Default::Is("\"256MiB\""),
        "Bytes of files in one pack, before compression. A larger file has a pack of its own.",
    ),
    key("restore.workers", Kind::Number(1, 64), Default::Cores(4), "How many packs are restored at once."),
];

/// The section's table for docs/configuration.md, in Markdown.
pub fn reference(section: Section) -> String {
    let mut text = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys() {
        let default = match key.default {
            Default::Required(_) => "**required**".to_owned(),
            Default::Absent(meaning) => meaning.to_owned(),
            Default::Is(value) => format!("`{value}`"),
            Default::Cores(most) => format!("the number of cores, at most {most}"),
        };
        let _ = writeln!(text, "| `{}` | {} | {default} | {} |", key.name, type_name(key.kind), key.meaning);
    }
    text
}

/// What may stand after a key of this kind, in Markdown.
pub fn type_name(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "text".to_owned(),
        Kind::Path => "absolute path".to_owned(),
        Kind::SecretPath => "absolute path or `\"credential:NAME\"`".to_owned(),
        Kind::Address => "address:port".to_owned(),
        Kind::Boolean => "true or false".to_owned(),
        Kind::Number(least, most) => format!("number, {least} to {most}"),
        Kind::Size(..) => "size".to_owned(),
        Kind::Duration(..) => "duration".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Kind::AllOrNumber(least, most) => format!("`\"all\"` or number, {least} to {most}"),
        Kind::Names => "list of names".to_owned(),
        Kind::Encryption => "`\"none\"` or table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_declared_twice() {
        for section in [Section::Agent, Section::Repository, Section::Cluster] {
            for key in section.keys() {
                assert_eq!(section.keys().iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            }
        }
    }
}
