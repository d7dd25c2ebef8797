//! Talking to the agent over its socket. Blocking.

use std::path::Path;

use serde_json::Value;

use super::failure::Failure;
use crate::outcome::Exit;
use walward_wire::client::{ClientError, Conversation, SILENCE_MAX};
use walward_wire::{Reply, Request};

/// What the agent answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// How the work ended: done, or done with warnings.
    pub(super) exit: Exit,
    /// The result.
    pub(super) json: Value,
}

/// What became of the question.
#[derive(Debug)]
pub(super) enum Asked {
    /// There is an agent, and it answered.
    Answered(Answer),
    /// Nobody listens.
    NoAgent(ClientError),
}

/// Asks; `on_event` gets what comes before the answer.
pub(super) fn ask(
    socket: &Path,
    request: &Value,
    mut on_event: impl FnMut(Value) -> Result<(), Failure>,
) -> Result<Asked, Failure> {
    let request = Request::Admin(request.to_string());
    let mut conversation = match Conversation::start(socket, &request, SILENCE_MAX) {
        Ok(conversation) => conversation,
        Err(ClientError::Connect(path, error))
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(Asked::NoAgent(ClientError::Connect(path, error)));
        }
        Err(error) => return Err(error.into()),
    };
    let parse = |json: &str| {
        serde_json::from_str(json).map_err(|error| {
            Failure::from(anyhow::Error::new(error).context("the agent's answer cannot be read"))
                .hint("are walward and walwardd of one release?")
        })
    };
    loop {
        match conversation.next_reply()? {
            Reply::Working => {}
            Reply::Event(json) => on_event(parse(&json)?)?,
            Reply::Result { code, json } => {
                return Ok(Asked::Answered(Answer { exit: Exit::from_code(code), json: parse(&json)? }));
            }
            Reply::Done { code, text } => return Err(Failure::new(Exit::from_code(code), text)),
            Reply::File(_) => return Err(Failure::new(Exit::Failed, "the agent answered another question")),
        }
    }
}
