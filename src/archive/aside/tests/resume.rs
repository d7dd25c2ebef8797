//! A move that was cut before the kept server was looked at: the same command does not take what is that server's.

use super::*;

/// A move whose list was made without the kept server, cut before anything was copied, or by the first call whose name ends with `cut`.
async fn cut_move(archive: &Archive, cut: Option<&'static str>) -> Aside {
    let call_ends = move |call: &str| cut.is_none_or(|cut| call.ends_with(cut));
    let aside = move |call: walward_storage::fault::Call<'_>| {
        // The lists are written, and the record that commits to them.
        let is_record = call.key.contains("list/") || call.key.ends_with("begun.json");
        (call.key.contains("aside/") && !is_record && call_ends(call.key))
            .then_some(Fault::Before(ErrorClass::Permanent))
    };
    let repository = archive.open(Faulty::new(archive.store.clone(), Plan::By(Box::new(aside)))).await.expect("opens");
    set_aside(&repository).await.expect_err("cut");
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let mut found = aside::all(&repository).await.expect("read").0;
    assert!(found.len() == 1 && found[0].stage == Stage::Cut, "{found:?}");
    found.remove(0)
}

/// What the command does with a move that was cut; what it refuses.
async fn take_up(repository: &Repository, cut: &Aside, kept: KeptServer) -> Result<Job, Refusal> {
    let known = [(repository, vec![cut.clone()])];
    let read = Jobs::read(&known, cut.begun.id.clone(), name(FROM), Some(kept)).await;
    let (mut jobs, warnings) = read.expect("read");
    assert_eq!(warnings, Vec::<String>::new());
    jobs.begins_elsewhere(["r"], name(FROM))?;
    let job = jobs.of_each.remove(0);
    let Job::TakeUp(aside, rest) = &job else { panic!("{job:?}") };
    let mut away = Away::resume(repository, aside, rest.clone()).await.expect("read");
    away.copy(|_| {}).await.expect("copied");
    away.remove().await.expect("removed");
    assert_eq!(away.finish("db1").await.expect("done"), []);
    Ok(job)
}

const OWN: [&str; 3] = ["00000003.history", "000000030000000000000006", "000000030000000000000007"];

fn files() -> Vec<(&'static str, &'static str)> {
    let mut files = vec![(FROM, "this server's"), ("000000010000000000000005", "this server's")];
    files.extend([(OWN[0], "1\t0/6000028\tx\n"), (OWN[1], OWN[1]), (OWN[2], OWN[2])]);
    files
}

#[tokio::test]
async fn a_move_that_is_taken_up_leaves_what_the_kept_server_has_with_the_backup_that_needs_it_alone() {
    let archive = Archive::new().await;
    let cut = cut_move(&archive, None).await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let job = take_up(&repository, &cut, server(folder.path(), &files())).await.expect("taken up");
    assert_eq!(job.stays(), OWN.map(name).into());
    let now = archived(&*archive.store).await;
    let of_the_third = head(20, 3, 6, 7).label;
    let stays = |key: &ObjectKey| {
        !Archive::goes(key) || OWN.contains(&key.file_name()) || key.as_str().contains(of_the_third.as_str())
    };
    let expected: BTreeMap<_, _> = archive.before.clone().into_iter().filter(|(key, _)| stays(key)).collect();
    assert!(now == expected, "{:?}", now.keys());
    // And it all comes back.
    put_back(&repository).await.expect("put back");
    assert!(archived(&*archive.store).await == archive.before);
}

#[tokio::test]
async fn what_a_cut_move_has_begun_to_take_goes_on_and_what_took_a_name_since_is_no_matter_of_it() {
    let archive = Archive::new().await;
    // All is moved but for the last record, and the kept server has archived its own file since.
    let cut = cut_move(&archive, Some("done.json")).await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let first = layout::wal_file(LINEAGE, name(FROM));
    put(&repository, &first, Kind::Segment, "this server's").await;
    let folder = tempfile::tempdir().expect("a folder");
    let job = take_up(&repository, &cut, server(folder.path(), &files())).await.expect("taken up");
    assert_eq!(job.stays(), BTreeSet::new());
    let now = archived(&*archive.store).await;
    assert!(now.keys().filter(|key| Archive::goes(key)).eq([&first]), "{:?}", now.keys());
}

#[tokio::test]
async fn a_cut_move_that_begins_with_the_kept_servers_own_file_does_not_go_on() {
    let archive = Archive::new().await;
    let cut = cut_move(&archive, None).await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let refused = take_up(&repository, &cut, server(folder.path(), &[(FROM, FROM)])).await;
    assert!(matches!(&refused, Err(Refusal::Own { cut: Some(id), .. }) if *id == cut.begun.id), "{refused:?}");
    assert!(archived(&*archive.store).await == archive.before);
}

#[tokio::test]
async fn what_the_kept_server_wrote_and_has_no_more_is_named_before_a_cut_move_takes_it() {
    let archive = Archive::new().await;
    let cut = cut_move(&archive, None).await;
    let repository = archive.open(archive.store.clone()).await.expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    let job = take_up(&repository, &cut, server(folder.path(), &files()[..2])).await.expect("taken up");
    let doubtful: BTreeSet<WalFileName> = job.doubtful().collect();
    assert_eq!(doubtful, OWN.map(name).into());
}
