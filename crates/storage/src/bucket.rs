//! What can be asked of an S3 bucket itself, for people: whether it keeps old versions and locks objects. Nothing depends
//! on the answers.

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{HttpConnector, HttpError, HttpRequest, HttpRequestBody};
use serde::Serialize;

use super::http::{Connector, HttpFailure, innermost};
use super::options::bucket_url;
use super::xml::element;
use super::{StoreOptions, open};

/// No more of an answer than this is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Whether a bucket has a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// It has it.
    On,
    /// The store said that it has not.
    Off,
    /// The store cannot be asked, or did not say.
    Unknown,
}

/// A property with what the store said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketProperty {
    pub(super) property: Property,
    pub(super) words: String,
}

impl BucketProperty {
    fn new(property: Property, words: impl Into<String>) -> Self {
        Self { property, words: words.into() }
    }
}

/// Whether the bucket was made with Object Lock, and how long it keeps objects by itself.
pub(super) async fn object_lock(options: &StoreOptions) -> BucketProperty {
    match ask(options, "object-lock").await {
        Ok((200, page)) if element(&page, "ObjectLockEnabled").as_deref() == Some("Enabled") => {
            let kept = match (element(&page, "Mode"), element(&page, "Days"), element(&page, "Years")) {
                (Some(mode), Some(days), _) => format!("each object is kept for {days} days ({mode})"),
                (Some(mode), None, Some(years)) => format!("each object is kept for {years} years ({mode})"),
                _ => "without a default retention: objects can be removed until one is set".to_owned(),
            };
            BucketProperty::new(Property::On, format!("the bucket has Object Lock; {kept}"))
        }
        Ok((404, page)) if element(&page, "Code").as_deref() == Some("ObjectLockConfigurationNotFoundError") => {
            BucketProperty::new(
                Property::Off,
                "the bucket has no Object Lock: who holds the credentials can remove backups",
            )
        }
        Ok((status, page)) => BucketProperty::new(Property::Unknown, not_said("Object Lock", status, &page)),
        Err(cause) => BucketProperty::new(Property::Unknown, cause),
    }
}

/// Whether the bucket keeps what is overwritten or removed.
pub(super) async fn versioning(options: &StoreOptions) -> BucketProperty {
    match ask(options, "versioning").await {
        Ok((200, page)) => match element(&page, "Status").as_deref() {
            Some("Enabled") => BucketProperty::new(Property::On, "the bucket keeps old versions"),
            Some("Suspended") => {
                BucketProperty::new(Property::Off, "the bucket kept old versions once, and does not now")
            }
            _ => BucketProperty::new(Property::Off, "the bucket keeps no old versions"),
        },
        Ok((status, page)) => BucketProperty::new(Property::Unknown, not_said("versioning", status, &page)),
        Err(cause) => BucketProperty::new(Property::Unknown, cause),
    }
}

fn not_said(what: &str, status: u16, page: &str) -> String {
    let code = element(page, "Code").map(|code| format!(" {code}")).unwrap_or_default();
    format!("the store does not say whether the bucket has {what}: it answered {status}{code}")
}

/// The bucket's answer to `GET ?query`: status and body.
pub(super) async fn ask(options: &StoreOptions, query: &str) -> Result<(u16, String), String> {
    let Some((bucket, client)) = open::s3_client(options)? else {
        return Err("only an S3 bucket can be asked".to_owned());
    };
    let region = open::s3_builder(options, &bucket)?.get_config_value(&AmazonS3ConfigKey::Region);
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let base = match &options.endpoint {
        Some(endpoint) => bucket_url(endpoint, &bucket, options.virtual_hosted_style),
        None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    let credential = client.credentials().get_credential().await.map_err(|error| innermost(&error, |_| {}))?;
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = format!("{base}?{query}").parse().map_err(|_| format!("{base} is no address"))?;
    let signed = AwsAuthorizer::new(&credential, "s3", &region).try_authorize(&mut request, None);
    signed.map_err(|error| innermost(&error, |_| {}))?;
    let http = Connector::new(&bucket).connect(&open::client_options(options)?);
    let http = http.map_err(|error| innermost(&error, |_| {}))?;
    let exchange = async {
        let response = http.execute(request).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body().bytes_stream();
        let mut page = Vec::new();
        while let Some(bytes) = body.next().await {
            let bytes: Bytes = bytes?;
            if page.len() + bytes.len() > ANSWER_BYTES_MAX {
                break;
            }
            page.extend_from_slice(&bytes);
        }
        Ok::<_, HttpError>((status, String::from_utf8_lossy(&page).into_owned()))
    };
    match tokio::time::timeout(options.limits.request_timeout, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => refusal(&error),
        Err(_) => Err("the store did not answer in time".to_owned()),
    }
}

/// A refusal is an answer, too.
fn refusal(error: &HttpError) -> Result<(u16, String), String> {
    let mut answered = None;
    let cause = innermost(error, |cause| {
        if let Some(HttpFailure::Answered { status, code, .. }) = cause.downcast_ref() {
            answered = Some((*status, format!("<Code>{}</Code>", code.as_deref().unwrap_or_default())));
        }
    });
    answered.ok_or(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::*;

    #[tokio::test]
    async fn a_bucket_says_whether_it_locks_objects_and_keeps_versions() {
        let locked = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
            <Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let server = Server::start(move |_, request| {
            assert!(request.head.contains("authorization: aws4-hmac-sha256 credential=ak/"));
            match request.target.as_str() {
                "/bucket?object-lock" => say(200, locked),
                "/bucket?versioning" => {
                    say(200, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
                }
                other => panic!("{other}"),
            }
        })
        .await;
        let options = options_at(&server.address, PATIENT, PATIENT);
        let lock = object_lock(&options).await;
        assert_eq!(lock.property, Property::On);
        assert!(lock.words.contains("kept for 30 days (COMPLIANCE)"), "{}", lock.words);
        assert_eq!(versioning(&options).await.property, Property::On);
    }

    #[tokio::test]
    async fn a_store_that_does_not_say_is_unknown_and_not_unlocked() {
        for (status, code, expected) in [
            (404, "ObjectLockConfigurationNotFoundError", Property::Off),
            (404, "NoSuchBucket", Property::Unknown),
            (501, "NotImplemented", Property::Unknown),
            (403, "AccessDenied", Property::Unknown),
        ] {
            let server = Server::start(move |_, _| refuse(status, code)).await;
            let options = options_at(&server.address, PATIENT, PATIENT);
            assert_eq!(object_lock(&options).await.property, expected, "{code}");
            assert_eq!(versioning(&options).await.property, Property::Unknown, "{code}");
        }
        assert_eq!(object_lock(&StoreOptions::new("file:///srv")).await.property, Property::Unknown);
    }
}
