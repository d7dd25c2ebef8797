//! Whether one path lies within another, whatever links and spellings lead there.

use std::path::{Component, Path, PathBuf};

/// More links than a kernel follows.
const LINKS_MAX: u32 = 40;

/// `path` with the links of all that exists of it followed; what does not exist yet is appended as it is written. Blocking.
pub fn resolved(path: &Path) -> PathBuf {
    follow(path, LINKS_MAX)
}

fn follow(path: &Path, links: u32) -> PathBuf {
    for ancestor in path.ancestors() {
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        if let Ok(real) = std::fs::canonicalize(ancestor) {
            return plain(&real.join(rest));
        }
        // A link to what is not there yet.
        if let (Ok(target), Some(links)) = (std::fs::read_link(ancestor), links.checked_sub(1)) {
            let folder = ancestor.parent().unwrap_or(Path::new("/"));
            return follow(&folder.join(target).join(rest), links);
        }
    }
    plain(path)
}

/// Without `.`, doubled slashes and `..`, as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Whether `inner` is `outer`, or lies in it. Blocking.
pub fn lies_within(inner: &Path, outer: &Path) -> bool {
    resolved(inner).starts_with(resolved(outer))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_spellings_do_not_hide_where_a_path_leads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("data/sub")).unwrap();
        symlink(at("data"), at("link")).unwrap();
        symlink("data/later", at("dangling")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        for inside in [
            "data",
            "data/",
            "data/./sub",
            "data//sub/new",
            "link/new/folder",
            "dangling",
            "dangling/deeper",
            "x/../data",
        ] {
            assert!(lies_within(&at(inside), &at("data")), "{inside}");
            assert!(lies_within(&at(inside), &at("link")), "{inside}");
        }
        for outside in ["database", "", "new", "data/../new", "loop", "loop/x"] {
            assert!(!lies_within(&at(outside), &at("data")), "{outside}");
        }
    }
}
