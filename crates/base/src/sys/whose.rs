//! Which of several folders a path leads to, while the file systems of some of them may hang.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout, timeout_at};

use super::ground::Ground;
use super::within::resolved;

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<T> {
    /// It leads to the folder of this one.
    Of(T),
    /// It leads to none of them.
    Nobodys,
    /// To none of those that were seen; file systems did not answer in time.
    NoAnswer,
}

/// To whose of `folders` the path `wanted` leads, links followed, within `limit`. Where it is written as one of them nothing is looked at, and
/// where it leads to one that is written so, only itself. Otherwise all are looked at at once, each in a place of its own ground, so that
/// those that hang hold no other up, and the first that is found is the answer.
pub async fn whose<T: Copy>(wanted: &Path, folders: &[(T, &Path)], limit: Duration) -> Whose<T> {
    let written = |path: &Path| folders.iter().find(|(_, folder)| *folder == path).map(|(owner, _)| Whose::Of(*owner));
    if let Some(found) = written(wanted) {
        return found;
    }
    let until = Instant::now() + limit;
    // Who asks may name any path: all of those are one ground.
    let (asked, path) = (Ground::of(Path::new("")), wanted.to_owned());
    let real = timeout(limit / 2, asked.look(move || resolved(&path))).await.ok().flatten();
    if let Some(found) = real.as_deref().and_then(written) {
        return found;
    }
    let mut looks: FuturesUnordered<_> = folders
        .iter()
        .map(|(owner, folder)| (owner, Ground::of(folder), folder.to_path_buf()))
        .map(async |(owner, ground, path)| (owner, ground.look(move || resolved(&path)).await))
        .collect();
    let mut is_answered = real.is_some();
    while let Ok(look) = timeout_at(until, looks.next()).await {
        match look {
            None if is_answered => return Whose::Nobodys,
            None => break,
            Some((_, None)) => is_answered = false,
            // What the server itself says is mostly its real path already.
            Some((owner, Some(found))) if found == wanted || Some(&found) == real.as_ref() => return Whose::Of(*owner),
            Some(_) => {}
        }
    }
    Whose::NoAnswer
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Mutex;
    use std::sync::mpsc::sync_channel;

    use super::super::ground::LOOKS_MAX;
    use super::*;
    use crate::Locked;

    const LONG: Duration = Duration::from_mins(10);

    #[tokio::test]
    async fn a_folder_is_found_by_any_name_although_others_hang() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        for name in ["one", "two"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        symlink(at("two"), at("link")).unwrap();
        let (link, hung) = (at("link"), at("hung"));
        // All places of the ground are taken, as when its file system hangs.
        let (release, held) = sync_channel::<()>(1);
        let held = std::sync::Arc::new(Mutex::new(held));
        for _ in 0..LOOKS_MAX {
            let held = std::sync::Arc::clone(&held);
            let look = Ground::of(&hung);
            let look = look.look(move || held.locked().recv().is_ok());
            assert!(tokio::time::timeout(Duration::from_millis(20), look).await.is_err());
        }
        let one = at("one");
        let folders = [("hung", hung.as_path()), ("one", one.as_path()), ("link", link.as_path())];
        for (wanted, found) in
            [("hung", "hung"), ("one", "one"), ("x/../one/", "one"), ("link", "link"), ("two", "link")]
        {
            assert_eq!(whose(&folder.path().join(wanted), &folders, LONG).await, Whose::Of(found), "{wanted}");
        }
        let short = Duration::from_millis(200);
        assert_eq!(whose(&at("other"), &folders, short).await, Whose::NoAnswer, "it may be the one that hangs");
        assert_eq!(whose(&at("other"), &folders[1..], LONG).await, Whose::Nobodys);
        drop(release);
    }
}
