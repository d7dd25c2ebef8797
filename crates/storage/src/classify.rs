//! What a failure of an object store means: every answer and every `object_store` error to a class and words.

use object_store::client::{HttpError, HttpErrorKind};

use super::foreign::Foreign;
use super::http::{BrokenKind, HttpFailure, broken, innermost};
use walward_base::ErrorClass;

/// A failure that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Classified {
    /// What it means.
    pub(super) class: ErrorClass,
    /// What the store said, and what the reader can do.
    pub(super) cause: String,
    /// The HTTP status, if there was an answer.
    pub(super) status: Option<u16>,
    /// The store's own word for it.
    pub(super) code: Option<String>,
}

impl Classified {
    pub(super) fn new(class: ErrorClass, cause: impl Into<String>) -> Self {
        Self { class, cause: cause.into(), status: None, code: None }
    }

    /// What was not there to be deleted is there to be read: somebody writes it again.
    pub(super) fn contradiction() -> Self {
        Self::new(ErrorClass::Transient, "the store said that it is not there, and then that it is")
    }

    /// A write was answered with success, and what was written is not there. `found`: what is.
    pub(super) fn unproven(found: &str) -> Self {
        let cause = format!(
            "the server said that it wrote, and {found}: it is no object store, or something in between answers for it; check endpoint and proxy"
        );
        Self::new(ErrorClass::Transient, cause)
    }

    /// Whether the answer was 404 and nothing else: no store's code says whether the object or the bucket is missing. So
    /// S3 answers to HEAD, which has no body.
    pub(super) fn is_bare_not_found(&self) -> bool {
        self.status == Some(404) && self.code.is_none()
    }

    fn code_is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether a conditional write was refused because the name is taken. A 409 without a store's word for it can mean
    /// anything, and on S3 `ConditionalRequestConflict` means that another write is under way.
    pub(super) fn says_exists(&self) -> bool {
        match self.status {
            Some(412) => true,
            Some(409) => self.code_is(&["BlobAlreadyExists", "ObjectAlreadyExists", "PreconditionFailed"]),
            _ => false,
        }
    }

    /// Whether the store does not know conditional writes (Swift's S3 API answers 501).
    pub(super) fn says_unsupported(&self) -> bool {
        self.status == Some(501) || self.code_is(&["NotImplemented"])
    }

    /// Whether a multipart upload is not known, or no more.
    pub(super) fn says_no_such_upload(&self) -> bool {
        self.status == Some(404) && self.code_is(&["NoSuchUpload"])
    }
}

/// What `error` means. Nothing unknown is ever [`ErrorClass::NotFound`].
pub(super) fn judge(error: &object_store::Error) -> Classified {
    use object_store::Error;
    let mut http = None;
    let mut io = None;
    let leaf = innermost(error, |cause| {
        if let Some(failure) = cause.downcast_ref::<HttpFailure>() {
            http = Some(judge_http(failure));
        } else if http.is_none()
            && let Some(failure) = cause.downcast_ref::<HttpError>()
        {
            http = Some(judge_transport(failure));
        }
        if let Some(failure) = cause.downcast_ref::<std::io::Error>() {
            io = Some(ErrorClass::of_io(failure));
        }
    });
    if let Some(verdict) = http {
        return verdict;
    }
    match error {
        // Without HTTP behind it: the store in memory, or one line of a batch that was answered with its code.
        Error::NotFound { .. } => Classified::new(ErrorClass::NotFound, "there is no such object"),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => Classified {
            status: Some(412),
            ..Classified::new(ErrorClass::Permanent, format!("there is an object of that name: {leaf}"))
        },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Classified::new(ErrorClass::Denied, leaf),
        Error::NotImplemented { .. } => {
            Classified { status: Some(501), ..Classified::new(ErrorClass::Permanent, leaf) }
        }
        Error::JoinError { source } if source.is_cancelled() => {
            Classified::new(ErrorClass::Cancelled, "the work was given up because the process is stopping")
        }
        Error::Generic { .. } => {
            // S3 can answer 200 and put an error into the body when it ends a multipart upload.
            if leaf.starts_with("Server returned error response") {
                return Classified::new(ErrorClass::Transient, "the server said 200 and then that it failed inside");
            }
            // Swift answers 202 without a tag to a write that a later one has overtaken.
            if leaf.starts_with("ETag Header missing") {
                return Classified::new(ErrorClass::Transient, "the store did not say that it wrote");
            }
            // An I/O error that is not the network's is a local file: credentials, tokens. Missing is not "not found".
            let class = match io {
                Some(ErrorClass::NotFound | ErrorClass::Corrupt) | None => ErrorClass::Permanent,
                Some(class) => class,
            };
            Classified::new(class, leaf)
        }
        // `InvalidPath`, `JoinError`, `NotSupported`, `NotModified`, `UnknownConfigurationKey`; the enum is open to additions.
        _ => Classified::new(ErrorClass::Permanent, leaf),
    }
}

fn judge_http(failure: &HttpFailure) -> Classified {
    let mut cause = failure.to_string();
    let (class, hint) = match failure {
        HttpFailure::Answered { server, .. } if is_metadata_service(server) => (
            ErrorClass::Denied,
            Some("no credentials are configured, and the cloud's metadata service has none for this machine"),
        ),
        HttpFailure::Answered { status, code, .. } => judge_answer(*status, code.as_deref()),
        // A page in front of the store goes away again; another bucket stays what it is.
        HttpFailure::Foreign { foreign: Foreign::NotAStore(_), .. } => (
            ErrorClass::Transient,
            Some(
                "that is not how an object store answers: check endpoint, and what stands in between (a proxy, a login, a maintenance page)",
            ),
        ),
        HttpFailure::Foreign { foreign: Foreign::OtherBucket(_), .. } => {
            (ErrorClass::Permanent, Some("check url, endpoint and virtual_hosted_style"))
        }
        HttpFailure::Broken { kind: BrokenKind::Certificate, .. } => (
            ErrorClass::Permanent,
            Some("set ca_file to the PEM file of the authority that signed it, if you trust that one"),
        ),
        HttpFailure::Broken { kind: BrokenKind::NotTls, .. } => {
            (ErrorClass::Permanent, Some("check endpoint; if it is meant, write http:// and set allow_http = true"))
        }
        HttpFailure::Broken { kind: BrokenKind::Connect | BrokenKind::Other, .. } => (ErrorClass::Transient, None),
    };
    if let Some(hint) = hint {
        cause = format!("{cause}; {hint}");
    }
    match failure {
        HttpFailure::Answered { status, code, .. } => {
            Classified { class, cause, status: Some(*status), code: code.clone() }
        }
        HttpFailure::Foreign { .. } | HttpFailure::Broken { .. } => Classified::new(class, cause),
    }
}

/// Whether `server` is where a cloud's own machines ask for credentials, and not a store.
fn is_metadata_service(server: &str) -> bool {
    server.starts_with("169.254.") || server.starts_with("metadata.google.internal")
}

/// A failure of the transport after the answer began: in the middle of a body.
fn judge_transport(error: &HttpError) -> Classified {
    match error.kind() {
        // What was read is not HTTP, or not what was asked for.
        HttpErrorKind::Decode => Classified::new(ErrorClass::Transient, format!("the answer broke off: {error}")),
        HttpErrorKind::Connect
        | HttpErrorKind::Request
        | HttpErrorKind::Timeout
        | HttpErrorKind::Interrupted
        | HttpErrorKind::Unknown => judge_http(&broken("the server".to_owned(), error)),
        _ => Classified::new(ErrorClass::Transient, error.to_string()),
    }
}

/// The class of an answer that was no success, and what the reader can do about it.
fn judge_answer(status: u16, code: Option<&str>) -> (ErrorClass, Option<&'static str>) {
    match code.unwrap_or_default() {
        // S3 and its kin, Google's XML interface; Azure.
        "NoSuchKey" | "BlobNotFound" if status == 404 => return (ErrorClass::NotFound, None),
        "NoSuchBucket" | "ContainerNotFound" => {
            return (ErrorClass::Permanent, Some("create it, or correct the repository's url"));
        }
        "RequestTimeout"
        | "SlowDown"
        | "InternalError"
        | "ServerBusy"
        | "OperationTimedOut"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "ServiceUnavailable" => return (ErrorClass::Transient, None),
        "QuotaExceeded" | "XMinioStorageFull" | "AccountQuotaExceeded" => return (ErrorClass::NoSpace, None),
        "RequestTimeTooSkewed" => return (ErrorClass::Denied, Some("set this machine's clock")),
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            return (ErrorClass::Denied, Some("renew the credentials"));
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            return (ErrorClass::Permanent, Some("set region to the bucket's"));
        }
        _ => {}
    }
    match status {
        401 | 403 => (ErrorClass::Denied, Some("check the credentials and what they are allowed to do")),
        407 => (ErrorClass::Denied, Some("the proxy wants credentials: write them into proxy")),
        408 | 425 | 429 | 500 | 502..=506 | 508..=599 => (ErrorClass::Transient, None),
        507 => (ErrorClass::NoSpace, None),
        300..=399 => (ErrorClass::Permanent, Some("check endpoint and region")),
        404 | 405 if code.is_none() => {
            (ErrorClass::Permanent, Some("that is not how an object store answers: check endpoint"))
        }
        _ => (ErrorClass::Permanent, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(status: u16, code: Option<&str>) -> ErrorClass {
        judge_answer(status, code).0
    }

    #[test]
    fn only_the_stores_own_word_for_it_makes_an_object_absent() {
        assert_eq!(class(404, Some("NoSuchKey")), ErrorClass::NotFound);
        assert_eq!(class(404, Some("BlobNotFound")), ErrorClass::NotFound);
        for code in [None, Some("NoSuchBucket"), Some("ContainerNotFound"), Some("NoSuchUpload"), Some("Whatever")] {
            assert_eq!(class(404, code), ErrorClass::Permanent, "{code:?}");
        }
    }

    #[test]
    fn what_may_heal_is_tried_again_and_nothing_else() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(class(status, None), ErrorClass::Transient, "{status}");
        }
        assert_eq!(class(400, Some("RequestTimeout")), ErrorClass::Transient);
        assert_eq!(class(409, Some("ConditionalRequestConflict")), ErrorClass::Transient);
        for status in [301, 400, 405, 411, 412, 416, 501] {
            assert_eq!(class(status, None), ErrorClass::Permanent, "{status}");
        }
        assert_eq!(class(401, None), ErrorClass::Denied);
        assert_eq!(class(403, Some("SignatureDoesNotMatch")), ErrorClass::Denied);
        assert_eq!(class(403, Some("QuotaExceeded")), ErrorClass::NoSpace);
        assert_eq!(class(507, None), ErrorClass::NoSpace);
    }

    #[test]
    fn a_conflict_is_no_proof_that_the_name_is_taken() {
        let verdict = |status, code: Option<&str>| Classified {
            status: Some(status),
            code: code.map(str::to_owned),
            ..Classified::new(ErrorClass::Permanent, "")
        };
        assert!(verdict(412, None).says_exists());
        assert!(verdict(409, Some("BlobAlreadyExists")).says_exists());
        assert!(!verdict(409, Some("ConditionalRequestConflict")).says_exists());
        assert!(!verdict(409, None).says_exists());
        assert!(!verdict(404, Some("NoSuchBucket")).says_exists());
    }

    #[test]
    fn what_the_metadata_service_says_is_about_credentials_and_never_about_an_object() {
        let failure = |code: &str| HttpFailure::Answered {
            server: "169.254.169.254".to_owned(),
            status: 404,
            code: Some(code.to_owned()),
            message: None,
        };
        assert_eq!(judge_http(&failure("NoSuchKey")).class, ErrorClass::Denied);
    }

    #[test]
    fn a_missing_local_file_is_never_an_absent_object() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = object_store::Error::Generic { store: "S3", source: Box::new(source) };
        assert_eq!(judge(&error).class, ErrorClass::Permanent);
    }

    proptest! {
        #[test]
        fn no_unknown_answer_is_absent(status: u16, code: Option<String>) {
            let known = matches!(code.as_deref(), Some("NoSuchKey" | "BlobNotFound"));
            prop_assert!(known || class(status, code.as_deref()) != ErrorClass::NotFound);
        }
    }
}
