//! One repository is enough, and the only one that answers is the one that missed files: a clone of the server wrote to it meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options;
use crate::support::{Agent, Cluster, Outcome, Site, Stop, StoreKind, eventually};

/// The repositories `store` and `disk`, one of which is enough, and a clone of the server that is not started.
struct Scene {
    site: Site,
    store: PathBuf,
    disk: PathBuf,
    /// The record of a backup, from before the lives part. It is in both repositories, and in pg_wal.
    record: String,
}

const REFUSED: &str = "which can be compared with no other now, holds other content";

impl Scene {
    /// What a clone archived lies in `store`, which missed what the server wrote meanwhile, and is the only one that answers.
    fn new() -> Self {
        let mut site = Site::prepare(options(StoreKind::File));
        let disk = site.room.make_folder("disk");
        let text = site
            .config_text()
            .replace("repositories = [\"store\"]", "repositories = [\"disk\", \"store\"]\nacknowledge = 1");
        let disk_table = format!("\n[repository.disk]\nurl = \"file://{}\"\nencryption = \"none\"\n", disk.display());
        site.write_config(&format!("{text}{disk_table}"));
        site.set_up("main");
        site.cluster.start(&site.room);
        site.start_agent();
        site.cluster.sql(&site.room, "create table t (id int)");
        site.walward(&["--cluster", "main", "backup"]).expect(0);
        let last = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &last);
        let mut done = site.cluster.archive_status("done").into_iter();
        let record = done.find(|name| name.ends_with(".backup")).expect("the record of the backup");
        let mut scene = Self { store: site.repository_folder(), disk, record, site };
        scene.until_both_hold(&last);

        // A copy of the volume, which will be the clone.
        scene.site.cluster.stop(Stop::Fast);
        let copy = scene.site.room.join("clone");
        let room = &scene.site.room;
        room.run(room.command("cp").arg("-a").arg(&scene.site.cluster.data).arg(&copy));
        scene.site.cluster.start(&scene.site.room);

        let away = scene.site.room.join("away");
        fs::rename(&scene.store, &away).unwrap();
        let mut missed = String::new();
        for _ in 0..2 {
            missed = scene.write(1);
            scene.site.cluster.wait_archived(&scene.site.room, &missed);
        }
        scene.clone_writes(copy, &away);
        // Never are both there.
        fs::rename(&scene.disk, scene.site.room.join("disk-away")).unwrap();
        fs::rename(&away, &scene.store).unwrap();
        assert!(scene.held().contains(&missed), "the clone has written under other names than {missed}");
        scene
    }

    fn until_both_hold(&self, name: &str) {
        eventually("both repositories have it", Duration::from_mins(2), || {
            (held_in(&self.store).contains(name) && held_in(&self.disk).contains(name)).then_some(())
        });
    }

    fn write(&self, row: u32) -> String {
        self.site.cluster.sql(&self.site.room, &format!("insert into t select {row} from generate_series(1, 100)"));
        self.site.cluster.switch_wal(&self.site.room)
    }

    /// The clone lives for three segments, and archives them into the repository in `folder`.
    fn clone_writes(&self, data: PathBuf, folder: &Path) {
        let (site, room) = (&self.site, &self.site.room);
        let mut clone = Cluster::adopt(room, "clone", &site.cluster.version, data);
        let socket = room.make_folder("clone.run").join("walward.sock");
        let spool = room.make_folder("clone.spool");
        let text = site.config_text();
        let text = text
            .replace(site.socket.to_str().unwrap(), socket.to_str().unwrap())
            .replace(&format!("{:?}", room.join("spool")), &format!("{spool:?}"))
            .replace(&format!("{:?}", site.cluster.data), &format!("{:?}", clone.data))
            .replace(&site.cluster.connection("postgres"), &clone.connection("postgres"))
            .replace(self.store.to_str().unwrap(), folder.to_str().unwrap());
        let config = room.write("clone.toml", text);
        let client = room.program("walward-wal");
        clone.set("archive_command", &format!("{} --socket {} push %p", client.display(), socket.display()));
        let _agent = Agent::start(room, &config, &socket, &room.join("clone.walwardd.log"));
        clone.start(room);
        for _ in 0..3 {
            clone.sql(room, "insert into t select 100 from generate_series(1, 120)");
            let segment = clone.switch_wal(room);
            clone.wait_archived(room, &segment);
        }
        clone.stop(Stop::Immediate);
    }

    /// What the store holds, by name.
    fn held(&self) -> BTreeSet<String> {
        held_in(&self.store)
    }

    fn push(&self, name: &str) -> Outcome {
        self.site.client(&["push", self.site.cluster.wal(name).to_str().unwrap()])
    }

    /// The server's next segment is refused, because of what the clone wrote.
    fn refuses_the_next(&self, row: u32) {
        let from = self.site.cluster.log_text().len();
        let before = self.held();
        let segment = self.write(row);
        eventually("the segment is refused", Duration::from_mins(3), || {
            self.site.cluster.log_text().get(from..).is_some_and(|log| log.contains(REFUSED)).then_some(())
        });
        self.push(&segment).expect(1);
        assert_eq!(self.held(), before, "something was archived after the clone's");
    }
}

/// The names of WAL below the folder of a repository.
fn held_in(folder: &Path) -> BTreeSet<String> {
    let (mut folders, mut names) = (vec![folder.join("main/wal")], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    // What is being written has no name yet.
    names.retain(|name| !name.starts_with('.'));
    names
}

#[test]
fn the_record_of_a_backup_proves_nothing_of_a_repository_that_missed_files() {
    let scene = Scene::new();
    assert!(scene.held().contains(&scene.record));
    for row in [2, 3] {
        // It is there already; and yet it is refused, as everything is that comes after the clone's files.
        scene.push(&scene.record).expect(1);
        scene.refuses_the_next(row);
    }
}

#[test]
fn a_promotion_proves_nothing_of_a_repository_that_missed_files() {
    let mut scene = Scene::new();
    scene.site.cluster.stop(Stop::Immediate);
    let signal = scene.site.cluster.data.join("standby.signal");
    fs::write(&signal, "").unwrap();
    scene.site.room.give_away(&signal);
    scene.site.cluster.start(&scene.site.room);
    scene.site.cluster.sql(&scene.site.room, "select pg_promote()");
    scene.site.wait_promoted(&scene.site.cluster);
    // By hand, too, and again.
    for _ in 0..2 {
        scene.push("00000002.history");
        scene.refuses_the_next(4);
    }
    assert!(scene.held().iter().all(|name| !name.starts_with("00000002") || name.ends_with(".history")));

    // The other one is back: they are held against each other.
    fs::rename(scene.site.room.join("disk-away"), &scene.disk).unwrap();
    let status = || scene.site.walward(&["status"]).expect(0).stdout;
    eventually("the repositories are found to differ", Duration::from_mins(6), || {
        status().contains("differs from another repository").then_some(())
    });
}
