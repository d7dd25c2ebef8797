//! Whether a server is the one whose files lie in a data directory. A connection leads to any server; what is done by it must be
//! done to the right one.

use std::path::Path;

use walward_pg::ControlFile;
use walward_pg::session::ServerFacts;

/// Why the server of `facts` is not the one of `data_directory`; none when it is. Blocking.
///
/// Two things are compared, because each alone is the same for two servers: a standby has its primary's system identifier, and
/// folders of two hosts or containers may have the same name.
pub(super) fn mismatch(data_directory: &Path, facts: &ServerFacts) -> Option<String> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let configured = real(data_directory);
    if configured != real(Path::new(&facts.data_directory)) {
        return Some(format!("the server's is {}, the configuration's {}", facts.data_directory, configured.display()));
    }
    // Whoever may not read it is told of that elsewhere.
    let control = ControlFile::read(data_directory).ok()?;
    foreign(control.lineage().system_identifier, facts.system_identifier)
}

fn foreign(here: u64, there: u64) -> Option<String> {
    (here != there)
        .then(|| format!("the server's system identifier is {there}, and that of the files {here}: it has other files"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_name_elsewhere_is_another_server() {
        assert_eq!(foreign(7, 7), None);
        assert!(foreign(7, 8).is_some_and(|text| text.contains('7') && text.contains('8')));
    }
}
