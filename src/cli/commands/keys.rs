//! `keys`: the slots through which secrets open an encrypted repository.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::json;

use super::text::{moment, table};
use crate::base::hex;
use crate::cli::arguments::{KeysCommand, SecretArguments};
use crate::cli::ask::confirm;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::Printer;
use crate::outcome::Exit;
use crate::repo::keys::{KeySource, OpenKeys, Secret, key_file_text};
use crate::repo::{Encryption, Repository};
use crate::sys::durable::NewFile;

pub(in crate::cli) async fn run(context: &Context, command: &KeysCommand, printer: &Printer) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let configured = context.repository_of(cluster)?;
    let Encryption::Key(source) = &configured.encryption else {
        let text = format!("repository \"{}\" is not encrypted", configured.name);
        return Err(Failure::new(Exit::Refused, text)
            .hint("objects that are stored cannot be encrypted later; make a new repository with `encryption` set"));
    };
    let repository = context.open(cluster, configured).await?;
    let mut keys = repository.open_keys(source).await?;
    match command {
        KeysCommand::List => return list(&repository, &keys, printer),
        KeysCommand::Add { secret } => {
            let source = source_of(secret, Owner::of(&cluster.data_directory), printer)?;
            let secret = Secret::read(&source).await?;
            let id = keys.add_slot(secret, Timestamp::now()).await?;
            save(&mut keys, &repository).await?;
            report(printer, "keys-add", &format!("added slot {id}"), id)?;
        }
        KeysCommand::Remove { id } => {
            let question =
                format!("remove slot {id}? Its secret will not open repository \"{}\" any more", configured.name);
            confirm(&context.global, printer, &question)?;
            keys.remove_slot(*id)?;
            // The secret that is configured must still open what is left, or the agent would find itself locked out.
            save(&mut keys, &repository).await?;
            report(printer, "keys-remove", &format!("removed slot {id}"), *id)?;
            if repository.open_keys(source).await.is_err() {
                printer.warning(
                    "the secret in the configuration no longer opens this repository: change `encryption`, then restart the agent",
                );
                return Ok(Exit::Warnings);
            }
        }
        KeysCommand::Rotate => {
            keys.rotate(Timestamp::now());
            save(&mut keys, &repository).await?;
            let id = hex::encode(keys.keyring().active().id());
            if printer.is_json() {
                printer.json("keys-rotate", json!({ "repository": repository.name(), "master_key": id }))?;
            } else {
                printer.line(&format!("new objects are sealed under master key {id} from now on"))?;
                printer.note("a running agent takes it up when it is reloaded: systemctl reload walward");
            }
        }
    }
    Ok(Exit::Done)
}

async fn save(keys: &mut OpenKeys, repository: &Repository) -> Result<(), Failure> {
    Ok(keys.store(&**repository.store()).await?)
}

fn report(printer: &Printer, schema: &str, text: &str, id: u32) -> Result<(), Failure> {
    if printer.is_json() {
        printer.json(schema, json!({ "slot": id }))?;
    } else {
        printer.line(text)?;
    }
    Ok(())
}

fn list(repository: &Repository, keys: &OpenKeys, printer: &Printer) -> Result<Exit, Failure> {
    let slots = keys.slots();
    if printer.is_json() {
        printer.json("keys-list", json!({ "repository": repository.name(), "slots": slots }))?;
        return Ok(Exit::Done);
    }
    let rows = slots.iter().map(|slot| vec![slot.id.to_string(), slot.kind.as_str().to_owned(), moment(slot.created)]);
    printer.raw(table(&["slot", "opened by", "made"], rows).as_bytes())?;
    Ok(Exit::Done)
}

fn source_of(arguments: &SecretArguments, owner: Owner, printer: &Printer) -> Result<KeySource, Failure> {
    let absolute =
        |path: &Path| std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()));
    if let Some(path) = &arguments.key_file {
        let path = absolute(path)?;
        if make_key_file(&path, owner)? {
            printer.note(&format!("made a new key file {}; keep a copy where this host's disk is not", path.display()));
        }
        return Ok(KeySource::KeyFile(path));
    }
    if let Some(path) = &arguments.passphrase_file {
        return Ok(KeySource::PassphraseFile(absolute(path)?));
    }
    let words: Vec<String> =
        arguments.command.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Failure::new(Exit::Usage, "--command is empty"));
    }
    Ok(KeySource::Command(words))
}

/// Makes a key file unless it is there; whether it was made. Root's own may be read by the group of the agent's user, who needs it.
pub(in crate::cli) fn make_key_file(path: &Path, owner: Owner) -> Result<bool, Failure> {
    match make_secret(path, key_file_text().as_bytes(), owner.group()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot make the key file {}", path.display())).into())
        }
    }
}

fn make_secret(path: &Path, content: &[u8], group: Option<u32>) -> io::Result<()> {
    let mut file = NewFile::begin(path, if group.is_some() { 0o640 } else { 0o600 })?;
    file.give(None, group)?;
    file.write_all(content)?;
    file.place_new()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_and_of_roots_for_the_agents_group() {
        let folder = tempfile::tempdir().unwrap();
        let group = rustix::process::getegid().as_raw();
        for (name, group, mode) in [("own", None, 0o600), ("shared", Some(group), 0o640)] {
            let path = folder.path().join(name);
            make_secret(&path, b"secret", group).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
            assert_eq!(make_secret(&path, b"other", group).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        }
    }
}
