//! The keys of repositories at the hands of people: two hosts that set one up at the same moment, and two clusters in one repository.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A folder with clusters that are not running, a repository, and the configurations of one host or several.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The configuration of a host: its secret as it stands in the file, its clusters.
    fn host(&self, name: &str, encryption: &str, clusters: &[&str]) {
        let folder = self.0.path().display();
        let mut text = format!(
            "[repository.disk]\nurl = \"file://{folder}/repository\"\nencryption = {{ {encryption} }}\n\
             [agent]\nsocket = \"{folder}/no.sock\"\nspool_directory = \"{folder}/spool\"\n"
        );
        for cluster in clusters {
            let data = self.at(&format!("{name}-{cluster}"));
            fs::create_dir_all(data.join("global")).unwrap();
            fs::write(data.join("PG_VERSION"), "15\n").unwrap();
            let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/15/pg_control");
            fs::copy(fixture, data.join("global/pg_control")).unwrap();
            let data = data.display();
            let table = format!(
                "[cluster.{cluster}]\ndata_directory = \"{data}\"\nconnection = \"host=/nowhere\"\nrepositories = [\"disk\"]\n"
            );
            text.push_str(&table);
        }
        fs::write(self.at(&format!("{name}.toml")), text).unwrap();
    }

    fn key(&self, name: &str) -> String {
        format!("key_file = \"{}\"", self.at(name).display())
    }

    fn command(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walward"));
        command.arg("--config").arg(self.at(&format!("{host}.toml"))).args(["--no-input", "--yes"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Exit code and everything that was said.
    fn walward(&self, host: &str, arguments: &[&str]) -> (i32, String) {
        said(&self.command(host, arguments).output().unwrap())
    }

    fn expect(&self, code: i32, host: &str, arguments: &[&str]) -> String {
        let (found, said) = self.walward(host, arguments);
        assert_eq!(found, code, "{arguments:?}: {said}");
        said
    }

    /// The names of the key slots of a cluster.
    fn slots(&self, cluster: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(&format!("repository/{cluster}/keys"))) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// That what the paper says opens the repository.
    fn open_by_paper(&self, said: &str, clusters: &[&str]) {
        let key = said.lines().map(str::trim).find(|line| line.matches('-').count() == 13).expect("a recovery key");
        fs::write(self.at("paper"), key).unwrap();
        fs::set_permissions(self.at("paper"), fs::Permissions::from_mode(0o600)).unwrap();
        self.host("paper", &self.key("paper"), clusters);
        self.expect(0, "paper", &["keys", "list"]);
    }
}

fn said(output: &Output) -> (i32, String) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}

/// The slower host has looked, found nothing, and asks for its secret: there the faster one does all of its setup.
#[test]
fn a_setup_that_another_one_overtakes_changes_nothing_and_shows_no_recovery_key() {
    let desk = Desk::new();
    desk.host("fast", &desk.key("fast.key"), &["main"]);
    let script = desk.at("secret.sh");
    let text = format!(
        "[ -e {0}/once ] || {{ touch {0}/once; {1} --config {0}/fast.toml setup --non-interactive >{0}/fast.log 2>&1 || exit 1; }}\n\
         echo 0123456789abcdef-of-the-slow-host\n",
        desk.0.path().display(),
        env!("CARGO_BIN_EXE_walward")
    );
    fs::write(&script, text).unwrap();
    desk.host("slow", &format!("command = [\"/bin/sh\", \"{}\"]", script.display()), &["main"]);
    let slow = desk.expect(12, "slow", &["setup", "--non-interactive"]);
    assert!(slow.contains("another setup made repository \"disk\" of cluster \"main\" meanwhile"), "{slow}");
    assert!(!slow.contains("Recovery key"), "{slow}");
    let fast = fs::read_to_string(desk.at("fast.log")).unwrap();
    assert!(fast.contains("Recovery key of cluster \"main\" in repository \"disk\""), "{fast}");
    assert_eq!(desk.slots("main").len(), 1, "what the slower one wrote is gone");
    desk.open_by_paper(&fast, &["main"]);
    for change in [&["keys", "rotate"][..], &["keys", "add", "--recovery"], &["keys", "remove", "1"]] {
        let refused = desk.expect(12, "slow", change);
        assert!(refused.contains("opens none of the key slots"), "{refused}");
    }
    desk.expect(0, "fast", &["keys", "rotate"]);
    assert_eq!(desk.slots("main").len(), 2);
    // What a setup that was killed left is named and passed over, whatever its number.
    let left = format!("00000009-{}.json", "0".repeat(32));
    let keys = desk.at("repository/main/keys");
    fs::copy(keys.join(&desk.slots("main")[0]), keys.join(&left)).unwrap();
    for command in [&["keys", "list"][..], &["check"]] {
        let (_, said) = desk.walward("fast", command);
        assert!(said.contains(&left) && said.contains("left by a setup that did not finish"), "{said}");
    }
    desk.expect(0, "fast", &["keys", "rotate"]);
    // With the same secret on both hosts the second one is simply done.
    desk.host("twin", &desk.key("fast.key"), &["main"]);
    desk.expect(0, "twin", &["setup", "--non-interactive"]);
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Held still as soon as its key file is there, and let go when the other host has made the repository.
#[test]
fn a_key_file_that_opens_nothing_does_not_stay() {
    for _ in 0..50 {
        let desk = Desk::new();
        desk.host("slow", &desk.key("slow.key"), &["main"]);
        desk.host("fast", &desk.key("fast/fast.key"), &["main"]);
        fs::create_dir(desk.at("fast")).unwrap();
        let mut command = desk.command("slow", &["setup", "--non-interactive"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !desk.at("slow.key").exists() {
            assert!(begun.elapsed() < Duration::from_mins(1), "no key file");
        }
        signal(&child, Signal::STOP);
        let (code, fast) = desk.walward("fast", &["setup", "--non-interactive"]);
        signal(&child, Signal::CONT);
        let (slow_code, slow) = said(&child.wait_with_output().unwrap());
        if code != 0 {
            // It was too fast for us; then the other one lost, and its key file is gone.
            assert_eq!((code, slow_code), (12, 0), "{fast}\n{slow}");
            continue;
        }
        assert_eq!(slow_code, 12, "{slow}");
        let key = desk.at("slow.key").display().to_string();
        assert!(slow.contains(&format!("{key} that was made here opens nothing and was removed")), "{slow}");
        assert!(!slow.contains("Recovery key"), "{slow}");
        assert!(!desk.at("slow.key").exists() && desk.at("fast/fast.key").exists());
        assert_eq!(desk.slots("main").len(), 1);
        desk.open_by_paper(&fast, &["main"]);
        return;
    }
    panic!("never held in time");
}

#[test]
fn keys_are_changed_for_all_clusters_of_a_repository_and_none_is_locked_out() {
    let desk = Desk::new();
    let both = ["a", "b"];
    desk.host("db", &desk.key("old.key"), &both);
    let made = desk.expect(0, "db", &["setup", "--non-interactive"]);
    for cluster in both {
        assert!(made.contains(&format!("Recovery key of cluster \"{cluster}\" in repository \"disk\"")), "{made}");
    }
    let new = desk.at("new.key").display().to_string();
    let added = desk.expect(0, "db", &["keys", "add", "--key-file", &new]);
    assert!(both.iter().all(|cluster| added.contains(&format!("cluster \"{cluster}\" has a new slot 3"))), "{added}");
    let again = desk.expect(0, "db", &["keys", "add", "--key-file", &new]);
    assert!(again.contains("opens with it already, by slot 3") && !again.contains("slot 4"), "{again}");
    // The slot of the secret that the agent uses is not the first to go.
    let refused = desk.expect(16, "db", &["--cluster", "a", "keys", "remove", "1"]);
    assert!(refused.contains("the secret in the configuration opens"), "{refused}");
    desk.host("db", &desk.key("new.key"), &both);
    let unclear = desk.expect(2, "db", &["keys", "remove", "1"]);
    assert!(unclear.contains("--cluster"), "{unclear}");
    for cluster in both {
        desk.expect(0, "db", &["--cluster", cluster, "keys", "remove", "1"]);
    }
    // For one cluster alone: said, and what would follow is refused.
    let only = desk.at("only.key").display().to_string();
    let warned = desk.expect(3, "db", &["--cluster", "a", "keys", "add", "--key-file", &only]);
    assert!(warned.contains("cluster \"b\" cannot"), "{warned}");
    desk.host("db", &desk.key("only.key"), &both);
    let refused = desk.expect(16, "db", &["--cluster", "a", "keys", "remove", "3"]);
    assert!(
        refused.contains("does not open the keys of cluster \"b\"") && refused.contains("nothing was removed"),
        "{refused}"
    );
    desk.host("db", &desk.key("new.key"), &both);
    let listed = desk.expect(0, "db", &["keys", "list"]);
    let rows = |cluster: &str| listed.lines().filter(|line| line.starts_with(&format!("{cluster} "))).count();
    assert_eq!((rows("a"), rows("b")), (3, 2), "{listed}");
    let rotated = desk.expect(0, "db", &["keys", "rotate"]);
    assert!(both.iter().all(|cluster| rotated.contains(&format!("objects of cluster \"{cluster}\""))), "{rotated}");
    // Another recovery key for each, where the first was never seen.
    let papers = desk.expect(0, "db", &["--cluster", "b", "keys", "add", "--recovery"]);
    desk.open_by_paper(&papers, &["b"]);
}

#[test]
fn a_key_file_for_which_there_is_no_slot_is_not_made() {
    let desk = Desk::new();
    desk.host("db", &desk.key("first.key"), &["main"]);
    desk.expect(0, "db", &["setup", "--non-interactive"]);
    for _ in 2..32 {
        desk.expect(0, "db", &["keys", "add", "--recovery"]);
    }
    let late = desk.at("late.key");
    let refused = desk.expect(16, "db", &["keys", "add", "--key-file", late.to_str().unwrap()]);
    assert!(refused.contains("32 slots already") && !late.exists(), "{refused}");
}
