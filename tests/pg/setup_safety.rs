//! What `walward setup` must not do: change another server than the one that is meant.

use crate::setup_apply::{Bare, cluster};
use crate::support::{Cluster, ClusterOptions, Version};

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
