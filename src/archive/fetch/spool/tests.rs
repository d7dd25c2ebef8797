use super::*;

async fn entered(spool: &Spool, name: &str) -> Place {
    let mut place = spool.place(name, 1);
    place.enter().await;
    place
}

/// Waits until what nobody waits for is done.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_that_hangs_takes_no_file_until_it_answers_and_holds_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("main/1");
    let spool = Spool::open(&path, 30).expect("a spool");
    let before = Arc::new(entered(&spool, "a").await);
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let hung = spool.0.ground.look_at(&path, ANSWERS_WITHIN, move |_| held.recv().is_ok()).await;
    assert!(matches!(hung, Err(NotDone::Hangs(_))) && spool.hangs().is_some(), "{hung:?}");
    let new = entered(&spool, "b").await;
    let error = new.spot().make(ANSWERS_WITHIN).await.expect_err("it hangs");
    assert!(error.to_string().contains("does not answer"), "{error}");
    assert!(spool.place_ahead("c", 1).await.is_none());
    let asked = before.ask(|_| panic!("one more thread would be lost")).await;
    assert_eq!(asked.map_err(|error: io::Error| error.kind()), Err::<(), _>(io::ErrorKind::TimedOut));
    assert_eq!(spool.bytes(), 2);
    drop(new);
    assert_eq!(spool.bytes(), 1, "there was no file");
    drop(release);
    eventually("it answers", || spool.hangs().is_none()).await;
    spool.0.ground.settled(Duration::from_mins(1)).await;
    assert!(spool.place_ahead("c", 1).await.is_some());
    let new = entered(&spool, "b").await;
    new.spot().make(Duration::from_mins(1)).await.expect("it answers");
    assert!(new.path().exists() && before.ask(Place::is_there).await.is_ok());
    drop((before, new, spool));
    eventually("it goes", || !path.exists()).await;
}

/// What was begun before it was given up.
#[tokio::test]
async fn a_file_that_comes_to_be_when_nobody_waits_any_more_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("main/1");
    let spool = Spool::open(&path, 30).expect("a spool");
    let place = entered(&spool, "a").await;
    for _ in 0..50 {
        drop(tokio::time::timeout(Duration::ZERO, place.spot().make(ANSWERS_WITHIN)).await);
    }
    spool.0.ground.settled(Duration::from_mins(1)).await;
    drop(place);
    eventually("all of them go", || std::fs::read_dir(&path).expect("listed").count() == 0).await;
}

#[tokio::test]
async fn it_stays_within_its_bound_and_gives_back_what_was_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(&folder.path().join("main/1"), 30).expect("a spool");
    let first = spool.place_ahead("a", 16).await.expect("room");
    assert!(spool.place_ahead("b", 16).await.is_none());
    let urgent = spool.place("b", 16);
    assert_eq!(spool.bytes(), 32);
    std::fs::File::create(first.path()).expect("a file");
    let path = first.path().to_path_buf();
    drop((first, urgent));
    eventually("all is given back", || spool.bytes() == 0).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_spool_that_is_replaced_counts_until_it_is_empty_and_its_folder_goes_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |name: &str| folder.path().join("main").join(name);
    let old = Spool::open(&of("1"), 30).expect("a spool");
    let mut place = old.place("a", 16);
    place.enter().await;
    std::fs::File::create(place.path()).expect("a file");
    let new = Spool::open(&of("2"), 30).expect("a spool");
    assert!(new.place_ahead("b", 16).await.is_none());
    drop(old);
    assert!(place.path().exists());
    drop(place);
    eventually("it goes with its last file", || !of("1").exists()).await;
    drop(new.place_ahead("b", 16).await.expect("room"));
    drop(new);
    eventually("it goes", || !of("2").exists()).await;
}

#[tokio::test]
async fn when_the_process_ends_nothing_is_left_of_it_whoever_has_a_file_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("main/1");
    let spool = Spool::open(&path, 30).expect("a spool");
    let place = entered(&spool, "a").await;
    place.spot().create().expect("made");
    spool.end().await;
    assert!(!path.exists());
    spool.end().await;
    drop(place);
}

#[test]
fn what_an_earlier_process_left_is_not_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let left = folder.path().join("000000010000000000000001.0");
    std::fs::File::create(&left).expect("a file");
    let _spool = Spool::open(folder.path(), 30).expect("a spool");
    assert!(!left.exists());
}

/// As when a cleaner removes it, and another user makes a folder of its name.
#[tokio::test]
async fn what_has_the_name_of_a_spool_that_was_removed_is_not_written_to_and_nothing_in_it_is_handed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, strangers) = (folder.path().join("cluster/7"), folder.path().join("strangers"));
    let spool = Spool::open(&path, 30).expect("a spool");
    let before = entered(&spool, "a").await;
    before.spot().create().expect("made");
    std::fs::remove_dir_all(&path).expect("removed");
    std::fs::create_dir(&strangers).expect("a folder");
    durable::create(&strangers.join("a.0"), b"forged", 0o600).expect("a file");
    std::os::unix::fs::symlink(&strangers, &path).expect("a link");
    for to in [Some(0), None] {
        assert!(before.give(to).is_err());
    }
    assert!(before.read(9).is_err() && !before.is_there());
    // Whatever the spool is by now, a place of the old one leads nowhere.
    let old = Place::beside(before.spot().clone());
    assert!(old.spot().create().is_err(), "nothing is made in what is gone");
    drop((before, old));
    assert_eq!(std::fs::read(strangers.join("a.0")).expect("there"), b"forged");
}

#[tokio::test]
async fn a_file_whose_folder_was_moved_is_not_handed_over_by_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster/7");
    let spool = Spool::open(&path, 30).expect("a spool");
    let place = entered(&spool, "a").await;
    place.spot().create().expect("made");
    place.give(None).expect("it is where it says");
    durable::rename(&path, &folder.path().join("moved")).expect("moved");
    std::fs::create_dir(&path).expect("a folder");
    durable::create(place.path(), b"forged", 0o600).expect("a file");
    assert!(place.give(None).is_err() && !place.is_there());
}

#[tokio::test]
#[ignore = "needs root"]
async fn as_root_what_another_user_made_in_a_spools_place_is_no_spool_until_it_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster/7");
    let of_a_stranger = |path: &Path| {
        std::fs::create_dir(path).expect("a folder");
        std::os::unix::fs::chown(path, Some(54_321), None).expect("a stranger's");
    };
    let spool = Spool::open(&path, 30).expect("a spool");
    std::fs::remove_dir_all(&path).expect("removed");
    of_a_stranger(&path);
    let place = entered(&spool, "a").await;
    assert!(place.spot().create().is_err() && place.give(None).is_err());
    assert!(spool.place_ahead("b", 1).await.is_none());
    assert_eq!(std::fs::read_dir(&path).expect("listed").count(), 0);
    std::fs::remove_dir(&path).expect("removed");
    entered(&spool, "a").await.spot().create().expect("made anew");
    assert!(Spool::open(&folder.path().join("cluster/8"), 30).is_ok());
    of_a_stranger(&folder.path().join("cluster/9"));
    Spool::open(&folder.path().join("cluster/9"), 30).expect_err("a stranger's");
}

#[test]
fn what_nobody_waits_for_leaves_room_for_what_somebody_does() {
    const MIB: u64 = 1 << 20;
    let room = |unfinished, free| Room { bytes_max: 1 << 30, bytes: 0, unfinished, free: Some(free) };
    // A file system of 40 MiB, and segments of 16: the one that is asked for, and none ahead of it before it is whole.
    assert!(!has_room_ahead(&room(16 * MIB, 40 * MIB), 16 * MIB));
    assert!(!has_room_ahead(&room(0, 24 * MIB), 16 * MIB));
    assert!(has_room_ahead(&room(0, 40 * MIB), 16 * MIB));
    assert!(has_room_ahead(&Room { free: None, ..room(0, 0) }, 16 * MIB));
}

/// A standby asks for two files by one destination, and the first comes when the second is on its way.
#[tokio::test]
async fn beside_one_destination_no_file_is_given_in_the_place_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let me = rustix::process::geteuid().as_raw();
    let spot = || Spot::beside(&folder.path().join("RECOVERYXLOG"), me).expect("allowed");
    let (long, short) = (Duration::from_mins(10), Duration::from_millis(50));
    let (first, second) = (Place::beside(spot()), Place::beside(spot()));
    let made = async |place: &Place, limit| place.spot().make(limit).await.map(drop);
    made(&first, long).await.expect("made");
    assert!(first.is_there());
    made(&second, long).await.expect("made");
    assert!(!first.is_there() && first.give(None).is_err(), "what lies there is the second's");
    assert!(second.is_there());
    second.give(None).expect("its own");
    assert!(second.is_there());
    // The client has not moved it yet.
    made(&first, short).await.expect_err("the name is given");
    assert!(second.is_there());
    drop(second);
    made(&first, long).await.expect("made");
    assert!(first.is_there() && first.give(None).is_ok());
}

#[test]
fn what_lies_outside_the_spool_is_given_to_nobody_but_who_asked_for_it_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let spool = Spool::open(&path("spool"), 30).expect("a spool");
    assert!(spool.place("a", 1).is_for(None) && spool.place("a", 1).is_for(Some(&path("one"))));
    let beside = Place::beside(Spot::own(path("one")));
    assert!(beside.is_for(Some(&path("one"))));
    assert!(!beside.is_for(Some(&path("two"))) && !beside.is_for(None));
}

#[tokio::test]
async fn a_spool_that_is_in_use_is_known_and_one_that_was_removed_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster/7");
    let spool = Spool::open(&path, 30).expect("a spool");
    assert!(is_in_use(&path));
    std::fs::remove_dir_all(folder.path().join("cluster")).expect("removed");
    let place = entered(&spool, "a").await;
    std::fs::File::create(place.path()).expect("a file");
    assert!(is_in_use(&path));
    // A connection may hold on to a file for longer than the configuration lasts.
    drop(spool);
    assert!(is_in_use(&path) && place.path().exists());
    drop(place);
    eventually("nothing is left of it", || !path.exists()).await;
}

#[test]
fn a_spool_is_made_although_one_that_ended_there_takes_its_folder_with_it() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("main/1");
        let removing = std::thread::spawn({
            let path = path.clone();
            move || {
                let begun = std::time::Instant::now();
                while std::fs::remove_dir(&path).is_err() && begun.elapsed() < Duration::from_secs(10) {}
            }
        });
        Spool::open(&path, 30).expect("a spool");
        let _ = std::fs::create_dir_all(&path);
        removing.join().expect("removed");
    }
}
