//! What is asked and what is answered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::codec::{FieldReader, FrameWriter, WireError};

const PUSH: u8 = 0x01;
const FETCH: u8 = 0x02;
const ADMIN: u8 = 0x03;
const DONE: u8 = 0x81;
const FILE: u8 = 0x82;
const EVENT: u8 = 0x83;
const RESULT: u8 = 0x84;
const WORKING: u8 = 0x85;

/// What `fetch` answers when it could not find out whether the file exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Exit 255: PostgreSQL stops instead of promoting with WAL missing.
    #[default]
    Abort,
    /// Exit 1 for what cannot be had now, within two seconds: for a standby, which asks again. Never for a recovery that may end.
    Retry,
    /// As [`Self::Abort`], but exit 1 where a segment is missing and later ones are there: for a recovery with a target, which
    /// PostgreSQL refuses to end before it.
    Target,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Archive a file; answered when it is durable.
    Push {
        /// The cluster's name; empty when the agent shall know it by the path.
        cluster: String,
        /// Absolute path of the file in pg_wal.
        path: PathBuf,
    },
    /// Provide a file for recovery.
    Fetch {
        /// The cluster's name; empty when the agent shall know it by the destination.
        cluster: String,
        /// The file that PostgreSQL asked for.
        name: String,
        /// Absolute path where PostgreSQL wants it.
        destination: PathBuf,
        /// What to answer when that cannot be found out.
        on_error: OnError,
    },
    /// A request of the command line, as JSON.
    Admin(String),
}

/// One frame of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Final: exit with this code, with a text for people.
    Done {
        /// The client's exit code.
        code: u8,
        /// What to print on standard error; may be empty.
        text: String,
    },
    /// Final: a verified file, to be moved or copied to the destination.
    File(PathBuf),
    /// An event on the way to a result, as JSON.
    Event(String),
    /// Final: the result of an admin request.
    Result {
        /// Exit code.
        code: u8,
        /// JSON.
        json: String,
    },
    /// Still at work.
    Working,
}

impl Request {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Push { cluster, path } => {
                FrameWriter::new(PUSH).bytes(cluster.as_bytes()).bytes(path.as_os_str().as_bytes()).finish()
            }
            Self::Fetch { cluster, name, destination, on_error } => FrameWriter::new(FETCH)
                .bytes(cluster.as_bytes())
                .bytes(name.as_bytes())
                .bytes(destination.as_os_str().as_bytes())
                .byte(match on_error {
                    OnError::Abort => 0,
                    OnError::Retry => 1,
                    OnError::Target => 2,
                })
                .finish(),
            Self::Admin(json) => FrameWriter::new(ADMIN).bytes(json.as_bytes()).finish(),
        }
    }

    /// A request from its kind and payload.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        let mut fields = FieldReader::new(payload);
        let request = match kind {
            PUSH => Self::Push { cluster: fields.text()?, path: path(fields.bytes()?) },
            FETCH => Self::Fetch {
                cluster: fields.text()?,
                name: fields.text()?,
                destination: path(fields.bytes()?),
                on_error: match fields.byte()? {
                    0 => OnError::Abort,
                    1 => OnError::Retry,
                    2 => OnError::Target,
                    _ => return Err(WireError::Shape),
                },
            },
            ADMIN => Self::Admin(fields.text()?),
            other => return Err(WireError::Kind(other)),
        };
        fields.end()?;
        Ok(request)
    }
}

impl Reply {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done { code, text } => FrameWriter::new(DONE).byte(*code).bytes(text.as_bytes()).finish(),
            Self::File(path) => FrameWriter::new(FILE).bytes(path.as_os_str().as_bytes()).finish(),
            Self::Event(json) => FrameWriter::new(EVENT).bytes(json.as_bytes()).finish(),
            Self::Result { code, json } => FrameWriter::new(RESULT).byte(*code).bytes(json.as_bytes()).finish(),
            Self::Working => FrameWriter::new(WORKING).finish(),
        }
    }

    /// A reply from its kind and payload.
    pub fn decode(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        let mut fields = FieldReader::new(payload);
        let reply = match kind {
            DONE => Self::Done { code: fields.byte()?, text: fields.text()? },
            FILE => Self::File(path(fields.bytes()?)),
            EVENT => Self::Event(fields.text()?),
            RESULT => Self::Result { code: fields.byte()?, json: fields.text()? },
            WORKING => Self::Working,
            other => return Err(WireError::Kind(other)),
        };
        fields.end()?;
        Ok(reply)
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::super::codec::{FrameHeader, HEADER_BYTES, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
    use super::*;
    use proptest::prelude::*;

    fn split(frame: &[u8], length_max: u32) -> (u8, Vec<u8>) {
        let (header, payload) = frame.split_first_chunk::<HEADER_BYTES>().expect("a header");
        let header = FrameHeader::parse(*header, length_max).expect("a valid header");
        assert_eq!(header.length as usize, payload.len());
        (header.kind, payload.to_vec())
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_were(cluster: String, name: String, file in "[^\0]{0,80}", on_error: u8) {
            let path = PathBuf::from(file);
            let on_error = [OnError::Abort, OnError::Retry, OnError::Target][usize::from(on_error % 3)];
            for request in [
                Request::Push { cluster: cluster.clone(), path: path.clone() },
                Request::Fetch { cluster: cluster.clone(), name: name.clone(), destination: path.clone(), on_error },
                Request::Admin(name.clone()),
            ] {
                let (kind, payload) = split(&request.encode(), REQUEST_BYTES_MAX);
                prop_assert_eq!(Request::decode(kind, &payload), Ok(request));
            }
        }

        #[test]
        fn replies_come_back_as_they_were(code: u8, text: String) {
            for reply in [
                Reply::Done { code, text: text.clone() },
                Reply::File(PathBuf::from(&text)),
                Reply::Event(text.clone()),
                Reply::Result { code, json: text.clone() },
                Reply::Working,
            ] {
                let (kind, payload) = split(&reply.encode(), REPLY_BYTES_MAX);
                prop_assert_eq!(Reply::decode(kind, &payload), Ok(reply));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(kind: u8, payload: Vec<u8>, header: [u8; HEADER_BYTES]) {
            let _ = FrameHeader::parse(header, REQUEST_BYTES_MAX);
            let _ = Request::decode(kind, &payload);
            let _ = Reply::decode(kind, &payload);
        }
    }

    #[test]
    fn bytes_after_the_last_field_are_refused() {
        let (kind, mut payload) = split(&Request::Admin("{}".into()).encode(), REQUEST_BYTES_MAX);
        payload.push(0);
        assert_eq!(Request::decode(kind, &payload), Err(WireError::Shape));
    }
}
