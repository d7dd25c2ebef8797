//! Lives of servers: what is archived of which, and what never becomes one archive.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{Cluster, ClusterOptions, Outcome, Site, SiteOptions, Stop, StoreKind, eventually};

fn site() -> Site {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    site
}

/// Writes `segments` segments; the name of the last.
fn write(site: &Site, segments: usize) -> String {
    let mut last = String::new();
    for _ in 0..segments {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 100)");
        last = site.cluster.switch_wal(&site.room);
    }
    last
}

/// The segments in the repository.
fn stored(site: &Site) -> BTreeSet<String> {
    let names = site.stored_segments().into_iter();
    names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Time in which the agent would do what it may: it looks every few seconds.
fn a_while() {
    std::thread::sleep(Duration::from_secs(4));
}

fn nothing_waits(site: &Site) {
    eventually("nothing waits", Duration::from_mins(1), || {
        site.cluster.archive_status("ready").is_empty().then_some(())
    });
}

#[test]
fn without_an_archive_command_of_ours_nothing_is_archived() {
    let mut site = site();
    let last = write(&site, 2);
    site.cluster.wait_archived(&site.room, &last);
    let before = stored(&site);
    // Archiving is switched off for now.
    site.cluster.stop(Stop::Fast);
    site.cluster.set("archive_command", "");
    site.cluster.start(&site.room);
    write(&site, 6);
    a_while();
    assert!(site.cluster.archive_status("ready").len() >= 6);
    assert_eq!(stored(&site).len(), before.len() + lost_at_stop(&site, &before), "nobody asked");
    // Another tool archives, and a restarted agent finds marks.
    let here = stored(&site);
    site.stop_agent();
    site.start_agent();
    site.cluster.set("archive_command", "sleep 0.2");
    site.cluster.sql(&site.room, "select pg_reload_conf()");
    write(&site, 2);
    nothing_waits(&site);
    assert_eq!(stored(&site), here, "another tool's files are not ours");
    // Walward is asked again.
    site.cluster.set("archive_command", &site.archive_command());
    site.cluster.sql(&site.room, "select pg_reload_conf()");
    let last = write(&site, 3);
    site.cluster.wait_archived(&site.room, &last);
    assert!(stored(&site).contains(&last));
}

/// The segment that was archived while the server stopped, if there was one.
fn lost_at_stop(site: &Site, before: &BTreeSet<String>) -> usize {
    let done: BTreeSet<String> = site.cluster.archive_status("done").into_iter().collect();
    stored(site).iter().filter(|name| !before.contains(*name) && done.contains(*name)).count()
}

#[test]
fn a_volume_that_is_rolled_back_does_not_mix_its_lives() {
    let mut site = site();
    write(&site, 2);
    nothing_waits(&site);
    site.cluster.stop(Stop::Fast);
    let (data, copy) = (site.cluster.data.clone(), site.room.join("volume"));
    site.room.run(site.room.command("cp").arg("-a").arg(&data).arg(&copy));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into t select 1 from generate_series(1, 50)");
    let contested = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &contested);
    site.cluster.stop(Stop::Fast);
    let before = stored(&site);
    // The volume is rolled back to the copy, and the server goes on from there.
    std::fs::rename(&data, site.room.join("first-life")).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into t select 2 from generate_series(1, 60)");
    write(&site, 6);
    eventually("the second life is refused", Duration::from_mins(1), || {
        site.cluster.log_text().contains("other content").then_some(())
    });
    a_while();
    assert_eq!(stored(&site), before, "something of the second life lies after the first one's");
    // Pushed by hand.
    let ready = site.cluster.archive_status("ready");
    let later = ready.iter().filter(|name| **name > contested).max().expect("more waits").clone();
    let push = site.client(&["push", site.cluster.wal(&later).to_str().unwrap()]);
    push.expect(1).says(&contested).says("two contents");
    assert_eq!(stored(&site), before);
    site.walward(&["status"]).expect(0).says("failing");
}

/// The segment after `name`, of 1 MiB.
fn next(name: &str) -> String {
    let number =
        u64::from_str_radix(&name[8..16], 16).unwrap() * 4096 + u64::from_str_radix(&name[16..], 16).unwrap() + 1;
    format!("{}{:08X}{:08X}", &name[..8], number / 4096, number % 4096)
}

#[test]
fn no_restore_crosses_from_one_life_of_a_cluster_into_another() {
    let mut site = site();
    backup(&site);
    write(&site, 2);
    nothing_waits(&site);
    site.walward(&["wal", "gaps"]).expect(0).says("no gaps");
    site.walward(&["check"]).says("continues the one before");
    site.cluster.stop(Stop::Fast);
    let (data, copy) = (site.cluster.data.clone(), site.room.join("volume"));
    site.room.run(site.room.command("cp").arg("-a").arg(&data).arg(&copy));
    site.cluster.start(&site.room);
    let last = write(&site, 2);
    site.cluster.wait_archived(&site.room, &last);
    site.cluster.stop(Stop::Fast);
    site.stop_agent();
    let last = stored(&site).last().unwrap().clone();
    // The volume is rolled back, and somebody makes the server forget what the archive refuses.
    std::fs::rename(&data, site.room.join("first-life")).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    site.cluster.set("archive_command", "/bin/true");
    site.cluster.set("wal_keep_size", "100MB");
    site.cluster.start(&site.room);
    let seam = next(&last);
    while write(&site, 1) <= seam {}
    nothing_waits(&site);
    site.walward(&["wal", "push", site.cluster.wal(&seam).to_str().unwrap()]).expect(0);
    let words = format!("{seam} does not continue {last}");
    site.walward(&["wal", "gaps"]).expect(3).says(&words);
    let gaps = site.walward(&["wal", "gaps", "--all", "--json"]).expect(3).json();
    assert_eq!(gaps["repositories"][0]["seams"][0]["segment"], seam.as_str(), "{gaps}");
    assert!(gaps["repositories"][0]["compared"].as_u64() > Some(3), "{gaps}");
    site.walward(&["check"]).expect(1).says(&words);
    site.walward(&["info"]).expect(0).says("WAL of two lives");
    let target = site.room.join("crossed");
    let target = target.to_str().unwrap();
    site.walward(&["restore", "--target-directory", target, "--yes"]).expect(16).says(&words);
    assert!(!site.room.join("crossed").exists());
    // By hand, and without an agent.
    let folder = site.room.make_folder("fetched");
    let fetch = |name: &str| site.walward(&["wal", "fetch", name, folder.join(name).to_str().unwrap()]);
    fetch(&last).expect(0);
    fetch(&seam).expect(255).says(&words);
    assert!(!folder.join(&seam).exists());
    // Before it, and for who knows better.
    site.restore("before", &["--target-immediate"]);
    site.write_config(&format!("{}\nfetch = {{ refuse_seams = false }}\n", site.config_text()));
    site.walward(&["restore", "--target-directory", target, "--dry-run"]).expect(0).says(&words);
    fetch(&seam).expect(0).says(&words);
}

/// A volume was rolled back, and its second life is refused: the file that both have, and the backup that its first life took.
pub fn two_lives(site: &mut Site) -> (String, String) {
    site.cluster.sql(&site.room, "create table t (id int); create table life (number int)");
    backup(site);
    write(site, 2);
    nothing_waits(site);
    site.cluster.stop(Stop::Fast);
    let (data, copy) = (site.cluster.data.clone(), site.room.join("volume"));
    site.room.run(site.room.command("cp").arg("-a").arg(&data).arg(&copy));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into life values (1)");
    let contested = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &contested);
    // The seconds of two backups differ.
    std::thread::sleep(Duration::from_secs(1));
    let label = backup(site);
    write(site, 1);
    nothing_waits(site);
    site.cluster.stop(Stop::Fast);
    std::fs::rename(&data, site.room.join("first-life")).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "insert into life values (2)");
    write(site, 3);
    eventually("the second life is refused", Duration::from_mins(1), || {
        site.cluster.log_text().contains("other content").then_some(())
    });
    (contested, label)
}

/// The newest backup's label.
fn backup(site: &Site) -> String {
    let taken = site.walward(&["--json", "backup"]).expect(0).json_lines();
    taken.last().expect("a result")["backup"]["label"].as_str().expect("a label").to_owned()
}

/// Every segment in the repository, by `wal list`.
fn listed(site: &Site) -> Vec<String> {
    let answer = site.walward(&["--json", "-v", "wal", "list"]).expect(0).json();
    let names = answer["repositories"][0]["segments"].as_array().expect("names").iter();
    names.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// Sets aside what follows `from`; its id.
fn set_aside(site: &Site, from: &str) -> String {
    let done = site.walward(&["--yes", "--json", "wal", "set-aside", "--from", from, "--reason", "a test"]).expect(0);
    let done = done.json();
    assert_eq!(done["set_aside"][0]["state"], "aside");
    done["set_aside"][0]["id"].as_str().expect("an id").to_owned()
}

/// The kept life is archived without a restart of anything, backed up, and restored.
fn the_second_life_goes_on(site: &Site, contested: &str) {
    let last = write(site, 1);
    site.cluster.wait_archived(&site.room, contested);
    site.cluster.wait_archived(&site.room, &last);
    backup(site);
    let restored = site.restore("kept", &[]);
    assert_eq!(lives_in(site, restored), "2");
    site.walward(&["check"]).says("1 life of the cluster is set aside");
    site.walward(&["info"]).expect(0).says("1 life of the cluster is set aside");
}

fn lives_in(site: &Site, mut restored: Cluster) -> String {
    restored.start(&site.room);
    site.wait_promoted(&restored);
    let lives = restored.sql(&site.room, "select string_agg(number::text, ',' order by number) from life");
    restored.stop(Stop::Immediate);
    lives
}

#[test]
fn a_life_that_is_set_aside_makes_way_for_the_other_and_is_restored_from_a_copy() {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    let (contested, label) = two_lives(&mut site);
    let before = listed(&site);

    // What this server has archived itself is not set aside, and nothing without a yes.
    let mark = site.cluster.wal("archive_status").join("0000000100000000000000FE.done");
    std::fs::write(&mark, "").unwrap();
    site.walward(&["--yes", "wal", "set-aside", "--from", "0000000100000000000000FE"]).expect(16).says("itself");
    std::fs::remove_file(&mark).unwrap();
    site.walward(&["wal", "set-aside", "--from", &contested]).expect(16).says("confirmation");
    site.walward(&["--yes", "wal", "set-aside", "--from", "000000090000000000000001"]).expect(14);
    let planned = site.walward(&["--json", "wal", "set-aside", "--dry-run", "--from", &contested]).expect(0).json();
    assert_eq!(planned["plan"][0]["backups"], serde_json::json!([label]));
    assert_eq!(planned["plan"][0]["timelines"][0]["first"], serde_json::json!(contested));
    assert_eq!(listed(&site), before);

    let id = set_aside(&site, &contested);
    the_second_life_goes_on(&site, &contested);
    let now = listed(&site);
    site.walward(&["--yes", "wal", "restore-aside", &id]).expect(16).says("nothing is overwritten");
    site.walward(&["--yes", "wal", "set-aside", "--from", &contested]).expect(16).says("is not a file that it refused");
    assert_eq!(listed(&site), now);
    let known = site.walward(&["--json", "wal", "list-aside"]).expect(0).json();
    assert_eq!(
        (&known["aside"][0]["reason"], &known["aside"][0]["from"]),
        (&"a test".into(), &contested.clone().into())
    );

    // In a copy of the repository the first life takes its place again, and is restored.
    let (folder, copy) = (site.repository_folder(), site.room.join("copied"));
    site.room.run(site.room.command("cp").arg("-a").arg(&folder).arg(&copy));
    let text = site.config_text();
    let text = text.replace(folder.to_str().unwrap(), copy.to_str().unwrap());
    let text = text.replace(site.cluster.data.to_str().unwrap(), site.room.join("nowhere").to_str().unwrap());
    let text = text.replace(site.socket.to_str().unwrap(), site.room.join("nowhere.sock").to_str().unwrap());
    site.room.write("copied.toml", &text);
    let config = site.room.join("copied.toml");
    let in_copy = |arguments: &[&str]| {
        let mut command = site.room.command(site.room.program("walward"));
        Outcome::of(command.arg("--config").arg(&config).arg("--no-input").arg("--yes").args(arguments))
    };
    in_copy(&["wal", "set-aside", "--from", &contested]).expect(0);
    in_copy(&["wal", "restore-aside", &id]).expect(0);
    let target = site.room.join("other");
    let fetch = format!("{} --config {} wal fetch %f %p", site.room.program("walward").display(), config.display());
    let restore = ["restore", "--archive-mode", "off", "--restore-command", &fetch];
    in_copy(&[&restore[..], &["--target-directory", target.to_str().unwrap()]].concat()).expect(0);
    let restored = Cluster::adopt(&site.room, "other", &site.cluster.version, target);
    assert_eq!(lives_in(&site, restored), "1");
}

#[test]
fn a_life_goes_aside_and_comes_back_on_s3() {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, store: StoreKind::S3, ..SiteOptions::default() });
    let (contested, label) = two_lives(&mut site);
    // Nothing takes the names meanwhile.
    site.stop_agent();
    let before = listed(&site);
    let id = set_aside(&site, &contested);
    assert!(listed(&site).iter().all(|name| *name < contested));
    let back = site.walward(&["--yes", "--json", "wal", "restore-aside", &id]).expect(0).json();
    assert_eq!(back["returned"][0]["backups"], serde_json::json!([label]));
    assert_eq!(listed(&site), before);
    site.walward(&["--yes", "wal", "restore-aside", &id]).expect(14);
    let target = site.room.join("never");
    let plan = ["restore", "--dry-run", "--backup", &label, "--target-directory", target.to_str().unwrap()];
    site.walward(&plan).expect(0);

    site.start_agent();
    eventually("the second life is refused again", Duration::from_mins(2), || {
        site.walward(&["status"]).stdout.contains("other content").then_some(())
    });
    set_aside(&site, &contested);
    the_second_life_goes_on(&site, &contested);
}

#[test]
fn where_repositories_hold_two_lives_the_one_that_goes_is_named_and_what_was_cut_is_taken_up() {
    let site = Site::prepare(SiteOptions { encrypted: true, ..SiteOptions::default() });
    let second = site.room.make_folder("second");
    let text = site.config_text().replace("[\"store\"]", "[\"store\", \"second\"]");
    let table = format!("\n[repository.second]\nurl = \"file://{}\"\nencryption = \"none\"\n", second.display());
    site.write_config(&format!("{text}{table}"));
    site.set_up("main");
    let name = "00000003.history";
    for (repository, why) in [("store", "one"), ("second", "another")] {
        let file = site.put_wal(name, format!("1\t0/3000000\t{why} life\n").as_bytes());
        site.walward(&["--repository", repository, "wal", "push", file.to_str().unwrap()]).expect(0);
    }
    // This server still has the second one's: it is its own there.
    let own = ["--repository", "second", "--yes", "wal", "set-aside", "--from", name];
    site.walward(&own).expect(16).says("with the content that this server has");
    std::fs::remove_file(site.cluster.wal(name)).unwrap();
    let store = site.repository_folder();
    let lineage = std::fs::read_dir(store.join("main/wal")).unwrap().next().unwrap().unwrap().file_name();
    let in_place = |folder: &std::path::Path| folder.join("main/wal").join(&lineage).join(name).exists();
    let set_aside = ["--yes", "--json", "wal", "set-aside", "--from", name];
    site.walward(&set_aside).expect(16).says("two lives").says("--repository");
    let done = site.walward(&[&["--repository", "second"], &set_aside[..]].concat()).expect(0).json();
    assert_eq!((in_place(&store), in_place(&second)), (true, false));
    let id = done["set_aside"][0]["id"].as_str().unwrap().to_owned();

    // Cut just before it was written down as done.
    std::fs::remove_file(second.join("main/aside").join(&id).join("done.json")).unwrap();
    site.walward(&["check"]).says("half set aside").says("goes on with it");
    site.walward(&["--yes", "wal", "set-aside", "--from", "000000010000000000000001"]).expect(16).says(&id);
    let resumed = site.walward(&["--json", "--repository", "second", "wal", "set-aside", "--from", name, "--dry-run"]);
    assert_eq!(resumed.expect(0).json()["plan"][0]["resumes"], true);
    site.walward(&[&["--repository", "second"], &set_aside[..]].concat()).expect(0);
    assert_eq!((in_place(&store), in_place(&second)), (true, false));
    let back = ["--yes", "wal", "restore-aside", &id];
    site.walward(&back).expect(0);
    assert_eq!((in_place(&store), in_place(&second)), (true, true));
    site.walward(&back).expect(14);
    site.walward(&["wal", "list-aside"]).expect(0).says("put back").says("nothing was set aside");
}
