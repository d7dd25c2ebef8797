//! Is this answer the store's own? A login or maintenance page, a captive portal or another virtual host answers every request
//! with success, too. What such an answer says is neither "written" nor "absent", "removed" or "empty".
//!
//! Pure: what was asked, and the head and the beginning of the answer, to a verdict in words. Who acts is [`super::http`]; that a
//! write really took place is [`super::proof`]'s.

use std::collections::VecDeque;

use http::{HeaderMap, Method, Uri, header};

use super::xml::element;

/// No more of a foreign page's own words than this is shown.
const WORDS_CHARS_MAX: usize = 120;

/// What is asked of the store by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// What lies in the bucket.
    Listing,
    /// An object's bytes, or what the store knows of it.
    Object,
    /// To remove something.
    Delete,
    /// To write, or anything else.
    Other,
    /// Nothing: the request goes to another service, such as one that gives out credentials.
    NotTheStore,
}

/// An answer that the store did not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It is no answer of an object store: what it is, for a sentence that begins with "the server answered".
    NotAStore(String),
    /// A store answered, for another bucket: its name.
    OtherBucket(String),
}

/// The bucket whose answers are expected.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    bucket: String,
}

impl Expected {
    pub(super) fn new(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned() }
    }

    /// What `method` on `uri` asks of the bucket.
    pub(super) fn asked(&self, method: &Method, uri: &Uri) -> Asked {
        let Some(below) = self.below(uri) else { return Asked::NotTheStore };
        let listing =
            uri.query().unwrap_or_default().split('&').any(|pair| pair == "list-type=2" || pair == "comp=list");
        match *method {
            Method::GET if listing => Asked::Listing,
            Method::GET | Method::HEAD if below => Asked::Object,
            Method::DELETE => Asked::Delete,
            _ => Asked::Other,
        }
    }

    /// Whether `uri` leads to something in the bucket; `None` when it does not lead to the bucket.
    fn below(&self, uri: &Uri) -> Option<bool> {
        let mut parts: VecDeque<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        if uri.host()?.strip_prefix(&self.bucket).is_some_and(|rest| rest.starts_with('.')) {
            return Some(!parts.is_empty());
        }
        // The account comes before the container where Azure's host names none.
        for _ in 0..2 {
            if self.is_named(parts.pop_front()?) {
                return Some(!parts.is_empty());
            }
        }
        None
    }

    /// Whether a part of a path is the bucket's name, with or without percent signs in it.
    fn is_named(&self, part: &str) -> bool {
        part == self.bucket
            || (part.contains('%')
                && url::form_urlencoded::parse(part.as_bytes())
                    .next()
                    .is_some_and(|(name, _)| name == self.bucket.as_str()))
    }

    /// Whether an answer of success to what was `asked` can be the store's. `body`: what came with it, where
    /// [`Expected::needs_body`]; else nothing.
    pub(super) fn judge(&self, asked: Asked, status: u16, head: &HeaderMap, body: &[u8]) -> Result<(), Foreign> {
        let text = String::from_utf8_lossy(body);
        let root = root(&text);
        let foreign = |what: String| Err(Foreign::NotAStore(format!("{status} {what}")));
        if asked == Asked::NotTheStore {
            return Ok(());
        }
        if is_page(asked, head, &text, root) {
            return foreign(format!("with {}", described(head, &text)));
        }
        match asked {
            Asked::Listing => self.judge_listing(&text, root).map_err(|wrong| match wrong {
                Some(bucket) => Foreign::OtherBucket(bucket),
                None => Foreign::NotAStore(format!("{status} to a listing with {}", described(head, &text))),
            }),
            // Every store says it of every object; a lease and a clean-up go by it.
            Asked::Object if !head.contains_key(header::LAST_MODIFIED) => {
                foreign(format!("with {} that does not say when it was written", described(head, &text)))
            }
            Asked::Delete if !body.is_empty() => foreign(format!("to a deletion with {}", described(head, &text))),
            _ => Ok(()),
        }
    }

    /// `Err`: it is no listing, or the listing of this other bucket.
    fn judge_listing(&self, text: &str, root: Option<&str>) -> Result<(), Option<String>> {
        let bucket = match root {
            Some("ListBucketResult") => element(text, "Name"),
            Some("EnumerationResults") => attribute(text, "ContainerName"),
            _ => return Err(None),
        };
        match bucket {
            Some(bucket) if !self.may_be_called(&bucket) => Err(Some(bucket)),
            _ => Ok(()),
        }
    }

    /// Whether a store may call the bucket so in a listing: by its name; without the tenant that Ceph has in front of it; by its URL
    /// (Azure, before 2013). By whatever name where ours is an alias, which S3 resolves.
    fn may_be_called(&self, name: &str) -> bool {
        let shorter =
            |long: &str, separator: char| long.rsplit(separator).next().is_some_and(|last| last == self.bucket);
        name == self.bucket
            || self.bucket.rsplit(':').next().is_some_and(|last| last == name)
            || shorter(name.trim_end_matches('/'), '/')
            || self.bucket.ends_with("-s3alias")
    }

    /// Whether the body of an answer is looked at before anybody may use it. What an object holds is not: it is long, and whoever
    /// reads it checks it.
    pub(super) fn needs_body(asked: Asked) -> bool {
        matches!(asked, Asked::Listing | Asked::Delete | Asked::Other)
    }
}

/// Whether what came is a page for people. By the type that it says it has alone only where a page is no answer at all: some
/// servers call every answer a page, the empty one to a write as well as a listing.
fn is_page(asked: Asked, head: &HeaderMap, text: &str, root: Option<&str>) -> bool {
    let says_so = content_type(head).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml");
    match asked {
        Asked::Object => says_so,
        _ => {
            root.is_some_and(|root| ["html", "head", "body"].iter().any(|name| root.eq_ignore_ascii_case(name)))
                || (says_so && !text.trim().is_empty() && root.is_none())
        }
    }
}

fn content_type(head: &HeaderMap) -> Option<String> {
    let kind = head.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// What an answer is, as far as one can tell: its type, who says that it made it, its first words.
fn described(head: &HeaderMap, text: &str) -> String {
    let kind = content_type(head).unwrap_or_else(|| "nothing that has a type".to_owned());
    let server = head.get(header::SERVER).and_then(|server| server.to_str().ok());
    let server = server.map(|server| format!(" from {}", shortened(server))).unwrap_or_default();
    let words = words(text);
    let words = if words.is_empty() { words } else { format!(": \"{words}\"") };
    format!("{kind}{server}{words}")
}

/// The first words of a page, without its markup.
fn words(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    let mut text = String::new();
    let mut rest = page;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        // What a script or a style sheet holds is no text.
        let at = page.len() - tag.len();
        let skipped =
            ["script", "style"].iter().find(|name| lower.get(at..).is_some_and(|tag| tag.starts_with(**name)));
        let end = match skipped {
            Some(name) => lower.get(at..).and_then(|tag| tag.find(&format!("</{name}"))).map(|end| at + end + 1),
            None => Some(at),
        };
        rest = end.and_then(|end| page.get(end..)).and_then(|tag| tag.split_once('>')).map_or("", |(_, rest)| rest);
        if text.len() > 8 * WORDS_CHARS_MAX {
            break;
        }
    }
    text.push_str(rest);
    shortened(&text)
}

fn shortened(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(64 * WORDS_CHARS_MAX).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(WORDS_CHARS_MAX).collect()
}

/// The name of the outermost element of an XML document or a page, without a namespace; of a document type, its name.
fn root(text: &str) -> Option<&str> {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ => break,
        };
        rest = rest.split_once(end)?.1.trim_start();
    }
    let rest = rest.strip_prefix('<')?;
    let rest = match rest.get(..9) {
        Some(word) if word.eq_ignore_ascii_case("!doctype ") => rest.get(9..)?.trim_start(),
        _ => rest,
    };
    let name = rest.split(|c: char| c.is_whitespace() || c == '>' || c == '/').next()?;
    let name = name.rsplit(':').next()?;
    (name.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(name)
}

/// The first attribute `name` in `text`.
fn attribute(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(bucket: &str, method: &Method, uri: &str) -> Asked {
        Expected::new(bucket).asked(method, &uri.parse().unwrap())
    }

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    fn judge(asked: Asked, lines: &[(&'static str, &'static str)], body: &str) -> Result<(), Foreign> {
        Expected::new("bucket").judge(asked, 200, &head(lines), body.as_bytes())
    }

    #[test]
    fn what_a_request_asks_of_which_bucket_is_seen_at_its_address() {
        for (method, uri, expected) in [
            (Method::GET, "https://s3.example.net/bucket?list-type=2&prefix=a", Asked::Listing),
            (Method::GET, "https://bucket.s3.example.net/?delimiter=%2F&list-type=2", Asked::Listing),
            (Method::GET, "http://127.0.0.1:10000/account/bucket?restype=container&comp=list", Asked::Listing),
            (Method::HEAD, "https://s3.example.net/bucket/main/wal", Asked::Object),
            (Method::GET, "https://bucket.s3.example.net/main/wal", Asked::Object),
            (Method::GET, "https://account.blob.core.windows.net/bucket/main", Asked::Object),
            (Method::DELETE, "https://s3.example.net/bucket/main", Asked::Delete),
            (Method::PUT, "https://s3.example.net/bucket/main", Asked::Other),
            (Method::GET, "https://s3.example.net/bucket?versioning", Asked::Other),
            (Method::GET, "http://169.254.169.254/latest/meta-data/iam", Asked::NotTheStore),
            (Method::POST, "https://oauth2.googleapis.com/token", Asked::NotTheStore),
        ] {
            assert_eq!(asked("bucket", &method, uri), expected, "{uri}");
        }
        assert_eq!(asked("a.b_c", &Method::GET, "https://storage.googleapis.com/a%2Eb%5Fc/x"), Asked::Object);
    }

    #[test]
    fn a_listing_is_the_stores_own_document_of_this_bucket() {
        let of = |name: &str| {
            format!("<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\"><Name>{name}</Name></ListBucketResult>")
        };
        let azure = |name: &str| {
            format!(
                "\u{feff}<?xml version=\"1.0\"?><EnumerationResults ServiceEndpoint=\"x\" ContainerName=\"{name}\"><Blobs/></EnumerationResults>"
            )
        };
        for page in
            [&of("bucket"), &azure("bucket"), &azure("https://x.blob.core.windows.net/bucket"), "<ListBucketResult/>"]
        {
            assert_eq!(judge(Asked::Listing, &[], page), Ok(()), "{page}");
            assert_eq!(judge(Asked::Listing, &[("content-type", "text/html")], page), Ok(()), "{page}");
        }
        for page in [&of("other"), &azure("other")] {
            assert_eq!(judge(Asked::Listing, &[], page), Err(Foreign::OtherBucket("other".to_owned())), "{page}");
        }
        for page in [
            "",
            "ok",
            "{}",
            "<Error><Code>x</Code></Error>",
            "<ListAllMyBucketsResult/>",
            "<html>ListBucketResult</html>",
        ] {
            assert!(matches!(judge(Asked::Listing, &[], page), Err(Foreign::NotAStore(_))), "{page}");
        }
        let tenant = Expected::new("tenant:bucket");
        assert_eq!(tenant.judge(Asked::Listing, 200, &HeaderMap::new(), of("bucket").as_bytes()), Ok(()));
    }

    #[test]
    fn a_page_is_no_answer_to_anything() {
        let page = "<!DOCTYPE html><html><head><title>Sign in</title><style>p { color: red }</style>\n\
            <script>if (1 < 2) {}</script></head><body><p>Guest &amp; partner\tnetwork</p></body></html>";
        let html = ("content-type", "text/html; charset=utf-8");
        for asked in [Asked::Listing, Asked::Delete, Asked::Other] {
            for lines in [&[html][..], &[]] {
                assert!(matches!(judge(asked, lines, page), Err(Foreign::NotAStore(_))), "{asked:?}");
            }
        }
        let dated = ("last-modified", "Sat, 21 Nov 2026 06:41:58 GMT");
        assert!(judge(Asked::Object, &[html, dated], "").is_err());
        assert!(judge(Asked::Object, &[], "").is_err());
        assert_eq!(judge(Asked::Object, &[dated], ""), Ok(()));
        assert_eq!(judge(Asked::Other, &[html], ""), Ok(()));
        assert!(judge(Asked::Other, &[html], "Please sign in").is_err());
        assert!(judge(Asked::Delete, &[], "deleted").is_err());
        assert_eq!(judge(Asked::NotTheStore, &[html], page), Ok(()));

        let said = judge(Asked::Listing, &[html, ("server", "portal/1.0")], page);
        let expected = "200 with text/html from portal/1.0: \"Sign in Guest &amp; partner network\"";
        assert_eq!(said, Err(Foreign::NotAStore(expected.to_owned())));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(body: Vec<u8>, text: String, bucket: String) {
            for asked in [Asked::Listing, Asked::Object, Asked::Delete, Asked::Other] {
                let _ = Expected::new(&bucket).judge(asked, 200, &HeaderMap::new(), &body);
                let _ = Expected::new(&bucket).judge(asked, 200, &HeaderMap::new(), text.as_bytes());
                let _ = Expected::new(&bucket).judge(asked, 200, &HeaderMap::new(), format!("<html><script {text}").as_bytes());
            }
        }
    }
}
