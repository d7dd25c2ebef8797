//! What a check found.

use serde::Serialize;

/// How it stands. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
        }
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check's name.
    pub(super) check: &'static str,
    /// The cluster, or cluster and repository, that it is about.
    pub(super) about: Option<String>,
    pub(super) level: Level,
    /// What was found.
    pub(super) text: String,
    /// What to do.
    pub(super) advice: Option<String>,
}

impl Finding {
    /// The check and what it is about.
    pub(super) fn name(&self) -> String {
        match &self.about {
            Some(about) => format!("{} ({about})", self.check),
            None => self.check.to_owned(),
        }
    }
}

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, check: &'static str, about: Option<&str>, text: impl Into<String>) {
        self.add(check, about, Level::Ok, text.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        check: &'static str,
        about: Option<&str>,
        text: impl Into<String>,
        advice: Option<&str>,
    ) {
        self.add(check, about, Level::Warning, text.into(), advice);
    }

    pub(super) fn failed(
        &mut self,
        check: &'static str,
        about: Option<&str>,
        text: impl Into<String>,
        advice: Option<&str>,
    ) {
        self.add(check, about, Level::Failed, text.into(), advice);
    }

    fn add(&mut self, check: &'static str, about: Option<&str>, level: Level, text: String, advice: Option<&str>) {
        let (about, advice) = (about.map(str::to_owned), advice.map(str::to_owned));
        self.0.push(Finding { check, about, level, text, advice });
    }
}
