//! What holds of the source tree: which room may use which, and what is done in one place only.
//!
//! Cargo keeps the arrows between the crates; these tests keep those between the rooms of `src/` (the list of layers is the one in the
//! head of `src/lib.rs`).

mod by_path;
mod circles;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use source::{Source, crates, heads, root, roots, sources, uses_crate};

/// The layers from the ground up: one per bullet of the list in the head of `src/lib.rs`.
fn layers() -> Vec<BTreeSet<String>> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let layers: Vec<BTreeSet<String>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! - "))
        .map(|bullet| bullet.split("[`").skip(1).filter_map(|rest| rest.split_once("`]")).map(|(n, _)| n.to_owned()))
        .map(Iterator::collect)
        .collect();
    assert!(
        layers.len() >= 5 && layers.iter().all(|layer| !layer.is_empty()),
        "the list in lib.rs is gone: {layers:?}"
    );
    layers
}

/// The rooms that `source` names, itself left out.
fn rooms_used(source: &Source, rooms: &BTreeSet<String>) -> BTreeSet<String> {
    let mut used = roots(&source.code, "crate");
    used.extend(roots(&source.code, "walward"));
    // A chain of `super::` that climbs to the root.
    let climb = "super::".repeat(source.modules.len());
    for (at, _) in source.code.match_indices(&climb) {
        used.extend(heads(&source.code[at + climb.len()..]));
    }
    used.retain(|name| rooms.contains(name) && *name != source.room);
    used
}

#[test]
fn arrows_between_rooms_point_down_and_never_in_a_circle() {
    let layers = layers();
    let level: BTreeMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(level, rooms)| rooms.iter().map(move |room| (room.as_str(), level)))
        .collect();
    let rooms: BTreeSet<String> = level.keys().map(|room| (*room).to_owned()).collect();
    let verbs = ["archive", "backup", "restore", "retention"];

    let mut wrong = Vec::new();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut count = 0;
    let ground = crates();
    for source in sources() {
        if source.room == "lib" || source.room == "bin" || ground.contains(&source.room) {
            continue;
        }
        let Some(own_level) = level.get(source.room.as_str()) else {
            wrong.push(format!("{}: its room is in no layer of src/lib.rs", source.path.display()));
            continue;
        };
        for used in rooms_used(&source, &rooms) {
            count += 1;
            let siblings = verbs.contains(&source.room.as_str()) && verbs.contains(&used.as_str());
            if level[used.as_str()] > *own_level || siblings {
                wrong.push(format!("{}: uses {used}, which is not below it", source.path.display()));
            }
            arrows.entry(source.room.clone()).or_default().insert(used);
        }
    }
    let mut open: BTreeSet<String> = arrows.keys().cloned().collect();
    loop {
        let lowest: Vec<String> =
            open.iter().filter(|room| arrows[*room].iter().all(|used| !open.contains(used))).cloned().collect();
        if lowest.is_empty() {
            break;
        }
        open.retain(|room| !lowest.contains(room));
    }
    if !open.is_empty() {
        wrong.push(format!("a circle: {open:?}"));
    }
    assert!(count > 0, "no arrow found: the reader of `crate::` paths is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_in_the_list_of_layers() {
    let listed: BTreeSet<String> = layers().into_iter().flatten().collect();
    let declared: BTreeSet<String> = fs::read_to_string(root().join("src/lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, declared);
}

#[test]
fn the_client_depends_on_nothing() {
    let manifest = fs::read_to_string(root().join("crates/wire/Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("\n[dependencies]\n").expect("a section [dependencies]");
    let dependencies = rest.split("\n[").next().unwrap_or_default().trim();
    assert_eq!(dependencies, "", "crates/wire has the standard library only");
    assert!(!manifest.contains("build-dependencies"), "{manifest}");
}

#[test]
fn objects_are_named_in_the_repository_room_only() {
    let mut makers = 0;
    for source in sources() {
        let made = source.product_code().contains("ObjectKey::new(");
        makers += usize::from(source.code.contains("ObjectKey::new("));
        assert!(
            !made || source.room == "repo" || source.room == "storage",
            "{} makes an object's name; walward_repo::layout is the place for it",
            source.path.display()
        );
    }
    assert!(makers > 0, "the search for ObjectKey::new is broken");
}

#[test]
fn anyhow_stays_at_the_edges() {
    for source in sources() {
        let edge = ["cli", "daemon", "bin"].contains(&source.room.as_str());
        assert!(edge || !uses_crate(&source.product_code(), "anyhow"), "{} uses anyhow", source.path.display());
    }
}
