//! What is set aside is another life's; what the kept line needs stays, whoever wrote it.

use std::time::Duration;

use super::{Node, drain};
use crate::lives::two_lives;
use crate::support::{Cluster, ClusterOptions, Outcome, Site, SiteOptions, Stop};

/// A standby of the server at `conninfo`, with an agent of its own. It streams, is promoted, and archives from then on.
fn promoted(site: &Site, name: &str, conninfo: &str) -> Node {
    let data = site.room.join(name);
    let mut copy = site.room.command(site.cluster.version.program("pg_basebackup"));
    copy.args(["--no-sync", "--checkpoint=fast", "-R", "-d", conninfo, "-D"]).arg(&data);
    site.room.run(&mut copy);
    let mut node = Node::join(site, name, Cluster::adopt(&site.room, name, &site.cluster.version, data));
    node.cluster.start(&site.room);
    node.promote(site);
    node
}

#[test]
fn a_history_that_another_server_archived_stays_where_the_kept_line_leads_over_its_timeline() {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    let (contested, _) = two_lives(&mut site);
    // The kept life goes on: its standby is promoted, and a standby of that one, each on a host of its own.
    let mut second = promoted(&site, "second", &site.cluster.connection("postgres"));
    site.cluster.stop(Stop::Immediate);
    second.cluster.sql(&site.room, "insert into life values (3)");
    drain(&site, &second.cluster, Duration::from_mins(2));
    let third = promoted(&site, "third", &second.cluster.connection("postgres"));
    second.cluster.stop(Stop::Immediate);
    third.cluster.sql(&site.room, "insert into life values (4)");
    drain(&site, &third.cluster, Duration::from_mins(2));
    let histories = ["00000002.history", "00000003.history"];
    let stored = |name: &str| in_repository(&site, name);
    assert!(histories.iter().all(|name| stored(name)));
    assert!(third.cluster.wal(histories[0]).exists(), "the kept server knows the way that it came");

    // By its name alone the second timeline's history belongs to what begins with the contested segment.
    let config = site.room.join("third.toml");
    let walward = |arguments: &[&str]| {
        let mut command = site.room.command(site.room.program("walward"));
        command.arg("--config").arg(&config).args(["--no-input", "--yes", "--cluster", "main"]).args(arguments);
        Outcome::of(&mut command)
    };
    let planned = walward(&["--json", "wal", "set-aside", "--dry-run", "--from", &contested]).expect(0).json();
    let stays = planned["plan"][0]["stays"].as_array().expect("what stays").clone();
    assert!(histories.iter().all(|name| stays.contains(&(*name).into())), "{planned:#}");
    walward(&["wal", "set-aside", "--from", &contested]).expect(0);
    assert!(histories.iter().all(|name| stored(name)), "a history that the kept line needs is gone");
    assert!(!stored(&contested), "the other life is there");

    // The kept line is backed up and restored.
    walward(&["backup"]).expect(0);
    drain(&site, &third.cluster, Duration::from_mins(2));
    let target = site.room.join("restored");
    let restore = walward(&["restore", "--archive-mode", "off", "--target-directory", target.to_str().unwrap()]);
    assert!(matches!(restore.code, 0 | 3), "{restore:?}");
    let mut restored = Cluster::adopt(&site.room, "restored", &site.cluster.version, target);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    let lives = restored.sql(&site.room, "select string_agg(number::text, ',' order by number) from life");
    assert_eq!(lives, "2,3,4");
}

/// Whether the repository holds the file in its archive, and not only set aside.
fn in_repository(site: &Site, name: &str) -> bool {
    let mut find = site.room.command("find");
    let found = site.room.run(find.arg(site.repository_folder().join("main/wal")).args(["-name", name]));
    !found.trim().is_empty()
}
