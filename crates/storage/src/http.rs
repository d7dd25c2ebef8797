//! HTTP as the object stores speak it: every refusal and every broken connection becomes one typed [`HttpFailure`].
//!
//! `object_store` gives some statuses a meaning of its own (any 404 is "not found", any 409 "already exists") and keeps the
//! others as text. A missing bucket, a proxy's error page or a conflict between two writers must not be read as "absent" or
//! "exists", so the answers are taken here, before it sees them. So are those of success that the store did not give
//! ([`super::foreign`]): they become failures. What is left carries a [`Receipt`] to whoever must know that a write took place.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::response::Parts;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

use super::foreign::{Asked, Expected, Foreign};
use super::proof::Receipt;
use super::xml::{element, plain};
use walward_base::format_bytes;

/// No more of an error page than this is read.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// No more of a listing is read, or of another document that is an answer: a page of a listing has 5,000 names at most.
const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// A request that did not end in a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpFailure {
    /// The server answered, with something else than a success.
    #[error("{server} answered {status}{}{}", spaced(code.as_ref()), quoted(message.as_ref()))]
    Answered {
        /// Host and port.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The store's own word for it, such as `NoSuchKey`; `None` for an answer without one.
        code: Option<String>,
        /// What it says to people.
        message: Option<String>,
    },
    /// A success that the store did not give, or not for this bucket.
    #[error("{server} answered {}", match foreign {
        Foreign::NotAStore(what) => what.clone(),
        Foreign::OtherBucket(bucket) => format!("with the listing of another bucket, {bucket:?}"),
    })]
    Foreign {
        /// Host and port.
        server: String,
        /// What it was.
        foreign: Foreign,
    },
    /// No answer.
    #[error("{}{what}", match kind {
        BrokenKind::Connect => format!("cannot connect to {server}: "),
        BrokenKind::Certificate => format!("the certificate of {server} is not trusted: "),
        BrokenKind::NotTls => format!("{server} does not speak TLS: "),
        BrokenKind::Other => format!("the exchange with {server} broke: "),
    })]
    Broken {
        /// Host and port.
        server: String,
        /// Where it broke.
        kind: BrokenKind,
        /// The innermost cause.
        what: String,
    },
}

/// Where a request without an answer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenKind {
    /// Before there was a connection.
    Connect,
    /// The server's certificate was refused: nothing that time heals.
    Certificate,
    /// The server does not speak TLS on that port.
    NotTls,
    /// Anywhere else.
    Other,
}

fn spaced(code: Option<&String>) -> String {
    code.map(|code| format!(" {code}")).unwrap_or_default()
}

fn quoted(message: Option<&String>) -> String {
    message.map(|message| format!(": {}", message.trim_end_matches('.'))).unwrap_or_default()
}

/// Makes clients whose failures are [`HttpFailure`]s, for one bucket and for the services that give out credentials.
#[derive(Debug)]
pub(super) struct Connector {
    inner: ReqwestConnector,
    expected: Expected,
}

impl Connector {
    /// For requests to `bucket`.
    pub(super) fn new(bucket: &str) -> Self {
        Self { inner: ReqwestConnector::default(), expected: Expected::new(bucket) }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service { client: self.inner.connect(options)?, expected: self.expected.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
    expected: Expected,
}

impl Service {
    /// The answer of success, when it is the store's, with its [`Receipt`].
    async fn believed(&self, server: String, asked: Asked, response: HttpResponse) -> Result<HttpResponse, HttpError> {
        let (mut head, body) = response.into_parts();
        let (body, document) = if Expected::needs_body(asked) {
            let document = document(&server, &head, body).await?;
            (HttpResponseBody::from(document.clone()), document)
        } else {
            (body, Bytes::new())
        };
        let judged = self.expected.judge(asked, head.status.as_u16(), &head.headers, &document);
        // The only kind that `object_store` never retries by itself.
        judged.map_err(|foreign| HttpError::new(HttpErrorKind::Unknown, HttpFailure::Foreign { server, foreign }))?;
        head.extensions.insert(Receipt::of(&head.headers));
        Ok(HttpResponse::from_parts(head, body))
    }
}

/// The whole of an answer that is no object's content.
async fn document(server: &str, head: &Parts, body: HttpResponseBody) -> Result<Bytes, HttpError> {
    let mut body = body.bytes_stream();
    let mut document = Vec::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        if document.len() + bytes.len() > DOCUMENT_BYTES_MAX {
            let what = format!("{} with more than {}", head.status.as_u16(), format_bytes(DOCUMENT_BYTES_MAX as u64));
            let foreign = Foreign::NotAStore(what);
            let failure = HttpFailure::Foreign { server: server.to_owned(), foreign };
            return Err(HttpError::new(HttpErrorKind::Unknown, failure));
        }
        document.extend_from_slice(&bytes);
    }
    Ok(document.into())
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let server = request.uri().authority().map_or_else(|| "the server".to_owned(), |a| a.as_str().to_owned());
        let asked = self.expected.asked(request.method(), request.uri());
        let response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                let kind = error.kind();
                return Err(HttpError::new(kind, broken(server, &error)));
            }
        };
        if response.status().is_success() {
            return self.believed(server, asked, response).await;
        }
        let status = response.status().as_u16();
        let header_code = response.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok()).map(plain);
        let mut body = response.into_body().bytes_stream();
        let mut page = Vec::new();
        while let Some(Ok(bytes)) = body.next().await {
            let left = ERROR_BODY_BYTES_MAX - page.len();
            page.extend(bytes.iter().take(left));
            if page.len() >= ERROR_BODY_BYTES_MAX {
                break;
            }
        }
        let page = String::from_utf8_lossy(&page);
        Err(HttpError::new(
            // The only kind that `object_store` never retries by itself.
            HttpErrorKind::Unknown,
            HttpFailure::Answered {
                server,
                status,
                code: header_code.or_else(|| element(&page, "Code")),
                message: element(&page, "Message"),
            },
        ))
    }
}

/// What `error`, which came from no answer, was in the end.
pub(super) fn broken(server: String, error: &HttpError) -> HttpFailure {
    let mut tls = None;
    let what = innermost(error, |cause| match cause.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(_)) => tls = Some(BrokenKind::Certificate),
        Some(rustls::Error::InvalidMessage(_)) => tls = Some(BrokenKind::NotTls),
        _ => {}
    });
    let kind = match error.kind() {
        HttpErrorKind::Connect => tls.unwrap_or(BrokenKind::Connect),
        // The client's own time limit is on connecting alone; the others are the deadline layer's.
        HttpErrorKind::Timeout => BrokenKind::Connect,
        _ => BrokenKind::Other,
    };
    HttpFailure::Broken { server, kind, what }
}

/// The text of the deepest cause of `error`; `see` is shown every cause on the way.
pub(super) fn innermost(
    error: &(dyn std::error::Error + 'static),
    mut see: impl FnMut(&(dyn std::error::Error + 'static)),
) -> String {
    let mut cause = error;
    // A chain longer than this is a circle.
    for _ in 0..32 {
        see(cause);
        // An I/O error that wraps another error names that one's source as its own, and so hides it.
        let wrapped = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        match wrapped.or_else(|| cause.source()) {
            Some(next) => cause = next,
            None => break,
        }
    }
    cause.to_string()
}
