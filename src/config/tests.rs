//! Good configurations resolve; each bad one gets a message that names the line, the key and the way out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::archive::Acknowledge;
use walward_repo::Encryption;
use walward_repo::keys::KeySource;
use walward_storage::Credentials;

const GOOD: &str = r#"[repository.disk]
url = "file:///var/lib/walward"
encryption = "none"

[cluster.main]
data_directory = "/var/lib/postgresql/15/main"
connection = "host=/var/run/postgresql user=walward dbname=postgres"
repositories = ["disk"]
"#;

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    load(&write(folder.path(), "walward.toml", text))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::OpenOptionsExt::mode(std::fs::OpenOptions::new().write(true).create_new(true), 0o600)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .unwrap();
    path
}

fn message(text: &str) -> String {
    match load_text(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn two_processes_have_one_fingerprint_when_they_have_read_the_same() {
    let fingerprint = |text: &str| {
        let loaded = load_text(text).unwrap();
        loaded.config.clusters["main"].fingerprint.clone()
    };
    let text = |url: &str, more: &str| {
        format!(
            "[repository.store]\nurl = \"{url}\"\nencryption = \"none\"\n[repository.other]\nurl = \"file:///other\"\nencryption = \"none\"\n\
             [cluster.main]\ndata_directory = \"/data\"\nconnection = \"host=/run user=x\"\nrepositories = [\"store\"]\n{more}"
        )
    };
    let one = fingerprint(&text("file:///a", ""));
    assert_eq!(one, fingerprint(&text("file:///a", "# a comment\n")));
    assert_eq!(one, fingerprint(&text("file:///a", "").replace("/other", "/elsewhere")), "of another repository");
    assert_ne!(one, fingerprint(&text("file:///b", "")));
    assert_ne!(one, fingerprint(&text("file:///a", "archive.deadline = \"7s\"\n")));
}

#[test]
fn a_secret_that_was_changed_makes_another_fingerprint_and_nothing_of_it_is_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, ca) = (folder.path().join("walward.toml"), folder.path().join("ca.pem"));
    let text = |password: &str| {
        format!(
            "[repository.store]\nurl = \"s3://bucket\"\nca_file = {ca:?}\nencryption = \"none\"\n\
             [cluster.main]\ndata_directory = \"/data\"\nconnection = \"host=/run user=x password={password}\"\nrepositories = [\"store\"]\n"
        )
    };
    let fingerprint = || load(&path).unwrap().config.clusters["main"].fingerprint.clone();
    write(folder.path(), "ca.pem", "one");
    write(folder.path(), "walward.toml", &text("secret"));
    let one = fingerprint();
    assert_eq!(one, fingerprint());
    // As an editor does it: another file under the name, even of the same length and time.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let kept = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(folder.path(), "walward.toml", &text("secreT"));
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let two = fingerprint();
    assert_ne!(one, two);
    drop(kept);
    // In place.
    std::thread::sleep(Duration::from_millis(20));
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text("secreT").as_bytes()).unwrap();
    let three = fingerprint();
    assert_ne!(two, three, "the content is the same: what is in the file has no part in it");
    std::io::Write::write_all(&mut std::fs::File::create(&ca).unwrap(), b"another").unwrap();
    assert_ne!(three, fingerprint(), "the authority's certificate is read when the store is opened, and no more");
}

#[test]
fn the_least_configuration_has_every_default() {
    let config = load_text(GOOD).unwrap().config;
    assert_eq!(config.agent.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.agent.memory_bytes_max, 64 << 20);
    assert!((1..=4).contains(&config.agent.cpu_threads));
    assert_eq!(config.agent.log, LogConfig { format: LogFormat::Text, level: LogLevel::Info });
    let cluster = &config.clusters["main"];
    assert_eq!(cluster.archive.look_ahead, 64);
    assert_eq!(cluster.archive.deadline, Duration::from_mins(1));
    assert_eq!(cluster.fetch.prefetch_bytes_max, 1 << 30);
    assert_eq!(cluster.backup.archive_deadline, Duration::from_mins(10));
    assert_eq!(cluster.backup.read_deadline, Duration::from_mins(3));
    assert!(cluster.backup.fast_checkpoint);
    let repository = &config.repositories["disk"];
    assert_eq!((repository.wal_level, repository.backup_level), (1, 3));
    assert_eq!(repository.encryption, Encryption::None);
    assert!(matches!(repository.store.credentials, Credentials::Chain));
    assert_eq!(repository.store.limits, walward_storage::Limits::default());
}

#[test]
fn a_number_acknowledges_only_as_far_as_there_are_repositories() {
    let with = |line: &str| {
        GOOD.replace("repositories = [\"disk\"]", &format!("repositories = [\"disk\", \"other\"]\n{line}"))
            + "\n[repository.other]\nurl = \"file:///var/lib/other\"\nencryption = \"none\"\n"
    };
    let accepted = |line: &str| load_text(&with(line)).unwrap().config.clusters["main"].acknowledge;
    assert_eq!(accepted(""), Acknowledge::All);
    assert_eq!(accepted("acknowledge = \"all\""), Acknowledge::All);
    assert_eq!(accepted("acknowledge = 1").needed(2), 1);
    assert_eq!(accepted("acknowledge = 2").needed(2), 2);
    let refused = |line: &str| message(&with(line));
    assert!(refused("acknowledge = 3").contains("is 3, and the cluster has 2 repositories"));
    assert!(refused("acknowledge = 0").contains("out of range"));
    assert!(refused("acknowledge = \"most\"").contains("neither"));
    assert!(refused("acknowledge = true").contains("should be \"all\" or a number"));
}

#[test]
fn the_annotated_example_is_accepted() {
    let loaded = load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/walward.toml"))).unwrap();
    let key_file = Encryption::Key(KeySource::KeyFile("/etc/walward/s3.key".into()));
    assert_eq!(loaded.config.repositories["s3"].encryption, key_file);
    assert_eq!(loaded.config.clusters["main"].repositories, ["s3", "disk"]);
}

#[test]
fn what_the_example_comments_out_is_accepted_too() {
    let text = include_str!("../../config/walward.toml");
    let active: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest
                    .split_once('=')
                    .is_some_and(|(key, _)| key.trim().chars().all(|c| c.is_ascii_lowercase() || c == '_')) =>
            {
                rest.to_owned()
            }
            _ => line.to_owned(),
        })
        .filter(|line| !line.starts_with("access_key_id") && !line.starts_with("secret_access_key_file"))
        .collect();
    assert_eq!(active.iter().filter(|line| line.starts_with("restore")).count(), 1);
    load_text(&active.join("\n")).unwrap();
}

#[test]
fn later_files_add_tables_and_never_change_what_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let main = write(folder.path(), "walward.toml", GOOD);
    write(folder.path(), "conf.d/20-more.toml", "[cluster.main]\narchive = { workers = 2 }\n");
    write(folder.path(), "conf.d/10-agent.toml", "[agent]\ncpu_threads = 1\n");
    write(folder.path(), "conf.d/ignored.txt", "nonsense");
    let loaded = load(&main).unwrap();
    assert_eq!(loaded.config.clusters["main"].archive.workers, 2);
    assert_eq!(loaded.config.agent.cpu_threads, 1);
    let names: Vec<_> = loaded.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["walward.toml", "10-agent.toml", "20-more.toml"]);

    write(folder.path(), "conf.d/30-again.toml", "\n[agent]\ncpu_threads = 3\n");
    let message = load(&main).unwrap_err().to_string();
    assert!(message.contains("30-again.toml:3: agent.cpu_threads was already set in "), "{message}");
    assert!(message.contains("10-agent.toml:2"), "{message}");
}

#[test]
fn a_missing_file_is_its_own_error() {
    assert!(matches!(load(Path::new("/nonexistent/walward.toml")), Err(ConfigError::Missing(_))));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of inputs")]
fn every_bad_input_gets_its_line_and_the_way_out() {
    // (what stands before the good configuration, what is replaced in it, parts of the message)
    let cases: &[(&str, (&str, &str), &[&str])] = &[
        (
            "[agent]\nsoket = \"/x\"\n",
            ("", ""),
            &["walward.toml:2: unknown key \"soket\" in agent; did you mean \"socket\"?"],
        ),
        (
            "[agent]\nfrobnicate = 1\n",
            ("", ""),
            &["unknown key \"frobnicate\"", "the keys there are: cpu_threads, log, "],
        ),
        ("[agents]\n", ("", ""), &["walward.toml:1: unknown key \"agents\"; did you mean \"agent\"?"]),
        ("[zebra]\n", ("", ""), &["the tables are [agent], [repository.NAME] and [cluster.NAME]"]),
        ("agent = 1\n", ("", ""), &["agent should be a table, not a number"]),
        (
            "[agent]\nsocket = \"run/x\"\n",
            ("", ""),
            &["walward.toml:2: agent.socket: \"run/x\" is not an absolute path"],
        ),
        ("[agent]\nsocket = 7\n", ("", ""), &["agent.socket: should be an absolute path, not a number"]),
        ("[agent]\ncpu_threads = 0\n", ("", ""), &["agent.cpu_threads: 0 is out of range; it goes from 1 to 256"]),
        ("[agent]\ncpu_threads = 1.5\n", ("", ""), &["not a number with a fraction"]),
        ("[agent]\nmemory_bytes_max = \"1MiB\"\n", ("", ""), &["1 MiB is out of range; it goes from 8 MiB"]),
        ("[agent]\nmemory_bytes_max = \"64 apples\"\n", ("", ""), &["\"64 apples\" is not a size"]),
        ("[agent]\nmetrics_listen = \"localhost\"\n", ("", ""), &["is not an address with a port"]),
        ("[agent]\nlog = \"text\"\n", ("", ""), &["agent.log: should be a table of keys, not a text"]),
        ("[agent]\nlog.level = \"loud\"\n", ("", ""), &["agent.log.level: \"loud\" is none of \"error\", \"warn\""]),
        ("[agent]\nlevel = \"info\"\n", ("", ""), &["unknown key \"level\" in agent; did you mean \"log.level\"?"]),
        (
            "[repository.x]\n",
            ("", ""),
            &[
                "repository.x.url: is missing; for example: url = ",
                "repository.x.encryption: is missing; for example: encryption = { key_file =",
            ],
        ),
        ("[repository.X]\n", ("", ""), &["\"X\" cannot name a repository"]),
        (
            "[cluster]\nsocket = 1\n",
            ("", ""),
            &["cluster.socket should be a table, not a number; write [cluster.NAME]"],
        ),
        (
            "",
            ("\"file:///var/lib/walward\"", "\"/var/lib/walward\""),
            &[
                "walward.toml:2: repository.disk.url: \"/var/lib/walward\" is not a URL; write \"file:///var/lib/walward\"",
            ],
        ),
        ("", ("\"file:///var/lib/walward\"", "\"file://var/lib\""), &["a path has three slashes: \"file:///var/lib\""]),
        ("", ("\"file:///var/lib/walward\"", "\"file:///\""), &["names no folder"]),
        ("", ("\"file:///var/lib/walward\"", "\"ftp://x/y\""), &["ftp:// is not supported"]),
        ("", ("\"file:///var/lib/walward\"", "\"s3://\""), &["repository.disk.url: "]),
        ("", ("\"file:///var/lib/walward\"", "\"s3://key:secret@bucket/x\""), &["credentials have keys of their own"]),
        ("", ("\"none\"", "\"aes\""), &["\"aes\" is not an encryption; write { key_file"]),
        ("", ("\"none\"", "{ keyfile = \"/x\" }"), &["unknown key \"keyfile\"; did you mean \"key_file\"?"]),
        ("", ("\"none\"", "{}"), &["should have exactly one key"]),
        ("", ("\"none\"", "{ key_file = \"/x\", passphrase_file = \"/y\" }"), &["should have exactly one key"]),
        ("", ("\"none\"", "{ command = \"vault\" }"), &["command should be a list of texts, not a text"]),
        ("", ("\"none\"", "{ command = [] }"), &["command is empty"]),
        ("", ("\"none\"", "{ key_file = \"x\" }"), &["\"x\" is not an absolute path"]),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\naccess_key_id = \"x\""),
            &["access_key_id: belongs to s3://, and the url is file://"],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\ncompression = { wal = 20 }"),
            &["compression.wal: 20 is out of range; it goes from 1 to 19"],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\nendpoint = \"http://x\""),
            &["has no TLS; set allow_http = true"],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\nendpoint = \"https://me:geheim@x\""),
            &["repository.disk.endpoint: holds credentials"],
        ),
        (
            "",
            (
                "url = \"file:///var/lib/walward\"",
                "url = \"s3://bucket\"\nendpoint = \"https://10.0.0.1:9000\"\nvirtual_hosted_style = true",
            ),
            &[
                "repository.disk.virtual_hosted_style: cannot be used with the endpoint https://10.0.0.1:9000, which is an address",
            ],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\nstorage_class = \"STANDARD_IA\""),
            &["storage_class: belongs to s3://, and the url is file://"],
        ),
        (
            "",
            ("url = \"file:///var/lib/walward\"", "url = \"s3://bucket\"\nkms_key_id = \"abcd\""),
            &["kms_key_id: needs server_side_encryption = \"aws:kms\""],
        ),
        (
            "",
            ("url = \"file:///var/lib/walward\"", "url = \"s3://bucket\"\nserver_side_encryption = \"kms\""),
            &["\"kms\" is none of \"AES256\", \"aws:kms\", \"aws:kms:dsse\""],
        ),
        (
            "",
            ("url = \"file:///var/lib/walward\"", "url = \"s3://bucket\"\nstorage_class = \"GLACIER\""),
            &["storage_class: GLACIER keeps objects where they cannot be read at once"],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\nlimits = { retry_first_backoff = \"30s\" }"),
            &["is longer than limits.retry_max_backoff"],
        ),
        (
            "",
            ("encryption = \"none\"", "encryption = \"none\"\nlimits = { request_timeout = 30 }"),
            &["30 has no unit; write \"30s\" for seconds"],
        ),
        (
            "",
            ("\"/var/lib/postgresql/15/main\"", "\"main\""),
            &["cluster.main.data_directory: \"main\" is not an absolute path"],
        ),
        (
            "",
            ("data_directory", "data_dir"),
            &[
                "unknown key \"data_dir\" in cluster.main; did you mean \"data_directory\"?",
                "data_directory: is missing",
            ],
        ),
        ("", ("user=walward dbname=postgres", "usr=walward"), &["cluster.main.connection: cannot be understood"]),
        ("", ("[\"disk\"]", "[\"dsik\"]"), &["there is no repository \"dsik\"; did you mean \"disk\"?"]),
        ("", ("[\"disk\"]", "[]"), &["repositories: is empty"]),
        ("", ("[\"disk\"]", "[\"disk\", \"disk\"]"), &["\"disk\" stands there twice"]),
        ("", ("[\"disk\"]", "\"disk\""), &["should be a list of names"]),
        ("", ("[\"disk\"]", "[\"disk\"]\nretention = { full = 4 }"), &["unknown key \"retention\" in cluster.main"]),
        (
            "",
            ("[\"disk\"]", "[\"disk\"]\nbackup = { full = \"0 1 * * Sun\" }"),
            &["unknown key \"full\" in cluster.main.backup"],
        ),
        ("", ("[\"disk\"]", "[\"disk\"]\nqueue_limit = \"1GiB\""), &["unknown key \"queue_limit\""]),
        (
            "",
            ("[\"disk\"]", "[\"disk\"]\nworkers = 4"),
            &["unknown key \"workers\" in cluster.main; did you mean \"archive.workers\"?"],
        ),
        (
            "[cluster.other]\ndata_directory = \"/var/lib/postgresql/15/main/\"\nconnection = \"host=/x\"\nrepositories = [\"disk\"]\n",
            ("", ""),
            &["is cluster.main's already"],
        ),
        ("[agent]\nsocket = \n", ("", ""), &["walward.toml:2: "]),
        ("[agent]\nsocket = \"/a\"\nsocket = \"/b\"\n", ("", ""), &["walward.toml:3: duplicate key"]),
    ];
    for (before, (old, new), parts) in cases {
        let good = if old.is_empty() { GOOD.to_owned() } else { GOOD.replace(old, new) };
        assert!(old.is_empty() || good != GOOD, "{old:?} is not in the good configuration");
        let message = message(&format!("{before}{good}"));
        for part in *parts {
            assert!(message.contains(part), "{part:?} should be in:\n{message}");
        }
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = GOOD.replace("disk\"]", "dsik\"]").replace("\"none\"", "\"nothing\"").replace("url", "uri");
    let message = message(&text);
    for part in ["4 problems", "dsik", "nothing", "\"uri\"", "url: is missing"] {
        assert!(message.contains(part), "{part:?} should be in:\n{message}");
    }
}

#[test]
fn secrets_are_read_from_files_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "s3.secret", "geheim1\n");
    let main = write(
        folder.path(),
        "walward.toml",
        &format!(
            "[repository.s3]\nurl = \"s3://b/p\"\nencryption = \"none\"\naccess_key_id = \"AK\"\nsecret_access_key_file = \"{}\"\n\
             [repository.s4]\nurl = \"s3://b/q\"\nencryption = \"none\"\naccess_key_id = \"AK\"\nsecret_access_key = \"geheim2\"\nproxy = \"http://me:geheim4@proxy:3128\"\n\
             [cluster.main]\ndata_directory = \"/x\"\nconnection = \"host=/tmp password=geheim3\"\nrepositories = [\"s3\", \"s4\"]\n",
            secret.display()
        ),
    );
    let loaded = load(&main).unwrap();
    let Credentials::KeyFiles(_) = &loaded.config.repositories["s3"].store.credentials else { panic!("no keys") };
    let shown = format!("{:?}", loaded.settings);
    assert!(shown.contains("(hidden)") && !shown.contains("geheim"), "{shown}");
    let debug = format!("{:?}", loaded.config);
    assert!(!debug.contains("geheim"), "{debug}");
}

#[test]
fn a_secret_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let key = write(folder.path(), "k", "x");
    let main = write(
        folder.path(),
        "walward.toml",
        &GOOD.replace("\"none\"", &format!("{{ key_file = \"{}\" }}", key.display())),
    );
    assert!(load(&main).unwrap().warnings.is_empty());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = load(&main).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.text.contains("run: chmod o-rwx")), "{warnings:?}");
}

#[test]
fn settings_say_where_they_come_from() {
    let loaded = load_text(&format!("[agent]\ncpu_threads = 2\n{GOOD}")).unwrap();
    let find = |key: &str| loaded.settings.iter().find(|setting| setting.key == key).unwrap();
    assert_eq!(find("agent.cpu_threads").value.as_deref(), Some("2"));
    assert!(matches!(&find("agent.cpu_threads").origin, Origin::File(place) if place.line == 2));
    assert_eq!(find("agent.memory_bytes_max").value.as_deref(), Some("\"64MiB\""));
    assert_eq!(find("agent.memory_bytes_max").origin, Origin::Default);
    assert_eq!(find("agent.metrics_listen").value, None);
}

#[test]
fn what_is_shown_could_stand_in_the_file() {
    let loaded = load_text(GOOD).unwrap();
    let lines: Vec<String> = loaded
        .settings
        .iter()
        .filter_map(|setting| Some(format!("{} = {}\n", setting.key, setting.value.as_ref()?)))
        .collect();
    let again = load_text(&lines.concat()).unwrap();
    assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config));
}

#[test]
fn a_repository_or_the_spool_in_the_data_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path).display().to_string();
    std::fs::create_dir_all(at("data/pg_tblspc")).unwrap();
    std::fs::create_dir_all(at("space")).unwrap();
    std::os::unix::fs::symlink(at("space"), at("data/pg_tblspc/16400")).unwrap();
    std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
    let text = |repository: &str, spool: &str, key: &str| {
        format!(
            "[agent]\nspool_directory = {:?}\n[repository.disk]\nurl = \"file://{}\"\nencryption = {{ key_file = {:?} }}\n\
             [cluster.main]\ndata_directory = {:?}\nconnection = \"host=/x\"\nrepositories = [\"disk\"]\n",
            at(spool),
            at(repository),
            at(key),
            at("data")
        )
    };
    for inside in ["data/backups", "link/backups", "space", "space/new", "x/../data"] {
        let refused = message(&text(inside, "spool", "key"));
        assert!(refused.contains("cluster.main.repositories: \"disk\"") && refused.contains("to protect"), "{refused}");
        let refused = message(&text("repository", inside, "key"));
        assert!(refused.contains("agent.spool_directory") && refused.contains("in every backup"), "{refused}");
    }
    let loaded = load_text(&text("repository", "spool", "link/key")).unwrap();
    assert!(
        loaded.warnings.iter().any(|warning| warning.text.contains("would be lost with it")),
        "{:?}",
        loaded.warnings
    );
    let apart = load_text(&text("repository", "spool", "key")).unwrap();
    assert!(!apart.warnings.iter().any(|warning| warning.text.contains("lies in")), "{:?}", apart.warnings);
}

#[test]
fn a_socket_in_a_folder_that_strangers_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("walward.sock");
    let text = format!("[agent]\nsocket = {socket:?}\n");
    for (mode, problems) in [(0o777, 1), (0o1777, 1), (0o755, 0)] {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).expect("changed");
        let file = folder.path().join("walward.toml");
        let _ = std::fs::remove_file(&file);
        walward_base::sys::durable::create(&file, text.as_bytes(), 0o600).expect("written");
        let found = match super::load(&file) {
            Ok(_) => 0,
            Err(super::ConfigError::Invalid(found)) => {
                assert!(found.iter().all(|problem| problem.text.contains("in the agent's place")), "{found:?}");
                found.len()
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, problems, "{mode:o}");
    }
}
