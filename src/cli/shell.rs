//! Commands that PostgreSQL shall run.

use std::path::PathBuf;

/// `walward-wal` of this installation, or its bare name when it does not lie beside this program.
pub(super) fn client_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("walward-wal"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("walward-wal"))
}

/// This program, or its bare name when it is not known where it lies.
pub(super) fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("walward"))
}

/// `text` as one word for /bin/sh. A `%` is doubled, because PostgreSQL replaces `%p` and `%f`
/// (`BuildArchiveCommand` in PostgreSQL 13 to 15, `replace_percent_placeholders` since 16).
pub(super) fn quote(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// `text` as one word for a shell that a person types into.
pub(super) fn word(text: &str) -> String {
    quote(text).replace("%%", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("/usr/bin/walward-wal"), "/usr/bin/walward-wal");
        assert_eq!(quote("/a b/x"), "'/a b/x'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote("100%"), "100%%");
        assert_eq!((word("100%").as_str(), word("a b").as_str()), ("100%", "'a b'"));
    }
}
