//! What repositories owe each other: they are compared, and each is brought what it lacks. Nothing of it is written down: the difference
//! between them is the truth, so that a crash leaves nothing to be repaired.
//!
//! Contents are compared before anything is brought. Nothing that comes after a file with two contents is brought anywhere; and while a
//! repository is away, nothing that is not known to be this server's.
//!
//! | file | what it does |
//! |---|---|
//! | `owed` | the difference between what they hold (pure) |
//! | `round` | which repositories take part in a comparison, and what it has found |
//! | `held` | which files repositories hold, in little memory (pure) |
//! | `known` | which of them are known to be this server's, and may be brought while a repository is away |
//! | `comparison` | goes through what they hold, and compares contents |
//! | `work_off` | an agent's rounds: compare, then pay |
//! | `copy` | one repository's WAL into another, for a person |

mod comparison;
pub(super) mod copy;
pub(super) mod held;
mod known;
pub(super) mod owed;
mod round;
pub(super) mod work_off;
