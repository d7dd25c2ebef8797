//! What `walward` answers when it fails: with `--json` always one object, whose code is the one that the command ends with.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The exit code, and what was said on standard output.
fn ask(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walward"));
    let output = command.arg("--config").arg(config).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_failure_is_one_object_with_the_code_that_the_command_ends_with() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("none.toml");
    let missing: [(&[&str], i32); 3] = [
        (&["--json", "info"], 2),
        (&["--json", "wal", "fetch", "000000010000000000000001", "x"], 255),
        (&["--json", "wal", "push", "pg_wal/000000010000000000000001"], 2),
    ];
    let wrong: [(&[&str], i32); 6] = [
        (&["--json", "frobnicate"], 2),
        (&["--json", "--frobnicate", "info"], 2),
        (&["backup", "--json", "--type"], 2),
        (&["--json", "restore", "--target-xid", "many"], 2),
        (&["--json", "wal", "fetch"], 255),
        (&["--json", "wal", "push"], 2),
    ];
    for (arguments, code) in missing.into_iter().chain(wrong) {
        let (ended, said) = ask(&config, arguments);
        assert_eq!(ended, code, "{arguments:?}");
        let answer: Value =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said:?}"));
        assert_eq!(answer["schema"], "walward.error/1", "{arguments:?}");
        assert_eq!(answer["code"], code, "{arguments:?}: {said}");
        let error = answer["error"].as_str().unwrap();
        assert!(!error.is_empty() && !error.starts_with("error") && !error.contains('\n'), "{arguments:?}: {said}");
        assert!(answer["hint"].is_string(), "{arguments:?}: {said}");
    }
}

#[test]
fn what_is_no_failure_or_was_not_asked_for_as_json_is_none() {
    let config = Path::new("/nonexistent/walward.toml");
    for arguments in [&["--json", "--help"][..], &["frobnicate"], &["info", "--", "--json"]] {
        let (_, said) = ask(config, arguments);
        assert!(!said.contains("walward.error/1"), "{arguments:?}: {said}");
    }
}

/// It is about all of them, and looks into all of them.
#[test]
fn a_check_that_names_no_cluster_refuses_a_spool_in_the_data_of_any_links_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let agent = format!("[agent]\nsocket = {:?}\nspool_directory = {:?}\n", at("no.sock"), at("link/spool"));
    let store = format!("[repository.store]\nurl = \"file://{}\"\nencryption = \"none\"\n", at("store").display());
    let clusters = ["one", "two"].map(|cluster| {
        let data = at(cluster);
        std::fs::create_dir(&data).unwrap();
        format!("[cluster.{cluster}]\ndata_directory = {data:?}\nconnection = \"host=/nowhere\"\nrepositories = [\"store\"]\n")
    });
    std::os::unix::fs::symlink("two", at("link")).unwrap();
    let config = at("walward.toml");
    std::fs::write(&config, agent + &store + &clusters.concat()).unwrap();
    for more in [&[][..], &["--cluster", "two"]] {
        let (code, said) = ask(&config, &[more, &["--json", "check"]].concat());
        assert!(code == 2 && said.contains("would be in every backup"), "{more:?}: {code}: {said}");
    }
}
