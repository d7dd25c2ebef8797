//! The few words that are read out of a store's XML, and made fit for a log.

/// No more of a store's own words than this is shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// The text of the first XML element `name` in `page`.
pub(super) fn element(page: &str, name: &str) -> Option<String> {
    let text = plain(&exact_element(page, name)?);
    (!text.is_empty()).then_some(text)
}

/// As [`element`], for what goes back to the store: nothing is cut off or replaced.
pub(super) fn exact_element(page: &str, name: &str) -> Option<String> {
    let (_, rest) = page.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&quot;", "\"").replace("&apos;", "'").replace("&lt;", "<").replace("&gt;", ">");
    Some(text.replace("&amp;", "&"))
}

/// A server's words, made fit for one line of a log.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn code_and_message_are_found_in_an_error_page() {
        let page =
            "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>it&apos;s\ngone</Message></Error>";
        assert_eq!(element(page, "Code").as_deref(), Some("NoSuchBucket"));
        assert_eq!(element(page, "Message").as_deref(), Some("it's gone"));
        assert_eq!(element("<html>404</html>", "Code"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_pages_never_panic(page: String) {
            let _ = element(&page, "Code");
            let _ = element(&format!("<Code>{page}</Code>"), "Code");
        }
    }
}
