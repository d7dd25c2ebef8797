//! What an earlier recovery left in a data directory. Blocking.

use std::path::Path;

use super::error::RestoreError;
use super::loan::{AUTO_CONF, Loan, read_small};
use super::settings::targets_in;

/// Settings by their names.
type Targets = Vec<(&'static str, String)>;

/// What in the data directory `root` would end the next recovery where an earlier one ended, and whether it is lent to one that is still
/// to end.
///
/// # Errors
/// When a file cannot be read.
pub fn leftovers(root: &Path) -> Result<(Targets, bool), RestoreError> {
    let targets = read_small(&root.join(AUTO_CONF))?.map(|(_, content)| targets_in(&content));
    Ok((targets.unwrap_or_default(), Loan::read(root)?.is_some()))
}
