//! Multipart uploads that were begun in an S3 bucket, and neither completed nor aborted: no listing of objects shows them, and they
//! are paid for. For people: nothing depends on the answers, and nothing is removed.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::bucket::ask;
use super::xml::{element, exact_element};
use super::{StoreOptions, open};

/// How many uploads one request asks for: an answer of so many is well within what is read of one.
const PAGE_UPLOADS: usize = 500;
/// No more requests than this are sent.
const PAGES_MAX: usize = 20;
/// No more time than this is taken for all of them.
const DEADLINE: Duration = Duration::from_secs(30);

/// Uploads that are not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunUploads {
    /// How many.
    pub count: usize,
    /// When the first of them was begun, by the store's clock.
    pub oldest: Timestamp,
    /// Whether the store listed all that it has; else there may be more, and older ones.
    pub complete: bool,
}

/// One upload in a listing: its key, its id, when it was begun.
type Upload = (String, String, Timestamp);

/// Uploads into `folder` below the store's URL that were begun before `before`; `None` when there are none, or where the store is no
/// S3 bucket.
///
/// # Errors
/// Why the store did not say, for a sentence that goes on after a colon.
pub async fn begun_uploads(
    options: &StoreOptions,
    folder: &str,
    before: Timestamp,
) -> Result<Option<BegunUploads>, String> {
    let Some(prefix) = open::s3_prefix(options, folder)? else { return Ok(None) };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut found = BTreeSet::new();
    let mut next = None;
    let mut complete = false;
    for _ in 0..PAGES_MAX {
        let query = query(&prefix, next.as_ref());
        let answer = tokio::time::timeout_at(deadline, ask(options, &query)).await;
        let page = match answer.unwrap_or_else(|_| Err("the store did not answer in time".to_owned())) {
            Ok(answer) => listing(answer)?,
            Err(cause) if found.is_empty() => return Err(cause),
            Err(_) => break,
        };
        // Not every store heeds the prefix, and one that does not heed the markers lists the same again.
        let uploads = page.split("<Upload>").skip(1).filter_map(upload);
        found.extend(uploads.filter(|(key, _, begun)| key.starts_with(&prefix) && *begun < before));
        let following = following(&page);
        if following.is_none() || following == next {
            complete = following.is_none();
            break;
        }
        next = following;
    }
    let oldest = found.iter().map(|(.., begun)| *begun).min();
    if oldest.is_none() && !complete {
        return Err("the store lists more of them than were read".to_owned());
    }
    Ok(oldest.map(|oldest| BegunUploads { count: found.len(), oldest, complete }))
}

/// The query for the uploads with the prefix that come after the markers.
fn query(prefix: &str, after: Option<&(String, String)>) -> String {
    let mut query = format!("uploads&prefix={}&max-uploads={PAGE_UPLOADS}", encoded(prefix));
    if let Some((key, id)) = after {
        for part in ["&key-marker=", &encoded(key), "&upload-id-marker=", &encoded(id)] {
            query.push_str(part);
        }
    }
    query
}

/// The page of an answer; `Err` when it is no whole listing of uploads.
fn listing((status, page): (u16, String)) -> Result<String, String> {
    if status == 200 && page.contains("<ListMultipartUploadsResult") && page.contains("</ListMultipartUploadsResult>") {
        return Ok(page);
    }
    let code = element(&page, "Code").map(|code| format!(" {code}")).unwrap_or_default();
    let needed = if status == 403 { " (it takes s3:ListBucketMultipartUploads)" } else { "" };
    Err(format!("the store does not list them: it answered {status}{code}{needed}"))
}

fn upload(entry: &str) -> Option<Upload> {
    let begun = element(entry, "Initiated")?.parse().ok()?;
    Some((exact_element(entry, "Key")?, exact_element(entry, "UploadId")?, begun))
}

/// The markers of the next page; `None` after the last.
fn following(page: &str) -> Option<(String, String)> {
    let more = element(page, "IsTruncated").as_deref() == Some("true");
    let key = exact_element(page, "NextKeyMarker").filter(|_| more)?;
    Some((key, exact_element(page, "NextUploadIdMarker").unwrap_or_default()))
}

/// As a query has it (RFC 3986).
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::*;
    use crate::{conformance, open as open_store};

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn page(uploads: &[(&str, &str, &str)], next: Option<(&str, &str)>) -> String {
        let upload = |(key, id, at): &(&str, &str, &str)| {
            format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated></Upload>")
        };
        let next = next.map(|(key, id)| {
            let markers = format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>");
            format!("{markers}<IsTruncated>true</IsTruncated>")
        });
        let uploads: String = uploads.iter().map(upload).collect();
        format!(
            "<ListMultipartUploadsResult xmlns=\"x\">{}{uploads}</ListMultipartUploadsResult>",
            next.unwrap_or_else(|| "<IsTruncated>false</IsTruncated>".to_owned())
        )
    }

    fn options(server: &Server) -> StoreOptions {
        StoreOptions { url: "s3://bucket/fol der".to_owned(), ..options_at(&server.address, PATIENT, PATIENT) }
    }

    #[tokio::test]
    async fn old_uploads_of_the_clusters_own_folder_are_counted_over_all_pages() {
        let server = Server::start(move |number, request| {
            assert!(request.head.contains("authorization: aws4-hmac-sha256 credential=ak/"));
            assert_eq!(request.method, "GET");
            let first = "/bucket?uploads&prefix=fol%20der%2Fmain%2F&max-uploads=500";
            let second = "&key-marker=fol%20der%2Fmain%2Fbackup%2Fx%2Fpack%2F00002&upload-id-marker=a%3D%2F%2B%26";
            if number == 0 {
                assert_eq!(request.target, first);
                let uploads = [
                    ("fol der/main/backup/x/pack/00001", "b", "2026-11-21T06:41:58.000Z"),
                    ("fol der/main/backup/x/pack/00002", "a=/+&amp;", "2026-11-20T06:41:58.000Z"),
                ];
                return say(200, &page(&uploads, Some(("fol der/main/backup/x/pack/00002", "a=/+&amp;"))));
            }
            assert_eq!(request.target, format!("{first}{second}"));
            let uploads = [
                ("fol der/main/backup/x/pack/00002", "a=/+&amp;", "2026-11-20T06:41:58.000Z"),
                ("fol der/main/backup/x/pack/00002", "c", "2026-11-21T23:59:59.000Z"),
                ("fol der/main/backup/y/pack/00000", "d", "2026-11-22T12:00:00.000Z"),
                ("fol der/main/backup/y/pack/00001", "e", "some day"),
                ("fol der/main2/backup/x/pack/00001", "f", "2026-11-01T06:41:58.000Z"),
            ];
            say(200, &page(&uploads, None))
        })
        .await;
        let begun = begun_uploads(&options(&server), "main", at("2026-11-22T00:00:00Z")).await.unwrap();
        assert_eq!(begun, Some(BegunUploads { count: 3, oldest: at("2026-11-20T06:41:58Z"), complete: true }));
    }

    #[tokio::test]
    async fn uploads_that_a_running_backup_may_still_finish_are_none() {
        let uploads = [("fol der/main/backup/x/pack/00001", "b", "2026-11-21T06:41:58.000Z")];
        let server = Server::start(move |_, _| say(200, &page(&uploads, None))).await;
        assert_eq!(begun_uploads(&options(&server), "main", at("2026-11-21T06:00:00Z")).await, Ok(None));
    }

    #[tokio::test]
    async fn a_listing_of_uploads_without_an_end_is_read_to_a_bound() {
        let server = Server::start(move |number, _| {
            let key = format!("fol der/main/backup/x/pack/{number:05}");
            say(200, &page(&[(&key, "a", "2026-11-20T06:41:58.000Z")], Some((&key, "a"))))
        })
        .await;
        let begun = begun_uploads(&options(&server), "main", at("2026-11-22T00:00:00Z")).await.unwrap();
        let all = BegunUploads { count: PAGES_MAX, oldest: at("2026-11-20T06:41:58Z"), complete: false };
        assert_eq!(begun, Some(all));
        // One that lists the same again and again is asked twice.
        let key = "fol der/main/backup/x/pack/00000";
        let same = page(&[(key, "a", "2026-11-20T06:41:58.000Z")], Some((key, "a")));
        let server = Server::start(move |number, _| {
            assert!(number < 2);
            say(200, &same)
        })
        .await;
        let begun = begun_uploads(&options(&server), "main", at("2026-11-22T00:00:00Z")).await.unwrap();
        assert_eq!(begun, Some(BegunUploads { count: 1, ..all }));
        // What was not read may be old.
        let same = page(&[(key, "a", "2026-11-20T06:41:58.000Z")], Some((key, "a")));
        let server = Server::start(move |_, _| say(200, &same)).await;
        let cause = begun_uploads(&options(&server), "main", at("2026-11-20T00:00:00Z")).await.unwrap_err();
        assert!(cause.contains("more of them"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_has_not_said_that_there_are_none() {
        let server = Server::start(move |_, _| Response::Silence).await;
        let cause = begun_uploads(&options(&server), "main", Timestamp::now()).await.unwrap_err();
        assert!(cause.contains("in time"), "{cause}");
    }

    #[tokio::test]
    async fn a_store_that_does_not_list_uploads_has_not_said_that_there_are_none() {
        for (status, body, told) in [
            (
                403,
                "<Error><Code>AccessDenied</Code></Error>",
                "403 AccessDenied (it takes s3:ListBucketMultipartUploads)",
            ),
            (501, "<Error><Code>NotImplemented</Code></Error>", "501 NotImplemented"),
            (200, "<html>Please sign in</html>", "200"),
            (200, "<ListBucketResult></ListBucketResult>", "200"),
            (200, "<ListMultipartUploadsResult><Upload>", "200"),
        ] {
            let server = Server::start(move |_, _| say(status, body)).await;
            let cause = begun_uploads(&options(&server), "main", Timestamp::now()).await.unwrap_err();
            assert!(cause.contains(told), "{cause}");
        }
    }

    #[tokio::test]
    async fn stores_without_such_uploads_are_not_asked() {
        for url in ["file:///srv", "az://container", "gs://bucket"] {
            assert_eq!(begun_uploads(&StoreOptions::new(url), "main", Timestamp::now()).await, Ok(None), "{url}");
        }
    }

    #[tokio::test]
    #[ignore = "needs an S3 server that lists unfinished uploads: scripts/object-stores.sh run STORE …"]
    async fn unfinished_uploads_are_counted_at_a_real_store() {
        let (options, _) = conformance::real_store();
        let folder = format!("run-{:016x}", rand::random::<u64>());
        let later = Timestamp::now() + Duration::from_hours(1);
        let counted =
            || async { begun_uploads(&options, &folder, later).await.unwrap().map_or(0, |begun| begun.count) };
        assert_eq!(counted().await, 0);
        let store = open_store(&options, &folder).unwrap();
        let mut uploads = Vec::new();
        for name in ["first", "second"] {
            let mut upload = store.start_upload(&conformance::key(name), 0).await.unwrap();
            upload.write(vec![7; 6 << 20].into()).await.unwrap();
            uploads.push(upload);
        }
        assert_eq!(counted().await, 2);
        let long_ago = at("2000-01-01T00:00:00Z");
        assert_eq!(begun_uploads(&options, &folder, long_ago).await, Ok(None));
        for upload in uploads {
            upload.abort().await;
        }
        assert_eq!(counted().await, 0);
    }
}
