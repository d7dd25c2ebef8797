//! The systemd units, as systemd itself reads them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// `systemd-analyze verify` exits 0 even for an unknown key: silence is what must hold.
#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut units = Vec::new();
    for name in ["walward.service", "walward.socket"] {
        // The programs are not installed where the tests run.
        let text = fs::read_to_string(source.join(name)).unwrap().replace("/usr/bin/walward", "/bin/true #");
        let lines: Vec<&str> = text.lines().map(|line| line.split(" #").next().unwrap()).collect();
        let text = lines.join("\n") + "\n";
        let unit = folder.path().join(name);
        fs::write(&unit, text).unwrap();
        units.push(unit);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .stdin(Stdio::null())
        .output()
        .expect("systemd-analyze (package systemd; scripts/test.sh installs it)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

/// `--threshold` is ten times the score that is shown.
#[test]
fn the_agents_unit_is_hardened_to_a_score_of_two_or_better() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/walward.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(&unit)
        .stdin(Stdio::null())
        .output()
        .expect("systemd-analyze (package systemd; scripts/test.sh installs it)");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("Overall exposure level"), "{table}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}");
}

#[test]
fn the_watchdog_and_the_socket_are_what_the_agent_expects() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let service = fs::read_to_string(source.join("walward.service")).unwrap();
    let socket = fs::read_to_string(source.join("walward.socket")).unwrap();
    for line in ["Type=notify", "WatchdogSec=60s", "RuntimeDirectoryPreserve=yes", "LimitCORE=0"] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
    let listen = format!("ListenStream={}", walward_wire::DEFAULT_SOCKET);
    assert!(socket.lines().any(|found| found == listen), "{listen}");
}

/// What systemd hands to the agent is found where systemd says, and the unit takes what the documentation names.
#[test]
fn a_key_may_be_a_credential_of_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let key = credentials.join("walward.key");
    fs::write(&key, "").unwrap();
    let config = folder.path().join("walward.toml");
    let text = "[repository.x]\nurl = \"file:///x\"\nencryption = { key_file = \"credential:walward.key\" }\n";
    fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walward"))
        .arg("--config")
        .arg(&config)
        .args(["config", "show"])
        .env("CREDENTIALS_DIRECTORY", &credentials)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(key.to_str().unwrap()), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(source.join("systemd/walward.service")).unwrap();
    let documented = fs::read_to_string(source.join("docs/configuration.md")).unwrap();
    let names: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(documented.contains(&format!("`{name}`")), "docs/configuration.md does not name {name}");
    }
}
