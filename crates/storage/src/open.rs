//! From a URL to a store with all its layers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use url::Url;

use super::calls::Calls;
use super::client::{Client, ObjectStoreBacked};
use super::credentials::FromFiles;
use super::deadline::WithDeadlines;
use super::file::FileStore;
use super::http::Connector;
use super::limit::Limited;
use super::options::{StoreKeys, bucket_url};
use super::retry::Retrying;
use super::{Credentials, Limits, ObjectKey, Store, StoreError, StoreOptions};
use walward_base::ErrorClass;

/// Makes aws-lc-rs the crypto provider of every TLS connection of this process. Harmless when it was done before.
pub fn install_crypto_provider() {
    // Fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The store of `folder` (a cluster's name) under the options' URL. Nothing is read or written, except the CA file and
/// the credentials' file; a file store's root need not be there yet (see [`create_root`]).
pub fn open(options: &StoreOptions, folder: &str) -> Result<Arc<dyn Store>, StoreError> {
    let place = Location::of(options, folder)?;
    let address = format!("{} at {}", place.url, options.endpoint.as_deref().unwrap_or("its own place"));
    let calls = Calls::at(&address, options.limits.clone());
    let base: Arc<dyn Store> = match place.kind {
        Kind::File { .. } => Arc::new(place.file_store()?),
        Kind::Bucket { scheme, bucket, prefix } => {
            install_crypto_provider();
            let client = client(options, scheme, &bucket).map_err(|cause| refused(&place.url, cause))?;
            let class = options.storage_class.clone();
            Arc::new(ObjectStoreBacked::new(client, place.url, prefix, class, calls.clone()))
        }
    };
    Ok(layered(base, calls))
}

/// What every store gets: tries again what may heal, waits for one of the places, ends each attempt within its time.
fn layered(base: Arc<dyn Store>, calls: Calls) -> Arc<dyn Store> {
    let timed = Arc::new(WithDeadlines::new(base, calls.limits.clone()));
    let limited = Arc::new(Limited::new(timed, calls.places));
    Arc::new(Retrying::new(limited, calls.limits))
}

/// `base` with all the layers of [`open`]. For tests that put something of their own under them.
#[doc(hidden)]
pub fn with_layers(base: Arc<dyn Store>, limits: Limits) -> Arc<dyn Store> {
    layered(base, Calls::new(limits))
}

/// The store in a folder without any layer, and without making the folder. For tests, as [`with_layers`].
#[doc(hidden)]
pub fn bare_folder(folder: &std::path::Path) -> Arc<dyn Store> {
    Arc::new(FileStore::new(format!("file://{}", folder.display()), folder.to_owned()))
}

/// Makes the place of `folder` under the options' URL, where a store needs that: the folder of a file store. Only for a
/// repository that is being created; later a missing folder is an error, because it can be an unmounted disk. Blocking.
pub fn create_root(options: &StoreOptions, folder: &str) -> Result<(), StoreError> {
    create_root_for(options, folder, None)
}

/// As [`create_root`]. What root makes, the folders above the repository's that were missing included, belongs to `owner` (user and
/// group), who could not get through otherwise.
pub fn create_root_for(options: &StoreOptions, folder: &str, owner: Option<(u32, u32)>) -> Result<(), StoreError> {
    let place = Location::of(options, folder)?;
    match place.kind {
        Kind::File { .. } => place.file_store()?.create_root(owner),
        Kind::Bucket { .. } => Ok(()),
    }
}

/// Where a URL and a folder lead.
#[derive(Debug)]
struct Location {
    /// For messages: without secrets, the folder at the end.
    url: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File { root: PathBuf },
    Bucket { scheme: Scheme, bucket: String, prefix: Path },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Google,
    Azure,
}

fn refused(url: &str, cause: impl Into<String>) -> StoreError {
    StoreError::new(ErrorClass::Permanent, "use the store", url, cause)
}

impl Location {
    fn of(options: &StoreOptions, folder: &str) -> Result<Self, StoreError> {
        // A text that is no URL may still hold a password.
        let url = Url::parse(&options.url).map_err(|error| refused("", format!("its url cannot be read: {error}")))?;
        let mut clean = url.clone();
        let _ = clean.set_password(None);
        let _ = clean.set_username("");
        clean.set_query(None);
        clean.set_fragment(None);
        let shown = clean.as_str().trim_end_matches('/').to_owned();
        let refuse = |cause: String| Err(refused(&shown, cause));
        if clean != url {
            return refuse(
                "its url has a user, a password, a query or a fragment: credentials have their own keys".into(),
            );
        }
        let folder = match ObjectKey::new(folder) {
            Ok(folder) => folder,
            Err(error) => return refuse(error.to_string()),
        };
        let scheme = match url.scheme() {
            "file" => {
                return match url.to_file_path() {
                    Ok(root) => Ok(Self {
                        url: super::error::shown(&shown, folder.as_str()),
                        kind: Kind::File { root: root.join(folder.as_str()) },
                    }),
                    Err(()) => refuse("write a file store's url with three slashes: file:///srv/backup".into()),
                };
            }
            "s3" => Scheme::S3,
            "gs" => Scheme::Google,
            "az" => Scheme::Azure,
            other => {
                return refuse(format!(
                    "{other}:// is not known: use file:///path, s3://bucket, gs://bucket or az://container"
                ));
            }
        };
        let Some(bucket) = url.host_str().filter(|_| url.port().is_none()) else {
            return refuse("its url names no bucket: write s3://bucket/prefix".into());
        };
        let prefix = match Path::from_url_path(url.path()) {
            Ok(prefix) => folder.as_str().split('/').fold(prefix, Path::join),
            Err(error) => return refuse(error.to_string()),
        };
        Ok(Self {
            url: super::error::shown(&shown, folder.as_str()),
            kind: Kind::Bucket { scheme, bucket: bucket.to_owned(), prefix },
        })
    }

    fn file_store(&self) -> Result<FileStore, StoreError> {
        match &self.kind {
            Kind::File { root } => Ok(FileStore::new(self.url.clone(), root.clone())),
            Kind::Bucket { .. } => Err(refused(&self.url, "it is not a file store")),
        }
    }
}

/// The HTTP side of the options. Deadlines are [`super::deadline`]'s: a client's own would cut large bodies.
pub(super) fn client_options(options: &StoreOptions) -> Result<ClientOptions, String> {
    let mut client = ClientOptions::new()
        .with_allow_http(options.allow_http)
        .with_timeout_disabled()
        .with_connect_timeout(options.limits.connect_timeout)
        .with_pool_idle_timeout(Duration::from_mins(1))
        .with_pool_max_idle_per_host(options.limits.concurrency);
    if let Some(proxy) = &options.proxy {
        client = client.with_proxy_url(proxy.expose());
    }
    if let Some(file) = &options.ca_file {
        let pem = std::fs::read(file).map_err(|error| format!("cannot read ca_file {}: {error}", file.display()))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|_| format!("ca_file {} is not a file of PEM certificates", file.display()))?;
        if certificates.is_empty() {
            return Err(format!("ca_file {} has no PEM certificate in it", file.display()));
        }
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn check(options: &StoreOptions) -> Result<(), String> {
    if let Some((key, text)) = options.problem() {
        return Err(format!("{key} {text}"));
    }
    let Some(endpoint) = &options.endpoint else { return Ok(()) };
    match endpoint.split_once("://").map(|(scheme, _)| scheme) {
        Some("https") => Ok(()),
        Some("http") if options.allow_http => Ok(()),
        Some("http") => Err(format!(
            "endpoint {endpoint} is not encrypted: use https, or set allow_http = true if others may read it"
        )),
        _ => Err(format!("endpoint {endpoint} is no address: write https://host:port")),
    }
}

fn no_retries(options: &StoreOptions) -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: options.limits.request_timeout, backoff: BackoffConfig::default() }
}

fn text(error: &object_store::Error) -> String {
    super::http::innermost(error, |_| {})
}

/// An S3 client as the options want it, not yet made.
pub(super) fn s3_builder(options: &StoreOptions, bucket: &str) -> Result<AmazonS3Builder, String> {
    check(options)?;
    let mut builder = match &options.credentials {
        Credentials::Chain => AmazonS3Builder::from_env(),
        Credentials::Keys { access_key_id, secret_access_key, session_token } => {
            let mut builder = AmazonS3Builder::new()
                .with_access_key_id(access_key_id)
                .with_secret_access_key(secret_access_key.expose());
            if let Some(token) = session_token {
                builder = builder.with_token(token.expose());
            }
            builder
        }
        Credentials::KeyFiles(files) => AmazonS3Builder::new().with_credentials(Arc::new(FromFiles::s3(files.clone()))),
        Credentials::ServiceAccountFile(_) | Credentials::AccountKey { .. } => {
            return Err(format!("{} do not fit its url", options.credentials.kind()));
        }
    };
    if let Some(endpoint) = &options.endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(if options.virtual_hosted_style {
            bucket_url(endpoint, bucket, true)
        } else {
            endpoint.to_owned()
        });
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(encryption) = &options.server_side_encryption {
        let key = |name: &str| name.parse::<AmazonS3ConfigKey>().map_err(|error| text(&error));
        builder = builder.with_config(key("aws_server_side_encryption")?, encryption.keys.word());
        if let Some(id) = &encryption.kms_key_id {
            builder = builder.with_config(key("aws_sse_kms_key_id")?, id);
        }
        if encryption.keys != StoreKeys::OfTheStore {
            // The entity tag is no digest of the bytes then; the checksum that comes back is.
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
    }
    Ok(builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(options.virtual_hosted_style)
        .with_client_options(client_options(options)?)
        .with_retry(no_retries(options))
        // Deletes come one by one, and not every store knows the batch.
        .with_disable_bulk_delete(true)
        .with_http_connector(Connector::new(bucket)))
}

/// The bucket of an S3 url and a client for it; `None` for any other url.
pub(super) fn s3_client(options: &StoreOptions) -> Result<Option<(String, AmazonS3)>, String> {
    let place = Location::of(options, "bucket").map_err(|error| error.source.to_string())?;
    match place.kind {
        Kind::Bucket { scheme: Scheme::S3, bucket, .. } => {
            install_crypto_provider();
            let client = s3_builder(options, &bucket)?.build().map_err(|error| text(&error))?;
            Ok(Some((bucket, client)))
        }
        Kind::Bucket { .. } | Kind::File { .. } => Ok(None),
    }
}

/// What the names of all objects in `folder` begin with in its S3 bucket, the slash included; `None` for any other url.
pub(super) fn s3_prefix(options: &StoreOptions, folder: &str) -> Result<Option<String>, String> {
    let place = Location::of(options, folder).map_err(|error| error.source.to_string())?;
    Ok(match place.kind {
        Kind::Bucket { scheme: Scheme::S3, prefix, .. } => Some(format!("{prefix}/")),
        Kind::Bucket { .. } | Kind::File { .. } => None,
    })
}

fn client(options: &StoreOptions, scheme: Scheme, bucket: &str) -> Result<Box<dyn Client>, String> {
    check(options)?;
    let http = client_options(options)?;
    let unfit = || format!("{} do not fit its url", options.credentials.kind());
    match scheme {
        Scheme::S3 => Ok(Box::new(s3_builder(options, bucket)?.build().map_err(|error| text(&error))?)),
        Scheme::Google => {
            let mut builder = match &options.credentials {
                Credentials::Chain => GoogleCloudStorageBuilder::from_env(),
                Credentials::ServiceAccountFile(file) => GoogleCloudStorageBuilder::new()
                    .with_service_account_path(file.to_str().ok_or("the service account file's path is not UTF-8")?),
                Credentials::Keys { .. } | Credentials::KeyFiles(_) | Credentials::AccountKey { .. } => {
                    return Err(unfit());
                }
            };
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint.trim_end_matches('/'));
            }
            let client = builder
                .with_bucket_name(bucket)
                .with_client_options(http)
                .with_retry(no_retries(options))
                .with_http_connector(Connector::new(bucket))
                .build();
            Ok(Box::new(client.map_err(|error| text(&error))?))
        }
        Scheme::Azure => {
            let mut builder = match &options.credentials {
                Credentials::Chain => MicrosoftAzureBuilder::from_env(),
                Credentials::AccountKey { account, key } => MicrosoftAzureBuilder::new()
                    .with_account(account)
                    .with_credentials(Arc::new(FromFiles::azure(key.clone()))),
                Credentials::Keys { .. } | Credentials::KeyFiles(_) | Credentials::ServiceAccountFile(_) => {
                    return Err(unfit());
                }
            };
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
            }
            let client = builder
                .with_container_name(bucket)
                .with_client_options(http)
                .with_retry(no_retries(options))
                .with_http_connector(Connector::new(bucket))
                .build();
            Ok(Box::new(client.map_err(|error| text(&error))?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeySource;
    use walward_base::Secret;

    fn cause(options: &StoreOptions) -> String {
        let error = open(options, "main").unwrap_err();
        assert_eq!(error.class, ErrorClass::Permanent);
        format!("{error}: {}", error.source)
    }

    fn keys() -> Credentials {
        Credentials::Keys {
            access_key_id: "AK".to_owned(),
            secret_access_key: Secret::new("hunter2"),
            session_token: Some(Secret::new("hunter3")),
        }
    }

    #[test]
    fn a_url_that_cannot_work_is_refused_with_what_to_write() {
        for (url, words) in [
            ("ftp://host/x", "use file:///path, s3://bucket, gs://bucket or az://container"),
            ("/srv/backup", "cannot be read"),
            ("file://srv/backup", "three slashes"),
            ("s3:///prefix", "names no bucket"),
            ("s3://bucket:9000/prefix", "names no bucket"),
            ("s3://user:hunter2@bucket/prefix", "credentials have their own keys"),
            ("s3://bucket/prefix?secret=hunter2", "credentials have their own keys"),
        ] {
            let cause = cause(&StoreOptions { credentials: keys(), ..StoreOptions::new(url) });
            assert!(cause.contains(words) && !cause.contains("hunter2"), "{url}: {cause}");
        }
        let error = open(&StoreOptions::new("s3://bucket"), "../other").unwrap_err();
        assert!(error.source.to_string().contains("cannot name an object"));
    }

    #[test]
    fn an_endpoint_without_encryption_needs_a_yes() {
        let http = StoreOptions {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            credentials: keys(),
            ..StoreOptions::new("s3://bucket")
        };
        assert!(cause(&http).contains("set allow_http = true"));
        open(&StoreOptions { allow_http: true, ..http }, "main").unwrap();
    }

    #[test]
    fn a_ca_file_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let options = StoreOptions { ca_file: Some(file.clone()), credentials: keys(), ..StoreOptions::new("s3://b") };
        assert!(cause(&options).contains("cannot read ca_file"));
        std::fs::File::create(&file).unwrap();
        assert!(cause(&options).contains("has no PEM certificate in it"));
    }

    #[test]
    fn every_cloud_opens_with_its_own_credentials_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let account = folder.path().join("account.json");
        let json = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
        walward_base::sys::durable::create(&account, json.as_bytes(), 0o600).unwrap();
        let azure =
            Credentials::AccountKey { account: "acme".to_owned(), key: KeySource::Given(Secret::new("aHVudGVyMg==")) };
        let all = [keys(), Credentials::ServiceAccountFile(account), azure];
        for (url, fit) in [("s3://bucket/a/b", 0), ("gs://bucket/a/b", 1), ("az://container/a/b", 2)] {
            for (number, credentials) in all.iter().enumerate() {
                let options = StoreOptions { credentials: credentials.clone(), ..StoreOptions::new(url) };
                if number == fit {
                    assert_eq!(open(&options, "main").unwrap().url(), format!("{url}/main"));
                } else {
                    assert!(cause(&options).contains("do not fit its url"));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_missing_root_is_an_error_until_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(format!("file://{}/disk", folder.path().display()));
        let store = open(&options, "main").unwrap();
        let key = ObjectKey::new("wal/x").unwrap();
        let errors = [
            store.get(&key).await.err().unwrap(),
            store.head(&key).await.unwrap_err(),
            store.list(None).await.unwrap_err(),
            store.list(Some(&key)).await.unwrap_err(),
            store.put_new(&key, vec![1].into()).await.unwrap_err(),
            store.delete(&key).await.unwrap_err(),
            store.start_upload(&key, 1).await.err().unwrap(),
        ];
        for error in errors {
            assert_eq!(error.class, ErrorClass::Permanent, "{error}");
            assert!(error.source.to_string().contains("is its file system mounted?"), "{}", error.source);
        }
        create_root(&options, "main").unwrap();
        assert_eq!(store.list(None).await.unwrap(), crate::Listing::default());
        assert_eq!(store.head(&key).await.unwrap_err().class, ErrorClass::NotFound);
    }
}
