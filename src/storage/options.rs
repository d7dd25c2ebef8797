//! What is needed to reach a store, resolved and checked by `config`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::Secret;

/// Where a store is and how to talk to it.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// Another address than the provider's own: `https://s3.example.net:9000`.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket; without it the environment's (`AWS_REGION`), else `us-east-1`.
    pub region: Option<String>,
    /// S3: the bucket is part of the host name (`bucket.s3.example.net`) rather than of the path.
    pub virtual_hosted_style: bool,
    /// Allows an `http://` endpoint. Off: such an endpoint is refused, because what is sent can be read on the way.
    pub allow_http: bool,
    /// PEM certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy's URL; may hold a password.
    pub proxy: Option<Secret>,
    /// Who we are.
    pub credentials: Credentials,
    /// Times, sizes and numbers that bound every call.
    pub limits: Limits,
}

impl StoreOptions {
    /// The options of `url` with everything else as it is by default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            virtual_hosted_style: false,
            allow_http: false,
            ca_file: None,
            proxy: None,
            credentials: Credentials::Chain,
            limits: Limits::default(),
        }
    }

    /// The folder that a file store lies in; none for a bucket.
    pub fn folder(&self) -> Option<PathBuf> {
        folder_of(&self.url)
    }
}

/// The folder that the URL of a file store names.
pub fn folder_of(url: &str) -> Option<PathBuf> {
    let url = url::Url::parse(url).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}

/// How to prove who we are.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// The cloud's own chain: environment variables, web identity, container and instance roles.
    #[default]
    Chain,
    /// S3: static keys.
    Keys {
        /// The public half.
        access_key_id: String,
        /// The secret half.
        secret_access_key: Secret,
        /// For temporary keys.
        session_token: Option<Secret>,
    },
    /// S3: keys that lie in files, where they may be renewed at any time.
    KeyFiles(KeyFiles),
    /// Google: the JSON file of a service account.
    ServiceAccountFile(PathBuf),
    /// Azure: a storage account and its key.
    AccountKey {
        /// The account's name.
        account: String,
        /// The key, base64 as Azure shows it.
        key: KeySource,
    },
}

/// A key, or the file whose first line it is.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The key itself.
    Given(Secret),
    /// A file that is read again whenever it has changed.
    File(PathBuf),
}

/// S3 keys of which at least one lies in a file.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// The public half.
    pub access_key_id: KeySource,
    /// The secret half.
    pub secret_access_key: KeySource,
    /// For temporary keys.
    pub session_token: Option<KeySource>,
}

impl KeySource {
    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Given(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

impl KeyFiles {
    /// The files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let sources = [Some(&self.access_key_id), Some(&self.secret_access_key), self.session_token.as_ref()];
        sources.into_iter().flatten().filter_map(KeySource::path)
    }
}

impl Credentials {
    /// What they are, in words, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Chain => "the environment's credentials",
            Self::Keys { .. } | Self::KeyFiles(_) => "S3 access keys",
            Self::ServiceAccountFile(_) => "a Google service account file",
            Self::AccountKey { .. } => "an Azure account key",
        }
    }
}

/// Bounds of the calls to one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For a connection to stand, TLS included.
    pub connect_timeout: Duration,
    /// For one attempt of a call without a body to speak of; see [`Limits::attempt_timeout`]. Also the longest silence in
    /// the middle of a body.
    pub request_timeout: Duration,
    /// No further attempt begins after this time; and the longest wait for one of the `concurrency` places.
    pub retry_deadline: Duration,
    /// The first pause is a random time up to this; the bound doubles with each attempt.
    pub retry_first_backoff: Duration,
    /// The pause's bound grows no further.
    pub retry_max_backoff: Duration,
    /// Calls and bodies under way at the same time.
    pub concurrency: usize,
    /// The size of a part of a multipart upload, unless the object needs larger ones. At least 5 MiB are used.
    pub part_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_deadline: Duration::from_mins(1),
            retry_first_backoff: Duration::from_millis(100),
            retry_max_backoff: Duration::from_secs(5),
            concurrency: 16,
            part_bytes: 8 << 20,
        }
    }
}

impl Limits {
    /// The slowest transfer that is not given up, in bytes a second.
    pub const SLOWEST_BYTES_PER_SECOND: u64 = 512 << 10;

    /// The deadline of one attempt that moves `bytes`: the request timeout, and the time that they take at the slowest
    /// acceptable speed.
    pub fn attempt_timeout(&self, bytes: u64) -> Duration {
        self.request_timeout.saturating_add(Duration::from_secs(bytes / Self::SLOWEST_BYTES_PER_SECOND))
    }
}
