//! Keeping secrets out of what is shown, and telling who else may read a file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// A libpq connection string with its password hidden, for messages and `config show`.
pub fn redact_connection(connection: &str) -> String {
    if let Some((scheme, rest)) = connection.split_once("://") {
        return redact_url(scheme, rest);
    }
    let mut shown = String::with_capacity(connection.len());
    let mut rest = connection;
    while let Some((before, after)) = split_at_password(rest) {
        shown.push_str(before);
        shown.push_str(HIDDEN);
        rest = skip_value(after);
    }
    shown.push_str(rest);
    shown
}

/// Whether a connection string carries a password.
pub(super) fn has_password(connection: &str) -> bool {
    redact_connection(connection) != connection
}

fn redact_url(scheme: &str, rest: &str) -> String {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let query = query.map(|query| {
        let hide = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if is_password(key) => format!("{key}={HIDDEN}"),
            _ => pair.to_owned(),
        };
        format!("?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{authority}{path}{}", query.unwrap_or_default())
}

fn is_password(key: &str) -> bool {
    matches!(key.trim(), "password" | "sslpassword")
}

/// Splits after the `=` of the first password.
fn split_at_password(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find('=')?;
        let key = text.get(..at)?.trim_end().rsplit(char::is_whitespace).next().unwrap_or("");
        let (before, after) = text.split_at_checked(at + 1)?;
        if is_password(key) {
            return Some((before, after));
        }
        // Not ours: go on after the value, so that an "=" within a quoted value is no key.
        from = text.len() - skip_value(after).len();
    }
}

/// What follows a value, quoted with `'` or not; `\` escapes in both.
fn skip_value(text: &str) -> &str {
    let text = text.trim_start();
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return text.get(at + 1..).unwrap_or(""),
            c if !quoted && c.is_whitespace() => return text.get(at..).unwrap_or(""),
            _ => {}
        }
    }
    ""
}

/// The mode bits of `path` when everybody on the host may read it.
pub(super) fn world_readable(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o004 != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_password_is_never_shown() {
        for (connection, shown) in [
            ("host=/tmp user=w password=geheim dbname=x", "host=/tmp user=w password=(hidden) dbname=x"),
            ("password = 'ge\\'h eim' host=/tmp", "password =(hidden) host=/tmp"),
            ("options='-c a=b' password=x", "options='-c a=b' password=(hidden)"),
            ("host=/tmp user=w", "host=/tmp user=w"),
            ("postgresql://w:geheim@db/x?sslmode=require", "postgresql://w:(hidden)@db/x?sslmode=require"),
            ("postgresql://w@db?password=geheim&a=b", "postgresql://w@db?password=(hidden)&a=b"),
        ] {
            assert_eq!(redact_connection(connection), shown);
        }
        assert!(has_password("password=x"));
        assert!(!has_password("host=/tmp"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = redact_connection(&text);
        }

        #[test]
        fn nearly_connections_never_panic(text in "[a-z='\\\\ é]{0,40}") {
            let _ = redact_connection(&text);
        }
    }
}
