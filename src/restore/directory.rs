//! The directory that is restored into: what it must not be, and whom its files will belong to. Blocking.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::RestoreError;
use super::journal::{self, Journal};
use super::loan;
use super::refusal::Refusal;
use walward_base::sys::durable;
use walward_base::sys::folder::{Folder, followed_no_link};
use walward_base::sys::identity;

/// What pg_control is called until everything else is durable.
pub const UNPLACED_CONTROL_FILE: &str = "global/pg_control.walward";
/// A postmaster.pid has eight lines.
const PID_FILE_BYTES_MAX: u64 = 64 << 10;
/// Of which a restore makes one and removes the other.
pub const SIGNAL_FILES: [&str; 2] = ["recovery.signal", "standby.signal"];

/// What is at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing.
    Absent,
    /// An empty directory.
    Empty,
    /// A restore that was cut short.
    Unfinished(Journal),
}

/// Whom the files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// Does `work` with the rights of `owner` and no other, in a thread of its own: whatever the owner puts into the directory, a link
    /// say, leads the restore nowhere that the owner could not go. Without one, as oneself. Blocking.
    pub fn act<T: Send + 'static>(owner: Option<Self>, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match owner {
            Some(Self { uid, gid }) => identity::as_user(uid, gid, work),
            None => Ok(work()),
        }
    }
}

/// Looks at `directory`, as its owner when this is root; see [`inspect`].
pub fn inspect_as_owner(directory: &Path) -> Result<TargetState, RestoreError> {
    let found = match Folder::enter(directory) {
        Ok(folder) if identity::is_root() => folder.facts().ok().filter(|facts| facts.uid != 0),
        Err(error) if followed_no_link(&error) => return Err(RestoreError::io("look at", directory)(error)),
        Ok(_) | Err(_) => None,
    };
    let owner = found.map(|facts| Owner { uid: facts.uid, gid: facts.gid });
    let inspected = directory.to_owned();
    Owner::act(owner, move || inspect(&inspected)).map_err(RestoreError::io("look at", directory))?
}

/// Looks at `directory`; refuses one with a running server or with anything in it but an unfinished restore.
pub fn inspect(directory: &Path) -> Result<TargetState, RestoreError> {
    let Some(folder) = enter(directory)? else { return Ok(TargetState::Absent) };
    if let Some(pid) = running_server(&folder)? {
        return Err(Refusal::Running { directory: directory.to_owned(), pid }.into());
    }
    if let Some(journal) = Journal::read(&folder)? {
        // pg_control is placed last: with it the directory may have been a running cluster since.
        return match folder.look("global/pg_control") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TargetState::Unfinished(journal)),
            Err(error) => Err(RestoreError::io("look at", &directory.join("global/pg_control"))(error)),
            Ok(_) => {
                let directory = directory.to_owned();
                Err(Refusal::Finished { directory, label: journal.backup, journal: journal::NAME }.into())
            }
        };
    }
    match first_entry(&folder)? {
        Some(holds) => Err(Refusal::NotEmpty { directory: directory.to_owned(), holds }.into()),
        None => Ok(TargetState::Empty),
    }
}

/// The directory at `path`, none when there is nothing; refuses what is none.
pub fn enter(path: &Path) -> Result<Option<Folder>, RestoreError> {
    match Folder::enter(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory && !followed_no_link(&error) => {
            Err(Refusal::NotADirectory(path.to_owned()).into())
        }
        Err(error) => Err(RestoreError::io("look at", path)(error)),
    }
}

/// The name of something in `directory`, if there is anything; what `mkfs` makes does not count, nor what our own
/// writing left behind when it was cut.
pub fn first_entry(directory: &Folder) -> Result<Option<String>, RestoreError> {
    let names = directory.names().map_err(RestoreError::io("list", directory.path()))?;
    let mut shown = names.iter().map(|name| name.to_string_lossy()).filter(|name| !is_of_nobody(name));
    Ok(shown.next().map(std::borrow::Cow::into_owned))
}

/// Whether the restore itself makes a file of this path in the data directory.
pub fn is_own(path: &str) -> bool {
    [journal::NAME, UNPLACED_CONTROL_FILE, loan::AUTO_CONF, loan::NOTE].contains(&path) || SIGNAL_FILES.contains(&path)
}

/// Whether a name means nothing: what `mkfs` makes, and what our own writing left behind when it was cut.
pub fn is_of_nobody(name: &str) -> bool {
    name == "lost+found" || durable::is_temporary_name(name)
}

/// The process of the server that runs in `directory`: `postmaster.pid` names it, and it is alive. When the process's
/// working directory can be seen and is another, the file is a left-over.
fn running_server(directory: &Folder) -> Result<Option<i32>, RestoreError> {
    let name = "postmaster.pid";
    let text = match directory.read(name, PID_FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(RestoreError::io("read", &directory.path().join(name)))?,
    };
    let text = String::from_utf8_lossy(&text);
    // A single-user backend writes its number with a minus (CreateLockFile, src/backend/utils/init/miscinit.c).
    let Some(pid) = text.lines().next().and_then(|line| line.trim().trim_start_matches('-').parse::<i32>().ok()) else {
        return Ok(None);
    };
    let alive = rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
    if !alive {
        return Ok(None);
    }
    let elsewhere = match (std::fs::metadata(format!("/proc/{pid}/cwd")), directory.facts()) {
        (Ok(cwd), Ok(directory)) => (cwd.dev(), cwd.ino()) != directory.id,
        // Not to be seen: the benefit of the doubt goes to the data.
        _ => false,
    };
    Ok((!elsewhere).then_some(pid))
}

/// Whom the files in `directory` will belong to: nobody else, unless root restores. Then the owner that the directory has
/// already, and where that is root or nobody yet, the user `postgres`.
pub fn owner(directory: &Path) -> Result<Option<Owner>, RestoreError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match Folder::enter(directory).and_then(|folder| folder.facts()) {
        Ok(facts) if facts.uid != 0 => return Ok(Some(Owner { uid: facts.uid, gid: facts.gid })),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(RestoreError::io("look at", directory)(error));
        }
        _ => {}
    }
    let users = Path::new("/etc/passwd");
    let text = std::fs::read_to_string(users).map_err(RestoreError::io("read", users))?;
    user(&text, "postgres").map(Some).ok_or_else(|| Refusal::NoOwner(directory.to_owned()).into())
}

/// The user `name` in the text of /etc/passwd.
fn user(passwd: &str, name: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        found.then_some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

/// Whether two paths name one place; what is not there yet is compared by its name below what is.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let there = existing_ancestor(path);
        let rest = path.strip_prefix(&there).unwrap_or(Path::new("")).to_owned();
        std::fs::canonicalize(&there).unwrap_or(there).join(rest)
    };
    real(one) == real(other)
}

/// The nearest directory at or above `path` that can be entered.
fn existing_ancestor(path: &Path) -> PathBuf {
    nearest(path).map_or_else(|_| PathBuf::from("/"), |folder| folder.path().to_owned())
}

/// The nearest directory at or above `path` that is there.
pub fn nearest(path: &Path) -> io::Result<Folder> {
    let mut entered = path.ancestors().map(Folder::enter);
    entered
        .find(|entered| !matches!(entered, Err(error) if error.kind() == io::ErrorKind::NotFound))
        .unwrap_or_else(|| Folder::enter(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::super::places::Places;
    use super::super::space::check_tablespaces;
    use super::*;

    fn write(path: &Path, text: &str) {
        durable::replace(path, text.as_bytes(), 0o600).expect("written");
    }

    #[test]
    fn only_an_absent_or_empty_directory_or_our_own_unfinished_restore_is_accepted() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("main");
        assert_eq!(inspect(&target).expect("absent"), TargetState::Absent);
        std::fs::create_dir_all(target.join("lost+found")).expect("made");
        std::fs::File::create(durable::temporary_path(&target.join("walward.restore.json"))).expect("written");
        assert_eq!(inspect(&target).expect("empty"), TargetState::Empty);
        write(&target.join("PG_VERSION"), "15\n");
        let error = inspect(&target).expect_err("not empty");
        assert!(error.to_string().contains("PG_VERSION"), "{error}");
        let places = Places::new(&target, "a backup", &[], &[], None).expect("places");
        let lineage = walward_pg::Lineage { major: 15, system_identifier: 7 };
        let journal = Journal::new(lineage, "20261121T064158Z-full", &places);
        journal.write(&target).expect("written");
        assert_eq!(inspect(&target).expect("ours"), TargetState::Unfinished(journal));
        std::fs::create_dir(target.join("global")).expect("made");
        write(&target.join("global/pg_control"), "");
        assert!(matches!(inspect(&target), Err(RestoreError::Refused(Refusal::Finished { .. }))));
    }

    #[test]
    fn a_running_server_is_refused_and_a_left_over_pid_file_is_only_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(directory.path()).spawn().expect("sleep");
        write(&directory.path().join("postmaster.pid"), &format!("{}\n/data\n", child.id()));
        let running = inspect(directory.path());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(matches!(running, Err(RestoreError::Refused(Refusal::Running { .. }))));
        assert!(matches!(inspect(directory.path()), Err(RestoreError::Refused(Refusal::NotEmpty { .. }))));
        // Alive, but somewhere else.
        write(&directory.path().join("postmaster.pid"), &format!("{}\n", std::process::id()));
        assert!(matches!(inspect(directory.path()), Err(RestoreError::Refused(Refusal::NotEmpty { .. }))));
    }

    #[test]
    #[ignore = "needs root, to be led by another user; scripts/test.sh runs it as root"]
    fn as_root_no_other_users_link_leads_a_plan_to_what_is_not_that_users() {
        const NOBODY: u32 = 65534;
        let room = tempfile::tempdir().expect("a directory");
        let (secret, link) = (room.path().join("secret"), room.path().join("link"));
        std::fs::create_dir(&secret).expect("made");
        let places = Places::new(&secret, "a backup", &[], &[], None).expect("places");
        let lineage = walward_pg::Lineage { major: 15, system_identifier: 7 };
        Journal::new(lineage, "20261121T064158Z-full", &places).write(&secret).expect("written");
        std::os::unix::fs::symlink(&secret, &link).expect("made");
        let tablespace =
            walward_repo::manifest::Tablespace { oid: 7, name: "t".to_owned(), location: link.display().to_string() };
        let places = Places::new(&room.path().join("data"), "label", &[tablespace], &[], Some(&link.join("wal")))
            .expect("valid");
        // Root's own leads where it leads.
        assert!(matches!(inspect(&link), Ok(TargetState::Unfinished(_))));
        assert!(matches!(check_tablespaces(&places), Err(RestoreError::Refused(Refusal::TablespaceTaken { .. }))));
        std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).expect("given");
        let led = |error: RestoreError| walward_base::describe(&error).contains("root does not follow it");
        assert!(led(inspect(&link).expect_err("led")) && led(inspect_as_owner(&link).expect_err("led")));
        assert!(led(owner(&link).expect_err("led")) && led(check_tablespaces(&places).expect_err("led")));
        assert!(nearest(&link.join("gone")).is_err() && nearest(&secret.join("gone")).is_ok());
    }

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:9:9::/:/bin/sh\npostgres:x:106:114:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(user(passwd, "postgres"), Some(Owner { uid: 106, gid: 114 }));
        assert_eq!(user(passwd, "post"), None);
        assert_eq!(user("postgres:x", "postgres"), None);
    }
}
