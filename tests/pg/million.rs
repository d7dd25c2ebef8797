//! A cluster with a million files: what the programs that list them take of memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Daemon, Room, Site, SiteOptions};

const FILES: usize = 1_000_000;
/// In each folder: a database of some thousand tables.
const FILES_A_FOLDER: usize = 10_000;
const RESIDENT_MIB_MAX: u64 = 300;

/// Files named as those of tables: `base/<database>/<relation>`, and every second one's `_fsm`. Most are empty, every twentieth is a page of zeros.
fn make_files(room: &Room, data: &Path) {
    for folder in 0..FILES / FILES_A_FOLDER {
        let place = data.join(format!("base/{}", 16_384 + folder));
        fs::create_dir(&place).unwrap();
        room.give_away(&place);
        for number in 0..FILES_A_FOLDER {
            let fork = if number % 2 == 1 { "_fsm" } else { "" };
            let file = place.join(format!("{}{fork}", 100_000 + number / 2));
            let made = fs::File::create(&file).unwrap();
            if number % 20 == 0 {
                made.set_len(8192).unwrap();
            }
            room.give_away(&file);
        }
    }
}

/// Runs a command to its end, which must be good, and says the most memory that it had resident, in MiB.
fn peak(room: &Room, name: &str, command: Command) -> u64 {
    let mut process = Daemon::start(name, command, &room.join(format!("{name}.log")), Signal::TERM);
    let mut peak = 0;
    loop {
        peak = peak.max(process.peak_mib());
        if let Some(status) = process.ended() {
            // 3: with a warning.
            assert!(matches!(status.code(), Some(0 | 3)), "{name}: {status}\n{}", process.log());
            println!("{name}: {peak} MiB");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "thorough: makes two million files; scripts/test.sh --thorough runs it"]
fn thorough_a_million_files_are_backed_up_copied_and_restored_within_300_mib() {
    let mut site = Site::prepare(SiteOptions::default());
    let mirror = site.room.make_folder("mirror");
    let text = site.config_text();
    let text = format!("{text}\n[repository.mirror]\nurl = \"file://{}\"\nencryption = \"none\"\n", mirror.display());
    site.write_config(&text.replace("[\"store\"]", "[\"store\", \"mirror\"]"));
    site.set_up("main");
    site.write_config(&text);
    site.cluster.start(&site.room);
    site.start_agent();
    make_files(&site.room, &site.cluster.data);

    let target = site.room.join("restored");
    let run = |name: &str, arguments: &[&str]| {
        let all: Vec<&str> = ["--cluster", "main"].iter().chain(arguments).copied().collect();
        (name.to_owned(), peak(&site.room, name, site.walward_command(&all)))
    };
    let mut peaks = vec![run("backup", &["backup"])];
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    peaks.push(("agent".to_owned(), site.agent.as_ref().unwrap().peak_mib()));
    println!("agent: {} MiB", peaks[1].1);
    peaks.push(run("incremental", &["backup", "--type", "incr"]));
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    peaks.push(("agent".to_owned(), site.agent.as_ref().unwrap().peak_mib()));
    println!("agent, with the incremental backup: {} MiB", peaks[3].1);
    let to = target.to_str().unwrap();
    peaks.push(run("info", &["info"]));
    peaks.push(run("check", &["check"]));
    peaks.push(run("copy", &["repo", "copy", "store", "mirror"]));
    let restore = ["--yes", "restore", "--target-directory", to, "--archive-mode", "off"];
    peaks.push(run("plan", &[&restore[..], &["--dry-run"]].concat()));
    peaks.push(run("restore", &restore));
    let plan = fs::read_to_string(site.room.join("plan.log")).unwrap();
    assert!(plan.contains("builds on"), "the incremental backup is restored: {plan}");

    let restored = fs::read_dir(target.join("base")).unwrap();
    let counts = restored.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count());
    assert!(counts.sum::<usize>() > FILES, "not all files are there");
    for (name, peak) in peaks {
        assert!(peak < RESIDENT_MIB_MAX, "{name} had {peak} MiB");
    }
}
