//! What root reads and makes in a folder of another user.
//!
//! Who owns a folder decides what has which name in it. A file that only root may read, and that lies in some folder of the user's, can be moved to
//! the name that root is about to read, or to give away. No look beforehand helps: it would be moved afterwards. So in a user's tree root opens
//! what that user may open and nothing else, judged by the descriptor; and what is made there is made with the user's rights, so that nothing
//! has to be given.

use std::io;
use std::path::{Path, PathBuf};

use super::super::identity::{self, is_root};
use super::facts::Facts;

/// What is asked of a file or a folder, as in the last three bits of a mode.
pub(super) const READ: u32 = 0o4;
pub(super) const WRITE: u32 = 0o2;
pub(super) const SEARCH: u32 = 0o1;

/// The user whose tree it is, who is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theirs {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Why root did not open something.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} belongs to user {owner}, and user {user} may not open it, in whose folder it lies: root does not do it for that user. Move it to a \
     folder that is not that user's, or let the user open it (chown, chmod)",
    .place.display()
)]
struct NotTheirs {
    place: PathBuf,
    owner: u32,
    user: u32,
}

impl Theirs {
    /// Whose the folder is, when this is root and it is another user's.
    pub(super) fn of(folder: &Facts) -> Option<Self> {
        (folder.uid != 0 && is_root()).then_some(Self { uid: folder.uid, gid: folder.gid })
    }

    /// Refuses what the user may not open.
    pub(super) fn must_be_able(self, wanted: u32, found: &Facts, place: &Path) -> io::Result<()> {
        let is_member = |gid| gid == self.gid || identity::is_member(self.uid, gid);
        // In a thread that has the user's rights the kernel has judged already.
        if may(self.uid, is_member, wanted, found) || !is_root() {
            return Ok(());
        }
        let cause = NotTheirs { place: place.to_owned(), owner: found.uid, user: self.uid };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, cause))
    }
}

/// Whether a mode lets a user do what is `wanted`. Who owns it may change the mode. Access lists may say otherwise and are not asked. Pure.
fn may(uid: u32, is_member: impl FnOnce(u32) -> bool, wanted: u32, found: &Facts) -> bool {
    let lets = |bits: u32| bits & wanted == wanted;
    let (group, others) = (lets(found.mode >> 3), lets(found.mode));
    found.uid == uid || if group == others { others } else { is_member(found.gid) == group }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Kind;
    use super::*;

    #[test]
    fn a_mode_lets_a_user_read_as_the_kernel_would() {
        let found = |mode, uid, gid| Facts {
            kind: Kind::File,
            id: (1, 1),
            mode,
            uid,
            gid,
            bytes: 0,
            mtime: 0,
            mtime_nanos: 0,
            is_elsewhere: false,
        };
        for (mode, uid, gid, wanted, lets) in [
            (0o600, 26, 26, READ, true),
            (0o000, 26, 0, READ, true),
            (0o600, 0, 0, READ, false),
            (0o600, 0, 26, READ, false),
            (0o640, 0, 26, READ, true),
            (0o640, 0, 26, WRITE, false),
            (0o640, 0, 0, READ, false),
            (0o644, 0, 0, READ, true),
            (0o644, 0, 0, WRITE, false),
            (0o604, 0, 26, READ, false),
            (0o604, 0, 0, READ, true),
            (0o744, 0, 0, READ | SEARCH, false),
            (0o755, 0, 0, READ | SEARCH, true),
            (0o600, 27, 27, READ, false),
        ] {
            let found = found(mode, uid, gid);
            assert_eq!(may(26, |gid| gid == 26, wanted, &found), lets, "{mode:o} {uid} {gid} {wanted}");
        }
    }
}
