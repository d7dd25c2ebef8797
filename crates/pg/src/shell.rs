//! Words of commands that PostgreSQL, or a person's shell, shall run.

/// `text` as one word for /bin/sh. A `%` is doubled, because PostgreSQL replaces `%p` and `%f`
/// (`BuildArchiveCommand` in PostgreSQL 13 to 15, `replace_percent_placeholders` since 16).
pub fn quote(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// `text` as one word for a shell that a person types into.
pub fn word(text: &str) -> String {
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
