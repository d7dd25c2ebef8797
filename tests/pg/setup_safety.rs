//! What `walward setup` must not do: change another server than the one that is meant, or leave behind what does not help.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::setup_apply::{Bare, cluster, left};
use crate::support::{Cluster, ClusterOptions, Outcome, Version};

/// A second server of the same host.
fn neighbour(bare: &Bare) -> Cluster {
    let mut second = Cluster::create(&bare.room, "second", &Version::main(), &ClusterOptions::default());
    second.start(&bare.room);
    second
}

/// What setup would have changed on a server.
fn traces(server: &Cluster, bare: &Bare) -> String {
    let query = "select (select count(*) from pg_roles where rolname = 'walward'), current_setting('archive_mode'), \
        (select setting from pg_settings where name = 'archive_command')";
    let files: Vec<_> = ["pg_hba.conf", "postgresql.auto.conf"]
        .map(|file| std::fs::read_to_string(server.data.join(file)).expect("a file of the server"))
        .to_vec();
    format!("{} {files:?}", server.sql(&bare.room, query))
}

#[test]
fn a_connection_to_another_server_is_refused_before_anything_is_written() {
    let bare = Bare::new(&Version::main(), &[]);
    let second = neighbour(&bare);
    let before = traces(&second, &bare);
    let arguments = bare.setup_arguments(&["--apply"]);
    for (option, user) in [("--connection", "walward"), ("--admin-connection", "postgres")] {
        let mut arguments = arguments.clone();
        match arguments.iter().position(|word| word == option) {
            Some(at) => arguments[at + 1] = second.connection(user),
            None => arguments.extend([option.to_owned(), second.connection(user)]),
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        bare.walward(&arguments).expect(16).says("another server").says(second.data.to_str().unwrap());
        assert!(!bare.config.exists(), "{option}");
        assert_eq!(traces(&second, &bare), before, "{option}");
    }
}

#[test]
fn a_data_directory_names_the_only_server_that_is_changed() {
    let bare = Bare::new(&Version::main(), &[]);
    let second = neighbour(&bare);
    bare.setup(&[]).expect(0);
    let add = ["--data-directory", second.data.to_str().unwrap(), "--connection", &second.connection("walward")];
    bare.walward(&[&["setup"], &add[..]].concat()).expect(0);
    let before = traces(&bare.cluster, &bare);
    // One connection cannot be two servers'.
    let admin = second.connection("postgres");
    bare.walward(&["setup", "--apply", "--admin-connection", &admin]).expect(2).says("--cluster");
    bare.walward(&["setup", "--apply", "--connection", &admin]).expect(2).says("--data-directory");

    let apply = ["--data-directory", second.data.to_str().unwrap(), "--admin-connection", &admin, "--apply"];
    let answer = bare.walward(&[&["setup"], &apply[..]].concat()).expect(0).json();
    assert_eq!(cluster(&answer)["cluster"], "second", "{answer:#}");
    assert_eq!(answer["clusters"].as_array().unwrap().len(), 1, "{answer:#}");
    assert!(second.sql(&bare.room, "show archive_mode") == "off" && traces(&second, &bare).contains("walward-wal"));
    assert_eq!(traces(&bare.cluster, &bare), before);
}

#[test]
fn yes_alone_changes_no_server() {
    let bare = Bare::new(&Version::main(), &[]);
    let before = traces(&bare.cluster, &bare);
    let answer = bare.setup(&["--yes"]).expect(0).json();
    assert_eq!(cluster(&answer)["done"], serde_json::json!([]), "{answer:#}");
    assert_eq!(traces(&bare.cluster, &bare), before);
}

/// pg_hba.conf and pg_ident.conf, with their modes.
fn rules(bare: &Bare) -> [(String, u32); 2] {
    ["pg_hba.conf", "pg_ident.conf"].map(|name| {
        let file = bare.cluster.data.join(name);
        (std::fs::read_to_string(&file).unwrap(), std::fs::metadata(&file).unwrap().mode() & 0o7777)
    })
}

#[test]
fn lines_that_let_nobody_in_do_not_stay() {
    let bare = Bare::new(&Version::main(), &[]);
    bare.room.write("main/pg_hba.conf", "local all walward peer map=nobody\nlocal all all trust\n");
    bare.cluster.sql(&bare.room, "create role walward nologin");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    let before = rules(&bare);
    let answer = bare.setup(&["--apply"]).expect(3).json();
    let has_login = |member: &str| cluster(&answer)[member].to_string().contains("\"login\"");
    assert!(has_login("steps") && !has_login("done"), "{answer:#}");
    assert!(left(&answer).contains("not permitted to log in"), "{answer:#}");
    assert_eq!(rules(&bare), before);
    // Not only the files: the server goes by the old ones, too.
    let loaded = "select count(*) from pg_hba_file_rules where options::text like '%map=walward%'";
    assert_eq!(bare.cluster.sql(&bare.room, loaded), "0");
}

#[test]
fn a_wrong_password_and_a_superuser_get_no_line_in_pg_hba() {
    let bare = Bare::new(&Version::main(), &[]);
    let rule = "local all walward scram-sha-256\nlocal all boss peer map=nobody\nlocal all all trust\n";
    bare.room.write("main/pg_hba.conf", rule);
    bare.cluster.sql(&bare.room, "create role walward login password 'right'");
    bare.cluster.sql(&bare.room, "create role boss login superuser");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    let data = bare.cluster.data.to_str().unwrap();
    for (user, says) in [("walward password=wrong", "password authentication failed"), ("boss", "is a superuser")] {
        let connection = bare.cluster.connection(user);
        let arguments = ["setup", "--cluster", "main", "--data-directory", data, "--connection", &connection];
        let more = ["--repository-url", &bare.url, "--dry-run"];
        let answer = bare.walward(&[&arguments[..], &more[..]].concat()).expect(0).says(says).json();
        assert!(!cluster(&answer)["steps"].to_string().contains("\"login\""), "{answer:#}");
    }
}

/// The owner of the data directory waits for root with a link to a file that only root may write, or read.
#[test]
#[ignore = "runs setup as root; scripts/test.sh runs it"]
fn as_root_a_link_of_the_owners_leads_setup_nowhere() {
    let bare = Bare::new(&Version::main(), &[]);
    let outside = tempfile::tempdir().unwrap();
    for name in ["pg_ident.conf", "pg_hba.conf"] {
        let (file, kept) = (bare.cluster.data.join(name), bare.room.join(format!("{name}.kept")));
        let target = outside.path().join(name);
        std::fs::write(&target, "root's own\n").unwrap();
        let before = std::fs::metadata(&target).unwrap();
        std::fs::rename(&file, &kept).unwrap();
        std::os::unix::fs::symlink(&target, &file).unwrap();
        let mut command = Command::new(bare.room.program("walward"));
        command.arg("--config").arg(&bare.config).args(["--no-input", "--json"]);
        let answer = Outcome::of(command.args(bare.setup_arguments(&["--apply"]))).expect(3).json();
        assert!(!cluster(&answer)["done"].to_string().contains("\"login\""), "{answer:#}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "root's own\n");
        // Nor was it replaced, and put back because the line does not help.
        let after = std::fs::metadata(&target).unwrap();
        assert_eq!((after.ino(), after.uid(), after.mtime()), (before.ino(), 0, before.mtime()));
        std::fs::rename(&kept, &file).unwrap();
    }
    assert!(!rules(&bare).iter().any(|(text, _)| text.contains("Written by")), "{:?}", rules(&bare));
}

#[test]
#[ignore = "runs walward as root; scripts/test.sh runs it"]
fn as_root_a_new_key_is_for_the_agent_to_read() {
    let bare = Bare::new(&Version::main(), &[]);
    let as_root = |arguments: &[&str]| {
        let mut command = Command::new(bare.room.program("walward"));
        Outcome::of(command.arg("--config").arg(&bare.config).args(["--no-input", "--json"]).args(arguments))
    };
    let arguments = bare.setup_arguments(&[]);
    as_root(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).expect(0);
    let added = bare.room.join("added.key");
    as_root(&["keys", "add", "--key-file", added.to_str().unwrap()]).expect(0);
    let group = std::fs::metadata(&bare.cluster.data).unwrap().gid();
    for key in [bare.config.with_file_name("main.key"), added] {
        let facts = std::fs::metadata(&key).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, group, 0o640), "{}", key.display());
    }
}

/// What ALTER SYSTEM has set of archive_command.
fn altered(bare: &Bare) -> Option<String> {
    let text = std::fs::read_to_string(bare.cluster.data.join("postgresql.auto.conf")).unwrap();
    text.lines().find(|line| line.starts_with("archive_command")).map(str::to_owned)
}

#[test]
fn when_no_segment_comes_through_the_other_tool_archives_again() {
    let old = "test -e %p && true %f";
    let mut bare = Bare::new(&Version::main(), &[("archive_mode", "on"), ("archive_command", old)]);
    bare.setup(&["--apply"]).expect(0);
    bare.start_agent();
    // It can be read, so that the agent serves; nothing can be written.
    let folders = ["repository", "repository/main"].map(|name| bare.room.join(name));
    let close = |mode| {
        for folder in &folders {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    for altered_before in [false, true] {
        if altered_before {
            bare.cluster.sql(&bare.room, &format!("alter system set archive_command = '{old} %f'"));
            bare.cluster.sql(&bare.room, "select pg_reload_conf()");
        }
        let before = (altered(&bare), format!("{old}{}", if altered_before { " %f" } else { "" }));
        assert_eq!(before.0.is_some(), altered_before);
        close(0o500);
        let answer = bare.setup(&["--apply", "--archive-command", "beside", "--wait", "2s"]).expect(1).json();
        close(0o700);
        assert_eq!((altered(&bare), bare.show("archive_command")), before, "{answer:#}");
        let undone = &cluster(&answer)["undone"];
        assert_eq!(undone["failed"], serde_json::Value::Null, "{answer:#}");
        assert!(undone["because"].to_string().contains("no segment came through"), "{answer:#}");
        assert!(undone["statements"][0].as_str().unwrap().contains("archive_command"), "{answer:#}");
        assert_eq!(cluster(&answer)["done"], serde_json::json!([]), "{answer:#}");
        assert_eq!(cluster(&answer)["archives"]["who"], "other", "{answer:#}");
        assert!(!left(&answer).contains("ALTER SYSTEM SET"), "{answer:#}");
        let segment = bare.cluster.switch_wal(&bare.room);
        bare.cluster.wait_archived(&bare.room, &segment);
    }
}

#[test]
fn a_backslash_of_the_other_tools_command_survives_and_a_password_is_not_shown() {
    // The file's own escape: the server sees one.
    let old = r"find %p -maxdepth 0 -exec test -e {} \\;";
    let settings = [("archive_mode", "on"), ("archive_command", old), ("standard_conforming_strings", "off")];
    let mut bare = Bare::new(&Version::main(), &settings);
    bare.setup(&["--apply"]).expect(0);
    bare.start_agent();
    let admin = bare.cluster.connection("postgres password=geheim");
    let both = bare.setup(&["--apply", "--archive-command", "beside", "--admin-connection", &admin]).expect(0);
    assert!(bare.show("archive_command").ends_with(r"&& { find %p -maxdepth 0 -exec test -e {} \;; }"));
    assert!(cluster(&both.json())["first_segment"].is_object(), "{}", both.stdout);
    let segment = bare.cluster.switch_wal(&bare.room);
    bare.cluster.wait_archived(&bare.room, &segment);

    bare.cluster.sql(&bare.room, "revoke execute on function pg_switch_wal() from walward");
    let asked = bare.setup(&["--admin-connection", &admin, "--dry-run"]).expect(0);
    bare.cluster.sql(&bare.room, "alter system reset archive_command");
    bare.cluster.sql(&bare.room, "create role somebody login");
    bare.cluster.sql(&bare.room, "grant pg_read_all_settings to somebody");
    bare.room.write("main/pg_hba.conf", "local all all trust\n");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    let nobody = bare.cluster.connection("somebody password=geheim");
    let left_over = bare.setup(&["--apply", "--admin-connection", &nobody]).expect(3);
    assert!(left(&left_over.json()).contains("psql -X"), "{}", left_over.stdout);
    for outcome in [&both, &asked, &left_over] {
        assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains("geheim"), "{outcome:?}");
    }
}

#[test]
fn a_library_that_cannot_be_taken_out_keeps_its_archive_command() {
    let mut bare = Bare::new(&Version::main(), &[("archive_mode", "on"), ("archive_library", "basic_archive")]);
    bare.room.write("main/pg_hba.conf", "local all all trust\n");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    bare.setup(&["--apply"]).expect(0);
    for statement in [
        "create role half login",
        "grant pg_read_all_settings to half",
        "grant execute on function pg_reload_conf() to half",
        "grant alter system on parameter archive_mode, archive_command to half",
    ] {
        bare.cluster.sql(&bare.room, statement);
    }
    bare.start_agent();
    let half = bare.cluster.connection("half");
    let replace = ["--apply", "--yes", "--archive-command", "replace", "--admin-connection", &half];
    let answer = bare.setup(&replace).expect(3).json();
    assert_eq!((bare.show("archive_library"), bare.show("archive_command")), ("basic_archive".into(), String::new()));
    assert_eq!((altered(&bare), &cluster(&answer)["done"]), (None, &serde_json::json!([])), "{answer:#}");
    assert!(left(&answer).contains("permission denied"), "{answer:#}");
}
