//! Secrets from where the configuration says they are. Read, kept in memory as short as possible, wiped.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::kind::SlotKind;
use super::recovery::RecoveryKey;
use super::{KeyError, KeySource};
use walward_base::hex;

/// What a key file begins with.
const KEY_FILE_PREFIX: &str = "walward-key-1:";
/// The longest file or output that is read as a secret, bytes.
const SECRET_BYTES_MAX: u64 = 4096;
/// The shortest output of a command that is taken for a secret, bytes.
const COMMAND_BYTES_MIN: usize = 16;
/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// What opens a slot.
pub struct Secret {
    pub(super) kind: SlotKind,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Where it came from, for messages.
    pub(super) from: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({}, ..)", self.from)
    }
}

/// The text of a new key file: 32 random bytes. A secret.
pub fn key_file_text() -> Zeroizing<String> {
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", *Zeroizing::new(hex::encode(bytes.as_slice()))))
}

impl Secret {
    /// Reads the secret from its source. A command has 30 seconds.
    pub async fn read(source: &KeySource) -> Result<Self, KeyError> {
        match source {
            KeySource::KeyFile(path) => {
                let text = read_file(path).await?;
                let syntax = || KeyError::Syntax {
                    from: path.display().to_string(),
                    expected: "a walward key (walward-key-1: and 64 hexadecimal digits) or a recovery key \
                               (14 groups of four letters and digits, the last of which checks the others)",
                };
                if let Some(key) = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()) {
                    let mut secret = Self::recovery(&key);
                    secret.from = format!("the recovery key in {}", path.display());
                    return Ok(secret);
                }
                let digits = text.trim_ascii().strip_prefix(KEY_FILE_PREFIX.as_bytes()).ok_or_else(syntax)?;
                let digits = std::str::from_utf8(digits).map_err(|_| syntax())?;
                let bytes = Zeroizing::new(hex::decode_array::<32>(digits).ok_or_else(syntax)?);
                Ok(Self {
                    kind: SlotKind::KeyFile,
                    bytes: Zeroizing::new(bytes.to_vec()),
                    from: format!("the key file {}", path.display()),
                })
            }
            KeySource::PassphraseFile(path) => {
                let text = read_file(path).await?;
                let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.is_empty() {
                    let from = path.display().to_string();
                    return Err(KeyError::Syntax { from, expected: "a passphrase on its first line" });
                }
                Ok(Self {
                    kind: SlotKind::Passphrase,
                    bytes: Zeroizing::new(line.to_vec()),
                    from: format!("the passphrase in {}", path.display()),
                })
            }
            KeySource::Command(words) => run_command(words).await,
        }
    }

    pub(super) fn recovery(key: &RecoveryKey) -> Self {
        Self {
            kind: SlotKind::Recovery,
            bytes: Zeroizing::new(key.bytes().to_vec()),
            from: "the recovery key".to_owned(),
        }
    }
}

async fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_file_blocking(&owned)).await;
    read.unwrap_or_else(|died| Err(KeyError::File { path: path.to_owned(), source: io::Error::other(died) }))
}

fn read_file_blocking(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that nobody can put another in its place between the look and the read.
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if !is_private(facts.mode(), facts.uid()) {
        return Err(KeyError::Permissions { path: path.to_owned(), mode: facts.mode() & 0o7777 });
    }
    // Room for all of it at once: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(SECRET_BYTES_MAX).unwrap_or_default() + 1));
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "too long to be a secret")));
    }
    Ok(text)
}

/// Nobody but the owner may do anything; root's file may be read by its group (PostgreSQL's rule for TLS keys).
fn is_private(mode: u32, owner: u32) -> bool {
    let others = mode & 0o077;
    others == 0 || (owner == 0 && others == 0o040)
}

async fn run_command(words: &[String]) -> Result<Secret, KeyError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(KeyError::Syntax { from: "the key command".to_owned(), expected: "a program" });
    };
    let failed = |source| KeyError::Command { program: program.clone(), source };
    let work = async {
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut output = Zeroizing::new(Vec::with_capacity(usize::try_from(SECRET_BYTES_MAX).unwrap_or_default() + 1));
        if let Some(stdout) = child.stdout.take() {
            stdout.take(SECRET_BYTES_MAX + 1).read_to_end(&mut output).await.map_err(failed)?;
        }
        if output.len() as u64 > SECRET_BYTES_MAX {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "too long to be a secret")));
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() {
            return Err(KeyError::CommandFailed { program: program.clone(), status });
        }
        let bytes = output.trim_ascii_end();
        if bytes.len() < COMMAND_BYTES_MIN {
            let from = format!("the output of {program}");
            return Err(KeyError::Syntax { from, expected: "a secret of at least 16 bytes" });
        }
        Ok(Secret {
            kind: SlotKind::Command,
            bytes: Zeroizing::new(bytes.to_vec()),
            from: format!("the command {program}"),
        })
    };
    tokio::time::timeout(COMMAND_DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer for 30 seconds"))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text).expect("written");
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).expect("permissions");
        file
    }

    #[tokio::test]
    async fn a_new_key_file_is_read_back() {
        let text = key_file_text();
        let file = file(text.as_bytes(), 0o600);
        let secret = Secret::read(&KeySource::KeyFile(file.path().to_owned())).await.expect("a secret");
        assert_eq!(hex::encode(&secret.bytes), text.trim().strip_prefix(KEY_FILE_PREFIX).expect("the prefix"));
        assert!(!format!("{secret:?}").contains(&hex::encode(&secret.bytes)));
    }

    #[tokio::test]
    async fn a_file_open_to_others_is_refused() {
        let file = file(key_file_text().as_bytes(), 0o644);
        let error = Secret::read(&KeySource::KeyFile(file.path().to_owned())).await.expect_err("open to others");
        assert!(matches!(error, KeyError::Permissions { mode: 0o644, .. }), "{error}");
        assert!(is_private(0o600, 1000) && is_private(0o400, 1000) && is_private(0o640, 0));
        assert!(!is_private(0o640, 1000) && !is_private(0o660, 0) && !is_private(0o604, 0));
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused_without_being_shown() {
        for text in ["", "walward-key-1:", "walward-key-1:abc", "walward-key-2:00", "hunter2"] {
            let file = file(text.as_bytes(), 0o600);
            let error = Secret::read(&KeySource::KeyFile(file.path().to_owned())).await.expect_err("no key");
            assert!(matches!(error, KeyError::Syntax { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn a_passphrase_is_the_first_line() {
        let file = file("correct horse\r\nignored\n".as_bytes(), 0o600);
        let secret = Secret::read(&KeySource::PassphraseFile(file.path().to_owned())).await.expect("a secret");
        assert_eq!(secret.bytes.as_slice(), b"correct horse");
    }

    #[tokio::test]
    async fn a_command_prints_the_secret_or_fails() {
        let shell = |script: &str| KeySource::Command(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        let secret = Secret::read(&shell("echo 0123456789abcdef0123")).await.expect("a secret");
        assert_eq!(secret.bytes.as_slice(), b"0123456789abcdef0123");
        assert!(matches!(Secret::read(&shell("exit 3")).await, Err(KeyError::CommandFailed { .. })));
        assert!(matches!(Secret::read(&shell("echo short")).await, Err(KeyError::Syntax { .. })));
        assert!(matches!(
            Secret::read(&KeySource::Command(vec!["/nonexistent".into()])).await,
            Err(KeyError::Command { .. })
        ));
    }
}
