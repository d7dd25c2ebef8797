//! One answer to "what kind of failure was that", shared by every room that talks to the outside.

/// What a failure means for the caller. Decisions (retry, try the next repository, say "absent") are taken on the class,
/// by exhaustive match; the text is for people.
///
/// The order of trust: only [`ErrorClass::NotFound`] may ever become "absent", and only when the store itself said so.
/// Unknown failures are [`ErrorClass::Permanent`], never `NotFound`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The store answered, and said that there is no such object.
    NotFound,
    /// Worth trying again: network, time-out, throttling, a server error.
    Transient,
    /// Trying again will not help: bad request, unsupported, a local disk error, a bug.
    Permanent,
    /// The bytes are not what was written: a checksum, a tag, a length, a magic number.
    Corrupt,
    /// Credentials or keys: missing, wrong, expired, or not allowed to do this.
    Denied,
    /// The work was given up because the process is stopping or the caller went away.
    Cancelled,
    /// No space left where the bytes should go.
    NoSpace,
}

impl ErrorClass {
    /// The class as one word, for logs, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::NoSpace => "no_space",
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_worth_retrying(self) -> bool {
        match self {
            Self::Transient => true,
            Self::NotFound | Self::Permanent | Self::Corrupt | Self::Denied | Self::Cancelled | Self::NoSpace => false,
        }
    }

    /// The class where what is missing is not an object that a store was asked for: a vanished file must not look like an absent object.
    #[must_use]
    pub fn never_absent(self) -> Self {
        match self {
            Self::NotFound => Self::Permanent,
            Self::Transient | Self::Permanent | Self::Corrupt | Self::Denied | Self::Cancelled | Self::NoSpace => self,
        }
    }

    /// The class of an I/O error of the local machine.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::NoSpace,
            ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown => Self::Transient,
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => Self::Corrupt,
            _ => Self::Permanent,
        }
    }
}

impl std::fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `error` and its causes in one line: `cannot read x: permission denied`. For logs and messages, at the edge.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some libraries print their cause in their own text already.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
