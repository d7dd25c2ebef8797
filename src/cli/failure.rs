//! From any error to an exit code, one message and a hint.

use std::fmt;

use crate::outcome::{Exit, judge};

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit code.
    pub(super) exit: Exit,
    /// What failed; the causes are its sources.
    pub(super) error: anyhow::Error,
    /// What the reader can do.
    pub(super) hint: Option<String>,
}

impl Failure {
    /// A failure with a code of its own.
    pub(super) fn new(exit: Exit, what: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self { exit, error: anyhow::Error::msg(what), hint: None }
    }

    /// With advice.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The chain of causes in one line; a cause whose text the line already ends with is not repeated.
    pub(super) fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if message.is_empty() {
                message = text;
            } else if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
        }
        message
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let (exit, hint) = judge(error.as_ref());
        Self { exit, error, hint: hint.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    #[test]
    fn a_cause_is_said_once() {
        let inner = std::io::Error::other("no route to host");
        let error =
            anyhow::Error::new(inner).context("cannot write s3://b/x: no route to host").context("cannot back up");
        let failure = Failure::from(error);
        assert_eq!(failure.message(), "cannot back up: cannot write s3://b/x: no route to host");
    }

    #[test]
    fn the_code_comes_from_the_cause_whatever_stands_before_it() {
        let error = anyhow::Error::new(ConfigError::Missing("/x".into())).context("cannot start");
        assert_eq!(Failure::from(error).exit, Exit::Usage);
    }
}
