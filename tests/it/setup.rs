//! `walward setup` at the hands of people: what is missing or wrong is said, and nothing is written.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn data_directory(&self, version: &str) -> String {
        let data = self.folder.path().join("data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("PG_VERSION"), format!("{version}\n")).unwrap();
        data.to_str().unwrap().to_owned()
    }

    /// Exit code and everything that was said.
    fn setup(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_walward"))
            .arg("--config")
            .arg(self.folder.path().join("walward.toml"))
            .args(["setup", "--non-interactive"])
            .args(arguments)
            .env_remove("PGDATA")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), said)
    }

    fn nothing_was_written(&self) -> bool {
        !self.folder.path().join("walward.toml").exists()
    }
}

#[test]
fn what_is_missing_is_an_error_that_names_the_option() {
    let desk = Desk::new();
    let data = desk.data_directory("15");
    let (code, said) = desk.setup(&["--data-directory", &data]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--repository-url") && desk.nothing_was_written(), "{said}");
    let (code, said) =
        desk.setup(&["--data-directory", &data, "--repository-url", "file:///x", "--encryption", "passphrase-file"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--key-file") && desk.nothing_was_written(), "{said}");
    let (code, said) = desk.setup(&["--data-directory", &data, "--apply", "--dry-run"]);
    assert_eq!(code, 2, "{said}");
}

#[test]
fn what_is_no_cluster_is_refused() {
    let desk = Desk::new();
    let folder = desk.folder.path().to_str().unwrap().to_owned();
    let url = ["--repository-url", "file:///x"];
    let (code, said) = desk.setup(&[&["--data-directory", &folder], &url[..]].concat());
    assert_eq!(code, 14, "{said}");
    assert!(said.contains("PG_VERSION"), "{said}");
    let (code, said) = desk.setup(&[&["--data-directory", "/nowhere/at/all"], &url[..]].concat());
    assert_eq!(code, 14, "{said}");
    let old = desk.data_directory("12");
    let (code, said) = desk.setup(&[&["--data-directory", &old], &url[..]].concat());
    assert_eq!(code, 16, "{said}");
    assert!(said.contains("PostgreSQL 12") && said.contains("13 to 18"), "{said}");
    assert!(desk.nothing_was_written());
}

#[test]
fn a_configuration_that_does_not_parse_is_left_as_it_is() {
    let desk = Desk::new();
    let data = desk.data_directory("15");
    let config = desk.folder.path().join("walward.toml");
    for wrong in ["[cluster.main\n", "[agent]\nsokcet = \"/x\"\n"] {
        fs::write(&config, wrong).unwrap();
        let (code, said) = desk.setup(&["--data-directory", &data, "--repository-url", "file:///x"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("walward.toml:"), "{said}");
        assert_eq!(fs::read_to_string(&config).unwrap(), wrong);
    }
    // A table that would not do is not written either.
    fs::remove_file(&config).unwrap();
    let (code, said) = desk.setup(&["--data-directory", &data, "--repository-url", "ftp://x/y"]);
    assert_eq!(code, 2, "{said}");
    assert!(desk.nothing_was_written(), "{said}");
}

#[test]
fn a_name_that_is_configured_stays_with_its_folder() {
    let desk = Desk::new();
    let (first, second) = (desk.data_directory("15"), desk.folder.path().join("second/data"));
    fs::create_dir_all(&second).unwrap();
    fs::write(second.join("PG_VERSION"), "16\n").unwrap();
    let second = second.to_str().unwrap();
    let config = desk.folder.path().join("walward.toml");
    let text = format!(
        "[repository.disk]\nurl = \"file:///nowhere/at/all\"\nencryption = \"none\"\n\n\
         [cluster.main]\ndata_directory = {first:?}\nconnection = \"host=/nowhere\"\nrepositories = [\"disk\"]\n"
    );
    fs::write(&config, &text).unwrap();
    let (code, said) = desk.setup(&["--data-directory", second, "--dry-run"]);
    assert!(code == 0 && said.contains("[cluster.second-main]"), "{code}: {said}");
    // Neither is the one taken for the other.
    for directory in [second, &first] {
        let other = if directory == second { "main" } else { "elsewhere" };
        let (code, said) = desk.setup(&["--cluster", other, "--data-directory", directory]);
        assert!(code == 2 || code == 14, "{code}: {said}");
        assert!(said.contains("main"), "{said}");
    }
    let (code, said) = desk.setup(&["--data-directory", second, "--cluster", "main"]);
    assert!(code == 2 && said.contains("is configured for"), "{code}: {said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
}

#[test]
fn a_store_that_cannot_be_reached_is_said_and_the_next_run_goes_on() {
    let desk = Desk::new();
    let data = desk.data_directory("15");
    fs::create_dir_all(Path::new(&data).join("global")).unwrap();
    let control = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/15/pg_control");
    fs::copy(control, Path::new(&data).join("global/pg_control")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let key = desk.folder.path().join("secret");
    fs::write(&key, "secret\n").unwrap();
    fs::create_dir(desk.folder.path().join("conf.d")).unwrap();
    let limits = "[repository.main]\nlimits = { retry_deadline = \"1s\" }\n";
    fs::write(desk.folder.path().join("conf.d/limits.toml"), limits).unwrap();
    let arguments = [
        "--cluster",
        "main",
        "--data-directory",
        &data,
        "--connection",
        "host=/nowhere user=x",
        "--repository-url",
        "s3://bucket/x",
        "--endpoint",
        &endpoint,
        "--allow-http",
        "--access-key-id",
        "id",
        "--secret-access-key-file",
        key.to_str().unwrap(),
    ];
    let (code, said) = desk.setup(&[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(code, 13, "{said}");
    assert!(desk.nothing_was_written());
    // The configuration is there then, and what it names is made as soon as the store answers.
    let (code, said) = desk.setup(&arguments);
    assert_eq!(code, 13, "{said}");
    let written = fs::read_to_string(desk.folder.path().join("walward.toml")).unwrap();
    let (code, said) = desk.setup(&arguments);
    assert_eq!(code, 13, "{said}");
    assert_eq!(fs::read_to_string(desk.folder.path().join("walward.toml")).unwrap(), written);
}
