//! What the configuration in a backup says that holds for the cluster that was backed up and not for a copy of it. Pure.
//!
//! postgresql.conf, what it includes, and postgresql.auto.conf are one text to the server, and one rule is applied to all: what would
//! harm is overridden in postgresql.auto.conf, or commented out where that file comes too late (`data_directory` decides which
//! postgresql.auto.conf is read: `SelectConfigFiles`, guc.c; 13 to 18); what may be meant stays and is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::loan::AUTO_CONF;
use super::request::RestoreRequest;
use super::settings::{self, Setting};
use crate::catalogue::Target;
use walward_pg::settings::{setting_line, split_line};

/// The file that the server begins with.
pub const CONF: &str = "postgresql.conf";
/// How many files are looked at.
const FILES_MAX: usize = 64;

/// What acts for the cluster that was backed up, and the value that does nothing.
const ACTS: [(&str, &str); 4] = [
    ("archive_cleanup_command", ""),
    ("promote_trigger_file", ""),
    ("recovery_end_command", ""),
    ("recovery_min_apply_delay", "0"),
];
/// Where a standby streams from.
const STREAMS: [&str; 2] = ["primary_conninfo", "primary_slot_name"];
/// What stays, and what a person should think of.
const MEANT: [(&str, &str); 16] = [
    ("include", "it is read where it lies"),
    ("include_if_exists", "it is read where it lies"),
    ("include_dir", "it is read where it lies"),
    ("port", "two servers of one host need two ports, or two unix_socket_directories"),
    ("listen_addresses", "two servers of one host need two ports"),
    ("unix_socket_directories", "two servers of one host need two ports, or two of these"),
    (
        "shared_preload_libraries",
        "the libraries must be installed here, and what they do begins when the server starts",
    ),
    ("session_preload_libraries", "the libraries must be installed here"),
    ("local_preload_libraries", "the libraries must be installed here"),
    ("ssl_cert_file", "it is read where it lies"),
    ("ssl_key_file", "it is read where it lies"),
    ("ssl_ca_file", "it is read where it lies"),
    ("log_directory", "two servers write to it"),
    ("stats_temp_directory", "two servers write to it"),
    ("synchronous_standby_names", "commits wait until such a standby is there"),
    ("cluster_name", "monitoring may take the copy for the original"),
];
/// Of those, paths: relative ones lie in the copy.
const MEANT_PATHS: [&str; 8] = [
    "include",
    "include_if_exists",
    "include_dir",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "log_directory",
    "stats_temp_directory",
];

/// A setting that holds for the original, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file that sets it.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Its value; not that of one which may hold a password.
    pub value: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, or what to think of.
    pub why: &'static str,
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Another value stands in postgresql.auto.conf.
    Overridden,
    /// The line is a comment now.
    CommentedOut,
    /// It holds.
    Kept,
}

impl Fate {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Overridden => "overridden",
            Self::CommentedOut => "commented out",
            Self::Kept => "kept",
        }
    }
}

/// What is done about the configuration of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruling {
    /// What a person should know.
    pub notes: Vec<Note>,
    /// For postgresql.auto.conf.
    pub overrides: Vec<Setting>,
    /// Lines that become comments: the file in the data directory, and the setting.
    pub comments: Vec<(String, &'static str)>,
    /// Whether nothing was overlooked.
    is_known: bool,
    /// Lines at the end of postgresql.conf, where a file outside of the data directory sets what cannot be overridden otherwise.
    pub appended: Vec<Setting>,
}

/// A file of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In the data directory, relative to it.
    Inside(String),
    /// On this host.
    Outside(PathBuf),
}

impl Source {
    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Inside(path) => path.clone(),
            Self::Outside(path) => path.display().to_string(),
        }
    }

    /// The file or folder that `path`, said in this file, means (`AbsoluteConfigLocation`, conffiles.c).
    fn leads_to(&self, path: &str) -> Option<Self> {
        if Path::new(path).is_absolute() {
            return Some(Self::Outside(path.into()));
        }
        match self {
            Self::Outside(file) => Some(Self::Outside(file.parent()?.join(path))),
            Self::Inside(file) => {
                let mut parts: Vec<&str> =
                    file.rsplit_once('/').map_or(Vec::new(), |(dir, _)| dir.split('/').collect());
                for part in Path::new(path).components() {
                    match part {
                        Component::Normal(name) => parts.push(name.to_str()?),
                        Component::ParentDir => drop(parts.pop()?),
                        Component::CurDir => {}
                        Component::RootDir | Component::Prefix(_) => return None,
                    }
                }
                Some(Self::Inside(parts.join("/")))
            }
        }
    }
}

/// A line that sets something.
struct Line {
    source: Source,
    /// In lower case.
    name: String,
    value: String,
}

/// The configuration of a backup, as far as it was read.
pub struct Configuration<'a> {
    /// The files of the backup, by their paths.
    listed: BTreeSet<&'a str>,
    texts: BTreeMap<Source, String>,
    /// Whether something could not be read.
    is_partly_unread: bool,
}

impl<'a> Configuration<'a> {
    /// Of a backup that holds the files `listed`; nothing is read yet.
    pub fn new(listed: impl Iterator<Item = &'a str>) -> Self {
        Self { listed: listed.collect(), texts: BTreeMap::new(), is_partly_unread: false }
    }

    /// Whether all of the server's configuration is known. It may lie outside of the backup.
    fn is_known(&self) -> bool {
        self.listed.contains(CONF) && !self.is_partly_unread && self.texts.len() < FILES_MAX
    }

    /// The next file to read; none when all are read.
    pub fn next(&self) -> Option<Source> {
        if self.texts.len() >= FILES_MAX {
            return None;
        }
        let mut wanted = None;
        let mut seen = BTreeSet::new();
        for first in [CONF, AUTO_CONF] {
            self.walk(&Source::Inside(first.to_owned()), &mut seen, &mut |_| {}, &mut |source| {
                let known = match source {
                    Source::Inside(path) => self.listed.contains(&**path),
                    Source::Outside(_) => true,
                };
                if known && wanted.is_none() {
                    wanted = Some(source.clone());
                }
            });
        }
        wanted
    }

    /// A file that could not be read.
    pub fn add_unread(&mut self, source: Source) {
        self.is_partly_unread = true;
        self.texts.insert(source, String::new());
    }

    /// What was read.
    pub fn add(&mut self, source: Source, content: &[u8]) {
        self.texts.insert(source, String::from_utf8_lossy(content).into_owned());
    }

    /// Goes through the lines in the server's order; `unread` gets the files whose text is not known.
    /// Each file once: so that files that include each other come to an end.
    fn walk(
        &self,
        source: &Source,
        seen: &mut BTreeSet<Source>,
        line: &mut impl FnMut(Line),
        unread: &mut impl FnMut(&Source),
    ) {
        if !seen.insert(source.clone()) {
            return;
        }
        let Some(text) = self.texts.get(source) else { return unread(source) };
        for (name, value) in text.lines().filter_map(split_line) {
            let name = name.to_ascii_lowercase();
            line(Line { source: source.clone(), name: name.clone(), value: value.clone() });
            let included: Vec<Source> = match (name.as_str(), source.leads_to(&value)) {
                ("include" | "include_if_exists", Some(file)) => vec![file],
                ("include_dir", Some(Source::Inside(folder))) => self.files_of(&folder),
                _ => Vec::new(),
            };
            for file in &included {
                self.walk(file, seen, line, unread);
            }
        }
    }

    /// What `include_dir` reads, in its order.
    fn files_of(&self, folder: &str) -> Vec<Source> {
        let name = |path: &str| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
        let is_conf =
            |name: &str| !name.contains('/') && !name.starts_with('.') && name.strip_suffix(".conf").is_some();
        let files = self.listed.iter().filter(|path| name(path).is_some_and(|name| is_conf(&name)));
        files.map(|path| Source::Inside((*path).to_owned())).collect()
    }

    /// What is to be done about it in the directory `root`; the cluster was in `original`. `in_place`: it is the cluster itself that comes back.
    pub fn judge(&self, request: &RestoreRequest, root: &Path, original: &Path, in_place: bool) -> Ruling {
        let (mut lines, mut seen) = (Vec::new(), BTreeSet::new());
        for first in [CONF, AUTO_CONF] {
            self.walk(&Source::Inside(first.to_owned()), &mut seen, &mut |line| lines.push(line), &mut |_| {});
        }
        // What a folder outside of the data directory holds is not looked at.
        let is_outside = |line: &Line| line.name == "include_dir" && Path::new(&line.value).is_absolute();
        let is_known = self.is_known() && !lines.iter().any(is_outside);
        let mut verdict = Ruling { is_known, ..Ruling::default() };
        let mut effective: BTreeMap<&str, &Line> = BTreeMap::new();
        for line in &lines {
            // Each include is one of its own.
            if line.name.starts_with("include") {
                verdict.meant(line, in_place);
            } else {
                effective.insert(&line.name, line);
            }
        }
        let was = |path: &Path| {
            let own = effective.get("data_directory").map(|line| Path::new(&line.value));
            let original = [Some(original), own];
            !in_place
                && original.into_iter().flatten().any(|original| path.starts_with(original))
                && !path.starts_with(root)
        };
        for line in effective.values() {
            verdict.recovery(line, request, in_place);
            verdict.place(line, &lines, root, in_place, &was);
            let is_overridden = verdict.overrides.iter().any(|(name, _)| *name == line.name);
            if !line.name.starts_with("include") && !is_overridden {
                verdict.meant(line, in_place);
            }
        }
        verdict
    }
}

impl Ruling {
    fn note(&mut self, line: &Line, fate: Fate, why: &'static str) {
        let value = if line.name == "primary_conninfo" { "…" } else { &line.value };
        let (file, name, value) = (line.source.shown(), line.name.clone(), value.to_owned());
        self.notes.push(Note { file, name, value, fate, why });
    }

    /// What rules a recovery.
    fn recovery(&mut self, line: &Line, request: &RestoreRequest, in_place: bool) {
        let is_lent = settings::is_lent(request);
        if let Some((name, silent)) = ACTS.into_iter().find(|(name, _)| *name == line.name) {
            if line.value.is_empty() || line.value == silent {
            } else if is_lent {
                self.overrides.push((name, silent.to_owned()));
                let why =
                    if in_place { "not for this recovery; it comes back after it" } else { "it acts for the original" };
                self.note(line, Fate::Overridden, why);
            } else {
                self.note(line, Fate::Kept, "it acts for this standby, too");
            }
        }
        if let Some(name) = STREAMS.into_iter().find(|name| *name == line.name)
            && !line.value.is_empty()
        {
            let replaced = name == "primary_conninfo" && request.primary_conninfo.is_some();
            if request.standby && !replaced {
                let why = match name {
                    "primary_slot_name" => "the standby streams by it; a slot serves one standby at a time",
                    _ => "the standby streams by it",
                };
                self.note(line, Fate::Kept, why);
            } else if !request.standby && !in_place {
                self.overrides.push((name, String::new()));
                self.note(line, Fate::Overridden, "it leads to the original's primary");
            }
        }
        if line.name == "synchronous_standby_names" && !line.value.is_empty() && settings::is_copy(request, in_place) {
            self.overrides.push(("synchronous_standby_names", String::new()));
            self.note(line, Fate::Overridden, "the copy's commits would wait for the original's standbys");
        }
        let is_timeline = line.name == "recovery_target_timeline" && line.value != "latest";
        if (settings::TARGETS.contains(&line.name.as_str()) || is_timeline) && !line.value.is_empty() {
            let why = if request.target == Target::Latest && request.standby {
                "this standby has no target"
            } else {
                "it is another recovery's target; take it out before a standby is made of this server"
            };
            self.note(line, Fate::Overridden, why);
        }
    }

    /// Where the server's files are.
    fn place(&mut self, line: &Line, lines: &[Line], root: &Path, in_place: bool, was: &impl Fn(&Path) -> bool) {
        let path = Path::new(&line.value);
        let (name, own, why): (&'static str, PathBuf, _) = match line.name.as_str() {
            "data_directory" if path != root && !in_place => {
                ("data_directory", root.to_owned(), "a server started in the copy would run on the original's files")
            }
            "hba_file" if was(path) => ("hba_file", root.join("pg_hba.conf"), "it is the original's file"),
            "ident_file" if was(path) => ("ident_file", root.join("pg_ident.conf"), "it is the original's file"),
            "hba_file" | "ident_file" if path.is_absolute() && !in_place && !path.starts_with(root) => {
                return self.note(line, Fate::Kept, "it is read where it lies");
            }
            "external_pid_file" if !in_place && !line.value.is_empty() => {
                ("external_pid_file", PathBuf::new(), "the copy would write over the original's")
            }
            _ => return,
        };
        self.note(line, Fate::CommentedOut, why);
        let mut is_outside = false;
        for line in lines.iter().filter(|line| line.name == name) {
            match &line.source {
                Source::Inside(file) if !self.comments.contains(&(file.clone(), name)) => {
                    self.comments.push((file.clone(), name));
                }
                Source::Inside(_) => {}
                Source::Outside(_) => is_outside = true,
            }
        }
        if is_outside {
            self.appended.push((name, own.to_string_lossy().into_owned()));
        }
    }

    /// What may be meant.
    fn meant(&mut self, line: &Line, in_place: bool) {
        let is_relative = MEANT_PATHS.contains(&line.name.as_str()) && !Path::new(&line.value).is_absolute();
        if in_place || line.value.is_empty() || is_relative {
            return;
        }
        let known = MEANT.into_iter().find(|(name, _)| *name == line.name).map(|(_, why)| why);
        let cron = line.name.starts_with("cron.").then_some("jobs run in the copy as well");
        if let Some(why) = known.or(cron) {
            self.note(line, Fate::Kept, why);
        }
    }
}

impl Ruling {
    /// `wanted` without what only stands against a configuration that says nothing of it, and with what silences this one. Each setting
    /// that goes after the recovery is one that the server complains of at every reload until its next start.
    pub fn applied_to(&self, mut wanted: Vec<Setting>) -> Vec<Setting> {
        let says = |name: &str| !self.is_known || self.notes.iter().any(|note| note.name == name);
        wanted.retain(|(name, value)| match value.as_str() {
            "" => says(name),
            "latest" if *name == "recovery_target_timeline" => says(name),
            _ => true,
        });
        for (name, value) in &self.overrides {
            if !wanted.iter().any(|(known, _)| known == name) {
                wanted.push((name, value.clone()));
            }
        }
        wanted
    }

    /// What is to be changed in the files of the data directory: for each the settings that become comments, and lines at its end.
    pub fn changes(&self) -> BTreeMap<String, (Vec<&'static str>, String)> {
        let mut changes: BTreeMap<String, (Vec<&'static str>, String)> = BTreeMap::new();
        for (file, name) in &self.comments {
            changes.entry(file.clone()).or_default().0.push(name);
        }
        for (name, value) in &self.appended {
            changes.entry(CONF.to_owned()).or_default().1.push_str(&setting_line(name, value));
        }
        changes
    }
}

/// The text with the lines that set one of `names` made comments.
pub fn commented(content: &[u8], names: &[&str]) -> Vec<u8> {
    let mut edited = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        if split_line(&text).is_some_and(|(name, _)| names.iter().any(|known| known.eq_ignore_ascii_case(name))) {
            edited.extend_from_slice(b"# walward restore: of the cluster that was backed up: ");
        }
        edited.extend_from_slice(line);
    }
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::Archiving;
    use crate::restore::choose::tests::request;
    use walward_pg::Lsn;

    fn configuration<'a>(files: &[(&'a str, &str)]) -> Configuration<'a> {
        let mut configuration = Configuration::new(files.iter().map(|(path, _)| *path));
        while let Some(source) = configuration.next() {
            let text = files.iter().find(|(path, _)| *path == source.shown()).map_or("", |(_, text)| *text);
            configuration.add(source, text.as_bytes());
        }
        configuration
    }

    fn judged(files: &[(&str, &str)], request: &RestoreRequest, in_place: bool) -> (Ruling, Vec<String>) {
        let verdict = configuration(files).judge(request, Path::new("/copy"), Path::new("/original"), in_place);
        let notes = verdict.notes.iter().map(|note| format!("{}:{} {}", note.file, note.name, note.fate.words()));
        let notes = notes.collect();
        (verdict, notes)
    }

    #[test]
    fn what_acts_for_the_original_is_overridden_in_whatever_file_it_stands() {
        let files = [
            (CONF, "recovery_end_command = 'move the address'\ninclude_dir = 'conf.d'\nprimary_conninfo = 'host=p'\n"),
            ("conf.d/a.conf", "Archive_Cleanup_Command = 'pg_archivecleanup /shared %r'\n"),
            ("conf.d/b.txt", "port = 1\n"),
            (AUTO_CONF, "recovery_min_apply_delay = '8h'\n"),
        ];
        let (verdict, notes) = judged(&files, &request(Target::Lsn(Lsn(100))), false);
        let expected = [
            ("archive_cleanup_command", ""),
            ("primary_conninfo", ""),
            ("recovery_end_command", ""),
            ("recovery_min_apply_delay", "0"),
        ];
        assert_eq!(verdict.overrides, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(notes.contains(&"conf.d/a.conf:archive_cleanup_command overridden".to_owned()), "{notes:?}");
        assert!(verdict.notes.iter().all(|note| !note.value.contains("host=p")), "no password");
        // A standby that follows is a member of the cluster.
        let standby = RestoreRequest { standby: true, ..request(Target::Latest) };
        let (verdict, notes) = judged(&files, &standby, false);
        assert_eq!(verdict.overrides, []);
        assert!(notes.iter().all(|note| note.ends_with("kept")), "{notes:?}");
    }

    #[test]
    fn a_copy_is_never_started_on_the_files_of_the_original() {
        let files = [
            (
                CONF,
                "data_directory = '/a'\ninclude 'more.conf'\nhba_file = '/original/pg_hba.conf'\nexternal_pid_file = '/run/x'\n",
            ),
            ("more.conf", "data_directory = '/original'\n"),
        ];
        let (verdict, _) = judged(&files, &request(Target::Latest), false);
        let comments: Vec<(&str, &str)> = verdict.comments.iter().map(|(file, name)| (file.as_str(), *name)).collect();
        let expected = [
            (CONF, "data_directory"),
            ("more.conf", "data_directory"),
            (CONF, "external_pid_file"),
            (CONF, "hba_file"),
        ];
        assert_eq!(comments, expected);
        assert_eq!(verdict.appended, []);
        let (verdict, notes) = judged(&files, &request(Target::Latest), true);
        assert_eq!((verdict.comments, notes), (Vec::new(), Vec::new()), "in its place it is its own");
    }

    #[test]
    fn what_a_file_outside_says_of_places_is_answered_in_the_copy() {
        let files = [(CONF, "include_if_exists = '/etc/pg/common.conf'\n")];
        let mut configuration = Configuration::new(files.iter().map(|(path, _)| *path));
        configuration.add(Source::Inside(CONF.to_owned()), files[0].1.as_bytes());
        let outside = Source::Outside("/etc/pg/common.conf".into());
        assert_eq!(configuration.next(), Some(outside.clone()));
        configuration.add(outside, b"data_directory = '/original'\nhba_file = '/etc/pg/hba.conf'\n");
        assert_eq!(configuration.next(), None);
        let verdict = configuration.judge(&request(Target::Latest), Path::new("/copy"), Path::new("/original"), false);
        assert_eq!(verdict.appended, [("data_directory", "/copy".to_owned())]);
        let expected = BTreeMap::from([(CONF.to_owned(), (Vec::new(), "data_directory = '/copy'\n".to_owned()))]);
        assert_eq!(verdict.changes(), expected);
        assert_eq!(verdict.comments, []);
    }

    #[test]
    fn what_may_be_meant_is_listed_for_a_copy_and_no_more() {
        let text = "port = 5433\nssl_cert_file = 'server.crt'\nlog_directory = '/var/log/pg'\ncron.database_name = 'x'\n\
                    work_mem = '1MB'\nrecovery_target_xid = '7'\nunix_socket_directories = ''\n";
        let (verdict, notes) = judged(&[(CONF, text)], &request(Target::Latest), false);
        let expected = ["cron.database_name kept", "log_directory kept", "port kept", "recovery_target_xid overridden"];
        assert_eq!(notes, expected.map(|note| format!("{CONF}:{note}")));
        assert_eq!(verdict.overrides, []);
    }

    #[test]
    fn a_copy_waits_for_no_standby_and_a_server_in_the_originals_place_does() {
        let files = [(CONF, "synchronous_standby_names = 'FIRST 1 (db2)'\n")];
        let copy = RestoreRequest { archive: Archiving::ByPlace, ..request(Target::Latest) };
        let standby = RestoreRequest { standby: true, ..copy.clone() };
        let preserved = RestoreRequest { archive: Archiving::Preserve, ..copy.clone() };
        let silent = vec![("synchronous_standby_names", String::new())];
        let (verdict, notes) = judged(&files, &copy, false);
        assert_eq!((verdict.overrides, notes), (silent, vec![format!("{CONF}:synchronous_standby_names overridden")]));
        for request in [standby, preserved] {
            let (verdict, notes) = judged(&files, &request, false);
            assert_eq!((verdict.overrides, notes), (vec![], vec![format!("{CONF}:synchronous_standby_names kept")]));
        }
        let (verdict, notes) = judged(&files, &copy, true);
        assert_eq!((verdict.overrides, notes), (vec![], vec![]), "in its place it is its own");
    }

    #[test]
    fn a_configuration_that_sets_no_target_needs_none_taken_back() {
        let wanted = || vec![("recovery_target_xid", String::new()), ("recovery_target_timeline", "latest".to_owned())];
        let applied = |text| judged(&[(CONF, text)], &request(Target::Latest), false).0.applied_to(wanted());
        assert_eq!(applied("work_mem = 1\n"), []);
        assert_eq!(applied("recovery_target_xid = '7'\n"), wanted()[..1]);
        assert_eq!(applied("recovery_target_timeline = '1'\n"), wanted()[1..]);
        assert_eq!(applied("include_dir = '/etc/pg/conf.d'\n"), wanted());
        // On Debian it is not in the backup.
        assert_eq!(judged(&[], &request(Target::Latest), false).0.applied_to(wanted()), wanted());
    }

    #[test]
    fn files_that_include_each_other_come_to_an_end() {
        let files = [
            (CONF, "include 'postgresql.conf'\ninclude '../x'\ninclude 'a/b.conf'\n"),
            ("a/b.conf", "include '../postgresql.conf'\nport = 7\n"),
        ];
        let (_, notes) = judged(&files, &request(Target::Latest), false);
        assert_eq!(notes, ["a/b.conf:port kept"]);
    }

    #[test]
    fn a_line_becomes_a_comment_and_the_rest_stays() {
        let text = b"a = 1\n data_directory='/x' # here\nb = 'caf\xe9'\n#data_directory = 1\n";
        let edited = commented(text, &["data_directory"]);
        let expected = [
            &b"a = 1\n"[..],
            b"# walward restore: of the cluster that was backed up:  data_directory='/x' # here\n",
            b"b = 'caf\xe9'\n#data_directory = 1\n",
        ];
        assert_eq!(edited, expected.concat());
    }
}
