//! Reads the configuration in a backup, before anything of it is restored.

use std::io::{self, Read};
use std::path::Path;

use super::configuration::{Configuration, Source};
use super::contents::{Contents, PackedFile};
use super::error::RestoreError;
use crate::catalogue::Copy;
use walward_base::describe;
use walward_base::sys::folder::open_led;
use walward_repo::layout;
use walward_repo::manifest::BackupLabel;

/// The longest configuration file that is looked at.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads what the server would read, but for what is nowhere or cannot be read: that is said in `warnings`.
pub async fn read<'a>(
    contents: &'a Contents,
    copies: &[Copy],
    label: &BackupLabel,
    warnings: &mut Vec<String>,
) -> Result<Configuration<'a>, RestoreError> {
    let mut configuration = Configuration::new(contents.paths());
    while let Some(source) = configuration.next() {
        let content = match &source {
            Source::Inside(path) => match contents.find(path) {
                Some((pack, file)) => from_pack(copies, label, pack, &file).await,
                None => Ok(Vec::new()),
            },
            Source::Outside(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || on_this_host(&path)).await;
                read.map_err(|_| RestoreError::Died)?.map_err(|error| error.to_string())
            }
        };
        match content {
            Ok(content) => configuration.add(source, &content),
            Err(why) => {
                warnings.push(format!("the configuration file {} cannot be looked at: {why}", source.shown()));
                configuration.add_unread(source);
            }
        }
    }
    Ok(configuration)
}

/// A small file out of a pack.
pub async fn from_pack(copies: &[Copy], label: &BackupLabel, pack: u32, file: &PackedFile) -> Result<Vec<u8>, String> {
    if file.size > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes", file.size));
    }
    let mut why = "no repository has it".to_owned();
    for copy in copies {
        let key = layout::pack(label, pack);
        let read = async { copy.repository.frames(&key, 0).await?.read_at(file.offset, file.size).await };
        match read.await {
            Ok(content) if crc32c::crc32c(&content) == file.crc32c => return Ok(content.to_vec()),
            Ok(_) => why = format!("repository {} has another content", copy.repository.name()),
            Err(error) => why = format!("repository {}: {}", copy.repository.name(), describe(&error)),
        }
    }
    Err(why)
}

/// A file that the configuration names outside of the data directory. One that is not there has nothing in it. Blocking.
fn on_this_host(path: &Path) -> io::Result<Vec<u8>> {
    let file = match open_led(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_outside_that_is_a_pipe_is_not_waited_for_and_one_after_a_link_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), pipe, 0o600.into(), 0).expect("a pipe");
        assert!(on_this_host(&place("pipe")).is_err());
        walward_base::sys::durable::create(&place("file"), b"a = 1\n", 0o600).expect("written");
        std::os::unix::fs::symlink("file", place("link")).expect("made");
        assert_eq!(on_this_host(&place("link")).expect("readable"), b"a = 1\n");
        assert_eq!(on_this_host(&place("gone")).expect("nothing"), b"");
    }
}
