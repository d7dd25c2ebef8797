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

#[test]
fn the_watchdog_and_the_socket_are_what_the_agent_expects() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let service = fs::read_to_string(source.join("walward.service")).unwrap();
    let socket = fs::read_to_string(source.join("walward.socket")).unwrap();
    for line in ["Type=notify", "WatchdogSec=60s", "RuntimeDirectoryPreserve=yes", "LimitCORE=0"] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
    let listen = format!("ListenStream={}", walward::wire::DEFAULT_SOCKET);
    assert!(socket.lines().any(|found| found == listen), "{listen}");
}
