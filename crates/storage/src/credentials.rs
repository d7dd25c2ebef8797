//! Keys for S3 and Azure that lie in files and are renewed there while we run: a sidecar, Vault, a cron job.
//!
//! Before every request the files are looked at, and read when they are others than before, so that what was renewed is
//! used with the next request. A file that is missing or empty in the middle of its renewal leaves the last keys in force.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use object_store::azure::{AzureAccessKey, AzureCredential};

use super::error::Cause;
use super::options::{KeyFiles, KeySource};
use walward_base::Locked;

/// A file that changed so recently can change again without a new time: it is read each time.
const SETTLED: Duration = Duration::from_secs(2);

/// Device, inode, length, times of modification and change.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Gives the keys as they stand in their files.
pub(super) struct FromFiles<K>(Arc<Inner<K>>);

struct Inner<K> {
    files: Vec<PathBuf>,
    /// Makes the keys of what stands in the files now.
    read: Box<dyn Fn() -> Result<K, String> + Send + Sync>,
    /// The last keys that were read, with the stamps of the files that they came from.
    last: Mutex<Option<(Vec<Stamp>, Arc<K>)>>,
}

impl<K> std::fmt::Debug for FromFiles<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FromFiles({:?})", self.0.files)
    }
}

impl<K> FromFiles<K> {
    fn new(files: Vec<PathBuf>, read: impl Fn() -> Result<K, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { files, read: Box::new(read), last: Mutex::default() }))
    }
}

impl FromFiles<AwsCredential> {
    pub(super) fn s3(keys: KeyFiles) -> Self {
        let files = keys.paths().map(Path::to_owned).collect();
        Self::new(files, move || {
            Ok(AwsCredential {
                key_id: text(&keys.access_key_id)?,
                secret_key: text(&keys.secret_access_key)?,
                token: keys.session_token.as_ref().map(text).transpose()?,
            })
        })
    }
}

impl FromFiles<AzureCredential> {
    pub(super) fn azure(key: KeySource) -> Self {
        let files = key.path().map(Path::to_owned).into_iter().collect();
        Self::new(files, move || {
            let key = AzureAccessKey::try_new(&text(&key)?);
            // The cause would show a part of the key.
            Ok(AzureCredential::AccessKey(key.map_err(|_| "the Azure account key is not base64".to_owned())?))
        })
    }
}

fn stamp(file: &Path) -> Result<(Stamp, bool), String> {
    let metadata = std::fs::metadata(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    let stamp = (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    );
    Ok((stamp, age.is_some_and(|age| age > SETTLED)))
}

fn text(source: &KeySource) -> Result<String, String> {
    match source {
        KeySource::Given(secret) => Ok(secret.expose().to_owned()),
        KeySource::File(file) => {
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            match text.lines().next().map(str::trim) {
                Some(line) if !line.is_empty() => Ok(line.to_owned()),
                _ => Err(format!("{} is empty", file.display())),
            }
        }
    }
}

/// The keys of this moment. Blocking.
fn current<K>(inner: &Inner<K>) -> Result<Arc<K>, String> {
    let Inner { files, read, last } = inner;
    let known = last.locked().clone();
    let look = || {
        let mut stamps = Vec::new();
        let mut settled = true;
        for file in files {
            let (stamp, old) = stamp(file)?;
            stamps.push(stamp);
            settled &= old;
        }
        if settled
            && let Some((before, keys)) = &known
            && *before == stamps
        {
            return Ok((stamps, Arc::clone(keys)));
        }
        Ok((stamps, Arc::new(read()?)))
    };
    match look() {
        Ok((stamps, keys)) => {
            *last.locked() = Some((stamps, Arc::clone(&keys)));
            Ok(keys)
        }
        Err(cause) => match known {
            Some((_, keys)) => {
                tracing::warn!(cause, "using the credentials that were there before");
                Ok(keys)
            }
            None => Err(cause),
        },
    }
}

#[async_trait]
impl<K: std::fmt::Debug + Send + Sync + 'static> CredentialProvider for FromFiles<K> {
    type Credential = K;

    async fn get_credential(&self) -> object_store::Result<Arc<K>> {
        let inner = Arc::clone(&self.0);
        let keys = tokio::task::spawn_blocking(move || current(&inner)).await;
        let cause = match keys {
            Ok(Ok(keys)) => return Ok(keys),
            Ok(Err(cause)) => cause,
            Err(_) => "the process is stopping".to_owned(),
        };
        Err(object_store::Error::Unauthenticated { path: String::new(), source: Box::new(Cause(cause)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::*;
    use crate::*;
    use walward_base::Secret;

    fn write(file: &Path, text: &str) {
        walward_base::sys::durable::replace(file, text.as_bytes(), 0o600).unwrap();
    }

    /// Which key signed, from what the server was sent.
    fn key_of(request: &Request) -> String {
        let (_, rest) = request.head.split_once("credential=").unwrap();
        rest.split('/').next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn keys_that_are_renewed_in_their_files_are_used_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        write(&file("id"), "AKFIRST\n");
        write(&file("secret"), "first\n");
        write(&file("token"), "token-first");
        // The first key has expired as soon as the second is there.
        let server = Server::start(|_, request| {
            if request.head.contains("credential=aksecond/") && request.head.contains("token-second") {
                Response::Say(200, dated(), b"x".to_vec())
            } else {
                refuse(403, "ExpiredToken")
            }
        })
        .await;
        let options = StoreOptions {
            credentials: Credentials::KeyFiles(KeyFiles {
                access_key_id: KeySource::File(file("id")),
                secret_access_key: KeySource::File(file("secret")),
                session_token: Some(KeySource::File(file("token"))),
            }),
            ..options_at(&server.address, PATIENT, PATIENT)
        };
        let store = open(&options, "main").unwrap();
        let error = store.get_range(&key(), 0..1).await.unwrap_err();
        assert_eq!(error.class, walward_base::ErrorClass::Denied);
        assert!(error.source.to_string().contains("renew the credentials"), "{}", error.source);
        write(&file("id"), "AKSECOND");
        write(&file("secret"), "second");
        write(&file("token"), "token-second");
        store.head(&key()).await.unwrap();
        // A file that is gone or empty for a moment changes nothing.
        std::fs::remove_file(file("token")).unwrap();
        store.head(&key()).await.unwrap();
        write(&file("token"), "");
        store.head(&key()).await.unwrap();
        let keys: Vec<_> = server.requests().iter().map(key_of).collect();
        assert_eq!(keys, ["akfirst", "aksecond", "aksecond", "aksecond"]);
    }

    #[tokio::test]
    async fn an_azure_account_key_that_is_renewed_in_its_file_is_used_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let keys = FromFiles::azure(KeySource::File(file.clone()));
        let key = |text: &str| AzureCredential::AccessKey(AzureAccessKey::try_new(text).unwrap());
        for text in ["Zmlyc3Q=", "c2Vjb25k"] {
            write(&file, &format!("{text}\n"));
            assert_eq!(*keys.get_credential().await.unwrap(), key(text));
        }
        // What is no key changes nothing, and is shown nowhere.
        write(&file, "hunter2!\n");
        assert_eq!(*keys.get_credential().await.unwrap(), key("c2Vjb25k"));
        let error = FromFiles::azure(KeySource::File(file)).get_credential().await.unwrap_err();
        let text = format!("{error:?} {keys:?}");
        assert!(text.contains("is not base64") && !text.contains("hunter2") && !text.contains("c2Vjb25k"), "{text}");

        let server = Server::start(|_, _| say(500, "")).await;
        let options = StoreOptions {
            url: "az://container/prefix".to_owned(),
            endpoint: Some(format!("http://{}", server.address)),
            credentials: Credentials::AccountKey {
                account: "acme".to_owned(),
                key: KeySource::File(folder.path().join("none")),
            },
            ..options_at(&server.address, PATIENT, PATIENT)
        };
        let error = open(&options, "main").unwrap().head(&crate::server::key()).await.unwrap_err();
        assert_eq!(error.class, walward_base::ErrorClass::Denied);
        assert!(error.source.to_string().contains("cannot read"), "{}", error.source);
        assert!(server.requests().is_empty());
    }

    #[tokio::test]
    async fn keys_that_were_never_there_are_an_error_of_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(|_, _| say(500, "")).await;
        let options = StoreOptions {
            credentials: Credentials::KeyFiles(KeyFiles {
                access_key_id: KeySource::Given(Secret::new("AK")),
                secret_access_key: KeySource::File(folder.path().join("secret")),
                session_token: None,
            }),
            ..options_at(&server.address, PATIENT, PATIENT)
        };
        let error = open(&options, "main").unwrap().head(&key()).await.unwrap_err();
        assert_eq!(error.class, walward_base::ErrorClass::Denied);
        assert!(error.source.to_string().contains("cannot read"), "{}", error.source);
        assert!(server.requests().is_empty());
    }
}
