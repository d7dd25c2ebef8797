//! What is needed to reach a store, resolved and checked by `config`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::{Host, Url};

use walward_base::Secret;

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
    /// S3: what the store is told with each write about how it encrypts what it keeps; `None`: nothing, the bucket's own rule holds.
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// S3: the storage class of each object; `None`: the bucket's own.
    pub storage_class: Option<String>,
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
            server_side_encryption: None,
            storage_class: None,
            limits: Limits::default(),
        }
    }

    /// The folder that a file store lies in; none for a bucket.
    pub fn folder(&self) -> Option<PathBuf> {
        folder_of(&self.url)
    }

    /// What makes these options unusable, as far as they tell without asking anybody: the key of the repository's table that is to
    /// blame, and what is wrong with it. The library that talks to the stores panics at some of this.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let bucket = Url::parse(&self.url).ok().and_then(|url| Some(url.host_str()?.to_owned()));
        if let (Some(endpoint), Some(bucket)) = (&self.endpoint, bucket) {
            let parsed = Url::parse(endpoint).ok();
            let host = parsed.as_ref().and_then(Url::host);
            if self.virtual_hosted_style && matches!(host, Some(Host::Ipv4(_) | Host::Ipv6(_))) {
                let text = format!(
                    "cannot be used with the endpoint {endpoint}, which is an address: a bucket's name cannot stand in front of it; leave virtual_hosted_style out, or write the server's name"
                );
                return Some(("virtual_hosted_style", text));
            }
            let address = bucket_url(endpoint, &bucket, self.virtual_hosted_style);
            if Url::parse(&address).is_err() {
                return Some(("endpoint", format!("makes {address} of the bucket's address, which is none")));
            }
        }
        // They stand in the head of each request.
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let id = match &self.credentials {
            Credentials::Keys { access_key_id, .. } => Some(access_key_id),
            _ => None,
        };
        let kms = self.server_side_encryption.as_ref();
        let texts = [
            ("region", self.region.as_ref()),
            ("access_key_id", id),
            ("kms_key_id", kms.and_then(|kms| kms.kms_key_id.as_ref())),
            ("storage_class", self.storage_class.as_ref()),
        ];
        if let Some((key, text)) = texts.into_iter().find(|(_, text)| text.is_some_and(|text| !visible(text))) {
            let text = text.map_or("", String::as_str);
            return Some((key, format!("{text:?} has a blank or another character in it that cannot be sent")));
        }
        if kms.is_some_and(|kms| kms.keys == StoreKeys::OfTheStore && kms.kms_key_id.is_some()) {
            let text = "needs server_side_encryption = \"aws:kms\" (or \"aws:kms:dsse\")".to_owned();
            return Some(("kms_key_id", text));
        }
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html
        if let Some(class @ ("GLACIER" | "DEEP_ARCHIVE")) = self.storage_class.as_deref() {
            let text = format!("{class} keeps objects where they cannot be read at once: nothing could be restored");
            return Some(("storage_class", text));
        }
        None
    }
}

/// The folder that the URL of a file store names.
pub fn folder_of(url: &str) -> Option<PathBuf> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}

/// Where the bucket is at `endpoint`. The client takes an endpoint as it is; the bucket's place in it is ours to choose.
pub(super) fn bucket_url(endpoint: &str, bucket: &str, virtual_hosted_style: bool) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) if virtual_hosted_style => format!("{scheme}://{bucket}.{host}"),
        _ => format!("{endpoint}/{bucket}"),
    }
}

/// How an S3 store shall encrypt what it keeps. Bucket policies can demand that each write says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSideEncryption {
    /// By whose keys.
    pub keys: StoreKeys,
    /// The key's id or ARN; `None`: the account's own.
    pub kms_key_id: Option<String>,
}

/// Whose keys a store encrypts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKeys {
    /// The store's own.
    OfTheStore,
    /// The key management service's.
    Kms,
    /// The key management service's, in two layers.
    KmsTwice,
}

impl StoreKeys {
    /// Every word of [`StoreKeys::word`].
    pub const WORDS: &[&str] = &["AES256", "aws:kms", "aws:kms:dsse"];

    /// S3's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::OfTheStore => "AES256",
            Self::Kms => "aws:kms",
            Self::KmsTwice => "aws:kms:dsse",
        }
    }

    /// What S3's word means.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::OfTheStore, Self::Kms, Self::KmsTwice].into_iter().find(|keys| keys.word() == word)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str, virtual_hosted_style: bool) -> StoreOptions {
        StoreOptions { endpoint: Some(endpoint.to_owned()), virtual_hosted_style, ..StoreOptions::new("s3://bucket/x") }
    }

    #[test]
    fn a_bucket_cannot_stand_in_front_of_an_address() {
        for endpoint in ["http://127.0.0.1:9000", "https://[::1]:9000", "https://10.0.0.1", "https://0x7f.1"] {
            let (key, text) = at(endpoint, true).problem().expect(endpoint);
            assert!(key == "virtual_hosted_style" && text.contains("leave virtual_hosted_style out"), "{text}");
            assert_eq!(at(endpoint, false).problem(), None, "{endpoint}");
        }
        for endpoint in ["https://s3.example.org", "http://localhost:9000/"] {
            assert_eq!(at(endpoint, true).problem(), None, "{endpoint}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_the_key_that_holds_it() {
        let good = StoreOptions::new("s3://bucket/x");
        let kms = |keys, id: &str| Some(ServerSideEncryption { keys, kms_key_id: Some(id.to_owned()) });
        let text = |text: &str| Some(text.to_owned());
        let id = Credentials::Keys {
            access_key_id: "AK\n".to_owned(),
            secret_access_key: Secret::new("SK"),
            session_token: None,
        };
        for (options, key) in [
            (StoreOptions { region: text("eu central"), ..good.clone() }, "region"),
            (StoreOptions { credentials: id, ..good.clone() }, "access_key_id"),
            (StoreOptions { server_side_encryption: kms(StoreKeys::Kms, "a\u{e9}"), ..good.clone() }, "kms_key_id"),
            (StoreOptions { server_side_encryption: kms(StoreKeys::OfTheStore, "a"), ..good.clone() }, "kms_key_id"),
            (StoreOptions { storage_class: text("DEEP_ARCHIVE"), ..good.clone() }, "storage_class"),
            (StoreOptions { storage_class: text(""), ..good.clone() }, "storage_class"),
        ] {
            assert_eq!(options.problem().map(|(key, _)| key), Some(key));
            assert!(crate::open(&options, "main").is_err(), "{key}");
        }
        assert_eq!(good.problem(), None);
    }

    #[test]
    fn every_word_of_the_stores_keys_is_known() {
        for word in StoreKeys::WORDS {
            assert_eq!(StoreKeys::parse(word).map(StoreKeys::word), Some(*word));
        }
    }
}
